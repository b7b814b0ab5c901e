// SPDX-License-Identifier: Apache-2.0
#include "imaging/sample_plane.hpp"

#include <gtest/gtest.h>

#include "imaging/sample_files.hpp"
#include "imaging/sample_planes.hpp"

namespace dino {
namespace {

using test::Bytes;
using test::png_plane;

std::vector<uint16_t> ramp(size_t count, unsigned below) {
  std::vector<uint16_t> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<uint16_t>((i * 7919) % below);
  return values;
}

TEST(SamplePlane, PngKeepsItsNumbers) {
  for (const bool interlaced : {false, true})
    for (const int bits : {1, 2, 4, 8, 16}) {
      const auto values = ramp(13 * 5, 1U << bits);
      const DecodedPlane got = decode_plane(png_plane(13, 5, values, bits, false, interlaced));
      EXPECT_STREQ(name_of(got.status), "ok") << got.message;
      EXPECT_EQ(got.plane.width, 13);
      EXPECT_EQ(got.plane.height, 5);
      EXPECT_EQ(got.plane.samples, values) << bits;
      if (bits == 16) continue;
      // A palette's indices, whatever its colours are.
      EXPECT_EQ(decode_plane(png_plane(13, 5, values, bits, true, interlaced)).plane.samples, values) << bits;
    }
}

TEST(SamplePlane, PgmKeepsItsNumbers) {
  const std::string wide("P5 # metres\n3 1\n65535\n\x01\x02\xff\xfe\x00\x00", 28);
  EXPECT_EQ(decode_plane(test::bytes_of(wide)).plane.samples, (std::vector<uint16_t>{0x102, 0xfffe, 0}));
  // Not scaled to the maximum.
  EXPECT_EQ(decode_plane(test::bytes_of("P5\n2 1\n7\n\x01\x05")).plane.samples,
            (std::vector<uint16_t>{1, 5}));
}

TEST(SamplePlane, WhatIsNoPlaneIsRefused) {
  const auto status = [](const Bytes& bytes, const DecodeLimits& limits = {}) {
    const DecodedPlane got = decode_plane(bytes, limits);
    EXPECT_TRUE(got.status == DecodeStatus::ok || !got.message.empty());
    EXPECT_TRUE(got.status == DecodeStatus::ok || got.plane.samples.empty());
    return std::string(name_of(got.status));
  };
  const Bytes good = png_plane(40, 30, ramp(1200, 65536), 16);
  EXPECT_EQ(status(encode_png(test::picture(8, 8))), "unsupported");
  EXPECT_EQ(status(encode_jpeg(test::picture(8, 8), 90)), "unsupported");
  EXPECT_EQ(status(test::bytes_of("no image")), "not_an_image");
  EXPECT_EQ(status({}), "not_an_image");
  EXPECT_EQ(status(Bytes(good.begin(), good.begin() + 200)), "truncated");
  EXPECT_EQ(status(Bytes(good.begin(), good.begin() + 20)), "truncated");
  Bytes damaged = good;
  damaged[60] ^= 0x55;
  EXPECT_EQ(status(damaged), "corrupt");
  DecodeLimits few;
  few.max_pixels = 1000;
  EXPECT_EQ(status(good, few), "too_large");
  few = {};
  few.max_memory = 1000;
  EXPECT_EQ(status(good, few), "decode_memory");
  EXPECT_EQ(status(test::bytes_of("P5\n2 2\n255\nabc")), "truncated");
  EXPECT_EQ(status(test::bytes_of("P5\n2 x\n255\nabc")), "corrupt");
  EXPECT_EQ(status(test::bytes_of("P5\n100000 100000\n255\n")), "too_large");
  EXPECT_EQ(status(test::bytes_of("P6\n1 1\n255\nabc")), "unsupported");
}

}  // namespace
}  // namespace dino
