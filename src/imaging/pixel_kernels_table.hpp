// SPDX-License-Identifier: Apache-2.0
#pragma once
// The kernels, compiled once per instruction set: loops that the compiler turns into vector instructions.
// They call no function of the standard library, which the linker could take from here for callers on other
// CPUs.

#include <immintrin.h>

#include "imaging/pixel_kernels.hpp"

namespace dino::imaging {
namespace {

/// Pixels that the operations of colour take apart at once.
constexpr int kBlock = 64;

// ---- resampling
// ---------------------------------------------------------------------------------------------------------

inline uint8_t to_8_bits(int32_t sum) {
  const int32_t value = sum >> kWeightBits;
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

/// to[j][r] = from[r][j] of 16 x 16 bytes.
inline void transpose(const uint8_t* const* from, int64_t at, uint8_t* to) {
  __m128i a[16], b[16];
  for (int r = 0; r < 16; ++r) a[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from[r] + at));
  // Four rounds of interleaving row i with row i + 8.
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  for (int j = 0; j < 16; ++j) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16 * j), a[j]);
}

/// Samples [at, at + count) of 16 rows, sample by sample; the rows may end there.
inline void gather_columns(const uint8_t* const* rows, int64_t at, int64_t count, uint8_t* to) {
  int64_t j = 0;
  for (; j + 16 <= count; j += 16) transpose(rows, at + j, to + 16 * j);
  for (; j < count; ++j)
    for (int r = 0; r < 16; ++r) to[16 * j + r] = rows[r][at + j];
}

/// The other way round: out[r][at + j] = from[j][r].
inline void scatter_columns(const uint8_t* from, int64_t count, uint8_t* const* out, int64_t at) {
  int64_t j = 0;
  for (; j + 16 <= count; j += 16) {
    const uint8_t* rows[16];
    uint8_t turned[256];
    for (int i = 0; i < 16; ++i) rows[i] = from + 16 * (j + i);
    transpose(rows, 0, turned);
    for (int r = 0; r < 16; ++r)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out[r] + at + j),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(turned + 16 * r)));
  }
  for (; j < count; ++j)
    for (int r = 0; r < 16; ++r) out[r][at + j] = from[16 * j + r];
}

#if defined(__AVX512VNNI__)

/// Sums of 64 samples, digit by digit of the weights. The samples stand in the order in which bytes of four
/// rows interleave, which levels() undoes.
struct DigitSums {
  __m512i of[kDigits][4] = {};

  void add(const uint8_t* const* rows, int64_t at, const uint32_t* digits) {
    const auto row = [&](int k) { return _mm512_loadu_si512(rows[k] + at); };
    const __m512i a = row(0), b = row(1), c = row(2), d = row(3);
    const __m512i ab = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
    const __m512i cd = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
    const __m512i fours[4] = {_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd),
                              _mm512_unpacklo_epi16(ab_high, cd_high),
                              _mm512_unpackhi_epi16(ab_high, cd_high)};
    for (int digit = 0; digit < kDigits; ++digit) {
      const __m512i of_weights = _mm512_set1_epi32(static_cast<int>(digits[digit]));
      for (int q = 0; q < 4; ++q) of[digit][q] = _mm512_dpbusd_epi32(of[digit][q], fours[q], of_weights);
    }
  }
  [[nodiscard]] __m512i levels() const {
    using Words = int32_t __attribute__((vector_size(64)));
    const auto words = [](__m512i digits) { return reinterpret_cast<Words>(digits); };
    __m512i whole[4];
    for (int q = 0; q < 4; ++q) {
      const Words sum = (words(of[2][q]) << 16) + (words(of[1][q]) << 8) + words(of[0][q]);
      whole[q] = reinterpret_cast<__m512i>((sum + (1 << (kWeightBits - 1))) >> kWeightBits);
    }
    return _mm512_packus_epi16(_mm512_packs_epi32(whole[0], whole[1]),
                               _mm512_packs_epi32(whole[2], whole[3]));
  }
};

