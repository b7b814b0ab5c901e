// SPDX-License-Identifier: Apache-2.0
// Every decoder on thousands of damaged images: each has a status, and pixels only when it is `ok`.
#include "mutation.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "imaging/decoders.hpp"
#include "imaging/sample_odd_files.hpp"
#if DINO_HAVE_JXL
#include "imaging/sample_jxl.hpp"
#endif
#include "test_data.hpp"

namespace dino {
namespace {

using testing::MutationPlan;

/// A 16 x 16 picture from tests/imaging/seeds.
std::string seed_text(const std::string& name) {
  std::ifstream file(dino::test::data_folder() + "/imaging/seeds/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string text_of(const test::Bytes& bytes) {
  return {bytes.begin(), bytes.end()};
}

void run(const MutationPlan& plan) {
  DecodeOptions options;
  // What the limits allow may be used; they are set for the memory that the test allows.
  options.limits.max_pixels = 1 << 20;
  options.limits.max_bytes = 8 << 20;
  options.limits.max_memory = 64 << 20;
  testing::run_mutations(plan, [&](const std::string& bytes, int i) {
    options.keep_alpha = i % 2 == 0;
    options.min_short_side = i % 3 == 0 ? 8 : 0;
    const Decoded decoded =
        decode_image({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, options);
    const bool ok = decoded.status == DecodeStatus::ok;
    const Image& image = decoded.image;
    EXPECT_EQ(decoded.message.empty(), ok) << i;
    EXPECT_EQ(static_cast<int64_t>(image.pixels.size()), ok ? image.width * image.height * image.channels : 0)
        << i;
    EXPECT_LE(image.pixels.size(), static_cast<size_t>(options.limits.max_bytes)) << i;
    if (i < 0) {
      EXPECT_TRUE(ok) << decoded.format << ": " << decoded.message;
    }
    return ok;
  });
}

TEST(ImageMutation, Jpeg) {
  const Image image = test::picture(40, 32);
  const test::Bytes plain = encode_jpeg(image, 85);
  run({{text_of(plain), text_of(test::with_exif(plain, test::exif_block(6, true))),
        text_of(test::special_jpeg(24, JCS_CMYK, JCS_YCCK, {10, 20, 30, 40})),
        text_of(test::special_jpeg(24, JCS_RGB, JCS_YCbCr, {200, 20, 90}, true)),
        text_of(test::without_segment(test::special_jpeg(24, JCS_CMYK, JCS_CMYK, {10, 20, 30, 40}), 0xee))},
       11,
       {},
       0.1});
}

/// Every chunk whose length still fits gets a CRC that fits it.
void repair_png(std::string& bytes) {
  const auto big = [&](size_t at) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
    return value;
  };
  for (size_t at = 8; at + 12 <= bytes.size();) {
    const size_t length = big(at);
    if (length > bytes.size() - at - 12) return;
    const auto crc = static_cast<uint32_t>(
        crc32(0, reinterpret_cast<const Bytef*>(bytes.data()) + at + 4, static_cast<uInt>(length + 4)));
    for (size_t i = 0; i < 4; ++i) bytes[at + 8 + length + i] = static_cast<char>(crc >> (24 - 8 * i));
    at += 12 + length;
  }
}

/// EXIF as ImageMagick packs it into a text chunk.
test::Bytes packed_profile() {
  std::string text = "\nexif\n      26\n";
  for (const uint8_t byte : test::exif_block(6, true)) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  test::Bytes data = test::bytes_of("Raw profile type exif");
  data.insert(data.end(), 2, 0);
  const size_t head = data.size();
  uLongf size = compressBound(text.size());
  data.resize(head + size);
  compress(data.data() + head, &size, reinterpret_cast<const Bytef*>(text.data()), text.size());
  data.resize(head + size);
  return data;
}

TEST(ImageMutation, Png) {
  const Image image = test::picture(20, 16);
  const test::Bytes palette_rows = {0, 0x1b, 0, 0xe4};
  run({{text_of(encode_png(image)), text_of(test::interlaced_png(image)),
        text_of(test::make_png(4, 2, 2, 3, palette_rows,
                               {{"PLTE", {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}, {"tRNS", {0, 128}}})),
        text_of(test::make_png(2, 2, 16, 0, {0, 1, 2, 3, 4, 0, 5, 6, 7, 8})),
        text_of(test::make_png(2, 1, 8, 2, {0, 1, 2, 3, 4, 5, 6}, {{"iTXt", test::xmp_chunk(6)}})),
        text_of(test::make_png(2, 1, 8, 2, {0, 1, 2, 3, 4, 5, 6}, {{"zTXt", packed_profile()}}))},
       12,
       repair_png,
       0.1});
}

TEST(ImageMutation, Webp) {
  run({{seed_text("lossy.webp"), seed_text("lossless.webp")}, 13, {}, 0.1});
}

TEST(ImageMutation, Pnm) {
  const Image image = test::picture(12, 8);
  const std::string pixels(image.pixels.begin(), image.pixels.end());
  run({{"P6\n12 8\n255\n" + pixels, "P5 # gray\n16 9\n65535\n" + pixels, "P4\n17 3\nabcdefghi",
        "P3\n2 2\n15\n1 2 3 4 5 6 7 8 9 10 11 12\n", "P1\n4 2\n0101 1 0 1 0\n"},
       14,
       {},
       0.1});
}

TEST(ImageMutation, Bmp) {
  const auto bmp = [](int bits, const std::string& palette, const std::string& pixels) {
    std::string b = "BM";
    const auto put = [&](size_t v, int n) {
      for (int i = 0; i < n; ++i, v >>= 8) b.push_back(static_cast<char>(v));
    };
    put(0, 8), put(54 + palette.size(), 4), put(40, 4), put(4, 4), put(3, 4), put(1, 2);
    put(static_cast<size_t>(bits), 2), put(0, 16), put(palette.size() / 4, 4), put(0, 4);
    return b + palette + pixels;
  };
  const std::string bytes(48, '\1');
  run({{bmp(24, "", bytes), bmp(32, "", bytes), bmp(16, "", bytes), bmp(8, std::string(16, 'p'), bytes),
        bmp(1, std::string(8, 'p'), bytes),
        text_of(test::make_odd_bmp(4, 3, 8, 1, {4, 1, 0, 0, 0, 3, 1, 0, 1, 0, 0, 2, 1, 0, 2, 1, 0, 1},
                                   test::Bytes(16, 9))),
        text_of(
            test::make_odd_bmp(4, 3, 4, 2, {4, 0x10, 0, 0, 0, 3, 0x01, 0x10, 0, 0, 0, 1}, test::Bytes(8, 9))),
        text_of(test::make_odd_bmp(4, 3, 32, 3, test::Bytes(48, 7), {}, {0xff0000, 0xff00, 0xff, 0xff000000},
                                   124))},
       15,
       {},
       0.1});
}

/// Formats of libvips, where this libvips has them.
void run_vips(const std::vector<std::string>& names, uint64_t stream) {
  MutationPlan plan;
  plan.stream = stream;
  for (const std::string& name : names) {
    const std::string good = seed_text(name);
    ASSERT_FALSE(good.empty()) << name;
    const Decoded decoded = decode_image({reinterpret_cast<const uint8_t*>(good.data()), good.size()});
    if (decoded.status == DecodeStatus::unsupported)
      std::printf("%s: %s\n", name.c_str(), decoded.message.c_str());
    else
      plan.good.push_back(good);
  }
  if (plan.good.empty()) GTEST_SKIP() << "no loader";
  run(plan);
}

TEST(ImageMutation, Gif) {
  run_vips({"rgb.gif", "animated.gif"}, 16);
}

/// What libtiff hands over as samples: bands, planes, floating point, inks, palettes, declared ranges.
TEST(ImageMutation, TiffSamples) {
  using test::make_tiff;
  const test::Bytes pixels(768, 60);
  const std::vector<double> colours(768, 3000);
  const std::vector<test::Bytes> good = {
      make_tiff({8, 8, 4, 8, 2, 1, 1, {{338, 3, {0}}}}, pixels),
      make_tiff({8, 8, 4, 8, 2, 1, 1, {{338, 3, {1}}}}, pixels),
      make_tiff({8, 8, 3, 32, 2, 3, 2, {{340, 12, {-1, -1, -1}}, {341, 12, {5, 5, 5}}}}, pixels),
      make_tiff({8, 8, 1, 64, 1, 3, 1, {{42113, 2, {'-', '9', 0}}}}, pixels),
      make_tiff({8, 8, 1, 16, 0, 2, 1, {{281, 3, {4095}}}}, pixels),
      make_tiff({8, 8, 5, 8, 1, 1, 2, {{338, 3, {0, 2, 0, 0}}}}, pixels),
      make_tiff({8, 8, 4, 16, 5, 1, 1, {}}, pixels),
      make_tiff({8, 8, 1, 8, 3, 1, 1, {{320, 3, colours}}}, pixels),
      make_tiff({8, 8, 3, 8, 8, 1, 1, {}}, pixels),
      make_tiff({8, 8, 3, 8, 6, 1, 1, {{530, 3, {1, 1}}}}, pixels)};
  if (decode_image(good[0]).status == DecodeStatus::unsupported) GTEST_SKIP() << "no libtiff";
  MutationPlan plan;
  plan.stream = 110;
  for (const test::Bytes& bytes : good) plan.good.push_back(text_of(bytes));
  run(plan);
}

TEST(ImageMutation, Tiff) {
  run_vips({"lzw.tif", "jpeg.tif", "tiles.tif"}, 17);
}

TEST(ImageMutation, HeicAndAvif) {
  run_vips({"rgb.avif", "rgb.heic"}, 18);
}

TEST(ImageMutation, Jpeg2000) {
  run_vips({"rgb.jp2"}, 19);
}

#if DINO_HAVE_JXL
TEST(ImageMutation, JpegXl) {
  const Image image = test::picture(32, 24);
  test::JxlSpec plain, lossy, layers, gray;
  plain.width = 32, plain.height = 24;
  lossy = layers = gray = plain;
  lossy.lossy = lossy.container = true;
  layers.width = 24, layers.alpha = layers.animated = true, layers.orientation = 6, layers.layer = 70;
  gray.colours = 1, gray.linear = true, gray.more = {JXL_CHANNEL_DEPTH};
  const uint8_t* samples = image.pixels.data();
  MutationPlan plan{{seed_text("rgb.jxl")}, 20, {}, 0.1};
  for (const test::JxlSpec& spec : {plain, lossy, layers, gray})
    plan.good.push_back(
        text_of(test::make_jxl(spec, std::vector<const void*>(spec.animated ? 2 : 1, samples))));
  // Some builds of libjxl say on stderr where every decode failed: thousands of lines.
  ::testing::internal::CaptureStderr();
  run(plan);
  (void)::testing::internal::GetCapturedStderr();
}
#endif

}  // namespace
}  // namespace dino
