// SPDX-License-Identifier: Apache-2.0
#include "imaging/tiff_samples.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.hpp"
#include "imaging/decoders.hpp"

namespace dino::imaging {
namespace {

/// Sample `sample` of pixel `x`, from native byte order; packed bits begin at the most significant one.
template <class T>
T load(const uint8_t* row, size_t index) {
  T value;
  std::memcpy(&value, row + index * sizeof(T), sizeof(T));
  return value;
}

uint32_t packed_bits(const uint8_t* row, size_t index, unsigned bits) {
  const size_t first = index * bits;
  uint32_t value = 0;
  for (size_t i = first; i < first + bits; ++i) value = value << 1 | (row[i / 8] >> (7 - i % 8) & 1U);
  return value;
}

/// Calls put(x, value) for one sample of a row, as the widest type that holds it.
template <class Put>
void for_each_value(const TiffLayout& l, const TiffRows& rows, int64_t count, int sample, const Put& put) {
  const uint8_t* row = rows[l.separate ? static_cast<size_t>(sample) : 0];
  const size_t step = l.separate ? 1 : static_cast<size_t>(l.samples);
  const size_t first = l.separate ? 0 : static_cast<size_t>(sample);
  const auto all = [&](const auto& value_at) {
    for (size_t x = 0, i = first; x < static_cast<size_t>(count); ++x, i += step) put(x, value_at(i));
  };
  const auto as = [&](auto type) {
    using T = decltype(type);
    all([&](size_t i) { return load<T>(row, i); });
  };
  if (l.format == SampleFormat::floating) {
    if (l.bits == 64) return as(double{});
    if (l.bits == 32) return as(float{});
    return all([&](size_t i) { return half_to_float(load<uint16_t>(row, i)); });
  }
  const bool negative = l.format == SampleFormat::signed_integer;
  switch (l.bits) {
    case 8:
      return negative ? as(int8_t{}) : as(uint8_t{});
    case 16:
      return negative ? as(int16_t{}) : as(uint16_t{});
    case 32:
      return negative ? as(int32_t{}) : as(uint32_t{});
    case 64:
      return negative ? as(int64_t{}) : as(uint64_t{});
    default:
      return all([&](size_t i) { return packed_bits(row, i, static_cast<unsigned>(l.bits)); });
  }
}

uint8_t level_of(double value, const SampleRange& range) {
  if (std::isnan(value)) return 0;
  const double level = (value - range.low) / (range.high - range.low) * 255.0 + 0.5;
  return static_cast<uint8_t>(std::clamp(level, 0.0, 255.0));
}

SampleRange full_range(const TiffLayout& l) {
  if (l.format == SampleFormat::floating) return {0, 1, DecodeNote::none, false};
  if (l.format == SampleFormat::unsigned_integer)
    return {0, std::ldexp(1.0, l.bits) - 1, DecodeNote::none, false};
  return {-std::ldexp(1.0, l.bits - 1), std::ldexp(1.0, l.bits - 1) - 1, DecodeNote::none, false};
}

/// CIE L*a*b* under D50 -> sRGB: L in 0..255 for 0..100, a and b in -128..127.
void lab_to_rgb(unsigned l, int a, int b, uint8_t* rgb) {
  const double fy = (l * 100.0 / 255.0 + 16.0) / 116.0;
  const auto inverse = [](double t) {
    constexpr double kDelta = 6.0 / 29.0;
    return t > kDelta ? t * t * t : 3 * kDelta * kDelta * (t - 4.0 / 29.0);
  };
  const double x = 0.9642 * inverse(fy + a / 500.0), y = inverse(fy), z = 0.8249 * inverse(fy - b / 200.0);
  // sRGB's primaries, adapted to D50 by Bradford's method.
  const double linear[3] = {3.1338561 * x - 1.6168667 * y - 0.4906146 * z,
                            -0.9787684 * x + 1.9161415 * y + 0.0334540 * z,
                            0.0719453 * x - 0.2289914 * y + 1.4052427 * z};
  for (int c = 0; c < 3; ++c) {
    const double v = std::clamp(linear[c], 0.0, 1.0);
    const double gamma = v <= 0.0031308 ? 12.92 * v : 1.055 * std::pow(v, 1 / 2.4) - 0.055;
    rgb[c] = static_cast<uint8_t>(gamma * 255.0 + 0.5);
  }
}

}  // namespace

SampleRange range_of(const TiffLayout& l, std::optional<Measured> measured) {
  const SampleRange full = full_range(l);
  const bool unsigned_integer = l.format == SampleFormat::unsigned_integer;
  if (l.kind == TiffKind::palette || l.kind == TiffKind::lab || (unsigned_integer && l.bits <= 8))
    return full;
  if (l.declared && std::isfinite(l.declared->first) && std::isfinite(l.declared->second) &&
      l.declared->second > l.declared->first) {
    const auto [low, high] = *l.declared;
    if (low == full.low && high == full.high && l.format != SampleFormat::floating) return full;
    return {low, high, DecodeNote::declared_range, false};
  }
  if (unsigned_integer && l.bits < 16) return full;
  if (!measured) return {0, 1, DecodeNote::none, true};
  const bool photograph = unsigned_integer && l.bits == 16 && l.kind != TiffKind::gray;
  if (photograph && measured->high > full.high / 8) return full;
  const auto [low, high] = *measured;
  const bool floating = l.format == SampleFormat::floating;
  if (floating && low >= 0 && high > 0.125 && high <= 1) return {0, 1, DecodeNote::unit_range, false};
  if (low < high) return {low, high, DecodeNote::measured_range, false};
  // One value everywhere, or none: black.
  return {std::isfinite(low) ? low : 0, std::isfinite(low) ? low + std::max(1.0, std::abs(low)) : 1,
          DecodeNote::measured_range, false};
}

void measure_row(const TiffLayout& l, const TiffRows& rows, int64_t count, Measured& measured) {
  for (int sample = 0; sample < l.colours(); ++sample) {
    for_each_value(l, rows, count, sample, [&](size_t, auto raw) {
      const auto value = static_cast<double>(raw);
      if (!std::isfinite(value) || (l.no_data && value == *l.no_data)) return;
      measured.low = std::min(measured.low, value);
      measured.high = std::max(measured.high, value);
    });
  }
}

RowConverter::RowConverter(const TiffLayout& layout, const SampleRange& range)
    : layout_(layout), range_(range), alpha_range_(full_range(layout)) {
  if (layout.format != SampleFormat::unsigned_integer || layout.bits > 16) return;
  scale_.resize(size_t{1} << layout.bits);
  for (size_t v = 0; v < scale_.size(); ++v) {
    scale_[v] =
        layout.kind == TiffKind::palette ? static_cast<uint8_t>(v) : level_of(static_cast<double>(v), range);
  }
}

void RowConverter::levels(const TiffRows& rows, int64_t count, int sample, const SampleRange& range,
                          uint8_t* out) const {
  if (!scale_.empty() && sample != layout_.alpha) {
    for_each_value(layout_, rows, count, sample, [&](size_t x, auto raw) {
      // The other types cannot come here.
      out[x] = scale_[static_cast<size_t>(raw) & (scale_.size() - 1)];
    });
    return;
  }
  for_each_value(layout_, rows, count, sample, [&](size_t x, auto raw) {
    const auto value = static_cast<double>(raw);
    out[x] = layout_.no_data && value == *layout_.no_data ? uint8_t{0} : level_of(value, range);
  });
}

void RowConverter::convert(const TiffRows& rows, int64_t count, uint8_t* out) {
  const TiffLayout& l = layout_;
  const auto n = static_cast<size_t>(count);
  const int colours = l.colours();
  planes_.resize(5 * n);
  const auto plane = [&](int i) { return planes_.data() + static_cast<size_t>(i) * n; };
  for (int i = 0; i < colours; ++i) levels(rows, count, i, range_, plane(i));
  if (l.alpha >= 0) levels(rows, count, l.alpha, alpha_range_, plane(4));
  const size_t channels = l.alpha >= 0 ? 4 : 3;
  const int flip = l.signed_ab ? 0 : 128;
  for (size_t x = 0; x < n; ++x, out += channels) {
    switch (l.kind) {
      case TiffKind::palette:
        std::copy_n(l.palette[plane(0)[x]].begin(), 3, out);
        break;
      case TiffKind::cmyk:
        cmyk_to_rgb(plane(0)[x], plane(1)[x], plane(2)[x], plane(3)[x], out);
        break;
      case TiffKind::lab:
        lab_to_rgb(plane(0)[x], static_cast<int8_t>(plane(1)[x] ^ flip),
                   static_cast<int8_t>(plane(2)[x] ^ flip), out);
        break;
      default:
        for (int c = 0; c < 3; ++c) {
          const uint8_t level = plane(colours == 3 ? c : 0)[x];
          out[c] = l.inverted ? static_cast<uint8_t>(255 - level) : level;
        }
    }
    if (l.alpha < 0) continue;
    const unsigned alpha = plane(4)[x];
    out[3] = static_cast<uint8_t>(alpha);
    if (!l.premultiplied || alpha == 255) continue;
    for (int c = 0; c < 3; ++c) {
      out[c] = alpha == 0 ? uint8_t{0} : static_cast<uint8_t>(std::min(255U, out[c] * 255U / alpha));
    }
  }
}

}  // namespace dino::imaging