/// Output x of 16 rows and all channels. Reads 64 bytes at a time, whatever they are behind the last tap.
template <int kChannels>
inline void one_column(const uint8_t* samples, const TapsView& taps, int64_t x, uint8_t* to) {
  constexpr int64_t kSamples = 16 * kChannels;
  const uint32_t* digits = taps.digits_of(x);
  DigitSums sums;
  for (int64_t i = 0; i < taps.count[x]; i += kTapsAtOnce, digits += kDigits) {
    const uint8_t* four[kTapsAtOnce];
    for (int64_t k = 0; k < kTapsAtOnce; ++k) four[k] = samples + (i + k) * kSamples;
    sums.add(four, 0, digits);
  }
  _mm512_mask_storeu_epi8(to, ~uint64_t{0} >> (64 - kSamples), sums.levels());
}

#else

/// Output x of 16 rows and all channels.
template <int kChannels>
inline void one_column(const uint8_t* samples, const TapsView& taps, int64_t x, uint8_t* to) {
  constexpr int kSamples = 16 * kChannels;
  const int32_t* weights = taps.weights + x * taps.stride;
  int32_t sums[kSamples];
  for (int32_t& sum : sums) sum = 1 << (kWeightBits - 1);
  for (int64_t i = 0; i < taps.count[x]; ++i, samples += kSamples) {
    const int32_t weight = weights[i];
    for (int j = 0; j < kSamples; ++j) sums[j] += samples[j] * weight;
  }
  for (int j = 0; j < kSamples; ++j) to[j] = to_8_bits(sums[j]);
}

#endif

template <int kChannels>
void columns_of(const uint8_t* const* rows, const TapsView& taps, uint8_t* scratch, uint8_t* const* out) {
  uint8_t* made = scratch;
  uint8_t* read = scratch + kColumnsAtOnce * kChannels * 16;
  for (int64_t begin = 0; begin < taps.outputs; begin += kColumnsAtOnce) {
    const int64_t end = begin + kColumnsAtOnce < taps.outputs ? begin + kColumnsAtOnce : taps.outputs;
    const int64_t from = taps.first[begin], to = taps.first[end - 1] + taps.count[end - 1];
    gather_columns(rows, from * kChannels, (to - from) * kChannels, read);
    for (int64_t x = begin; x < end; ++x)
      one_column<kChannels>(read + (taps.first[x] - from) * kChannels * 16, taps, x,
                            made + (x - begin) * kChannels * 16);
    scatter_columns(made, (end - begin) * kChannels, out, begin * kChannels);
  }
}

void columns(const uint8_t* const* rows, int64_t channels, const TapsView& taps, uint8_t* scratch,
             uint8_t* const* out) {
  if (channels == 1) return columns_of<1>(rows, taps, scratch, out);
  if (channels == 3) return columns_of<3>(rows, taps, scratch, out);
  columns_of<4>(rows, taps, scratch, out);
}

/// kBlock samples of output `at`.
inline void block_of_rows(const uint8_t* const* from, const TapsView& taps, int64_t at, int64_t x,
                          uint8_t* out) {
#if defined(__AVX512VNNI__)
  const uint32_t* digits = taps.digits_of(at);
  DigitSums sums;
  for (int64_t i = 0; i < taps.count[at]; i += kTapsAtOnce, digits += kDigits) sums.add(from + i, x, digits);
  _mm512_storeu_si512(out + x, sums.levels());
#else
  const int32_t* weights = taps.weights + at * taps.stride;
  int32_t sums[kBlock];
  for (int32_t& sum : sums) sum = 1 << (kWeightBits - 1);
  for (int64_t i = 0; i < taps.count[at]; ++i) {
    const uint8_t* row = from[i] + x;
    const int32_t weight = weights[i];
    for (int j = 0; j < kBlock; ++j) sums[j] += row[j] * weight;
  }
  for (int j = 0; j < kBlock; ++j) out[x + j] = to_8_bits(sums[j]);
#endif
}

