// SPDX-License-Identifier: Apache-2.0
#include "data_loader.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/error.hpp"
#include "base/retry.hpp"

namespace dino::pretrain {
namespace {

namespace fs = std::filesystem;

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
    dataset_ = open_dataset(folder_.string());
    config_.augment.global_size = 16;
    config_.augment.local_size = 8;
    config_.augment.local_count = 3;
    config_.batch = 6;
    config_.workers = 2;
    config_.seed = 5;
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
  Dataset dataset_;
  LoaderConfig config_;
};

TEST_F(LoaderTest, WhiteOnTransparencyIsSeen) {
  Image logo{8, 4, 4, std::vector<uint8_t>(128, 255)};
  for (size_t i = 3; i < 64; i += 4) logo.pixels[i] = 0;
  const std::vector<uint8_t> png = encode_png(logo);
  std::ofstream(folder_ / "a" / "9.png", std::ios::binary)
      .write(reinterpret_cast<const char*>(png.data()), static_cast<std::streamsize>(png.size()));
  const Dataset dataset = open_dataset(folder_.string());
  const auto last = static_cast<int64_t>(dataset.records.size()) - 1;
  config_.pad = true;  // with what stands behind the picture
  ImageCache cache(dataset, config_);
  const auto seen = cache.get(last);
  ASSERT_TRUE(seen);
  ASSERT_EQ(seen->pixels.size(), 8U * 8 * 3);
  EXPECT_EQ(*seen->at(0, 0), 0);
  EXPECT_EQ(*seen->at(0, 2), 0);
  EXPECT_EQ(*seen->at(0, 5), 255);
  config_.background = Colour{255, 255, 255};
  ImageCache white(dataset, config_);
  EXPECT_EQ(white.get(last)->pixels, std::vector<uint8_t>(8 * 8 * 3, 255));
}

TEST_F(LoaderTest, CropsDoNotDependOnRanksThreadsOrRestarts) {
  constexpr int64_t kSteps = 5;
  DataLoader whole(dataset_, config_, {0, 6}, 0);
  LoaderConfig single = config_;
  single.workers = 1;
  single.cache_bytes = 1 << 20;
  DataLoader part(dataset_, single, {2, 5}, 2);
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
  DataLoader whole(dataset_, config_, {0, 6}, 0), first(dataset_, config_, {0, 2}, 0),
      second(dataset_, config_, {2, 6}, 0);
  LoaderConfig other = config_;
  other.seed = 6;
  DataLoader others(dataset_, other, {0, 6}, 0);
  int64_t last = 0;
  for (int64_t step = 0; step < 4; ++step) {
    const int64_t sum = whole.next().checksum;
    EXPECT_EQ(sum, first.next().checksum + second.next().checksum);
    EXPECT_NE(sum, others.next().checksum);
    EXPECT_NE(sum, last);
    last = sum;
  }
}

TEST_F(LoaderTest, EveryRecordOncePerEpoch) {
  const SampleOrder order(static_cast<int64_t>(dataset_.records.size()), 9);
  std::vector<std::vector<int64_t>> epochs(3);
  for (int64_t sample = 0; sample < 21; ++sample)
    epochs[static_cast<size_t>(sample / 7)].push_back(order.record(sample));
  for (const auto& epoch : epochs) EXPECT_EQ(std::set<int64_t>(epoch.begin(), epoch.end()).size(), 7U);
  EXPECT_NE(epochs[0], epochs[1]);
}

TEST_F(LoaderTest, ReplacedSamplesAreCountedOnTheRankThatMadeThem) {
  DataLoader whole(dataset_, config_, {0, 6}, 0), first(dataset_, config_, {0, 2}, 0),
      second(dataset_, config_, {2, 6}, 0);
  int64_t sum = 0;
  for (int64_t step = 0; step < 7; ++step) {  // six passes over seven images
    const int64_t replaced = whole.await().replaced;
    EXPECT_EQ(replaced, first.await().replaced + second.await().replaced);
    sum += replaced;
    for (DataLoader* loader : {&whole, &first, &second}) static_cast<void>(loader->next());
  }
  EXPECT_EQ(sum, 6);
  EXPECT_NE(whole.bad_examples().find("1.ppm (truncated"), std::string::npos);
}

TEST_F(LoaderTest, AFileThatVanishesIsNoReplacedSample) {
  set_retry_seconds(0);
  fs::remove(folder_ / "a" / "3.ppm");
  DataLoader loader(dataset_, config_, {0, 6}, 0);
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
  dataset_.records = {dataset_.records[1]};
  DataLoader loader(dataset_, config_, {0, 6}, 0);
  EXPECT_THROW(static_cast<void>(loader.next()), DataError);
}

}  // namespace
}  // namespace dino::pretrain
