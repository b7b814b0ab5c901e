// SPDX-License-Identifier: Apache-2.0
#pragma once
// Samples of a TIFF -> 8-bit pixels: what decode_tiff.cpp does between libtiff's rows and the picture.

#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "imaging/image.hpp"

namespace dino::imaging {

enum class SampleFormat : uint8_t { unsigned_integer, signed_integer, floating };
enum class TiffKind : uint8_t { gray, rgb, palette, cmyk, lab, converted };  ///< converted: by libtiff

struct TiffLayout {
  int64_t width = 0, height = 0;
  int samples = 1, bits = 8;
  SampleFormat format = SampleFormat::unsigned_integer;
  TiffKind kind = TiffKind::gray;
  bool inverted = false;   ///< gray: 0 is white
  bool separate = false;   ///< one plane per sample
  bool signed_ab = false;  ///< Lab: a and b are two's complement
  int alpha = -1;          ///< its sample, or none
  bool premultiplied = false;
  std::vector<Colour> palette;
  std::optional<std::pair<double, double>> declared;  ///< range of the samples
  std::optional<double> no_data;                      ///< the value of pixels that are none

  [[nodiscard]] int colours() const {
    return kind == TiffKind::cmyk ? 4 : kind == TiffKind::rgb || kind == TiffKind::lab ? 3 : 1;
  }
  [[nodiscard]] bool has_extra_bands() const { return samples > colours() + (alpha >= 0 ? 1 : 0); }
};

/// Smallest and largest finite value of the colour samples, no-data left out.
struct Measured {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
};

/// What becomes level 0 and level 255.
struct SampleRange {
  double low = 0, high = 255;
  DecodeNote note = DecodeNote::none;
  bool measure = false;  ///< only the samples themselves tell
};
/// Unsigned integers up to 15 bits span the range of their type, as photographs do, and so does 16-bit colour
/// that reaches an eighth of it. The rest is what instruments write: 16-bit gray, dark 16-bit colour, 32 and
/// 64 bits, signed, floating point. It spans the declared range, else (floating point) [0, 1] if the largest
/// value lies in (1/8, 1] and none is below 0, else what was measured. Without `measured`, a range that needs
/// it has `measure` set.
[[nodiscard]] SampleRange range_of(const TiffLayout& layout, std::optional<Measured> measured = {});

using TiffRows = std::vector<const uint8_t*>;  ///< the row in each plane

void measure_row(const TiffLayout& layout, const TiffRows& rows, int64_t count, Measured& measured);

/// Rows of samples -> rows of RGB or RGBA.
class RowConverter {
 public:
  RowConverter(const TiffLayout& layout, const SampleRange& range);
  void convert(const TiffRows& rows, int64_t count, uint8_t* out);

 private:
  void levels(const TiffRows& rows, int64_t count, int sample, const SampleRange& range, uint8_t* out) const;
  const TiffLayout& layout_;
  SampleRange range_, alpha_range_;
  std::vector<uint8_t> scale_;   ///< level of each value, up to 16 bits
  std::vector<uint8_t> planes_;  ///< [used samples][count]
};

}  // namespace dino::imaging
