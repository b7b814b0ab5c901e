// SPDX-License-Identifier: Apache-2.0
// Every format and every kind of broken file has a defined outcome.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "imaging/sample_files.hpp"

namespace dino {
namespace {

using namespace test;
using namespace std::string_view_literals;

constexpr auto kWebpLossless =
    "\x52\x49\x46\x46\x34\x00\x00\x00\x57\x45\x42\x50\x56\x50\x38\x4c\x27\x00\x00\x00\x2f\x03\xc0\x00\x10\x47"
    "\xa0\xa6\x6d\x03\xa6\xfc\x11\xf7\xdb\x20\x06\x62\x0e\xe6\x3f\x01\x99\x79\x90\x05\x83\xe6\xa6\x12\x4b\x2c"
    "\xb1\x14\xd1\xff\x48\x77\x00\x00"sv;
constexpr auto kWebpLossy =
    "\x52\x49\x46\x46\x3a\x00\x00\x00\x57\x45\x42\x50\x56\x50\x38\x20\x2e\x00\x00\x00\xf0\x01\x00\x9d\x01\x2a"
    "\x10\x00\x10\x00\x01\x40\x26\x25\xa0\x02\x74\xba\x01\xf8\x00\x04\xc8\x00\x00\xfe\xae\x17\xff\x36\x04\x0c"
    "\xd0\xfa\x60\xff\xd2\x6c\xf1\x36\x78\x9b\x3e\x39\x80\x00"sv;
// Two frames: red-blue, then blue-blue.
constexpr auto kAnimatedGif =
    "\x47\x49\x46\x38\x39\x61\x02\x00\x01\x00\x80\x00\x00\xff\x00\x00\x00\x00\xff\x2c\x00\x00\x00\x00\x02\x00"
    "\x01\x00\x00\x02\x02\x44\x0a\x00\x2c\x00\x00\x00\x00\x02\x00\x01\x00\x00\x02\x02\x4c\x0a\x00\x3b"sv;

void expect_status(const Bytes& bytes, DecodeStatus status, const std::string& what) {
  const Decoded decoded = decode_image(bytes);
  EXPECT_STREQ(name_of(decoded.status), name_of(status)) << what << ": " << decoded.message;
  EXPECT_EQ(decoded.message.empty(), status == DecodeStatus::ok) << what;
  EXPECT_EQ(decoded.message.find('\n'), std::string::npos) << what;
  if (status != DecodeStatus::ok) {
    EXPECT_TRUE(decoded.image.pixels.empty()) << what;
  }
}

/// The format is one that this build can read, or the message says what to install.
bool readable(const Decoded& decoded) {
  if (decoded.status != DecodeStatus::unsupported) return true;
  EXPECT_NE(decoded.message.find("install"), std::string::npos) << decoded.message;
  return false;
}

TEST(Decode, PngRoundTrip) {
  const Image image = picture(37, 23);
  const Decoded decoded = decode_image(encode_png(image));
  ASSERT_EQ(decoded.status, DecodeStatus::ok);
  EXPECT_EQ(decoded.format, "png");
  EXPECT_EQ(decoded.file_width, 37);
  EXPECT_EQ(decoded.image.pixels, image.pixels);
  EXPECT_EQ(decode_ok(interlaced_png(image)).pixels, image.pixels);
}

TEST(Decode, PngKinds) {
  // 16-bit gray: 0x01ff is 511 / 257 = 1.99 -> 2, and 0x0000, 0xffff stay.
  const Bytes gray16 = {0, 0x01, 0xff, 0x00, 0x00, 0xff, 0xff};
  const Image g = decode_ok(make_png(3, 1, 16, 0, gray16));
  EXPECT_EQ(g.pixels, (Bytes{2, 2, 2, 0, 0, 0, 255, 255, 255}));
  // 1-bit palette with a transparent entry: over white, or kept.
  const std::vector<std::pair<const char*, Bytes>> palette = {{"PLTE", {10, 20, 30, 200, 100, 50}},
                                                              {"tRNS", {0}}};
  const Bytes indexed = make_png(2, 1, 1, 3, {0, 0x40}, palette);
  EXPECT_EQ(decode_ok(indexed).pixels, (Bytes{255, 255, 255, 200, 100, 50}));
  DecodeOptions keep;
  keep.keep_alpha = true;
  EXPECT_EQ(decode_ok(indexed, keep).pixels, (Bytes{10, 20, 30, 0, 200, 100, 50, 255}));
  DecodeOptions black;
  black.background = Colour{0, 0, 0};
  // Gray with half alpha: 200 * 128 / 255.
  EXPECT_EQ(decode_ok(make_png(1, 1, 8, 4, {0, 200, 128}), black).pixels, (Bytes{100, 100, 100}));
  EXPECT_EQ(decode_ok(make_png(2, 1, 2, 0, {0, 0x70})).pixels, (Bytes{85, 85, 85, 255, 255, 255}));
}

TEST(Decode, BrokenPng) {
  const Bytes good = encode_png(picture(64, 64));
  for (size_t keep : {size_t{8}, size_t{20}, size_t{40}, good.size() / 2, good.size() - 14}) {
    expect_status(Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(keep)),
                  DecodeStatus::truncated, "png cut at " + std::to_string(keep));
  }
  Bytes wrong_crc = good;
  wrong_crc[29] ^= 1;  // in the CRC of IHDR
  expect_status(wrong_crc, DecodeStatus::corrupt, "png with a broken checksum");
  Bytes wrong_data = good;
  wrong_data[good.size() / 2] ^= 0x55;
  expect_status(wrong_data, DecodeStatus::corrupt, "png with broken data");
  expect_status(make_png(1, 1, 8, 3, {0, 0}), DecodeStatus::corrupt, "png without its palette");
}

TEST(Decode, HugeHeaders) {
  expect_status(make_png(60000, 60000, 8, 2, {0}), DecodeStatus::too_large, "png of 3.6 gigapixels");
  expect_status(make_png(0x7fffffff, 1, 16, 6, {0}), DecodeStatus::too_large, "png of 2^31 pixels");
  expect_status(bytes_of("P6 4294967295 4294967295 255\n"), DecodeStatus::too_large, "ppm of 2^64 pixels");
  expect_status(bytes_of("P6 99999999999999999999 1 255\n"), DecodeStatus::corrupt, "ppm of too many digits");
  // Within the limit of pixels, but the file cannot hold them: refused before memory is taken.
  expect_status(bytes_of("P6 10000 10000 255\nxx"), DecodeStatus::truncated, "ppm without pixels");
  DecodeOptions small;
  small.limits.max_pixels = 100;
  EXPECT_EQ(decode_image(encode_png(picture(11, 10)), small).status, DecodeStatus::too_large);
  EXPECT_EQ(decode_image(encode_png(picture(10, 10)), small).status, DecodeStatus::ok);
  EXPECT_EQ(decode_image(encode_jpeg(picture(11, 10), 90), small).status, DecodeStatus::too_large);
  small.limits = {};
  small.limits.max_bytes = 50;
  EXPECT_EQ(decode_image(encode_png(picture(10, 10)), small).status, DecodeStatus::too_large);
}

TEST(Decode, Jpeg) {
  const Image image = picture(120, 90);
  const Decoded decoded = decode_image(encode_jpeg(image, 95));
  ASSERT_EQ(decoded.status, DecodeStatus::ok);
  EXPECT_EQ(decoded.format, "jpeg");
  EXPECT_LT(mean_difference(decoded.image, image), 3.0);
  DecodeOptions scaled;
  scaled.min_short_side = 40;  // 90 / 2 = 45 is enough, 90 / 4 is not
  const Decoded half = decode_image(encode_jpeg(image, 95), scaled);
  EXPECT_EQ(half.image.width, 60);
  EXPECT_EQ(half.image.height, 45);
  EXPECT_EQ(half.file_width, 120);
  EXPECT_LT(mean_difference(half.image, resize(image, 60, 45, Resampling::box)), 4.0);
}

TEST(Decode, JpegKinds) {
  const Image gray = decode_ok(special_jpeg(16, JCS_GRAYSCALE, JCS_GRAYSCALE, {77}));
  EXPECT_NEAR(gray.pixels[0], 77, 1);
  EXPECT_EQ(gray.channels, 3);
  // libjpeg writes an Adobe marker for CMYK, so the values are inverted inks: 255 = none.
  for (J_COLOR_SPACE space : {JCS_CMYK, JCS_YCCK}) {
    const Image cmyk = decode_ok(special_jpeg(16, JCS_CMYK, space, {200, 100, 50, 255}));
    EXPECT_NEAR(cmyk.pixels[0], 200, 3);
    EXPECT_NEAR(cmyk.pixels[1], 100, 3);
    EXPECT_NEAR(cmyk.pixels[2], 50, 3);
    const Image dark = decode_ok(special_jpeg(16, JCS_CMYK, space, {200, 100, 50, 128}));
    EXPECT_NEAR(dark.pixels[0], 100, 3);
  }
  const Image progressive = decode_ok(special_jpeg(32, JCS_RGB, JCS_YCbCr, {10, 200, 90}, true));
  EXPECT_NEAR(progressive.pixels[1], 200, 3);
}

TEST(Decode, BrokenJpeg) {
  const Bytes good = encode_jpeg(picture(200, 200), 90);
  for (size_t keep : {size_t{3}, size_t{100}, good.size() / 3, good.size() / 2, good.size() - 20}) {
    expect_status(Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(keep)),
                  DecodeStatus::truncated, "jpeg cut at " + std::to_string(keep));
  }
  Bytes progressive = special_jpeg(64, JCS_RGB, JCS_YCbCr, {10, 200, 90}, true);
  progressive.resize(progressive.size() / 2);
  expect_status(progressive, DecodeStatus::truncated, "half a progressive jpeg");
  Bytes precision = good;
  for (size_t i = 2; i + 5 < precision.size(); ++i) {
    if (precision[i] == 0xff && precision[i + 1] == 0xc0) {
      precision[i + 4] = 12;
      break;
    }
  }
  expect_status(precision, DecodeStatus::unsupported, "12-bit jpeg");
}

