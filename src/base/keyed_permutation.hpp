// SPDX-License-Identifier: Apache-2.0
#pragma once
// A shuffle of any length without a table: an element is computed where it is asked for.

#include <array>
#include <cstdint>

#include "base/random.hpp"

namespace dino {

/// A pseudo-random permutation of 0..n-1 drawn by (seed, stream, index). A Feistel network of Philox rounds
/// on the smallest even number of bits that holds n (Luby and Rackoff, SIAM J. Comput. 17, 1988), walked on
/// until the value lies below n (Black and Rogaway, CT-RSA 2002): four evaluations at most on average.
class KeyedPermutation {
 public:
  /// n >= 1.
  KeyedPermutation(int64_t n, uint64_t seed, RandomStream stream, uint64_t index);
  [[nodiscard]] int64_t size() const { return n_; }
  /// 0 <= i < n.
  [[nodiscard]] int64_t operator()(int64_t i) const;

 private:
  [[nodiscard]] uint64_t network(uint64_t value) const;
  int64_t n_;
  int half_bits_ = 1;
  std::array<uint32_t, 2> key_, tweak_;
};

}  // namespace dino
