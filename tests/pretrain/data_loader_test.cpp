// SPDX-License-Identifier: Apache-2.0
#include "data_loader.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <utility>

#include "base/error.hpp"
#include "base/retry.hpp"
#include "datasets/record_list_writer.hpp"
#include "host_place.hpp"
#include "step_crops.hpp"

namespace dino::pretrain {
namespace {

namespace fs = std::filesystem;

const CropSet* awaited_upcoming(DataLoader& loader) {
  (void)loader.await();
  const CropSet* const set = loader.upcoming();
  EXPECT_NE(set, nullptr);
  return set;
}

/// A folder of `count` PPM images, of which number 1 is broken.
class LoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("dino_loader_" + std::to_string(getpid()));
    fs::create_directories(folder_ / "a");
    for (int i = 0; i < 7; ++i) {
      std::ofstream file(folder_ / "a" / (std::to_string(i) + ".ppm"), std::ios::binary);
      if (i == 1) {
        file << "P6\n20 20\n255\nshort";
        continue;
      }
      file << "P6\n20 20\n255\n";
      for (int p = 0; p < 1200; ++p) file.put(static_cast<char>((p * (i + 3) + i * 17) % 251));
    }
    list_ = list_of(open_dataset(folder_.string()));
    config_.augment.global_size = 16;
    config_.augment.local_size = 8;
    config_.augment.local_count = 3;
    config_.batch = 6;
    config_.workers = 2;
    config_.seed = 5;
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
  RecordList list_;
  LoaderConfig config_;
};

TEST_F(LoaderTest, WhiteOnTransparencyIsSeen) {
  Image logo{8, 4, 4, std::vector<uint8_t>(128, 255)};
  for (size_t i = 3; i < 64; i += 4) logo.pixels[i] = 0;
  const std::vector<uint8_t> png = encode_png(logo);
  std::ofstream(folder_ / "a" / "9.png", std::ios::binary)
      .write(reinterpret_cast<const char*>(png.data()), static_cast<std::streamsize>(png.size()));
  const RecordList list = list_of(open_dataset(folder_.string()));
  const int64_t last = list.count() - 1;
  config_.pad = true;  // with what stands behind the picture
  ImageCache cache(list, config_);
  const auto seen = cache.get(last).image;
  ASSERT_TRUE(seen);
  ASSERT_EQ(seen->pixels.size(), 8U * 8 * 3);
  EXPECT_EQ(*seen->at(0, 0), 0);
  EXPECT_EQ(*seen->at(0, 2), 0);
  EXPECT_EQ(*seen->at(0, 5), 255);
  config_.background = Colour{255, 255, 255};
  ImageCache white(list, config_);
  EXPECT_EQ(white.get(last).image->pixels, std::vector<uint8_t>(8 * 8 * 3, 255));
}

TEST_F(LoaderTest, CropsDoNotDependOnRanksThreadsOrRestarts) {
  constexpr int64_t kSteps = 5;
  DataLoader whole(list_, config_, {0, 6}, 0);
  LoaderConfig single = config_;
  single.workers = 1;
  single.cache_bytes = 1 << 20;
  DataLoader part(list_, single, {2, 5}, 2);
  const int64_t global = 3 * 16 * 16, local = 3 * 8 * 8;
  for (int64_t step = 0; step < kSteps; ++step) {
    const CropSet& all = whole.next();
    ASSERT_EQ(all.step, step);
    if (step < 2) continue;
    const CropSet& some = part.next();
    ASSERT_EQ(some.step, step);
    for (int64_t image = 0; image < 3; ++image) {
      for (int64_t view = 0; view < 2; ++view) {
        EXPECT_EQ(std::memcmp(all.global_crops.as<float>() + (view * 6 + image + 2) * global,
                              some.global_crops.as<float>() + (view * 3 + image) * global,
                              sizeof(float) * static_cast<size_t>(global)),
                  0);
      }
      for (int64_t j = 0; j < 3; ++j) {
        EXPECT_EQ(std::memcmp(all.local_crops.as<float>() + (j * 6 + image + 2) * local,
                              some.local_crops.as<float>() + (j * 3 + image) * local,
                              sizeof(float) * static_cast<size_t>(local)),
                  0);
      }
    }
  }
  EXPECT_EQ(whole.bad_records(), 1);
}

TEST_F(LoaderTest, ChecksumsAddUpOverTheRanks) {
  DataLoader whole(list_, config_, {0, 6}, 0), first(list_, config_, {0, 2}, 0),
      second(list_, config_, {2, 6}, 0);
  LoaderConfig other = config_;
  other.seed = 6;
  DataLoader others(list_, other, {0, 6}, 0);
  int64_t last = 0;
  for (int64_t step = 0; step < 4; ++step) {
    const int64_t sum = whole.next().checksum;
    EXPECT_EQ(sum, first.next().checksum + second.next().checksum);
    EXPECT_NE(sum, others.next().checksum);
    EXPECT_NE(sum, last);
    last = sum;
  }
}

/// Drawn alone they are the same crops: of the pictures themselves, and of what is cut out of large ones.
TEST_F(LoaderTest, StepsMakeTheCropsThatAreOnlyDrawn) {
  DataLoader made(list_, config_, {0, 6}, 0);
  LoaderConfig drawing = config_;
  drawing.only_draw = true;
  DataLoader drawn(list_, drawing, {0, 6}, 0);
  drawing.picture_bytes = 100;
  DataLoader cut(list_, drawing, {0, 6}, 0);
  const HostPlace place;
  StepCrops of_drawn(place.c), of_cut(place.c);
  const auto expect_same = [](ConstTensorView crops, const Tensor& expected) {
    ASSERT_EQ(crops.shape, expected.shape());
    EXPECT_EQ(std::memcmp(crops.data, expected.as<float>(), static_cast<size_t>(expected.bytes())), 0);
  };
  for (int64_t step = 0; step < 3; ++step) {
    const CropSet& expected = made.next();
    for (auto [loader, crops] : {std::pair{&drawn, &of_drawn}, std::pair{&cut, &of_cut}}) {
      const CropSet& set = loader->next();
      EXPECT_EQ(set.checksum, expected.checksum);
      EXPECT_EQ(set.global_crops.numel() + set.local_crops.numel(), 0);
      for (const CropSource& source : set.local_sources)
        EXPECT_EQ(source.picture->width, loader == &cut ? 8 : 20);
      StepBatch batch;
      crops->give(set, loader->augment(), batch);
      // What is sent ahead is not sent again, and the crops that are in use stay.
      if (step != 1) crops->send(*awaited_upcoming(*loader));
      expect_same(batch.global_crops, expected.global_crops);
      expect_same(batch.local_crops, expected.local_crops);
      CropSet buffer;
      const CropSet& host = crops->on_host(set, buffer);
      expect_same(host.global_crops, expected.global_crops);
      expect_same(host.local_crops, expected.local_crops);
      EXPECT_EQ(host.images, 6);
    }
  }
}

TEST_F(LoaderTest, EveryRecordOncePerEpoch) {
  const SampleOrder order(list_.count(), 9);
  std::vector<std::vector<int64_t>> epochs(3);
  for (int64_t sample = 0; sample < 21; ++sample)
    epochs[static_cast<size_t>(sample / 7)].push_back(order.record(sample));
  for (const auto& epoch : epochs) EXPECT_EQ(std::set<int64_t>(epoch.begin(), epoch.end()).size(), 7U);
  EXPECT_NE(epochs[0], epochs[1]);
}

TEST_F(LoaderTest, ReplacedSamplesAreCountedOnTheRankThatMadeThem) {
  DataLoader whole(list_, config_, {0, 6}, 0), first(list_, config_, {0, 2}, 0),
      second(list_, config_, {2, 6}, 0);
  int64_t sum = 0;
  for (int64_t step = 0; step < 7; ++step) {  // six passes over seven images
    const int64_t replaced = total(whole.await().replaced);
    EXPECT_EQ(replaced, total(first.await().replaced) + total(second.await().replaced));
    sum += replaced;
    for (DataLoader* loader : {&whole, &first, &second}) static_cast<void>(loader->next());
  }
  EXPECT_EQ(sum, 6);
  EXPECT_NE(whole.bad_examples().find("1.ppm (truncated"), std::string::npos);
}

TEST_F(LoaderTest, ReplacedSamplesHaveTheirCause) {
  std::ofstream(folder_ / "a" / "2.ppm", std::ios::binary) << "not an image at all, whatever its name says";
  const RecordList list = list_of(open_dataset(folder_.string()));
  DataLoader loader(list, config_, {0, 6}, 0);
  ReplacedCounts sum{};
  for (int64_t step = 0; step < 7; ++step) {
    const ReplacedCounts replaced = loader.await().replaced;
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += replaced[i];
    static_cast<void>(loader.next());
  }
  // Another broken image stands between record 1 and the one that replaces it.
  EXPECT_EQ(text_of(sum), "6 not_an_image, 6 truncated");
}

TEST_F(LoaderTest, TheCacheKeepsWhatItsBytesAllow) {
  ImageCache nothing(list_, config_);
  const auto first = nothing.get(0).image;
  EXPECT_NE(nothing.get(0).image, first);
  config_.cache_bytes = 2 * (20 * 20 * 3 + 200);
  ImageCache two(list_, config_);
  std::vector<std::shared_ptr<const Image>> images;
  for (const int64_t record : {0, 2, 3}) images.push_back(two.get(record).image);
  EXPECT_EQ(two.get(0).image, images[0]);
  EXPECT_EQ(two.get(2).image, images[1]);
  EXPECT_NE(two.get(3).image, images[2]);
  EXPECT_EQ(two.get(3).image->pixels, images[2]->pixels);
  EXPECT_EQ(two.get(1).status, DecodeStatus::truncated);
  EXPECT_EQ(two.get(1).status, DecodeStatus::truncated);
  EXPECT_EQ(two.bad_records(), 1);
}

TEST_F(LoaderTest, AFileThatVanishesIsNoReplacedSample) {
  set_retry_seconds(0);
  fs::remove(folder_ / "a" / "3.ppm");
  DataLoader loader(list_, config_, {0, 6}, 0);
  const SampleOrder order(7, config_.seed);
  int64_t complete = 0;  // steps before the one that needs it
  while (true) {
    bool needs = false;
    for (int64_t sample = complete * 6; sample < complete * 6 + 6; ++sample)
      needs = needs || order.record(sample) == 3;
    if (needs) break;
    ++complete;
  }
  for (int64_t step = 0; step < complete; ++step) {
    EXPECT_FALSE(loader.await().failure);
    static_cast<void>(loader.next());
  }
  EXPECT_TRUE(loader.await().failure);
  EXPECT_THROW(static_cast<void>(loader.next()), IoError);
  set_retry_seconds(30);
}

TEST_F(LoaderTest, NoDecodableImageIsAnError) {
  Dataset broken;
  broken.records = {list_.at(1)};
  const RecordList list = list_of(broken);
  DataLoader loader(list, config_, {0, 6}, 0);
  EXPECT_THROW(static_cast<void>(loader.next()), DataError);
}

}  // namespace
}  // namespace dino::pretrain
