// SPDX-License-Identifier: Apache-2.0
#pragma once
// What tells a healthy run from a collapsing one: statistics of the teacher's targets and of the features.

#include <cstdint>
#include <span>
#include <vector>

#include "ops/context.hpp"

namespace dino {

/// Of the DINO targets f32 [rows, K] of all ranks, `all_rows` of them. Adds this rank's part of the sum over
/// rows of -sum_k t_k log t_k to `entropy` (f64 [1]); of_mean f64 [2] (=, the same on all ranks): the entropy
/// of the mean target, and the share of prototypes that are the largest of some row. Collective.
void target_health(const Context& c, ConstTensorView targets, int64_t all_rows, TensorView entropy,
                   TensorView of_mean);

/// The effective rank is RankMe's (arXiv 2210.02885, equations 1 and 2): exp(-sum_k p_k ln p_k), p_k =
/// sigma_k / sum_j sigma_j of the singular values of features; no mean is subtracted there either. It departs
/// from RankMe in this: at most kRankRows rows, evenly spaced, not 25,600 images, so it lies in [1,
/// kRankRows] and is compared over steps of one run alone; rows are L2-normalised backbone class tokens of
/// the training's own crops; and what f32 products cannot tell from 0 counts as 0, in place of an epsilon
/// that is added to p_k. Here their products f32 [n, n], in the context's arena; then, on the host, what
/// follows from them.
constexpr int64_t kRankRows = 128;
[[nodiscard]] TensorView spaced_products(const Context& c, ConstTensorView unit);
[[nodiscard]] double effective_rank(std::span<const float> products, int64_t n);

}  // namespace dino