void rows(const uint8_t* const* from, const TapsView& taps, int64_t at, int64_t samples, uint8_t* out) {
  const int32_t* weights = taps.weights + at * taps.stride;
  const int64_t count = taps.count[at];
  int64_t x = 0;
  for (; x + kBlock <= samples; x += kBlock) block_of_rows(from, taps, at, x, out);
  for (; x < samples; ++x) {
    int32_t sum = 1 << (kWeightBits - 1);
    for (int64_t i = 0; i < count; ++i) sum += from[i][x] * weights[i];
    out[x] = to_8_bits(sum);
  }
}

// ---- colour
// -------------------------------------------------------------------------------------------------------------

/// PIL's "L": ITU-R 601-2 luma in 16-bit fixed point.
inline int luma(int r, int g, int b) {
  return static_cast<int>((static_cast<uint32_t>(r) * 19595U + static_cast<uint32_t>(g) * 38470U +
                           static_cast<uint32_t>(b) * 7471U + 0x8000U) >>
                          16);
}

/// PIL's Image.blend(a, b, alpha) for one sample: in f32, truncated.
inline uint8_t blend(int a, int b, float alpha) {
  const float value = static_cast<float>(a) + alpha * static_cast<float>(b - a);
  return static_cast<uint8_t>(static_cast<int>(value <= 0.0F ? 0.0F : value >= 255.0F ? 255.0F : value));
}

void blend_with_level(uint8_t* samples, int64_t count, uint8_t level, float factor) {
  for (int64_t i = 0; i < count; ++i) samples[i] = blend(level, samples[i], factor);
}

void solarize(uint8_t* samples, int64_t count, int threshold) {
  for (int64_t i = 0; i < count; ++i) {
    const int value = samples[i];
    samples[i] = static_cast<uint8_t>(value >= threshold ? 255 - value : value);
  }
}

/// kBlock pixels taken apart.
struct Pixels {
  int32_t r[kBlock], g[kBlock], b[kBlock];
};

inline void take_apart(const uint8_t* rgb, Pixels& p) {
  for (int i = 0; i < kBlock; ++i) {
    p.r[i] = rgb[3 * i];
    p.g[i] = rgb[3 * i + 1];
    p.b[i] = rgb[3 * i + 2];
  }
}

inline void put_together(const Pixels& p, uint8_t* rgb) {
  for (int i = 0; i < kBlock; ++i) {
    rgb[3 * i] = static_cast<uint8_t>(p.r[i]);
    rgb[3 * i + 1] = static_cast<uint8_t>(p.g[i]);
    rgb[3 * i + 2] = static_cast<uint8_t>(p.b[i]);
  }
}

/// body(Pixels&) of all pixels, the last ones with filling.
template <class Body>
inline void for_pixels(uint8_t* rgb, int64_t pixels, const Body& body) {
  Pixels p;
  int64_t i = 0;
  for (; i + kBlock <= pixels; i += kBlock) {
    take_apart(rgb + 3 * i, p);
    body(p);
    put_together(p, rgb + 3 * i);
  }
  if (i == pixels) return;
  uint8_t last[3 * kBlock] = {};
  const int64_t left = 3 * (pixels - i);
  for (int64_t j = 0; j < left; ++j) last[j] = rgb[3 * i + j];
  take_apart(last, p);
  body(p);
  put_together(p, last);
  for (int64_t j = 0; j < left; ++j) rgb[3 * i + j] = last[j];
}

