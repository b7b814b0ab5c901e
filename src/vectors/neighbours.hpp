// SPDX-License-Identifier: Apache-2.0
#pragma once
// Exact k nearest neighbours by inner product, and the DINO-weighted vote.

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.hpp"

namespace dino {

struct Neighbours {
  int64_t k = 0;
  std::vector<int64_t> index;     ///< [queries, k], best first; ties: the smaller index
  std::vector<float> similarity;  ///< [queries, k]
};
/// bank f32 [N, d], queries f32 [Q, d]; k <= N.
[[nodiscard]] Neighbours nearest(ConstTensorView bank, ConstTensorView queries, int64_t k);

/// scores [Q, classes]: softmax(similarity / temperature) over all neighbours given, then the first `k` vote
/// (reference eval/knn.py).
[[nodiscard]] std::vector<float> weighted_vote(const Neighbours& neighbours, std::span<const int32_t> labels,
                                               int64_t classes, int64_t k, double temperature);

}  // namespace dino
