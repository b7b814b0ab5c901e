// SPDX-License-Identifier: Apache-2.0
// JPEG XL of every kind that an encoder makes.
#include <gtest/gtest.h>

#if DINO_HAVE_JXL
#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <optional>
#include <thread>

#include "imaging/decoders.hpp"
#include "imaging/sample_files.hpp"
#include "imaging/sample_jxl.hpp"

namespace dino {
namespace {

using namespace test;

Image decode_jxl_ok(const Bytes& bytes, const DecodeOptions& options = {}) {
  Decoded decoded = decode_image(bytes, options);
  EXPECT_STREQ(name_of(decoded.status), "ok") << decoded.message;
  EXPECT_EQ(decoded.format, "jxl");
  return std::move(decoded.image);
}

/// Some builds of libjxl say on stderr where a decode failed.
struct QuietLibrary {
  QuietLibrary() { ::testing::internal::CaptureStderr(); }
  ~QuietLibrary() { (void)::testing::internal::GetCapturedStderr(); }
  QuietLibrary(const QuietLibrary&) = delete;
  QuietLibrary& operator=(const QuietLibrary&) = delete;
};

JxlSpec spec_of(const Image& image) {
  JxlSpec spec;
  spec.width = image.width, spec.height = image.height;
  spec.alpha = image.channels == 4;
  return spec;
}

Image with_alpha(const Image& image, const std::function<unsigned(int64_t)>& alpha) {
  Image out{image.width, image.height, 4, {}};
  for (int64_t i = 0; i < image.width * image.height; ++i) {
    const uint8_t* p = image.pixels.data() + 3 * i;
    out.pixels.insert(out.pixels.end(), {p[0], p[1], p[2], static_cast<uint8_t>(alpha(i))});
  }
  return out;
}

TEST(JpegXl, ColourAndGray) {
  const Image image = picture(300, 280);  // more than one group of 256
  JxlSpec spec = spec_of(image);
  EXPECT_EQ(decode_jxl_ok(make_jxl(spec, {image.pixels.data()})).pixels, image.pixels);
  spec.container = true;
  EXPECT_EQ(decode_jxl_ok(make_jxl(spec, {image.pixels.data()})).pixels, image.pixels);
  spec.lossy = true;
  EXPECT_LT(mean_difference(decode_jxl_ok(make_jxl(spec, {image.pixels.data()})), image), 3);

  Bytes gray;
  Image expected{image.width, image.height, 3, {}};
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    gray.push_back(image.pixels[i]);
    expected.pixels.insert(expected.pixels.end(), 3, image.pixels[i]);
  }
  spec.colours = 1;
  EXPECT_LT(mean_difference(decode_jxl_ok(make_jxl(spec, {gray.data()})), expected), 3);
  spec.lossy = false;
  EXPECT_EQ(decode_jxl_ok(make_jxl(spec, {gray.data()})).pixels, expected.pixels);
}

TEST(JpegXl, DeeperSamplesAndLinearLight) {
  const Image image = picture(64, 48);
  std::vector<uint16_t> deep;
  std::vector<float> light;
  for (const uint8_t p : image.pixels) {
    deep.push_back(static_cast<uint16_t>(257 * p));
    const double v = p / 255.0;
    light.push_back(static_cast<float>(v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4)));
  }
  JxlSpec spec = spec_of(image);
  spec.type = JXL_TYPE_UINT16;
  EXPECT_EQ(decode_jxl_ok(make_jxl(spec, {deep.data()})).pixels, image.pixels);
  spec.type = JXL_TYPE_FLOAT;
  spec.linear = true;
  EXPECT_LE(mean_difference(decode_jxl_ok(make_jxl(spec, {light.data()})), image), 0.01);
  spec.orientation = 6;
  EXPECT_EQ(decode_jxl_ok(make_jxl(spec, {light.data()})).width, image.height);
  spec.orientation = 1, spec.lossy = true;
  EXPECT_LT(mean_difference(decode_jxl_ok(make_jxl(spec, {light.data()})), image), 6);
}

