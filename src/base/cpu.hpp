// SPDX-License-Identifier: Apache-2.0
#pragma once
// What this CPU has. Kernels are chosen at run time. DINO_CPU=baseline|avx2|avx512|avx512bf16 lowers the
// choice (never raises it), so that tests can run every path that the machine has.

#include <cstdint>
#include <string>
#include <vector>

namespace dino {

enum class CpuLevel : int {
  baseline = 0,    ///< x86-64 SSE2
  avx2 = 1,        ///< AVX2, FMA, F16C
  avx512 = 2,      ///< AVX-512 F, BW, VL, DQ
  avx512bf16 = 3,  ///< + AVX512_BF16 (and VNNI)
};

/// The level in use: min(what the CPU has, DINO_CPU). Throws UsageError for an unknown DINO_CPU.
[[nodiscard]] CpuLevel cpu_level();
[[nodiscard]] bool cpu_has_vnni();  ///< AVX512_VNNI, and not lowered by DINO_CPU below avx512
/// AMX-INT8, that the system lets this process use (it asks when first called), and not lowered by DINO_CPU
/// below avx512bf16.
[[nodiscard]] bool cpu_has_amx_int8();
[[nodiscard]] bool cpu_has_bf16();  ///< bf16 dot-product instructions in use
/// Everything that may make another machine choose another instruction, one bit each, and more is better: the
/// levels up to the one in use, then VNNI, then AMX, which oneDNN uses by itself.
[[nodiscard]] uint32_t cpu_choices();
/// Only what is in `choices` as well may be used from now on (the ranks' common ones). Before anything is
/// computed. Does nothing when that is what is in use.
void limit_cpu_choices(uint32_t choices);
/// Whether limit_cpu_choices took something away: oneDNN must then not choose by itself.
[[nodiscard]] bool cpu_is_limited();
[[nodiscard]] const char* cpu_level_name(CpuLevel level);
/// All levels that this machine can run, lowest first (for tests).
[[nodiscard]] std::vector<CpuLevel> available_cpu_levels();
/// Tests only: overrides cpu_level(); must be an available one.
void set_cpu_level(CpuLevel level);

}  // namespace dino
