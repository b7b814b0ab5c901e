// SPDX-License-Identifier: Apache-2.0
#include "imaging/coding.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "imaging/image.hpp"
#include "test_data.hpp"

namespace dino {
namespace {

using Bytes = std::vector<uint8_t>;

Bytes seed(const std::string& name) {
  std::ifstream file(dino::test::data_folder() + "/imaging/seeds/" + name, std::ios::binary);
  Bytes bytes{std::istreambuf_iterator<char>(file), {}};
  EXPECT_FALSE(bytes.empty()) << name;
  return bytes;
}

void put(Bytes& to, std::string_view text) {
  to.insert(to.end(), text.begin(), text.end());
}

TEST(CodingOf, FilesSayHowMuchTheyKeep) {
  for (const auto& [name, format, coding] :
       std::vector<std::tuple<const char*, const char*, Coding>>{{"rgb.jpg", "jpeg", Coding::jpeg},
                                                                 {"progressive.jpg", "jpeg", Coding::jpeg},
                                                                 {"lossless.webp", "webp", Coding::lossless},
                                                                 {"lossy.webp", "webp", Coding::lossy},
                                                                 {"jpeg.tif", "tiff", Coding::jpeg},
                                                                 {"lzw.tif", "tiff", Coding::lossless},
                                                                 {"tiles.tif", "tiff", Coding::lossless},
                                                                 {"rgb.gif", "gif", Coding::palette},
                                                                 {"rgb.avif", "avif", Coding::lossy},
                                                                 {"rgb.heic", "heic", Coding::lossy},
                                                                 {"rgb.jxl", "jxl", Coding::lossy}})
    EXPECT_EQ(coding_of(seed(name), format), coding) << name;
  EXPECT_NE(coding_of(seed("rgb.jp2"), "jp2"), Coding::unknown);
  EXPECT_EQ(coding_of(encode_png(Image{1, 1, 3, {1, 2, 3}}), "png"), Coding::lossless);
  EXPECT_EQ(coding_of(Bytes{1, 2}, ""), Coding::unknown);
  EXPECT_LT(Coding::unknown, Coding::jpeg);
  EXPECT_LT(Coding::jpeg, Coding::lossy);
  EXPECT_LT(Coding::lossy, Coding::palette);
  EXPECT_LT(Coding::palette, Coding::lossless);
  EXPECT_EQ(coding_names().size(), static_cast<size_t>(Coding::lossless) + 1);
}

TEST(CodingOf, ExtendedAndAnimatedWebp) {
  Bytes file;
  put(file, std::string_view("RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0", 20));
  file.resize(file.size() + 10);
  Bytes still = file, moving = file;
  put(still, std::string_view("ICCP\x03\0\0\0abc\0VP8L", 16));
  EXPECT_EQ(coding_of(still, "webp"), Coding::unknown);  // cut off before the size of the chunk
  still.resize(still.size() + 4);
  EXPECT_EQ(coding_of(still, "webp"), Coding::lossless);
  put(moving, std::string_view("ANIM\x06\0\0\0abcdefANMF\x20\0\0\0", 22));
  moving.resize(moving.size() + 16);
  put(moving, std::string_view("VP8 \x08\0\0\0", 8));
  EXPECT_EQ(coding_of(moving, "webp"), Coding::lossy);
}

TEST(CodingOf, BytesThatEndAnywhereOrLieAreSafe) {
  for (const auto& [name, format] :
       std::vector<std::pair<const char*, const char*>>{{"lossless.webp", "webp"},
                                                        {"lossy.webp", "webp"},
                                                        {"jpeg.tif", "tiff"},
                                                        {"lzw.tif", "tiff"},
                                                        {"rgb.jp2", "jp2"}}) {
    const Bytes whole = seed(name);
    const Coding known = coding_of(whole, format);
    for (size_t size = 0; size < whole.size(); ++size) {
      // A copy of exactly this size, so that a sanitizer sees what is read behind it.
      const Coding coding =
          coding_of(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)), format);
      EXPECT_TRUE(coding == known || coding == Coding::unknown || coding == Coding::lossless)
          << name << " " << size;
    }
    for (size_t at = 0; at < std::min<size_t>(whole.size(), 64); ++at) {
      for (const uint8_t value : {0x00, 0x7f, 0xff}) {
        Bytes broken = whole;
        broken[at] = value;
        (void)coding_of(broken, format);
      }
    }
  }
  // BigTIFF whose directory lies at 2^64 - 1, and a chunk that would lead back.
  Bytes big = {'I', 'I', 43, 0, 8, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255};
  EXPECT_EQ(coding_of(big, "tiff"), Coding::unknown);
  Bytes loop;
  put(loop, std::string_view("RIFF\0\0\0\0WEBPEXIF\xff\xff\xff\xff", 20));
  EXPECT_EQ(coding_of(loop, "webp"), Coding::unknown);
}

}  // namespace
}  // namespace dino
