// SPDX-License-Identifier: Apache-2.0
// Resampling by the kernels of every instruction set against a plain sum.
#include "imaging/pixel_kernels.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/random.hpp"
#include "kernels_here.hpp"

namespace dino {
namespace {

using imaging::kDigits;
using imaging::kRowsAtOnce;
using imaging::kTapsAtOnce;
using imaging::kWeightBits;
using imaging::TapsView;

/// Drawn weights of up to 1.3, as those of bicubic filters at borders, also below zero; each output's sum to
/// what overflows nothing.
struct DrawnTaps {
  DrawnTaps(int64_t outputs, int64_t inputs, int64_t most, Random& random) {
    stride = (most + kTapsAtOnce - 1) / kTapsAtOnce * kTapsAtOnce;
    weights.assign(static_cast<size_t>(outputs * stride), 0);
    int64_t end = 0;
    for (int64_t i = 0; i < outputs; ++i) {
      // Neither begins nor ends before the one before it does.
      first.push_back((inputs - most) * i / outputs);
      end = std::max(end, first.back() + 1 + static_cast<int64_t>(random.below(static_cast<uint64_t>(most))));
      count.push_back(end - first.back());
      for (int64_t k = 0; k < count.back(); ++k)
        weights[static_cast<size_t>(i * stride + k)] = static_cast<int32_t>(
            (random.uniform() * 1.6 - 0.3) * (1 << kWeightBits) / (k == 0 ? 1.0 : static_cast<double>(most)));
    }
    digits.assign(weights.size() / kTapsAtOnce * kDigits, 0);
    for (size_t i = 0; i < weights.size(); ++i) {
      int64_t rest = weights[i];
      for (size_t d = 0; d < kDigits; ++d) {
        const auto digit = static_cast<int8_t>(static_cast<uint8_t>(rest & 255));
        digits[i / kTapsAtOnce * kDigits + d] |= static_cast<uint32_t>(static_cast<uint8_t>(digit))
                                                 << 8 * (i % kTapsAtOnce);
        rest = (rest - digit) / 256;
      }
      EXPECT_EQ(rest, 0) << weights[i];
    }
  }
  [[nodiscard]] TapsView view() const {
    return {static_cast<int64_t>(first.size()),
            stride,
            first.data(),
            count.data(),
            weights.data(),
            digits.data()};
  }
  int64_t stride = 0;
  std::vector<int64_t> first, count;
  std::vector<int32_t> weights;
  std::vector<uint32_t> digits;
};

uint8_t level_of(int64_t sum) {
  return static_cast<uint8_t>(std::clamp<int64_t>((sum + (1 << (kWeightBits - 1))) >> kWeightBits, 0, 255));
}

std::vector<uint8_t> drawn_bytes(int64_t count, Random& random) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.below(256));
  return bytes;
}

TEST(PixelKernels, ColumnsAreWeightedSums) {
  for (const int64_t channels : {1, 3, 4})
    for (const int64_t most : {1, 4, 7, 30})
      for (const int64_t outputs : {1, 17, 64, 150}) {
        SCOPED_TRACE(::testing::Message() << channels << " channels, " << most << " taps, " << outputs);
        Random random(1, RandomStream::synthetic,
                      static_cast<uint64_t>(channels * 10000 + most * 200 + outputs));
        const int64_t inputs = outputs + most + 3, bytes = inputs * channels;
        const DrawnTaps taps(outputs, inputs, most, random);
        const std::vector<uint8_t> source = drawn_bytes(kRowsAtOnce * bytes, random);
        for (const auto& [name, kernels] : testing::pixel_kernels_here()) {
          std::vector<uint8_t> scratch(static_cast<size_t>(columns_scratch(channels, taps.view())));
          std::vector<uint8_t> made(static_cast<size_t>(kRowsAtOnce * outputs * channels));
          const uint8_t* from[kRowsAtOnce];
          uint8_t* to[kRowsAtOnce];
          for (int64_t r = 0; r < kRowsAtOnce; ++r) {
            from[r] = source.data() + r * bytes;
            to[r] = made.data() + r * outputs * channels;
          }
          kernels->columns(from, channels, taps.view(), scratch.data(), to);
          for (int64_t r = 0; r < kRowsAtOnce; ++r)
            for (int64_t i = 0; i < outputs * channels; ++i) {
              const auto x = static_cast<size_t>(i / channels);
              int64_t sum = 0;
              for (int64_t k = 0; k < taps.count[x]; ++k)
                sum += int64_t{from[r][(taps.first[x] + k) * channels + i % channels]} *
                       taps.weights[x * static_cast<size_t>(taps.stride) + static_cast<size_t>(k)];
              ASSERT_EQ(to[r][i], level_of(sum)) << name << ", row " << r << ", sample " << i;
            }
        }
      }
}

TEST(PixelKernels, RowsAreWeightedSums) {
  for (const int64_t most : {1, 4, 7, 30})
    for (const int64_t samples : {1, 63, 64, 200}) {
      SCOPED_TRACE(::testing::Message() << most << " taps, " << samples << " samples");
      constexpr int64_t kOutputs = 5;
      Random random(2, RandomStream::synthetic, static_cast<uint64_t>(most * 1000 + samples));
      const DrawnTaps taps(kOutputs, kOutputs + most, most, random);
      const std::vector<uint8_t> source = drawn_bytes(taps.stride * samples, random);
      std::vector<const uint8_t*> from(static_cast<size_t>(taps.stride));
      for (size_t k = 0; k < from.size(); ++k) from[k] = source.data() + k * static_cast<size_t>(samples);
      for (const auto& [name, kernels] : testing::pixel_kernels_here())
        for (int64_t y = 0; y < kOutputs; ++y) {
          std::vector<uint8_t> out(static_cast<size_t>(samples));
          kernels->rows(from.data(), taps.view(), y, samples, out.data());
          for (int64_t x = 0; x < samples; ++x) {
            int64_t sum = 0;
            for (int64_t k = 0; k < taps.count[static_cast<size_t>(y)]; ++k)
              sum += int64_t{from[static_cast<size_t>(k)][x]} *
                     taps.weights[static_cast<size_t>(y * taps.stride + k)];
            ASSERT_EQ(out[static_cast<size_t>(x)], level_of(sum)) << name << ", output " << y;
          }
        }
    }
}

}  // namespace
}  // namespace dino
