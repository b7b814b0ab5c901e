// SPDX-License-Identifier: Apache-2.0
#pragma once
// The loops over pixels behind resizing and augmentation: one table of them per instruction set, all with the
// same bits. Operations of colour work in place on interleaved RGB.

#include <cstdint>

namespace dino::imaging {

/// Bits behind the point of resampling weights: 32 - 8 of the pixel - 2 for the filter's overshoot.
constexpr int kWeightBits = 22;
/// Rows that a horizontal pass makes at once.
constexpr int kRowsAtOnce = 16;
/// Outputs of a row that it makes before it goes on to the next ones; a multiple of 16.
constexpr int64_t kColumnsAtOnce = 64;

/// Weights are also held in digits, for instructions that multiply bytes: w = d0 + 2^8 d1 + 2^16 d2 with
/// signed bytes. kDigits words hold those of kTapsAtOnce weights, one byte of each in a word.
constexpr int kDigits = 3;
constexpr int64_t kTapsAtOnce = 4;

/// Output sample i reads `count[i]` inputs from `first[i]` on, with weights at [i * stride], and 0 up to a
/// multiple of kTapsAtOnce; their digits at [i * stride / kTapsAtOnce * kDigits].
struct TapsView {
  int64_t outputs, stride;
  const int64_t *first, *count;
  const int32_t* weights;
  const uint32_t* digits;
  [[nodiscard]] const uint32_t* digits_of(int64_t i) const {
    return digits + i * (stride / kTapsAtOnce) * kDigits;
  }
};

struct PixelKernels {
  /// Horizontal pass of kRowsAtOnce rows of 1, 3 or 4 channels. `scratch`: columns_scratch() bytes.
  void (*columns)(const uint8_t* const* rows, int64_t channels, const TapsView& taps, uint8_t* scratch,
                  uint8_t* const* out);
  /// Vertical pass, output `at`: out[x] = the sum over its rows of weight times row[x], rounded to 8 bits.
  /// `rows` are as many as a multiple of kTapsAtOnce.
  void (*rows)(const uint8_t* const* rows, const TapsView& taps, int64_t at, int64_t samples, uint8_t* out);

  /// PIL's blend of a gray level with all samples.
  void (*blend_with_level)(uint8_t* samples, int64_t count, uint8_t level, float factor);
  void (*solarize)(uint8_t* samples, int64_t count, int threshold);
  int64_t (*sum_of_luma)(const uint8_t* rgb, int64_t pixels);
  /// PIL's blend of each pixel's gray with it.
  void (*saturate)(uint8_t* rgb, int64_t pixels, float factor);
  void (*turn_gray)(uint8_t* rgb, int64_t pixels);
  /// Through PIL's 8-bit HSV, the hue moved on by `shift` modulo 256.
  void (*turn_hue)(uint8_t* rgb, int64_t pixels, uint8_t shift);

  void (*to_floats)(const uint8_t* samples, int64_t count, float* out);
  /// out[x] = the sum over `count` rows of weight times row[x], in their order.
  void (*blur_rows)(const float* const* rows, const float* weights, int64_t count, int64_t samples,
                    float* out);
  /// out[x] = the sum over k of weight[k] times row[x + k step], in their order, rounded to 8 bits, halves to
  /// the even number.
  void (*blur_columns)(const float* row, const float* weights, int64_t count, int64_t step, int64_t samples,
                       uint8_t* out);
  /// plane[i] = (samples[i step] / 255 - mean) / deviation
  void (*normalise)(const uint8_t* samples, int64_t step, int64_t count, float mean, float deviation,
                    float* plane);
};

[[nodiscard]] const PixelKernels& pixel_kernels_baseline();
[[nodiscard]] const PixelKernels& pixel_kernels_avx2();
[[nodiscard]] const PixelKernels& pixel_kernels_avx512();
[[nodiscard]] const PixelKernels& pixel_kernels_avx512vnni();
/// Those of the CPU level in use.
[[nodiscard]] const PixelKernels& pixel_kernels();

[[nodiscard]] int64_t columns_scratch(int64_t channels, const TapsView& taps);

}  // namespace dino::imaging
