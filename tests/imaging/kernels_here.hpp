// SPDX-License-Identifier: Apache-2.0
#pragma once
// The kernels over pixels that this machine can run.

#include <utility>
#include <vector>

#include "base/cpu.hpp"
#include "imaging/pixel_kernels.hpp"

namespace dino::testing {

/// With their names, the baseline first.
inline std::vector<std::pair<const char*, const imaging::PixelKernels*>> pixel_kernels_here() {
  std::vector<std::pair<const char*, const imaging::PixelKernels*>> kernels = {
      {"baseline", &imaging::pixel_kernels_baseline()}};
  const CpuLevel best = available_cpu_levels().back();
  if (best >= CpuLevel::avx2) kernels.emplace_back("avx2", &imaging::pixel_kernels_avx2());
  if (best >= CpuLevel::avx512) kernels.emplace_back("avx512", &imaging::pixel_kernels_avx512());
  if (best >= CpuLevel::avx512 && cpu_has_vnni())
    kernels.emplace_back("avx512vnni", &imaging::pixel_kernels_avx512vnni());
  return kernels;
}

}  // namespace dino::testing