int64_t sum_of_luma(const uint8_t* rgb, int64_t pixels) {
  int64_t sum = 0, i = 0;
  Pixels p;
  for (; i + kBlock <= pixels; i += kBlock) {
    take_apart(rgb + 3 * i, p);
    int32_t of_block = 0;
    for (int j = 0; j < kBlock; ++j) of_block += luma(p.r[j], p.g[j], p.b[j]);
    sum += of_block;
  }
  for (; i < pixels; ++i) sum += luma(rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]);
  return sum;
}

void saturate(uint8_t* rgb, int64_t pixels, float factor) {
  for_pixels(rgb, pixels, [factor](Pixels& p) {
    for (int i = 0; i < kBlock; ++i) {
      const int gray = luma(p.r[i], p.g[i], p.b[i]);
      p.r[i] = blend(gray, p.r[i], factor);
      p.g[i] = blend(gray, p.g[i], factor);
      p.b[i] = blend(gray, p.b[i], factor);
    }
  });
}

void turn_gray(uint8_t* rgb, int64_t pixels) {
  for_pixels(rgb, pixels, [](Pixels& p) {
    for (int i = 0; i < kBlock; ++i) p.r[i] = p.g[i] = p.b[i] = luma(p.r[i], p.g[i], p.b[i]);
  });
}

/// PIL's 8-bit RGB -> HSV: hue in h, saturation in s; the value is the largest. PIL divides (high - channel)
/// by the spread for all three; of the largest channel that is 0, of the smallest 1, and only the one between
/// them needs the division. Its sums and products are rounded here as there, or to no other result: the test
/// goes through all colours.
inline void to_hue(const Pixels& p, int32_t* h, int32_t* s, int32_t* v) {
  for (int i = 0; i < kBlock; ++i) {
    const int r = p.r[i], g = p.g[i], b = p.b[i];
    const int rg = r > g ? r : g, least_rg = r < g ? r : g;
    const int high = rg > b ? rg : b, low = least_rg < b ? least_rg : b;
    const int spread = high - low, middle = r + g + b - high - low;
    const auto range = static_cast<float>(spread == 0 ? 1 : spread);
    const float saturation = range / static_cast<float>(high == 0 ? 1 : high);
    const float between = static_cast<float>(high - middle) / range;
    // Sixths of the circle: of red, green or blue, and on from there or back.
    const float whole = r == high   ? (b == low ? 1.0F : -1.0F)
                        : g == high ? (r == low ? 3.0F : 1.0F)
                                    : (r == low ? 3.0F : 5.0F);
    const bool is_back = r == high ? b == low : g == high ? r == low : r != low;
    const float sector = whole + (is_back ? -between : between);
    // fmod(h / 6 + 1, 1): the argument lies in [5/6, 11/6).
    const double turn = static_cast<double>(sector) * (1.0 / 6.0) + 1.0;
    const auto hue = static_cast<float>(turn >= 1.0 ? turn - 1.0 : turn);
    h[i] = spread == 0 ? 0 : static_cast<int>(static_cast<double>(hue) * 255.0);
    s[i] = spread == 0 ? 0 : static_cast<int>(static_cast<double>(saturation) * 255.0);
    v[i] = high;
  }
}

/// n / 255 as a float, for 0 <= n <= 255.
inline double of_255(int32_t n) {
  return static_cast<double>(static_cast<float>(static_cast<double>(n) * (1.0 / 255.0)));
}

/// PIL's 8-bit HSV -> RGB.
inline void from_hue(const int32_t* h, const int32_t* s, const int32_t* v, Pixels& p) {
  for (int i = 0; i < kBlock; ++i) {
    const int32_t at = 6 * h[i];
    const int32_t sector = (at + 1 + (at >> 8)) >> 8;  // at / 255
    const double f = of_255(at - 255 * sector);
    const double saturation = of_255(s[i]);
    const double value = v[i];
    const int high = v[i];
    const int low = static_cast<int>(value * (1.0 - saturation) + 0.5);
    const int falling = static_cast<int>(value * (1.0 - saturation * f) + 0.5);
    const int rising = static_cast<int>(value * (1.0 - saturation * (1.0 - f)) + 0.5);
    const int k = sector == 6 ? 0 : sector;
    p.r[i] = k == 0 || k == 5 ? high : k == 1 ? falling : k == 4 ? rising : low;
    p.g[i] = k == 1 || k == 2 ? high : k == 0 ? rising : k == 3 ? falling : low;
    p.b[i] = k == 3 || k == 4 ? high : k == 2 ? rising : k == 5 ? falling : low;
  }
}