TEST(JpegXl, AlphaLiesOnTheBackgroundOfAllFormats) {
  const Image image = with_alpha(picture(40, 30), [](int64_t i) { return i % 256; });
  const Bytes file = make_jxl(spec_of(image), {image.pixels.data()});
  DecodeOptions keep;
  keep.keep_alpha = true;
  EXPECT_EQ(decode_jxl_ok(file, keep).pixels, image.pixels);
  const Bytes png = encode_png(image);
  for (const std::optional<Colour>& background :
       {std::optional<Colour>(), std::optional<Colour>({9, 80, 200})}) {
    DecodeOptions options;
    options.background = background;
    EXPECT_EQ(decode_jxl_ok(file, options).pixels, decode_image(png, options).image.pixels);
  }
  // A white sign shows on black alone, in this format too.
  Image sign = with_alpha(picture(16, 16), [](int64_t i) { return i % 16 < 8 ? 255 : 0; });
  for (size_t i = 0; i < sign.pixels.size(); ++i) sign.pixels[i] = i % 4 == 3 ? sign.pixels[i] : 255;
  const Decoded dark = decode_image(make_jxl(spec_of(sign), {sign.pixels.data()}));
  EXPECT_EQ(dark.note, DecodeNote::dark_background);
}

/// libjxl 0.7 writes no file whose colours were multiplied by their alpha, but such a header differs in one
/// bit from one that names its alpha.
TEST(JpegXl, MultipliedColoursAreDividedAgain) {
  const Image half = with_alpha(picture(16, 16), [](int64_t) { return 128; });
  Image multiplied = half;
  for (size_t i = 0; i < half.pixels.size(); ++i) {
    if (i % 4 != 3) multiplied.pixels[i] = static_cast<uint8_t>(half.pixels[i] * 128 / 255);
  }
  JxlSpec spec = spec_of(multiplied);
  spec.alpha_name = "a";
  const Bytes file = make_jxl(spec, {multiplied.pixels.data()});
  DecodeOptions keep;
  keep.keep_alpha = true;
  EXPECT_EQ(decode_jxl_ok(file, keep).pixels, multiplied.pixels);
  const QuietLibrary quiet;
  int found = 0;
  for (size_t bit = 16; bit < 8 * 24; ++bit) {
    Bytes other = file;
    other[bit / 8] = static_cast<uint8_t>(other[bit / 8] ^ 1 << bit % 8);
    found += mean_difference(decode_image(other, keep).image, half) < 2 ? 1 : 0;
  }
  EXPECT_EQ(found, 1);
}

TEST(JpegXl, OrientationIsApplied) {
  const Image image = picture(20, 12);
  for (int orientation = 1; orientation <= 8; ++orientation) {
    JxlSpec spec = spec_of(image);
    spec.orientation = orientation;
    const Bytes file = make_jxl(spec, {image.pixels.data()});
    const Decoded decoded = decode_image(file);
    const Image upright = imaging::apply_orientation(image, orientation);
    EXPECT_EQ(decoded.file_width, upright.width) << orientation;
    EXPECT_EQ(decoded.image.width, upright.width) << orientation;
    EXPECT_EQ(decoded.image.pixels, upright.pixels) << orientation;
    DecodeOptions stored;
    stored.apply_orientation = false;
    EXPECT_EQ(decode_jxl_ok(file, stored).pixels, image.pixels) << orientation;
  }
}

TEST(JpegXl, AnimationsAreTheirFirstFrame) {
  const Image first = picture(24, 16), second = picture(24, 16, 2);
  JxlSpec spec = spec_of(first);
  spec.animated = true;
  const Bytes file = make_jxl(spec, {first.pixels.data(), second.pixels.data()});
  EXPECT_EQ(decode_jxl_ok(file).pixels, first.pixels);
}