TEST(Decode, EightOrientations) {
  // Upright picture: red | green over blue | white, 32 x 16.
  Image upright{32, 16, 3, Bytes(32 * 16 * 3)};
  const auto colour = [](int64_t x, int64_t y, int64_t w, int64_t h) -> std::array<uint8_t, 3> {
    if (y < h / 2) return x < w / 2 ? std::array<uint8_t, 3>{255, 0, 0} : std::array<uint8_t, 3>{0, 255, 0};
    return x < w / 2 ? std::array<uint8_t, 3>{0, 0, 255} : std::array<uint8_t, 3>{255, 255, 255};
  };
  for (int64_t y = 0; y < 16; ++y) {
    for (int64_t x = 0; x < 32; ++x) std::memcpy(upright.at(x, y), colour(x, y, 32, 16).data(), 3);
  }
  for (uint16_t o = 1; o <= 8; ++o) {
    // What a camera stores so that orientation `o` shows `upright`: row 0 and column 0 are where EXIF says.
    const bool swapped = o >= 5;
    Image stored{swapped ? 16 : 32, swapped ? 32 : 16, 3, Bytes(32 * 16 * 3)};
    for (int64_t r = 0; r < stored.height; ++r) {
      for (int64_t c = 0; c < stored.width; ++c) {
        int64_t x = 0, y = 0;
        switch (o) {
          case 1:
            x = c, y = r;
            break;
          case 2:
            x = 31 - c, y = r;
            break;
          case 3:
            x = 31 - c, y = 15 - r;
            break;
          case 4:
            x = c, y = 15 - r;
            break;
          case 5:
            x = r, y = c;
            break;  // row 0 = left, column 0 = top
          case 6:
            x = 31 - r, y = c;
            break;  // row 0 = right, column 0 = top
          case 7:
            x = 31 - r, y = 15 - c;
            break;  // row 0 = right, column 0 = bottom
          default:
            x = r, y = 15 - c;
            break;  // row 0 = left, column 0 = bottom
        }
        std::memcpy(stored.at(c, r), upright.at(x, y), 3);
      }
    }
    const Bytes jpeg = with_exif(encode_jpeg(stored, 98), exif_block(o, o % 2 == 0));
    const Decoded decoded = decode_image(jpeg);
    ASSERT_EQ(decoded.status, DecodeStatus::ok);
    ASSERT_EQ(decoded.image.width, 32) << o;
    EXPECT_EQ(decoded.file_width, 32) << o;
    EXPECT_LT(mean_difference(decoded.image, upright), 12.0) << o;
    DecodeOptions raw;
    raw.apply_orientation = false;
    EXPECT_EQ(decode_image(jpeg, raw).image.width, stored.width);
  }
}

