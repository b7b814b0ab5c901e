// SPDX-License-Identifier: Apache-2.0
#include "imaging/pixel_kernels.hpp"

#include <algorithm>

#include "base/cpu.hpp"

namespace dino::imaging {

const PixelKernels& pixel_kernels() {
  const CpuLevel level = cpu_level();
  if (level >= CpuLevel::avx512) return cpu_has_vnni() ? pixel_kernels_avx512vnni() : pixel_kernels_avx512();
  return level >= CpuLevel::avx2 ? pixel_kernels_avx2() : pixel_kernels_baseline();
}

int64_t columns_scratch(int64_t channels, const TapsView& taps) {
  int64_t widest = 0;
  for (int64_t x = 0; x < taps.outputs; x += kColumnsAtOnce) {
    const int64_t last = std::min(x + kColumnsAtOnce, taps.outputs) - 1;
    widest = std::max(widest, taps.first[last] + taps.count[last] - taps.first[x]);
  }
  // Whole blocks of 16 samples are turned, and the results of one block of outputs; and what is read behind
  // the last one with weights of 0, 64 bytes at a time.
  return ((widest * channels + 15) / 16 * 16 + (kColumnsAtOnce + kTapsAtOnce) * channels) * kRowsAtOnce + 64;
}

}  // namespace dino::imaging
