// SPDX-License-Identifier: Apache-2.0
// What people have beside plain RGB files: inks, bands, floating point, run lengths, XMP, missing ends,
// transparency under white. tests/peers/pillow_decode.py holds more of them against Pillow.
#include <gtest/gtest.h>

#include "imaging/sample_odd_files.hpp"

namespace dino {
namespace {

using namespace test;
using namespace std::string_view_literals;

Bytes cut(const Bytes& bytes, size_t keep) {
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(keep)};
}

TEST(OddFiles, InksWithoutAdobesMarkerAreInvertedToo) {
  const Bytes with = special_jpeg(16, JCS_CMYK, JCS_CMYK, {200, 100, 50, 255});
  const Bytes without = without_segment(with, 0xee);
  ASSERT_LT(without.size(), with.size());
  EXPECT_EQ(decode_ok(without).pixels, decode_ok(with).pixels);
  EXPECT_NEAR(decode_ok(without).pixels[0], 200, 3);
}

TEST(OddFiles, JpegThatLacksOnlyItsEndMarkerIsKept) {
  const Image image = picture(60, 40);
  const Bytes baseline = encode_jpeg(image, 90);
  const Bytes progressive = special_jpeg(40, JCS_RGB, JCS_YCbCr, {10, 200, 90}, true);
  for (const Bytes& whole : {baseline, progressive}) {
    const Decoded decoded = decode_image(cut(whole, whole.size() - 2));
    ASSERT_STREQ(name_of(decoded.status), "ok") << decoded.message;
    EXPECT_EQ(decoded.note, DecodeNote::end_missing);
    EXPECT_EQ(decoded.image.pixels, decode_ok(whole).pixels);
    EXPECT_EQ(decode_image(whole).note, DecodeNote::none);
  }
  // Whole scans may be missing, and the bytes end where an end marker could stand.
  EXPECT_STREQ(name_of(decode_image(cut(progressive, last_scan(progressive))).status), "truncated");
  EXPECT_STREQ(name_of(decode_image(cut(baseline, baseline.size() - 12)).status), "truncated");
}

TEST(OddFiles, PngThatLacksOnlyItsEndMarkerIsKept) {
  const Image image = picture(31, 17);
  for (const Bytes& whole : {encode_png(image), interlaced_png(image)}) {
    for (const size_t lost : {12, 8, 1}) {
      const Decoded decoded = decode_image(cut(whole, whole.size() - lost));
      ASSERT_STREQ(name_of(decoded.status), "ok") << lost << ": " << decoded.message;
      EXPECT_EQ(decoded.note, DecodeNote::end_missing);
      EXPECT_EQ(decoded.image.pixels, image.pixels);
    }
    EXPECT_STREQ(name_of(decode_image(cut(whole, whole.size() - 40)).status), "truncated");
  }
}

TEST(OddFiles, OrientationFromXmp) {
  const Bytes rows = {0, 1, 2, 3, 4, 5, 6};  // 2 x 1
  EXPECT_EQ(decode_ok(make_png(2, 1, 8, 2, rows, {{"iTXt", xmp_chunk(3)}})).pixels,
            (Bytes{4, 5, 6, 1, 2, 3}));
  EXPECT_EQ(decode_ok(make_png(2, 1, 8, 2, rows, {{"iTXt", xmp_chunk(6)}})).height, 2);
  // EXIF is the one that counts where there are both.
  const Bytes both = make_png(2, 1, 8, 2, rows, {{"eXIf", exif_block(3, true)}, {"iTXt", xmp_chunk(6)}});
  EXPECT_EQ(decode_ok(both).pixels, (Bytes{4, 5, 6, 1, 2, 3}));
  for (const char* broken : {"", "tiff:Orientation", "tiff:Orientation=\"", "tiff:Orientation=\"9\""}) {
    Bytes data = bytes_of("XML:com.adobe.xmp");
    data.insert(data.end(), 5, 0);
    for (const char* c = broken; *c != 0; ++c) data.push_back(static_cast<uint8_t>(*c));
    EXPECT_EQ(decode_ok(make_png(2, 1, 8, 2, rows, {{"iTXt", data}})).width, 2) << broken;
  }
}

TEST(OddFiles, RunLengthBitmaps) {
  const Bytes palette = {0, 0, 0, 0, 30, 20, 10, 0, 60, 50, 40, 0};
  const Bytes black = {0, 0, 0}, one = {10, 20, 30}, two = {40, 50, 60};
  const auto rows = [](std::initializer_list<Bytes> pixels) {
    Bytes all;
    for (const Bytes& p : pixels) all.insert(all.end(), p.begin(), p.end());
    return all;
  };
  // Bottom row: three of 1; top row: plain 2 1 0 (padded), end.
  const Bytes rle8 = {3, 1, 0, 0, 0, 3, 2, 1, 0, 0, 0, 0, 0, 1};
  const Bytes shown = rows({two, one, black, one, one, one});
  EXPECT_EQ(decode_ok(make_odd_bmp(3, 2, 8, 1, rle8, palette)).pixels, shown);
  const Bytes rle4 = {3, 0x11, 0, 0, 0, 3, 0x21, 0x00, 0, 0, 0, 1};
  EXPECT_EQ(decode_ok(make_odd_bmp(3, 2, 4, 2, rle4, palette)).pixels, shown);
  // A step leaves the first colour; a run that leaves its row is cut.
  EXPECT_EQ(decode_ok(make_odd_bmp(3, 2, 8, 1, {0, 2, 1, 1, 200, 2, 0, 1}, palette)).pixels,
            rows({black, two, two, black, black, black}));
  EXPECT_EQ(decode_image(make_odd_bmp(3, 2, 8, 1, cut(rle8, 12), palette)).note, DecodeNote::end_missing);
  EXPECT_STREQ(name_of(decode_image(make_odd_bmp(3, 2, 8, 1, cut(rle8, 4), palette)).status), "truncated");
  EXPECT_STREQ(name_of(decode_image(make_odd_bmp(3, 2, 8, 1, {3, 9, 0, 1}, palette)).status), "corrupt");
}

TEST(OddFiles, BitmapWithoutTheLastRowsPadding) {
  const Bytes pixels = {1, 2, 3, 0, 4, 5, 6};
  EXPECT_EQ(decode_ok(make_odd_bmp(1, 2, 24, 0, pixels)).pixels, (Bytes{6, 5, 4, 3, 2, 1}));
  EXPECT_STREQ(name_of(decode_image(make_odd_bmp(1, 2, 24, 0, cut(pixels, 6))).status), "truncated");
}

TEST(OddFiles, BitmapsWithAlpha) {
  const std::vector<uint32_t> masks = {0xff0000, 0xff00, 0xff, 0xff000000};
  DecodeOptions keep;
  keep.keep_alpha = true;
  for (const uint32_t header : {56U, 108U, 124U}) {
    const Bytes b = make_odd_bmp(2, 1, 32, 3, {1, 2, 3, 128, 4, 5, 6, 255}, {}, masks, header);
    EXPECT_EQ(decode_ok(b, keep).pixels, (Bytes{3, 2, 1, 128, 6, 5, 4, 255})) << header;
  }
  // An alpha of 0 everywhere is none.
  EXPECT_EQ(decode_ok(make_odd_bmp(1, 1, 32, 3, {1, 2, 3, 0}, {}, masks, 108)).pixels, (Bytes{3, 2, 1}));
  EXPECT_EQ(decode_ok(make_odd_bmp(1, 1, 16, 3, {0x1f, 0xf8, 0, 0}, {}, {0xf800, 0x7e0, 0x1f})).pixels,
            (Bytes{255, 0, 255}));
}

struct TiffCase {
  const char* what;
  TiffSpec spec;
  Bytes pixels, shown;
  DecodeNote note = DecodeNote::none;
};

TEST(OddFiles, Tiff) {
  if (decode_image(make_tiff({}, {7})).status == DecodeStatus::unsupported) GTEST_SKIP() << "no libtiff";
  const TiffTag no_alpha{338, 3, {0}}, alpha{338, 3, {2}}, premultiplied{338, 3, {1}};
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const DecodeNote none = DecodeNote::none, unit = DecodeNote::unit_range, extra = DecodeNote::extra_bands;
  const DecodeNote measured = DecodeNote::measured_range, declared = DecodeNote::declared_range;
  using F = std::vector<float>;
  using U = std::vector<uint16_t>;
  const std::vector<TiffCase> cases = {
      {"near infrared", {1, 1, 4, 8, 2, 1, 1, {no_alpha}}, {9, 8, 7, 0}, {9, 8, 7}, extra},
      {"alpha", {1, 1, 4, 8, 2, 1, 1, {alpha}}, {9, 8, 7, 0}, {255, 255, 255}, none},
      {"premultiplied", {1, 1, 4, 8, 2, 1, 1, {premultiplied}}, {50, 0, 0, 127}, {178, 128, 128}, none},
      {"a fourth sample", {1, 1, 4, 8, 2, 1, 1, {}}, {9, 8, 7, 0}, {255, 255, 255}, none},
      {"planes", {2, 1, 3, 8, 2, 1, 2, {}}, {1, 2, 3, 4, 5, 6}, {1, 3, 5, 2, 4, 6}, none},
      {"five bands", {1, 1, 5, 8, 1, 1, 1, {{338, 3, {0, 0, 0, 0}}}}, {1, 2, 3, 4, 5}, {1, 2, 3}, extra},
      {"five planes", {1, 1, 5, 8, 1, 1, 2, {{338, 3, {0, 0, 0, 0}}}}, {1, 2, 3, 4, 5}, {1, 2, 3}, extra},
      {"gray and a band", {1, 1, 2, 8, 1, 1, 1, {no_alpha}}, {77, 0}, {77, 77, 77}, extra},
      {"gray and alpha", {1, 1, 2, 8, 1, 1, 1, {alpha}}, {0, 255}, {0, 0, 0}, none},
      {"white is 0", {2, 1, 1, 8, 0, 1, 1, {}}, {0, 200}, {255, 255, 255, 55, 55, 55}, none},
      {"bits", {4, 1, 1, 2, 1, 1, 1, {}}, {0x1b}, {0, 0, 0, 85, 85, 85, 170, 170, 170, 255, 255, 255}, none},
      {"inks", {1, 1, 4, 8, 5, 1, 1, {}}, {255, 0, 51, 0}, {0, 255, 204}, none},
      {"Lab", {1, 1, 3, 8, 8, 1, 1, {}}, {255, 0, 0}, {255, 255, 255}, none},
      {"unit", {3, 1, 1, 32, 1, 3, 1, {}}, raw(F{0, 0.5F, 1}), {0, 0, 0, 128, 128, 128, 255, 255, 255}, unit},
      {"doubles",
       {2, 1, 1, 64, 1, 3, 1, {}},
       raw(std::vector<double>{-7, 1e6}),
       {0, 0, 0, 255, 255, 255},
       measured},
      {"holes",
       {4, 1, 1, 32, 1, 3, 1, {}},
       raw(F{nan, inf, -5, 5}),
       {0, 0, 0, 255, 255, 255, 0, 0, 0, 255, 255, 255},
       measured},
      {"no number", {2, 1, 1, 32, 1, 3, 1, {}}, raw(F{nan, nan}), {0, 0, 0, 0, 0, 0}, measured},
      {"declared floats",
       {2, 1, 1, 32, 1, 3, 1, {{340, 11, {-1}}, {341, 11, {4}}}},
       raw(F{0, 4}),
       {51, 51, 51, 255, 255, 255},
       declared},
      {"12 bits in 16",
       {3, 1, 1, 16, 1, 1, 1, {}},
       raw(U{100, 1100, 2100}),
       {0, 0, 0, 128, 128, 128, 255, 255, 255},
       measured},
      {"declared 12 bits",
       {2, 1, 1, 16, 1, 1, 1, {{281, 3, {4095}}}},
       raw(U{0, 819}),
       {0, 0, 0, 51, 51, 51},
       declared},
      {"16-bit colour", {1, 1, 3, 16, 2, 1, 1, {}}, raw(U{0, 257, 65535}), {0, 1, 255}, none},
      {"dark 16-bit colour",
       {2, 1, 3, 16, 2, 1, 1, {}},
       raw(U{0, 1000, 3000, 3000, 0, 1500}),
       {0, 85, 255, 255, 0, 128},
       measured},
      {"signed",
       {2, 1, 1, 32, 1, 2, 1, {}},
       raw(std::vector<int32_t>{-1000000, 1000000}),
       {0, 0, 0, 255, 255, 255},
       measured},
  };
  for (const TiffCase& c : cases) {
    const Decoded decoded = decode_image(make_tiff(c.spec, c.pixels));
    ASSERT_STREQ(name_of(decoded.status), "ok") << c.what << ": " << decoded.message;
    EXPECT_EQ(decoded.image.pixels, c.shown) << c.what;
    EXPECT_EQ(decoded.note, c.note) << c.what << ": " << note_names()[static_cast<size_t>(decoded.note)];
  }
  const Bytes whole = make_tiff({8, 8, 3, 8, 2, 1, 1, {}}, Bytes(192, 9));
  EXPECT_STREQ(name_of(decode_image(cut(whole, whole.size() - 30)).status), "truncated");
  EXPECT_STREQ(name_of(decode_image(make_tiff({4, 1, 1, 24, 1, 3, 1, {}}, Bytes(12))).status), "unsupported");
}

TEST(OddFiles, WhiteOnTransparencyIsSeen) {
  // White with an alpha of two stripes, in gray, RGB and palette.
  const auto logo = [](uint8_t first, uint8_t colour) {
    Bytes rows;
    for (int y = 0; y < 8; ++y) {
      rows.push_back(0);
      for (int x = 0; x < 8; ++x)
        rows.insert(rows.end(), {colour, static_cast<uint8_t>(x < first ? 255 : 0)});
    }
    return decode_image(make_png(8, 8, 8, 4, rows));
  };
  const Decoded a = logo(3, 255), b = logo(5, 255), dark = logo(3, 0);
  EXPECT_EQ(a.note, DecodeNote::dark_background);
  EXPECT_EQ(a.background, (Colour{0, 0, 0}));
  EXPECT_NE(a.image.pixels, b.image.pixels);
  EXPECT_EQ(a.image.pixels[0], 255);
  EXPECT_EQ(a.image.pixels[21], 0);
  // What white shows stays on white, and what is asked for is done.
  EXPECT_EQ(dark.note, DecodeNote::none);
  EXPECT_EQ(dark.image.pixels[21], 255);
  DecodeOptions white;
  white.background = Colour{255, 255, 255};
  const Bytes one = {0, 255, 0};
  EXPECT_EQ(decode_ok(make_png(1, 1, 8, 4, one), white).pixels, (Bytes{255, 255, 255}));
  EXPECT_EQ(decode_image(make_png(1, 1, 8, 4, one)).note, DecodeNote::none)
      << "nothing is seen on black either";
}

}  // namespace
}  // namespace dino