TEST(Decode, BrokenExifIsIgnored) {
  const Bytes jpeg = encode_jpeg(picture(20, 10), 90);
  const Bytes good = exif_block(6, true);
  for (size_t cut = 0; cut < good.size(); ++cut) {
    const Decoded decoded =
        decode_image(with_exif(jpeg, Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(cut))));
    EXPECT_EQ(decoded.status, DecodeStatus::ok) << cut;
  }
  for (size_t at = 0; at < good.size(); ++at) {
    Bytes broken = good;
    broken[at] = 0xff;
    EXPECT_EQ(decode_image(with_exif(jpeg, broken)).status, DecodeStatus::ok) << at;
  }
}

TEST(Decode, Netpbm) {
  EXPECT_EQ(decode_ok(bytes_of("P3 # comment\n2 1\n15 15 0 0 0 7 15")).pixels,
            (Bytes{255, 0, 0, 0, 119, 255}));
  EXPECT_EQ(decode_ok(bytes_of("P2 2 1 100\n0 50")).pixels, (Bytes{0, 0, 0, 128, 128, 128}));
  EXPECT_EQ(decode_ok(bytes_of("P1 2 1\n10")).pixels, (Bytes{0, 0, 0, 255, 255, 255}));
  EXPECT_EQ(decode_ok(bytes_of("P4 2 1\n\x40")).pixels, (Bytes{255, 255, 255, 0, 0, 0}));
  EXPECT_EQ(decode_ok(bytes_of("P5 1 1 255\n\x2a")).pixels, (Bytes{42, 42, 42}));
  EXPECT_EQ(decode_ok(bytes_of("P5 1 1 65535\n\x80\x80"sv)).pixels, (Bytes{128, 128, 128}));
  EXPECT_EQ(decode_ok(bytes_of("P6\n1 1\n255\nabc")).pixels, bytes_of("abc"));
  expect_status(bytes_of("P6\n1 1\n255\nab"), DecodeStatus::truncated, "short ppm");
  expect_status(bytes_of("P6\n1 1\n"), DecodeStatus::truncated, "ppm without a maximum");
  expect_status(bytes_of("P6\n1 x\n255\nabc"), DecodeStatus::corrupt, "ppm with a letter");
  expect_status(bytes_of("P6\n1 1\n0\nabc"), DecodeStatus::corrupt, "ppm with maximum 0");
  expect_status(bytes_of("P6\n0 1\n255\nabc"), DecodeStatus::corrupt, "empty ppm");
  expect_status(bytes_of("P2 2 1 100\n0 x"), DecodeStatus::corrupt, "pgm with a letter");
}

