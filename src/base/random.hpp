// SPDX-License-Identifier: Apache-2.0
#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11). A draw is a pure function of (seed,
// stream, index, n), so no state is saved, and nothing depends on the number of ranks or threads.

#include <array>
#include <cstdint>
#include <vector>

namespace dino {

/// What a stream of draws is for; a new purpose gets a new number, and numbers are never reused.
enum class RandomStream : uint32_t {
  init = 1,        ///< parameter initialisation; index = parameter
  shuffle = 2,     ///< sample order; index = epoch
  augment = 3,     ///< crops of a sample; index = global sample counter
  masks = 4,       ///< iBOT masks; index = step
  drop_path = 5,   ///< stochastic depth; index = step
  kmeans = 6,      ///< centroid seeding
  sampling = 7,    ///< balanced sampling
  probe = 8,       ///< linear probes
  bootstrap = 9,   ///< confidence intervals
  split = 10,      ///< data set splits
  render = 11,     ///< synthetic views
  synthetic = 12,  ///< benchmark inputs
  resample = 13,   ///< resampling inside hierarchical k-means
  spoil = 14,      ///< corruptions of pictures; index = picture and kind
  test = 1000,
};

/// The ten-round Philox4x32 block function.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// Sequential draws from the stream (seed, stream, index). Cheap to construct: make one per sample or per
/// step.
class Random {
 public:
  Random(uint64_t seed, RandomStream stream, uint64_t index);

  uint32_t u32();
  uint64_t u64();
  /// Uniform in [0, 1) with 24 random bits.
  float uniform();
  /// Uniform in [0, 1) with 53 random bits.
  double uniform_double();
  /// Uniform in [low, high).
  double uniform(double low, double high) { return low + (high - low) * uniform_double(); }
  /// Uniform integer in [0, n), n >= 1, without modulo bias.
  uint64_t below(uint64_t n);
  bool bernoulli(double probability) { return uniform_double() < probability; }
  /// Standard normal (Box-Muller; one value per two draws).
  double normal();

 private:
  std::array<uint32_t, 2> key_;
  uint32_t stream_;
  uint64_t index_;
  uint32_t block_ = 0;
  int used_ = 4;
  std::array<uint32_t, 4> buffer_{};
};

/// Uniform random permutation of 0..n-1 (Fisher-Yates).
std::vector<int64_t> permutation(Random& random, int64_t n);

}  // namespace dino
