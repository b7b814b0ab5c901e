// SPDX-License-Identifier: Apache-2.0
#pragma once
// What this CPU has. Kernels are chosen at run time. DINO_CPU=baseline|avx2|avx512|avx512bf16 lowers the
// choice (never raises it), so that tests can run every path that the machine has.

#include <string>
#include <vector>

namespace dino {

enum class CpuLevel : int {
  baseline = 0,    ///< x86-64 SSE2
  avx2 = 1,        ///< AVX2 + FMA
  avx512 = 2,      ///< AVX-512 F, BW, VL, DQ
  avx512bf16 = 3,  ///< + AVX512_BF16 (and VNNI)
};

/// The level in use: min(what the CPU has, DINO_CPU). Throws UsageError for an unknown DINO_CPU.
[[nodiscard]] CpuLevel cpu_level();
[[nodiscard]] bool cpu_has_vnni();  ///< AVX512_VNNI, and not lowered by DINO_CPU below avx512
[[nodiscard]] bool cpu_has_bf16();  ///< bf16 dot-product instructions in use
[[nodiscard]] const char* cpu_level_name(CpuLevel level);
/// All levels that this machine can run, lowest first (for tests).
[[nodiscard]] std::vector<CpuLevel> available_cpu_levels();
/// Tests only: overrides cpu_level(); must be an available one.
void set_cpu_level(CpuLevel level);

}  // namespace dino
