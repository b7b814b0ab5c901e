// SPDX-License-Identifier: Apache-2.0
#include "base/random.hpp"

#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace dino {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint64_t kMul0 = 0xD2511F53u;
  constexpr uint64_t kMul1 = 0xCD9E8D57u;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = kMul0 * counter[0];
    const uint64_t p1 = kMul1 * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

Random::Random(uint64_t seed, RandomStream stream, uint64_t index)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
      stream_(static_cast<uint32_t>(stream)),
      index_(index) {}

uint32_t Random::u32() {
  if (used_ == 4) {
    buffer_ = philox4x32(
        {block_, stream_, static_cast<uint32_t>(index_), static_cast<uint32_t>(index_ >> 32)}, key_);
    ++block_;
    used_ = 0;
  }
  return buffer_[static_cast<size_t>(used_++)];
}

uint64_t Random::u64() {
  const uint64_t low = u32();
  return low | (static_cast<uint64_t>(u32()) << 32);
}

float Random::uniform() {
  return static_cast<float>(u32() >> 8) * 0x1.0p-24f;
}

double Random::uniform_double() {
  return static_cast<double>(u64() >> 11) * 0x1.0p-53;
}

uint64_t Random::below(uint64_t n) {
  // Rejection keeps every value equally likely.
  const uint64_t limit = ~uint64_t{0} - (~uint64_t{0} % n + 1) % n;
  uint64_t value = u64();
  while (value > limit) value = u64();
  return value % n;
}

double Random::normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform_double()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform_double());
}

std::vector<int64_t> permutation(Random& random, int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t i = n - 1; i > 0; --i) {
    std::swap(order[static_cast<size_t>(i)],
              order[static_cast<size_t>(random.below(static_cast<uint64_t>(i) + 1))]);
  }
  return order;
}

}  // namespace dino