Bytes make_bmp(uint32_t width, int32_t height, uint16_t bits, const Bytes& pixels,
               const Bytes& palette = {}) {
  Bytes b = bytes_of("BM");
  const auto put = [&](uint32_t v, int n) {
    for (int i = 0; i < n; ++i) b.push_back(static_cast<uint8_t>(v >> 8 * i));
  };
  put(0, 4), put(0, 4), put(static_cast<uint32_t>(54 + palette.size()), 4);
  put(40, 4), put(width, 4), put(static_cast<uint32_t>(height), 4), put(1, 2), put(bits, 2), put(0, 4);
  put(0, 4), put(0, 4), put(0, 4), put(static_cast<uint32_t>(palette.size() / 4), 4), put(0, 4);
  b.insert(b.end(), palette.begin(), palette.end());
  b.insert(b.end(), pixels.begin(), pixels.end());
  return b;
}

TEST(Decode, Bmp) {
  // Two rows of one pixel, bottom first, rows padded to four bytes.
  const Bytes two = {1, 2, 3, 0, 4, 5, 6, 0};
  EXPECT_EQ(decode_ok(make_bmp(1, 2, 24, two)).pixels, (Bytes{6, 5, 4, 3, 2, 1}));
  EXPECT_EQ(decode_ok(make_bmp(1, -2, 24, two)).pixels, (Bytes{3, 2, 1, 6, 5, 4}));
  EXPECT_EQ(decode_ok(make_bmp(1, 1, 32, {1, 2, 3, 0})).pixels, (Bytes{3, 2, 1}));
  EXPECT_EQ(decode_ok(make_bmp(1, 1, 16, {0x1f, 0x7c, 0, 0})).pixels, (Bytes{255, 0, 255}));
  EXPECT_EQ(decode_ok(make_bmp(2, 1, 8, {1, 0, 0, 0}, {9, 8, 7, 0, 1, 2, 3, 0})).pixels,
            (Bytes{3, 2, 1, 7, 8, 9}));
  EXPECT_EQ(decode_ok(make_bmp(3, 1, 1, {0x40, 0, 0, 0}, {0, 0, 0, 0, 255, 255, 255, 0})).pixels,
            (Bytes{0, 0, 0, 255, 255, 255, 0, 0, 0}));
  expect_status(make_bmp(1, 3, 24, two), DecodeStatus::truncated, "bmp with a missing row");
  expect_status(make_bmp(1, 1, 8, {5, 0, 0, 0}, {9, 8, 7, 0}), DecodeStatus::corrupt,
                "bmp outside its palette");
  expect_status(make_bmp(100000, 100000, 24, two), DecodeStatus::too_large, "bmp bomb");
  expect_status(make_bmp(1, 1, 7, two), DecodeStatus::unsupported, "bmp with 7 bits");
  // -2^31 rows.
  expect_status(make_bmp(1, INT32_MIN, 24, two), DecodeStatus::too_large, "bmp with the smallest height");
}

