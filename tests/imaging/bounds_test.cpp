// SPDX-License-Identifier: Apache-2.0
// No picture takes more memory than it may: decoders refuse before they allocate, and long thin pictures are
// cut before they are enlarged.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "base/timing.hpp"
#include "imaging/augment.hpp"
#include "imaging/decode_options.hpp"
#include "imaging/measures.hpp"
#include "imaging/sample_odd_files.hpp"

namespace dino {
namespace {

using namespace test;

/// Bytes per pixel that must be enough, and that cannot be.
struct MemoryCase {
  const char* what;
  Bytes file;
  double enough, little;
};

TEST(Bounds, DecodingAsksForNoMoreMemoryThanAllowed) {
  const Image image = picture(400, 300);
  Image rgba{400, 300, 4, Bytes(400 * 300 * 4, 90)};
  TiffSpec tiff{400, 300, 3, 8, 2, 1, 1, {}};
  const Bytes wide(400 * 300 * 6, 1);
  TiffSpec tiff16 = tiff;
  tiff16.bits = 16;
  const std::vector<MemoryCase> cases = {
      {"png", encode_png(image), 5, 2.5},
      {"interlaced png", interlaced_png(image), 8, 2.5},
      {"png with alpha", encode_png(rgba), 9, 6.5},
      {"16-bit png", make_png(400, 100, 16, 2, Bytes(100 * 2401)), 12, 2.5},
      {"jpeg", encode_jpeg(image, 90), 8, 2.5},
      {"upright jpeg", with_exif(encode_jpeg(image, 90), exif_block(6, true)), 9, 5.5},
      {"progressive jpeg", special_jpeg(400, JCS_RGB, JCS_YCbCr, {1, 2, 3}, true), 14, 5},
      {"ppm", bytes_of("P6 400 300 255\n" + std::string(360000, 'x')), 7, 5.5},
      {"bmp", make_odd_bmp(400, 300, 24, 0, Bytes(360000)), 7, 5.5},
      {"tiff strip", make_tiff(tiff, Bytes(360000)), 8, 5.5},
      {"16-bit tiff", make_tiff(tiff16, wide), 11, 8.5},
  };
  for (const MemoryCase& c : cases) {
    DecodeOptions options;
    const auto limit = [&](double per_pixel) {
      const Decoded whole = decode_image(c.file);
      return static_cast<int64_t>(per_pixel * static_cast<double>(whole.file_width * whole.file_height));
    };
    options.limits.max_memory = limit(c.enough);
    const Decoded good = decode_image(c.file, options);
    if (good.message.find("install") != std::string::npos) continue;
    EXPECT_STREQ(name_of(good.status), "ok") << c.what << ": " << good.message;
    options.limits.max_memory = limit(c.little);
    const Decoded refused = decode_image(c.file, options);
    EXPECT_STREQ(name_of(refused.status), "decode_memory") << c.what;
    EXPECT_NE(refused.message.find("--decode-memory"), std::string::npos)
        << c.what << ": " << refused.message;
    EXPECT_TRUE(refused.image.pixels.empty());
  }
}

TEST(Bounds, HeadersThatPromiseGigabytesAllocateNothing) {
  const int64_t before = peak_rss_bytes();
  DecodeOptions options;
  options.limits.max_memory = 64 << 20;
  TiffSpec tiff{12000, 12000, 3, 8, 2, 1, 1, {}};
  Bytes jpeg = special_jpeg(16, JCS_RGB, JCS_YCbCr, {1, 2, 3}, true);
  for (size_t i = 2; i + 9 < jpeg.size(); ++i) {
    if (jpeg[i] != 0xff || jpeg[i + 1] != 0xc2) continue;
    jpeg[i + 5] = jpeg[i + 7] = 0x2e;  // 11,792 and more in both directions
    break;
  }
  for (const Bytes& file : {make_png(12000, 12000, 16, 6, {0}), make_png(12000, 12000, 1, 0, {0}), jpeg,
                            make_tiff(tiff, {0}), make_odd_bmp(12000, 12000, 8, 1, {0, 1}, Bytes(16))}) {
    const Decoded decoded = decode_image(file, options);
    EXPECT_STREQ(name_of(decoded.status), "decode_memory") << decoded.format << ": " << decoded.message;
  }
  EXPECT_LT(peak_rss_bytes() - before, 32 << 20);
}

TEST(Bounds, DecodeMemoryIsASize) {
  EXPECT_EQ(DecodeMemory::from_text("1G").bytes, int64_t{1} << 30);
  EXPECT_EQ(DecodeMemory::from_text("1.5GiB").bytes, int64_t{3} << 29);
  EXPECT_EQ(DecodeMemory::from_text("512m").bytes, int64_t{512} << 20);
  EXPECT_EQ(DecodeMemory::from_text("4096K").bytes, int64_t{4} << 20);
  EXPECT_EQ(DecodeMemory::from_text("1073741824").bytes, int64_t{1} << 30);
  for (const char* bad : {"", "G", "1", "100K", "-1G", "1X", "1G1", "nan", "inf", "1e99"})
    EXPECT_THROW((void)DecodeMemory::from_text(bad), std::invalid_argument) << bad;
  for (const char* canonical : {"1G", "1536M", "512M", "1073741825", "2T"})
    EXPECT_EQ(DecodeMemory::from_text(canonical).text(), canonical);
  EXPECT_FALSE(Background::from_text("auto").colour.has_value());
  EXPECT_EQ(Background::from_text("1,2, 3").colour, (Colour{1, 2, 3}));
  for (const char* canonical : {"auto", "1,2,255"})
    EXPECT_EQ(Background::from_text(canonical).text(), canonical);
}

/// The whole picture at its new size, then the middle cut out: what the crop must be.
Image whole_then_cut(const Image& image, int64_t side, int64_t crop) {
  const int64_t short_side = std::min(image.width, image.height);
  const auto scaled = [&](int64_t length) {
    return length == short_side
               ? side
               : static_cast<int64_t>(static_cast<double>(side * length) / static_cast<double>(short_side));
  };
  const Image large = resize(image, scaled(image.width), scaled(image.height));
  Image out{crop, crop, 3, Bytes(static_cast<size_t>(crop * crop * 3))};
  const auto middle = [&](int64_t length) {
    return static_cast<int64_t>(std::nearbyint(static_cast<double>(length - crop) / 2.0));
  };
  for (int64_t y = 0; y < crop; ++y)
    std::memcpy(out.at(0, y), large.at(middle(large.width), middle(large.height) + y),
                static_cast<size_t>(crop * 3));
  return out;
}

TEST(Bounds, TheCropIsTheMiddleOfTheWhole) {
  for (const auto& [width, height] : {std::pair<int64_t, int64_t>{50, 40},
                                      {40, 300},
                                      {300, 41},
                                      {7, 200},
                                      {200, 3},
                                      {64, 64},
                                      {500, 480},
                                      {1, 90},
                                      {90, 1},
                                      {33, 32}}) {
    const Image image = picture(width, height);
    for (const auto& [side, crop] : {std::pair<int64_t, int64_t>{32, 32}, {37, 32}, {64, 56}, {20, 9}})
      EXPECT_EQ(resize_center_crop(image, side, crop).pixels, whole_then_cut(image, side, crop).pixels)
          << width << " x " << height << " to " << side << ", " << crop;
  }
}

TEST(Bounds, LongThinPicturesCostNoMoreThanOthers) {
#ifdef DINO_SANITIZE
  constexpr double kSeconds = 120;
#else
  constexpr double kSeconds = 20;
#endif
  for (const auto& [short_side, long_side] : {std::pair<int64_t, int64_t>{1, 1'000'000}, {2, 60'000}}) {
    for (const bool tall : {false, true}) {
      const Image image = tall ? picture(short_side, long_side) : picture(long_side, short_side);
      const int64_t before = peak_rss_bytes();
      const Stopwatch watch;
      EXPECT_EQ(resize_center_crop(image, 256, 224).pixels.size(), 224U * 224 * 3);
      EXPECT_EQ(resize(image, 224, 224).pixels.size(), 224U * 224 * 3);
      const Image square = pad_to_square(image, {255, 255, 255});
      EXPECT_EQ(square.width, square.height);
      EXPECT_LE(square.width, 8192 + (long_side < 8192 ? long_side : 0));
      AugmentConfig augment;
      for (const CropKind kind : {CropKind::global1, CropKind::local}) {
        Random random(1, RandomStream::test, 2);
        EXPECT_FALSE(augment_crop(image, kind, augment, random).pixels.empty());
      }
      (void)measure_quality(image);
      (void)perceptual_hash(image);
      std::vector<float> descriptor(kCopyDescriptorSize);
      copy_descriptor(image, descriptor.data());
      EXPECT_LT(peak_rss_bytes() - before, int64_t{600} << 20) << short_side << " x " << long_side;
      EXPECT_LT(watch.seconds(), kSeconds);
    }
  }
}

}  // namespace
}  // namespace dino
