// SPDX-License-Identifier: Apache-2.0
#include "base/keyed_permutation.hpp"

#include "base/error.hpp"

namespace dino {
namespace {

/// More than the four that a large domain needs: in one of a few bits each round mixes little.
constexpr uint32_t kRounds = 10;

}  // namespace

KeyedPermutation::KeyedPermutation(int64_t n, uint64_t seed, RandomStream stream, uint64_t index) : n_(n) {
  DINO_CHECK(n >= 1, "a permutation of nothing");
  while (half_bits_ < 31 && (uint64_t{1} << (2 * half_bits_)) < static_cast<uint64_t>(n)) ++half_bits_;
  DINO_CHECK((uint64_t{1} << (2 * half_bits_)) >= static_cast<uint64_t>(n), "a permutation of 2^62 at most");
  // The network's key is a draw of the stream, so that no other use of (seed, stream, index) shares it.
  Random random(seed, stream, index);
  key_ = {random.u32(), random.u32()};
  tweak_ = {random.u32(), random.u32()};
}

uint64_t KeyedPermutation::network(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_, right = value & mask;
  for (uint32_t round = 0; round < kRounds; ++round) {
    const auto mixed = philox4x32({static_cast<uint32_t>(right), round, tweak_[0], tweak_[1]}, key_);
    const uint64_t next = left ^ (mixed[0] & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

int64_t KeyedPermutation::operator()(int64_t i) const {
  DINO_CHECK(i >= 0 && i < n_, "an index outside of the permutation");
  auto value = static_cast<uint64_t>(i);
  do value = network(value);
  while (value >= static_cast<uint64_t>(n_));
  return static_cast<int64_t>(value);
}

}  // namespace dino
