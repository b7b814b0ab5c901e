// SPDX-License-Identifier: Apache-2.0
#include "ledger.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/error.hpp"
#include "config.hpp"
#include "listing.hpp"
#include "storage/files.hpp"
#include "storage/tar.hpp"

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
  ledger.measured[0] = {
      10, 4, 5, "png", Reason::kept, "", {}, 0xfedcba9876543210U, {1, 2, 3, 4, 5, 6}, DecodeNote::unit_range};
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
  EXPECT_EQ(reason_names().size(), static_cast<size_t>(Reason::bad_name) + 1);
  EXPECT_STREQ(name_of(Reason::leak_group), "leak_group");
}

TEST(Settings, RoundTripAndFirstDifference) {
  CurateConfig config;
  config.input = {"a, b", "c"};
  config.levels = {100, 10};
  config.threshold = 0.9;
  config.seed = 7;
  const CurateConfig back = parse_settings(settings_text(config), "curate.ini");
  EXPECT_EQ(back.input, config.input);
  EXPECT_EQ(back.levels, config.levels);
  EXPECT_EQ(first_difference(config, back), "");
  EXPECT_EQ(config_hash(config), config_hash(back));
  CurateConfig other = config;
  other.seed = 8;
  EXPECT_NE(first_difference(config, other).find("seed"), std::string::npos);
  EXPECT_NE(config_hash(config), config_hash(other));
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
