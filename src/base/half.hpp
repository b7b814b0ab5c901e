// SPDX-License-Identifier: Apache-2.0
#pragma once
// Conversions of 16-bit floats, scalar and portable; vector code has its own.

#include <bit>
#include <cstdint>

namespace dino {

/// bfloat16 as its bits. Rounds to nearest even; NaN stays NaN.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? static_cast<uint16_t>((u >> 16) | 0x40u)
                                           : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

/// IEEE binary16 bits -> float.
float half_to_float(uint16_t bits);
/// float -> IEEE binary16 bits, round to nearest even.
uint16_t float_to_half(float value);

/// IEEE binary16 as its bits. Rounds to nearest even: below 2^-14 to multiples of 2^-24, from 65520 on to
/// infinity; NaN stays NaN.
struct f16 {
  uint16_t bits = 0;
  f16() = default;
  explicit f16(float value) : bits(float_to_half(value)) {}
  explicit operator float() const { return half_to_float(bits); }
};

}  // namespace dino
