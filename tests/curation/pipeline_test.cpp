// SPDX-License-Identifier: Apache-2.0
// The stages in one process: rules of ingest, tar keys, sidecars, and a vanished file.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "base/retry.hpp"
#include "pipeline.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/tar.hpp"

namespace dino::curation {
namespace {

namespace fs = std::filesystem;

Image drawing(int seed, int64_t side = 48) {
  Image image{side, side, 3, std::vector<uint8_t>(static_cast<size_t>(side * side * 3), 250)};
  Random random(static_cast<uint64_t>(seed), RandomStream::test, 3);
  for (int blob = 0; blob < 6; ++blob) {
    const double cx = random.uniform(0.15, 0.85), cy = random.uniform(0.15, 0.85);
    const double r = random.uniform(0.05, 0.25);
    const auto colour = static_cast<uint8_t>(random.below(220));
    for (int64_t y = 0; y < side; ++y) {
      for (int64_t x = 0; x < side; ++x) {
        const double u = (static_cast<double>(x) + 0.5) / static_cast<double>(side) - cx;
        const double v = (static_cast<double>(y) + 0.5) / static_cast<double>(side) - cy;
        if (u * u + v * v < r * r) {
          image.at(x, y)[0] = colour;
          image.at(x, y)[1] = static_cast<uint8_t>(colour / 2);
          image.at(x, y)[2] = static_cast<uint8_t>(255 - colour);
        }
      }
    }
  }
  return image;
}

class Pipeline : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("dino_pipeline_" + std::to_string(::getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_ / "in");
  }
  void TearDown() override { fs::remove_all(root_); }
  [[nodiscard]] std::string path(const std::string& name) const { return (root_ / name).string(); }
  void put(const std::string& name, const std::vector<uint8_t>& bytes) const {
    fs::create_directories((root_ / name).parent_path());
    write_file_atomically(path(name),
                          std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  /// Runs every stage in OUT = out; returns the reason of every key.
  std::map<std::string, std::string> curate(CurateConfig config, const std::string& out = "out") {
    if (config.input.empty()) config.input = {path("in")};
    fs::create_directories(root_ / out / "stages");
    curation::Run run{world_, config, path(out), config_hash(config), {}};
    for (const StageEntry& stage : stage_entries()) EXPECT_TRUE(stage.run(run)) << stage.name;
    const Ledger ledger = Ledger::load(path(out) + "/ledger.h5");
    std::map<std::string, std::string> reasons;
    for (size_t i = 0; i < ledger.key.size(); ++i) reasons[ledger.key[i]] = name_of(ledger.verdict[i].reason);
    return reasons;
  }
  fs::path root_;
  Communicator world_ = Communicator::self();
};

TEST_F(Pipeline, RulesOfTheFilters) {
  put("in/good.png", encode_png(drawing(1)));
  put("in/small.png", encode_png(drawing(2, 20)));
  put("in/wide.png", encode_png(resize(drawing(3), 300, 40)));
  put("in/soft.png", encode_png(gaussian_blur(resize(drawing(4, 12), 100, 100), 2.0)));
  put("in/flat.png", encode_png(Image{40, 40, 3, std::vector<uint8_t>(4800, 9)}));
  put("in/large.png", encode_png(drawing(5, 200)));
  put("in/same_hash.png", encode_png(drawing(1, 96)));
  CurateConfig config;
  config.min_size = 24, config.max_aspect = 4, config.min_contrast = 0, config.min_blur = 30;
  config.min_entropy = 0.1;
  config.max_pixels = 150 * 150;
  config.hash_duplicates = true;
  const auto reasons = curate(config);
  EXPECT_EQ(reasons.at("small"), "too_small");
  EXPECT_EQ(reasons.at("wide"), "aspect");
  EXPECT_EQ(reasons.at("soft"), "blur");
  EXPECT_EQ(reasons.at("flat"), "blur");
  EXPECT_EQ(reasons.at("large"), "too_large");
  // More pixels: the larger copy represents, whichever rule sees them first.
  EXPECT_EQ(reasons.at("same_hash"), "kept");
  EXPECT_NE(reasons.at("good"), "kept");
}

TEST_F(Pipeline, FiltersThatAreOnByDefault) {
  const auto plain = [](uint8_t base, int64_t every) {
    Image image{40, 40, 3, std::vector<uint8_t>(4800, base)};
    for (int64_t i = 0; every > 0 && i < 4800; i += every) image.pixels[static_cast<size_t>(i)] += 3;
    return image;
  };
  put("in/icon.png", encode_png(drawing(2, 31)));
  put("in/least.png", encode_png(drawing(2, 32)));
  put("in/banner.png", encode_png(resize(drawing(3), 330, 48)));
  put("in/panorama.png", encode_png(resize(drawing(7), 240, 48)));
  put("in/one_colour.png", encode_png(plain(9, 0)));
  put("in/nearly_one_colour.png", encode_png(plain(100, 7)));
  // A thin line on white has hardly any entropy, and is a picture.
  Image line = plain(255, 0);
  for (int64_t x = 0; x < 40; ++x) std::fill_n(line.at(x, 20), 3, 0);
  put("in/line.png", encode_png(line));
  const auto reasons = curate(CurateConfig{});
  EXPECT_EQ(reasons.at("icon"), "too_small");
  EXPECT_EQ(reasons.at("banner"), "aspect");
  EXPECT_EQ(reasons.at("one_colour"), "contrast");
  EXPECT_EQ(reasons.at("nearly_one_colour"), "contrast");
  for (const char* key : {"least", "panorama", "line"}) EXPECT_EQ(reasons.at(key), "kept") << key;
  CurateConfig off;
  off.min_size = 0, off.max_aspect = 0, off.min_contrast = 0, off.dedup = false;
  for (const auto& [key, reason] : curate(off, "off")) EXPECT_EQ(reason, "kept") << key;
  EXPECT_EQ(
      filters_text(CurateConfig{}),
      "--min-size 32 (default), --max-aspect 6 (default), --min-contrast 2 (default); 0 switches one off; "
      "off: --min-blur, --min-entropy");
  EXPECT_EQ(filters_text(off),
            "none; off: --min-size, --max-aspect, --min-contrast, --min-blur, --min-entropy");
}

TEST_F(Pipeline, TheBestCopyStays) {
  const Image picture = drawing(1, 64);
  put("in/a.jpg", encode_jpeg(picture, 95));
  put("in/b.png", encode_png(picture));  // less lossy
  put("in/c.jpg", encode_jpeg(picture, 60));
  put("in/d.png", encode_png(picture));  // the same file
  put("in/sub/larger.jpg", encode_jpeg(resize(picture, 80, 80), 80));
  put("in/other.png", encode_png(drawing(9, 64)));
  CurateConfig config;
  config.threshold = 0.9;
  for (const bool hashes : {false, true})
    for (const char* rule : {"star", "components"}) {
      config.hash_duplicates = hashes, config.rule = value_named<GroupRule>(rule).value();
      const auto reasons = curate(config, std::string(rule) + (hashes ? "_hashes" : ""));
      EXPECT_EQ(reasons.at("sub/larger"), "kept");
      EXPECT_EQ(reasons.at("other"), "kept");
      EXPECT_EQ(reasons.at("d"), "exact_duplicate");
      for (const char* key : {"a", "b", "c"}) EXPECT_NE(reasons.at(key), "kept") << key;
    }
  fs::remove(path("in/sub/larger.jpg"));
  for (const char* rule : {"star", "components"}) {
    config.hash_duplicates = false, config.rule = value_named<GroupRule>(rule).value();
    const auto reasons = curate(config, std::string("same_size_") + rule);
    EXPECT_EQ(reasons.at("b"), "kept");
    EXPECT_EQ(reasons.at("a"), "near_duplicate");
    EXPECT_EQ(reasons.at("c"), "near_duplicate");
  }
  fs::remove(path("in/b.png")), fs::remove(path("in/d.png"));
  const auto reasons = curate(config, "jpegs");
  EXPECT_EQ(reasons.at("a"), "kept");  // the larger file
  EXPECT_EQ(reasons.at("c"), "near_duplicate");
}

TEST_F(Pipeline, LightPicturesOnTransparentGround) {
  // A white disc on nothing: over white there is nothing to see, over black there is.
  Image glow{32, 32, 4, std::vector<uint8_t>(32 * 32 * 4, 0)};
  for (int64_t y = 0; y < 32; ++y) {
    for (int64_t x = 0; x < 32; ++x) {
      if ((x - 16) * (x - 16) + (y - 16) * (y - 16) < 80) std::fill_n(glow.at(x, y), 4, 255);
    }
  }
  put("in/glow.png", encode_png(glow));
  const MeasuredImage one =
      measure_record(Record{"glow", path("in/glow.png"), 0, -1, -1, "png", "", ""}, CurateConfig{});
  EXPECT_EQ(one.measured.reason, Reason::kept);
  EXPECT_GT(one.measured.quality.contrast, 50);
  EXPECT_EQ(one.image.channels, 3);
  EXPECT_EQ(one.image.at(0, 0)[0], 0);
}

TEST_F(Pipeline, TarKeysSidecarsAndClasses) {
  {
    TarWriter tar(path("shard.tar"));
    const std::vector<uint8_t> json = {'{', '}'}, text = {'h', 'i'}, cls = {'7'};
    tar.add("s1.png", encode_png(drawing(11)));
    tar.add("s1.json", json);
    tar.add("s1.txt", text);
    tar.add("s1.cls", cls);
    tar.add("s2.png", encode_png(drawing(12)));
    tar.close();
  }
  put("in/birds/with.dots.png", encode_png(drawing(13)));
  put("in/birds/with_dots.png", encode_png(drawing(14)));
  CurateConfig config;
  config.input = {path("shard.tar"), path("in")};
  config.shard_records = 3;
  const auto reasons = curate(config);
  EXPECT_EQ(reasons.size(), 4U);
  std::map<std::string, int64_t> members;
  std::vector<TarFault> faults;
  for (const char* shard : {"out/shards/000000.tar", "out/shards/000001.tar"}) {
    for (const TarMember& m : scan_tar(path(shard), faults)) members[m.name] = m.size;
  }
  EXPECT_TRUE(faults.empty());
  EXPECT_FALSE(fs::exists(path("out/shards/000002.tar")));
  EXPECT_EQ(members.count("shard.tar/shard/s1.png"), 1U) << members.begin()->first;
  EXPECT_EQ(members["shard.tar/shard/s1.txt"], 2);
  EXPECT_EQ(members["shard.tar/shard/s1.cls"], 1);
  EXPECT_EQ(members.count("shard.tar/shard/s2.cls"), 0U);
  EXPECT_EQ(members.count("in/birds/with_dots.png"), 1U);
  EXPECT_EQ(members.count("in/birds/with_dots~2.png"), 1U);
  EXPECT_EQ(members["in/birds/with_dots.cls"], 1);
  // Numbers of one input and names of another are all names.
  EXPECT_EQ(read_text(path("out/classes.txt")), "0\n1\n2\n3\n4\n5\n6\n7\nbirds\n");
  const Dataset again = open_dataset(path("out"));
  std::map<std::string, std::string> classes;
  for (const Record& r : again.records)
    if (r.label >= 0) classes[r.key] = again.classes.at(static_cast<size_t>(r.label));
  EXPECT_EQ(classes, (std::map<std::string, std::string>{{"000000/shard.tar/shard/s1", "7"},
                                                         {"000000/in/birds/with_dots", "birds"},
                                                         {"000001/in/birds/with_dots~2", "birds"}}));
  const Ledger ledger = Ledger::load(path("out/ledger.h5"));
  EXPECT_EQ(ledger.exported, (std::vector<std::string>{"shard.tar/shard/s1", "shard.tar/shard/s2",
                                                       "in/birds/with_dots", "in/birds/with_dots~2"}));
}

TEST_F(Pipeline, VanishedAndChangedFiles) {
  for (int i = 0; i < 4; ++i) put("in/p" + std::to_string(i) + ".png", encode_png(drawing(20 + i)));
  CurateConfig config;
  config.input = {path("in")};
  fs::create_directories(root_ / "out" / "stages");
  curation::Run run{world_, config, path("out"), config_hash(config), {}};
  load_listing(run);
  // A file that is gone is no verdict.
  fs::remove(path("in/p2.png"));
  set_retry_seconds(0);
  EXPECT_THROW((void)ingest_stage(run), IoError);
  set_retry_seconds(30);
  put("in/p2.png", encode_png(drawing(22)));
  // Nor is a part of one that grew, or the whole of one that shrank.
  std::vector<uint8_t> other = encode_png(drawing(23));
  other.push_back(0);
  put("in/p3.png", other);
  EXPECT_THROW((void)ingest_stage(run), DataError);
  other.resize(other.size() - 2);
  put("in/p3.png", other);
  EXPECT_THROW((void)ingest_stage(run), DataError);
  put("in/p3.png", encode_png(drawing(23)));
  ASSERT_TRUE(ingest_stage(run));
  EXPECT_EQ(Ledger::load(path("out/stages/ingest.h5")).kept_rows().size(), 4U);
  // A file that changes between ingest and export stops the export.
  ASSERT_TRUE(embed_stage(run) && filter_stage(run) && dedup_stage(run) && decontaminate_stage(run) &&
              balance_stage(run));
  put("in/p1.png", encode_png(drawing(30, 90)));
  EXPECT_THROW((void)export_stage(run), DataError);
  // A new process sees it when it lists the inputs.
  curation::Run later{world_, config, path("out"), config_hash(config), {}};
  EXPECT_THROW(load_listing(later), DataError);
}

TEST_F(Pipeline, NothingLeftIsAnError) {
  put("in/a.png", {1, 2, 3});
  CurateConfig config;
  config.input = {path("in")};
  fs::create_directories(root_ / "out" / "stages");
  curation::Run run{world_, config, path("out"), config_hash(config), {}};
  ASSERT_TRUE(ingest_stage(run));
  try {
    (void)embed_stage(run);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("all 1 images were dropped"), std::string::npos);
  }
}

}  // namespace
}  // namespace dino::curation
