// SPDX-License-Identifier: Apache-2.0
// Galleries of a curation, from files that are written here as dino-curate lays them out.
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.hpp"
#include "eval/temporary.hpp"
#include "report/data.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "test_data.hpp"

namespace dino::eval {
namespace {

constexpr int64_t kRows = 10;

template <class T>
void write(Hdf5File& file, const std::string& name, const std::vector<T>& values) {
  file.write(name, view_of(values.data(), Shape{static_cast<int64_t>(values.size())}));
}

/// Ten images, one a vector of the plane: at 0, 1, ... 8 steps of an angle, and a copy of the first. Rows 0
/// to 8 were compared; 1 is a duplicate of 0; row 9 is embedded, and was dropped by a filter.
class CurationPicturesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const Image image{8, 8, 3, std::vector<uint8_t>(192, 90)};
    const std::vector<uint8_t> png = encode_png(image);
    std::vector<std::string> keys, locations;
    for (int64_t i = 0; i < kRows; ++i) {
      keys.push_back("k" + std::to_string(i));
      locations.push_back(folder / (std::to_string(i) + ".png"));
      put(locations.back(), std::string(png.begin(), png.end()));
    }
    // One lies inside another file, as in a tar.
    put(folder / "all@x", std::string(100, 'x') + std::string(png.begin(), png.end()));
    locations[2] = folder / "all@x@100";
    bytes = static_cast<int64_t>(png.size());
    write_ledger(keys, locations);
    write_dedup(0.95);
    Hdf5File embeddings = Hdf5File::create(folder / "embeddings.h5");
    std::vector<float> features;
    for (const double angle : {0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 0.45}) {
      features.push_back(static_cast<float>(std::cos(angle)));
      features.push_back(static_cast<float>(std::sin(angle)));
    }
    embeddings.write("/features", view_of(std::as_const(features).data(), Shape{10, 2}));
    write<int64_t>(embeddings, "/row", {0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
    embeddings.close();
  }
  void write_ledger(const std::vector<std::string>& keys, const std::vector<std::string>& locations) {
    Hdf5File file = Hdf5File::create(folder / "ledger.h5");
    file.write_strings("/key", keys);
    file.write_strings("/location", locations);
    write<int64_t>(file, "/bytes", std::vector<int64_t>(kRows, bytes));
    write<int64_t>(file, "/width", std::vector<int64_t>(kRows, 8));
    write<int64_t>(file, "/height", std::vector<int64_t>(kRows, 8));
    write<uint8_t>(file, "/reason", {0, 1, 0, 0, 0, 0, 2, 2, 2, 1});
    file.write_attribute("/reason", "names", std::vector<std::string>{"kept", "near_duplicate", "balance"});
    write<int64_t>(file, "/cluster/level1", {0, -1, 0, 0, 0, 1, 1, 1, 2, -1});
    file.close();
  }
  void write_dedup(double threshold, int64_t last_row = 8) {
    Hdf5File file = Hdf5File::create(folder / "dedup.h5");
    write<int64_t>(file, "/edges/source", {0});
    write<int64_t>(file, "/edges/target", {1});
    write<float>(file, "/edges/similarity", {0.995F});
    write<uint8_t>(file, "/keep", {1, 0, 1, 1, 1, 1, 1, 1, 1});
    write<int64_t>(file, "/row", {0, 1, 2, 3, 4, 5, 6, 7, last_row});
    file.write_attribute("/", "threshold", threshold);
    file.close();
  }
  const TemporaryFolder folder;
  int64_t bytes = 0;
};

TEST_F(CurationPicturesTest, PairsStandOnBothSidesOfTheThreshold) {
  const CurationPictures p = read_curation_pictures(folder.path(), kRows);
  EXPECT_EQ(p.note, "");
  ASSERT_EQ(p.above.size(), 1U);
  EXPECT_EQ(p.above[0].first + p.above[0].second, "k0k1");
  EXPECT_NEAR(p.above[0].similarity, 0.995, 1e-6);
  // Half a radian is 0.878, within 0.1 of the threshold; each image stands in one pair.
  ASSERT_GE(p.below.size(), 3U);
  for (const CurationPictures::Pair& pair : p.below) {
    EXPECT_NEAR(pair.similarity, std::cos(0.5), 1e-4);
    EXPECT_NE(pair.first, "k1") << "it was dropped";
    EXPECT_NE(pair.second, "k9") << "a filter dropped it, so it was never compared";
  }
  write_dedup(0.99);
  EXPECT_TRUE(read_curation_pictures(folder.path(), kRows).below.empty()) << "0.878 is not just below 0.99";
}

TEST_F(CurationPicturesTest, KeptImagesAndClustersAreDrawn) {
  const CurationPictures p = read_curation_pictures(folder.path(), kRows);
  ASSERT_EQ(p.kept.size(), 5U);
  EXPECT_EQ(p.kept[1].key, "k2") << "inside another file";
  ASSERT_EQ(p.clusters.size(), 2U) << "one of a single image is none";
  EXPECT_EQ(p.clusters[0].size, 4);
  EXPECT_EQ(p.clusters[0].kept, 4);
  EXPECT_EQ(p.clusters[1].kept, 1);
  EXPECT_EQ(p.clusters[1].members[0].reason, "kept");
  EXPECT_EQ(p.clusters[1].members[2].reason, "balance");
}

TEST_F(CurationPicturesTest, ImagesThatMovedLeaveGaps) {
  for (int64_t i = 0; i < kRows; ++i) put(folder / (std::to_string(i) + ".png"), "no picture");
  const CurationPictures p = read_curation_pictures(folder.path(), kRows);
  EXPECT_TRUE(p.above.empty());
  ASSERT_EQ(p.kept.size(), 1U);
  EXPECT_EQ(p.kept[0].key, "k2");
}

TEST_F(CurationPicturesTest, WhatIsNotThereIsSaid) {
  std::filesystem::remove(folder / "embeddings.h5");
  EXPECT_NE(read_curation_pictures(folder.path(), kRows).note.find("no embeddings.h5"), std::string::npos);
  std::filesystem::remove(folder / "dedup.h5");
  EXPECT_NE(read_curation_pictures(folder.path(), kRows).note.find("no dedup.h5"), std::string::npos);
  std::filesystem::remove(folder / "ledger.h5");
  const CurationPictures p = read_curation_pictures(folder.path(), kRows);
  EXPECT_NE(p.note.find("no ledger.h5"), std::string::npos);
  EXPECT_TRUE(p.kept.empty());
}

TEST_F(CurationPicturesTest, BrokenFilesAreNamed) {
  write_dedup(0.95, kRows);  // a row that the ledger does not have
  EXPECT_NE(
      message_of<DataError>([&] { (void)read_curation_pictures(folder.path(), kRows); }).find("dedup.h5"),
      std::string::npos);
  write_dedup(0.95);
  EXPECT_NE(message_of<DataError>([&] {
              (void)read_curation_pictures(folder.path(), kRows + 1);
            }).find("ledger.h5"),
            std::string::npos);
  put(folder / "ledger.h5", "no HDF5");
  EXPECT_NE(
      message_of<DataError>([&] { (void)read_curation_pictures(folder.path(), kRows); }).find("ledger.h5"),
      std::string::npos);
}

}  // namespace
}  // namespace dino::eval