TEST(Decode, Webp) {
  const Decoded lossless = decode_image(bytes_of(kWebpLossless));
  if (!readable(lossless)) return;
  ASSERT_EQ(lossless.status, DecodeStatus::ok) << lossless.message;
  EXPECT_EQ(lossless.format, "webp");
  EXPECT_EQ(lossless.image.width, 4);
  EXPECT_EQ(lossless.image.pixels[3], 16);               // second pixel: (16, 247, 7)
  EXPECT_EQ(lossless.image.pixels[4 * 4 * 3 - 1], 255);  // transparent -> white
  const Image lossy = decode_ok(bytes_of(kWebpLossy));
  EXPECT_NEAR(lossy.pixels[0], 200, 4);
  EXPECT_NEAR(lossy.pixels[2], 50, 4);
  for (const auto& file : {kWebpLossless, kWebpLossy}) {
    expect_status(bytes_of(file.substr(0, file.size() - 12)), DecodeStatus::truncated, "webp cut");
  }
}

TEST(Decode, AnimatedGifIsItsFirstFrame) {
  const Decoded gif = decode_image(bytes_of(kAnimatedGif));
  if (!readable(gif)) return;
  ASSERT_EQ(gif.status, DecodeStatus::ok) << gif.message;
  EXPECT_EQ(gif.format, "gif");
  EXPECT_EQ(gif.image.pixels, (Bytes{255, 0, 0, 0, 0, 255}));
  EXPECT_NE(decode_image(bytes_of(kAnimatedGif.substr(0, 16))).status, DecodeStatus::ok);
}

TEST(Decode, Tiff) {
  // 2 x 1 gray, one strip; entries: width, height, bits, compression, photometric, offset, rows, bytes.
  Bytes t = bytes_of("II*\0\x08\0\0\0"sv);
  const auto put = [&](uint32_t v, int n) {
    for (int i = 0; i < n; ++i) t.push_back(static_cast<uint8_t>(v >> 8 * i));
  };
  const std::vector<std::pair<uint16_t, uint32_t>> entries = {
      {256, 2}, {257, 1}, {258, 8}, {259, 1}, {262, 1}, {273, 8 + 2 + 8 * 12 + 4}, {278, 1}, {279, 2}};
  put(static_cast<uint32_t>(entries.size()), 2);
  for (const auto& [tag, value] : entries) put(tag, 2), put(4, 2), put(1, 4), put(value, 4);
  put(0, 4);
  t.insert(t.end(), {30, 220});
  const Decoded tiff = decode_image(t);
  if (!readable(tiff)) return;
  ASSERT_EQ(tiff.status, DecodeStatus::ok) << tiff.message;
  EXPECT_EQ(tiff.image.pixels, (Bytes{30, 30, 30, 220, 220, 220}));
  EXPECT_NE(decode_image(Bytes(t.begin(), t.begin() + 40)).status, DecodeStatus::ok);
}

