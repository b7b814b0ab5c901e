// SPDX-License-Identifier: Apache-2.0
#include "ledger.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <tuple>

#include "base/error.hpp"
#include "config.hpp"
#include "listing.hpp"
#include "pipeline.hpp"
#include "stage_settings.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"
#include "storage/tar.hpp"
#include "vectors/components.hpp"

namespace dino::curation {
namespace {

namespace fs = std::filesystem;

class CurationFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("dino_curation_" + std::to_string(::getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }
  [[nodiscard]] std::string path(const std::string& name) const { return (root_ / name).string(); }
  void put(const std::string& name, const std::string& content) const {
    fs::create_directories((root_ / name).parent_path());
    write_file_atomically(path(name), content);
  }
  fs::path root_;
};

Ledger sample() {
  Ledger ledger;
  ledger.resize(3);
  ledger.key = {"a/one", "a/two", "\xc3\xa4"};
  ledger.source = {"in", "in", "in"};
  ledger.path = {"/x/one.png", "/x/two.png", "/x/three.tar"};
  ledger.offset = {0, 0, 512};
  ledger.measured[0] = {10,
                        4,
                        5,
                        "png",
                        Reason::kept,
                        "",
                        {},
                        0xfedcba9876543210U,
                        {1, 2, 3, 4, 5, 6},
                        DecodeNote::unit_range,
                        Coding::lossless};
  ledger.measured[0].sha256[0] = 0xab;
  ledger.measured[1].message = "the file ends early";
  ledger.measured[1].quality.blur = NAN;
  ledger.drop(1, verdict_of(Reason::truncated, Stage::ingest));
  Verdict copy = verdict_of(Reason::near_duplicate, Stage::dedup);
  copy.representative = 0;
  copy.similarity = copy.value = 0.97F;
  copy.threshold = 0.95F;
  ledger.drop(2, copy);
  ledger.cluster = {{3, -1, -1}, {0, -1, -1}};
  ledger.leak[2] = 0;
  ledger.excluded = {"eval/e0"};
  return ledger;
}

TEST_F(CurationFiles, LedgerRoundTrip) {
  const Ledger ledger = sample();
  ledger.save(path("ledger.h5"), "hash");
  const Ledger back = Ledger::load(path("ledger.h5"));
  EXPECT_EQ(back.key, ledger.key);
  EXPECT_EQ(back.path, ledger.path);
  EXPECT_EQ(back.offset, ledger.offset);
  EXPECT_EQ(back.cluster, ledger.cluster);
  EXPECT_EQ(back.excluded, ledger.excluded);
  EXPECT_EQ(back.measured[0].phash, ledger.measured[0].phash);
  EXPECT_EQ(back.measured[0].sha256, ledger.measured[0].sha256);
  EXPECT_EQ(back.measured[0].quality.border, 6);
  EXPECT_EQ(back.measured[0].note, DecodeNote::unit_range);
  EXPECT_EQ(back.measured[0].coding, Coding::lossless);
  EXPECT_EQ(back.measured[1].coding, Coding::unknown);
  EXPECT_EQ(back.measured[1].message, "the file ends early");
  EXPECT_TRUE(std::isnan(back.measured[1].quality.blur));
  EXPECT_EQ(back.verdict[2].representative, 0);
  EXPECT_EQ(back.verdict[2].similarity, 0.97F);
  EXPECT_EQ(back.verdict[2].stage, Stage::dedup);
  back.save(path("again.h5"), "hash");
  EXPECT_EQ(sha256_file(path("again.h5")), sha256_file(path("ledger.h5")));
}

TEST_F(CurationFiles, BrokenLedgersAreNamed) {
  put("text.h5", "not a ledger");
  try {
    (void)Ledger::load(path("text.h5"));
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("text.h5"), std::string::npos);
  }
  EXPECT_THROW((void)Ledger::load(path("none.h5")), MissingInputError);
  sample().save(path("cut.h5"), "hash");
  fs::resize_file(path("cut.h5"), fs::file_size(path("cut.h5")) / 2);
  EXPECT_THROW((void)Ledger::load(path("cut.h5")), DataError);
}

TEST(Ledger, ARowIsDroppedOnceAndNoneIsLost) {
  Ledger ledger = sample();
  ledger.drop(1, verdict_of(Reason::blur, Stage::ingest));
  EXPECT_EQ(ledger.verdict[1].reason, Reason::truncated);
  EXPECT_EQ(ledger.kept_rows(), std::vector<int64_t>{0});
  const std::vector<int64_t> counts = ledger.counts();
  EXPECT_EQ(counts[0], 1);
  EXPECT_EQ(counts[static_cast<size_t>(Reason::near_duplicate)], 1);
  EXPECT_EQ(reason_names().size(), static_cast<size_t>(Reason::contrast) + 1);
  EXPECT_STREQ(name_of(Reason::leak_group), "leak_group");
}

/// Rows of one group of copies: pixels, coding, bytes.
Ledger copies(const std::vector<std::tuple<int64_t, Coding, int64_t>>& files) {
  Ledger ledger;
  ledger.resize(static_cast<int64_t>(files.size()));
  for (size_t i = 0; i < files.size(); ++i) {
    ledger.measured[i].width = std::get<0>(files[i]), ledger.measured[i].height = 1;
    ledger.measured[i].coding = std::get<1>(files[i]), ledger.measured[i].bytes = std::get<2>(files[i]);
  }
  return ledger;
}

TEST(Ledger, PixelsThenCodingThenBytesThenTheFirstRowStandForAGroup) {
  const Ledger ledger = copies({{100, Coding::jpeg, 9000},
                                {100, Coding::lossless, 50},
                                {100, Coding::palette, 70},
                                {100, Coding::lossy, 80},
                                {100, Coding::lossless, 60},
                                {200, Coding::jpeg, 10},
                                {100, Coding::lossless, 60},
                                {100, Coding::unknown, 99999}});
  const std::vector<int64_t> best_first = {5, 4, 6, 1, 2, 3, 0, 7};
  for (size_t i = 0; i < best_first.size(); ++i)
    for (size_t j = 0; j < best_first.size(); ++j)
      EXPECT_EQ(represents_before(ledger, best_first[i], best_first[j]), i < j) << i << " " << j;
  const std::vector<double> ranks = representative_ranks(ledger, {0, 1, 4, 5, 6});
  EXPECT_EQ(ranks, (std::vector<double>{1, 2, 4, 5, 3}));
  // The group's rule takes the highest, whatever the order of rows.
  const std::vector<Edge> edges = {{0, 1, 0.99F}, {0, 3, 0.99F}, {2, 3, 0.97F}, {2, 4, 0.97F}};
  const Groups star = group_rows(5, edges, GroupRule::star, ranks);
  EXPECT_EQ(star.representative, (std::vector<int64_t>{3, 1, 3, 3, 4}));
  const Groups components = group_rows(5, edges, GroupRule::components, ranks);
  EXPECT_EQ(components.representative, (std::vector<int64_t>{3, 3, 3, 3, 3}));
}

TEST(Settings, UnitsFollowTheNumberOfImages) {
  CurateConfig config;
  for (const auto& [images, each] : std::vector<std::pair<int64_t, int64_t>>{{0, 16},
                                                                             {1, 16},
                                                                             {500, 16},
                                                                             {1024, 16},
                                                                             {1025, 32},
                                                                             {10'000, 160},
                                                                             {131'072, 2048},
                                                                             {int64_t{1} << 40, 2048}})
    EXPECT_EQ(unit_size(config, images), each) << images;
  config.unit_records = 7;
  EXPECT_EQ(unit_size(config, 500), 7);
}

TEST(Settings, EveryOneIsReadByAStage) {
  CurateConfig config;
  config.target = 10, config.exclude = {"eval"}, config.embedding = "weights";
  std::map<std::string, int> readers;
  for (const StageEntry& stage : stage_entries())
    if (std::string(stage.name) != "report")
      for (const Setting& setting : stage_settings(config, stage.name)) ++readers[setting.name];
  for (const Setting& setting : all_settings(config)) EXPECT_GE(readers[setting.name], 1) << setting.name;
  EXPECT_EQ(stage_settings(config, "report"), all_settings(config));
  // What another setting switches off is not read.
  CurateConfig other = config;
  config.target = other.target = 0;
  other.levels = {9, 3}, other.strategy = SampleStrategy::closest, other.iterations = 3;
  EXPECT_EQ(stage_settings(config, "balance"), stage_settings(other, "balance"));
  EXPECT_NE(stage_settings(config, "report"), stage_settings(other, "report"));
}

TEST(Settings, AChangeIsTold) {
  CurateConfig config, other;
  config.target = 100, other.target = 200;
  const auto told = [&](const char* stage) {
    return describe_change(stage_settings(config, stage), stage_settings(other, stage));
  };
  EXPECT_EQ(told("balance"), std::vector<std::string>{"target 100 -> 200"});
  EXPECT_TRUE(told("dedup").empty());
  other.target = 0;  // then the other settings of the stage are not read, which is no change of theirs
  EXPECT_EQ(told("balance"), std::vector<std::string>{"target 100 -> 0"});
  config.exclude = {"a", "b"};
  EXPECT_EQ(told("decontaminate"), std::vector<std::string>{"exclude a, b -> none"});
  other.dedup = false, other.threshold = 0.5;
  EXPECT_EQ(told("dedup"), std::vector<std::string>{"dedup true -> false"});
}

TEST(Settings, RoundTripAndHash) {
  CurateConfig config;
  config.input = {"a, b", "c"};
  config.levels = {100, 10};
  config.threshold = 0.9;
  config.seed = 7;
  const CurateConfig back = parse_settings(settings_text(config), "curate.ini");
  EXPECT_EQ(back.input, config.input);
  EXPECT_EQ(back.levels, config.levels);
  EXPECT_EQ(all_settings(config), all_settings(back));
  EXPECT_EQ(config_hash(config), config_hash(back));
  CurateConfig other = config;
  other.seed = 8;
  EXPECT_NE(config_hash(config), config_hash(other));
}

TEST_F(CurationFiles, MarkersRoundTripAndOthersAreNamed) {
  fs::create_directories(root_ / "stages");
  const std::vector<Setting> settings = {{"input", "a, \"b\\x0a\xff"}, {"target", "10"}};
  write_marker(root_, "balance", {settings, "00aabbcc", {{"selection.h5", 7, 9}}, {}});
  const auto marker = read_marker(root_, "balance");
  ASSERT_TRUE(marker.has_value());
  EXPECT_EQ(marker->settings, settings);
  EXPECT_EQ(marker->after, "00aabbcc");
  EXPECT_FALSE(read_marker(root_, "export").has_value());
  // Whole and sealed, but of a version that did not name the settings.
  put("stages/export.json",
      sealed_json(
          "{\n \"stage\": \"export\",\n \"config_hash\": \"0\",\n \"after\": \"\",\n \"files\": []\n}"));
  try {
    (void)read_marker(root_, "export");
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("curation of an earlier version"), std::string::npos)
        << error.what();
  }
  put("stages/report.json", sealed_json("{\n \"stage\": \"report\",\n \"settings\": {\"target\": 3}\n}"));
  EXPECT_THROW((void)read_marker(root_, "report"), DataError);
}

TEST_F(CurationFiles, ListingHasGlobalOrderPrefixesAndSidecars) {
  put("in/cats/one.png", "x");
  put("in/dogs/two.jpg", "xy");
  {
    TarWriter tar(path("part.tar"));
    const std::vector<uint8_t> bytes = {1, 2, 3};
    tar.add("s1.png", bytes);
    tar.add("s1.json", bytes);
    tar.close();
  }
  const Listing one = list_inputs({path("in")});
  ASSERT_EQ(one.items.size(), 2U);
  EXPECT_EQ(one.items[0].record.key, "cats/one");
  EXPECT_EQ(one.items[1].class_name, "dogs");
  EXPECT_EQ(one.items[1].record.size, 2);
  const Listing both = list_inputs({path("in"), path("part.tar"), path("in")});
  ASSERT_EQ(both.items.size(), 5U);
  EXPECT_EQ(both.items[0].record.key, "in/cats/one");
  EXPECT_EQ(both.items[2].sidecars.size(), 1U);
  EXPECT_EQ(both.items[3].record.key, "in~2/cats/one");
  EXPECT_EQ(both.inputs[1].first, 2);
  EXPECT_EQ(both.inputs[0].hash, both.inputs[2].hash);
  for (size_t i = 0; i < both.items.size(); ++i) EXPECT_EQ(both.items[i].row, static_cast<int64_t>(i));
  put("in/dogs/two.jpg", "xyz");
  EXPECT_NE(list_inputs({path("in")}).inputs[0].hash, one.inputs[0].hash);

  const std::vector<std::vector<Item>> units = {{both.items[0], both.items[2]}, {}, {both.items[4]}};
  const auto back = unpack_items(pack_items(units));
  ASSERT_EQ(back.size(), 3U);
  ASSERT_EQ(back[0].size(), 2U);
  EXPECT_EQ(back[0][1].record.key, both.items[2].record.key);
  EXPECT_EQ(back[0][1].record.offset, both.items[2].record.offset);
  EXPECT_EQ(back[0][1].sidecars[0].extension, "json");
  EXPECT_EQ(back[2][0].class_name, both.items[4].class_name);
}

TEST(Listing, ShortMessagesAreRefused) {
  std::vector<std::byte> bytes = pack_items({{Item{}}});
  bytes.resize(bytes.size() - 3);
  EXPECT_THROW((void)unpack_items(bytes), InternalError);
}

}  // namespace
}  // namespace dino::curation
