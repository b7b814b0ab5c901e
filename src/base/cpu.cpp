// SPDX-License-Identifier: Apache-2.0
#include "base/cpu.hpp"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string_view>

#include "base/error.hpp"

namespace dino {
namespace {

constexpr CpuLevel kLevels[] = {CpuLevel::baseline, CpuLevel::avx2, CpuLevel::avx512, CpuLevel::avx512bf16};

CpuLevel detect() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 &&
                    __builtin_cpu_supports("f16c") != 0;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") != 0 &&
                      __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
                      __builtin_cpu_supports("avx512dq") != 0;
  const bool bf16 =
      avx512 && __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
  if (bf16) return CpuLevel::avx512bf16;
  if (avx512) return CpuLevel::avx512;
  return avx2 ? CpuLevel::avx2 : CpuLevel::baseline;
}

CpuLevel from_environment() {
  const CpuLevel best = detect();
  const char* wanted = std::getenv("DINO_CPU");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (const CpuLevel level : kLevels) {
    if (std::string_view(wanted) == cpu_level_name(level)) return std::min(best, level);
  }
  throw UsageError(std::string("bad environment: DINO_CPU: '") + wanted +
                   "' is not a CPU level; use baseline, avx2, avx512 or avx512bf16");
}

constexpr uint32_t kVnni = 1u << 8, kAmx = 1u << 9;

bool has_amx() {
  // Leaf 7: AMX-BF16 is bit 22 of edx, AMX-TILE bit 24, AMX-INT8 bit 25.
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 &&
         (edx & (1u << 22 | 1u << 24 | 1u << 25)) != 0;
}

/// Linux gives a process the registers of AMX when it asks for them; for all of its threads.
bool may_use_amx_int8() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // asm/prctl.h: ARCH_REQ_XCOMP_PERM
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr uint32_t kTileAndInt8 = 1u << 24 | 1u << 25;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kTileAndInt8) == kTileAndInt8 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::atomic<bool> limited{false}, without_vnni{false};

/// -1 = not yet chosen. Several threads may choose at once; they choose the same.
std::atomic<int> chosen{-1};

}  // namespace

CpuLevel cpu_level() {
  int level = chosen.load(std::memory_order_relaxed);
  if (level < 0) {
    level = static_cast<int>(from_environment());
    chosen.store(level, std::memory_order_relaxed);
  }
  return static_cast<CpuLevel>(level);
}

bool cpu_has_vnni() {
  static const bool has = __builtin_cpu_supports("avx512vnni") != 0;
  return has && !without_vnni.load(std::memory_order_relaxed) && cpu_level() >= CpuLevel::avx512;
}

bool cpu_has_amx_int8() {
  static const bool has = may_use_amx_int8();
  return has && cpu_has_vnni() && cpu_has_bf16();
}

uint32_t cpu_choices() {
  uint32_t choices = (2u << static_cast<uint32_t>(cpu_level())) - 1;
  if (cpu_has_vnni()) choices |= kVnni;
  if (cpu_has_bf16() && has_amx()) choices |= kAmx;
  return choices;
}

void limit_cpu_choices(uint32_t choices) {
  const uint32_t mine = cpu_choices(), common = mine & choices;
  if (common == mine) return;
  limited = true;
  without_vnni = (common & kVnni) == 0;
  const int level = 31 - __builtin_clz((common & 0xf) | 1u);
  chosen.store(level, std::memory_order_relaxed);
}

bool cpu_is_limited() {
  return limited.load(std::memory_order_relaxed);
}

bool cpu_has_bf16() {
  return cpu_level() >= CpuLevel::avx512bf16;
}

const char* cpu_level_name(CpuLevel level) {
  switch (level) {
    case CpuLevel::baseline:
      return "baseline";
    case CpuLevel::avx2:
      return "avx2";
    case CpuLevel::avx512:
      return "avx512";
    case CpuLevel::avx512bf16:
      return "avx512bf16";
  }
  return "?";
}

std::vector<CpuLevel> available_cpu_levels() {
  std::vector<CpuLevel> levels;
  const CpuLevel best = detect();
  for (const CpuLevel level : kLevels) {
    if (level <= best) levels.push_back(level);
  }
  return levels;
}

void set_cpu_level(CpuLevel level) {
  DINO_CHECK(level <= detect(), std::string("this CPU has no ") + cpu_level_name(level));
  chosen.store(static_cast<int>(level), std::memory_order_relaxed);
}

}  // namespace dino