TEST(Decode, NotAnImage) {
  expect_status({}, DecodeStatus::not_an_image, "empty");
  expect_status(bytes_of("This is a text file that was renamed to .jpg\n"), DecodeStatus::not_an_image,
                "text");
  expect_status(bytes_of("<html><body>404 Not Found</body></html>"), DecodeStatus::not_an_image, "html");
  expect_status(bytes_of("BM is how this text begins, and it is long enough"), DecodeStatus::not_an_image,
                "BM text");
  expect_status(bytes_of("P6"), DecodeStatus::not_an_image, "two bytes");
}

/// Not a test: tests/peers/pillow_decode.py compares what this writes with what Pillow sees.
TEST(Decode, ForPeers) {
  const char* folder = std::getenv("DINO_DECODE_FOLDER");
  if (folder == nullptr) return;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    const Bytes bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const Decoded decoded = decode_image(bytes);
    std::ofstream(path.string() + ".rgb", std::ios::binary)
        .write(reinterpret_cast<const char*>(decoded.image.pixels.data()),
               static_cast<std::streamsize>(decoded.image.pixels.size()));
    std::printf("decoded\t%s\t%s%s%s\t%s\t%d\t%d\n", path.filename().c_str(), name_of(decoded.status),
                decoded.message.empty() ? "" : ": ", decoded.message.c_str(),
                note_names()[static_cast<size_t>(decoded.note)].c_str(),
                static_cast<int>(decoded.image.width), static_cast<int>(decoded.image.height));
  }
}

/// No mutation of a file may crash, hang or take memory beyond the limits.
TEST(Decode, SurvivesMutations) {
  std::vector<Bytes> seeds = {encode_png(picture(24, 16)),
                              encode_jpeg(picture(24, 16), 85),
                              interlaced_png(picture(16, 24)),
                              bytes_of("P6 4 4 255\n" + std::string(48, 'x')),
                              special_jpeg(24, JCS_CMYK, JCS_YCCK, {200, 100, 50, 255}),
                              special_jpeg(24, JCS_RGB, JCS_YCbCr, {1, 2, 3}, true),
                              with_exif(encode_jpeg(picture(16, 16), 85), exif_block(6, false)),
                              make_bmp(4, 4, 8, Bytes(16, 1), Bytes(8, 9)),
                              bytes_of(kWebpLossless),
                              bytes_of(kAnimatedGif)};
  DecodeOptions options;
  options.limits.max_pixels = 1 << 20;
  Random random(7, RandomStream::test, 1);
  size_t ok = 0;
  for (int round = 0; round < 1500; ++round) {
    Bytes bytes = seeds[static_cast<size_t>(round) % seeds.size()];
    const uint64_t changes = 1 + random.below(6);
    for (uint64_t i = 0; i < changes; ++i)
      bytes[random.below(bytes.size())] = static_cast<uint8_t>(random.u32());
    if (random.bernoulli(0.2)) bytes.resize(random.below(bytes.size() + 1));
    const Decoded decoded = decode_image(bytes, options);
    if (decoded.status == DecodeStatus::ok) {
      ++ok;
      EXPECT_EQ(static_cast<int64_t>(decoded.image.pixels.size()),
                decoded.image.width * decoded.image.height * decoded.image.channels);
      EXPECT_LE(decoded.image.width * decoded.image.height, options.limits.max_pixels);
    } else {
      EXPECT_FALSE(decoded.message.empty());
    }
  }
  EXPECT_GT(ok, 0U);
  EXPECT_LT(ok, 1500U);
}

}  // namespace
}  // namespace dino
