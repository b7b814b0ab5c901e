// SPDX-License-Identifier: Apache-2.0
#include "inputs/prepared_images.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "temporary.hpp"

namespace dino::eval {
namespace {

class PreparedImagesTest : public ::testing::Test {
 protected:
  PreparedImagesTest() {
    record_.path = folder_.path() + "/a.ppm";
    record_.extension = "ppm";
    protocol_.size = 4;
    protocol_.resize = 4;
  }
  void write(const std::string& pixel) const {
    std::ofstream file(record_.path, std::ios::binary);
    file << "P6\n8 8\n255\n";
    for (int i = 0; i < 64; ++i) file << pixel;
  }
  TemporaryFolder folder_;
  Record record_;
  FeatureProtocol protocol_;
};

TEST_F(PreparedImagesTest, AreDecodedOnceForEachForm) {
  PreparedImages prepared(1 << 20);
  write("abc");
  const Image first = prepared.load(record_, protocol_).image;
  EXPECT_EQ(first.pixels, load_image(record_, protocol_).image.pixels);
  write("xyz");
  EXPECT_EQ(prepared.load(record_, protocol_).image.pixels, first.pixels);
  FeatureProtocol larger = protocol_;
  larger.size = larger.resize = 8;
  EXPECT_EQ(prepared.load(record_, larger).image.pixels, load_image(record_, larger).image.pixels);
}

TEST_F(PreparedImagesTest, AreLoadedEachTimeWhereThereIsNoRoom) {
  PreparedImages prepared(10);
  write("abc");
  const Image first = prepared.load(record_, protocol_).image;
  write("xyz");
  EXPECT_NE(prepared.load(record_, protocol_).image.pixels, first.pixels);
  EXPECT_EQ(prepared.bytes(), 0);
}

TEST_F(PreparedImagesTest, FaultsAreFoundAnew) {
  PreparedImages prepared(1 << 20);
  std::ofstream(record_.path) << "no image";
  EXPECT_FALSE(prepared.load(record_, protocol_).fault.empty());
  write("abc");
  EXPECT_TRUE(prepared.load(record_, protocol_).fault.empty());
}

}  // namespace
}  // namespace dino::eval