void turn_hue(uint8_t* rgb, int64_t pixels, uint8_t shift) {
  for_pixels(rgb, pixels, [shift](Pixels& p) {
    int32_t h[kBlock], s[kBlock], v[kBlock];
    to_hue(p, h, s, v);
    for (int32_t& hue : h) hue = (hue + shift) & 255;
    from_hue(h, s, v, p);
  });
}

// ---- blur, normalisation
// ------------------------------------------------------------------------------------------------

// As wide as the registers, so that sums stay in them.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
using Floats = float __attribute__((vector_size(4 * kLanes)));
using LooseFloats = float __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
constexpr int kSums = 4 * kLanes;

/// to[j] = sum over k of weight[k] times from(k)[j], kSums of them.
template <class From>
inline void weighted_sums(const From& from, const float* weights, int64_t count, float* to) {
  Floats sums[4] = {};
  for (int64_t k = 0; k < count; ++k) {
    const float* row = from(k);
    for (int j = 0; j < 4; ++j)
      sums[j] += weights[k] * *reinterpret_cast<const LooseFloats*>(row + j * kLanes);
  }
  for (int j = 0; j < 4; ++j) *reinterpret_cast<LooseFloats*>(to + j * kLanes) = sums[j];
}

void to_floats(const uint8_t* samples, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(samples[i]);
}

void blur_rows(const float* const* from, const float* weights, int64_t count, int64_t samples, float* out) {
  int64_t x = 0;
  for (; x + kSums <= samples; x += kSums)
    weighted_sums([&](int64_t k) { return from[k] + x; }, weights, count, out + x);
  for (; x < samples; ++x) {
    float sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += weights[k] * from[k][x];
    out[x] = sum;
  }
}

/// Of a sum of levels with weights that sum to 1. Adding 1.5 x 2^23 leaves no bit behind the point.
inline uint8_t to_level(float sum) {
  const float rounded = (sum + 12582912.0F) - 12582912.0F;
  return static_cast<uint8_t>(static_cast<int>(rounded < 0.0F ? 0.0F : rounded > 255.0F ? 255.0F : rounded));
}

void blur_columns(const float* row, const float* weights, int64_t count, int64_t step, int64_t samples,
                  uint8_t* out) {
  int64_t x = 0;
  for (; x + kSums <= samples; x += kSums) {
    float sums[kSums];
    weighted_sums([&](int64_t k) { return row + x + k * step; }, weights, count, sums);
    for (int j = 0; j < kSums; ++j) out[x + j] = to_level(sums[j]);
  }
  for (; x < samples; ++x) {
    float sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += weights[k] * row[x + k * step];
    out[x] = to_level(sum);
  }
}

void normalise(const uint8_t* samples, int64_t step, int64_t count, float mean, float deviation,
               float* plane) {
  const auto one = [&](uint8_t sample) { return (static_cast<float>(sample) / 255.0F - mean) / deviation; };
  if (step == 3)
    for (int64_t i = 0; i < count; ++i) plane[i] = one(samples[3 * i]);
  else
    for (int64_t i = 0; i < count; ++i) plane[i] = one(samples[step * i]);
}

constexpr PixelKernels kKernels = {columns,   rows,     blend_with_level, solarize,  sum_of_luma,  saturate,
                                   turn_gray, turn_hue, to_floats,        blur_rows, blur_columns, normalise};

}  // namespace
}  // namespace dino::imaging