TEST(JpegXl, OtherChannels) {
  const Image image = picture(24, 16);
  JxlSpec spec = spec_of(image);
  spec.more = {JXL_CHANNEL_DEPTH, JXL_CHANNEL_THERMAL};
  const Decoded decoded = decode_image(make_jxl(spec, {image.pixels.data()}));
  EXPECT_EQ(decoded.image.pixels, image.pixels);
  EXPECT_EQ(decoded.note, DecodeNote::extra_bands);
  spec.more = {JXL_CHANNEL_BLACK};
  const Decoded inks = decode_image(make_jxl(spec, {image.pixels.data()}));
  EXPECT_STREQ(name_of(inks.status), "unsupported") << inks.message;
}

TEST(JpegXl, CutAndDamagedFiles) {
  const Image image = picture(300, 40);
  const QuietLibrary quiet;
  for (const bool lossy : {false, true}) {
    for (const bool container : {false, true}) {
      JxlSpec spec = spec_of(image);
      spec.lossy = lossy, spec.container = container;
      const Bytes file = make_jxl(spec, {image.pixels.data()});
      for (size_t size = 12; size < file.size(); size += 1 + size / 16) {
        const Decoded cut = decode_image({file.data(), size});
        EXPECT_STREQ(name_of(cut.status), "truncated") << size << " of " << file.size();
        EXPECT_TRUE(cut.image.pixels.empty());
      }
      Bytes damaged = file;
      std::fill(damaged.begin() + 2 + (container ? 60 : 0), damaged.end(), 0xff);
      const Decoded bad = decode_image(damaged);
      EXPECT_STREQ(name_of(bad.status), "corrupt") << lossy << container;
      EXPECT_TRUE(bad.image.pixels.empty());
    }
  }
}

TEST(JpegXl, LimitsHoldBeforeAnythingIsDecoded) {
  const Image image = picture(300, 200);
  for (const bool alpha : {false, true}) {
    const Image source = alpha ? with_alpha(image, [](int64_t) { return 200; }) : image;
    const Bytes file = make_jxl(spec_of(source), {source.pixels.data()});
    DecodeOptions options;
    options.limits.max_pixels = 59'999;
    EXPECT_STREQ(name_of(decode_image(file, options).status), "too_large");
    options.limits.max_pixels = 60'000;
    options.limits.max_memory = 60'000 * 20;
    const Decoded refused = decode_image(file, options);
    EXPECT_STREQ(name_of(refused.status), "decode_memory");
    EXPECT_NE(refused.message.find("--decode-memory"), std::string::npos) << refused.message;
    options.limits.max_memory = 60'000 * 60;
    EXPECT_STREQ(name_of(decode_image(file, options).status), "ok");
  }
}

/// A layer below the first frame may be larger than the picture, and takes the memory of its own size.
TEST(JpegXl, LimitsHoldForLargerLayers) {
  const Image image = picture(16, 16);
  JxlSpec spec = spec_of(image);
  spec.animated = true, spec.layer = 1000;
  const Bytes file = make_jxl(spec, {image.pixels.data()});
  EXPECT_EQ(decode_jxl_ok(file).pixels, image.pixels);
  DecodeOptions options;
  options.limits.max_memory = 20'000'000;
  EXPECT_STREQ(name_of(decode_image(file, options).status), "decode_memory");
  options.limits.max_memory = 40'000'000;
  EXPECT_STREQ(name_of(decode_image(file, options).status), "ok");
}

/// No decode waits for another, nor makes threads of its own.
TEST(JpegXl, ManyAtOnce) {
  const Image image = picture(64, 64);
  const Bytes file = make_jxl(spec_of(image), {image.pixels.data()});
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) wrong += decode_image(file).image.pixels == image.pixels ? 0 : 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

}  // namespace
}  // namespace dino
#else
TEST(JpegXl, NotInThisBuild) {
  GTEST_SKIP() << "no libjxl";
}
#endif
