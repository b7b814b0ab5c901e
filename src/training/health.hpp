// SPDX-License-Identifier: Apache-2.0
#pragma once
// What tells a healthy run from a collapsing one: statistics of the teacher's targets and of the features.

#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"
#include "ops/ops.hpp"
#include "tensor/tensor.hpp"
#include "training/losses.hpp"

namespace dino {

/// Of the DINO targets of all ranks, K prototypes.
struct TargetHealth {
  double mean_entropy = 0;     ///< mean over rows of -sum_k t_k log t_k
  double entropy_of_mean = 0;  ///< of the mean target; minus mean_entropy = the information
  double usage = 0;            ///< fraction of prototypes that are the argmax of some row
};
/// targets f32 [rows, K]. Collective; the same result on all ranks.
[[nodiscard]] TargetHealth target_health(ConstTensorView targets, const Communicator& comm, Arena& arena,
                                         ops::Backend& backend);

struct FeatureHealth {
  double std = 0;  ///< mean over dimensions of the standard deviation of the unit rows, times sqrt(D): 1 for
                   ///< features spread evenly over the sphere, 0 for a collapse
  double effective_rank = 0;
};
/// Of the unit rows of all ranks. The effective rank is exp(entropy of the
/// singular values, normalised to sum 1) of at most kRankRows rows of the first view, evenly spaced over the
/// batch (no mean is subtracted, as RankMe, arXiv 2210.02885): it lies in [1, kRankRows].
[[nodiscard]] FeatureHealth feature_health(const GatheredRows& unit, Arena& arena, ops::Backend& backend);
constexpr int64_t kRankRows = 128;

/// Eigenvalues of a symmetric n x n matrix (row-major; only the lower triangle is read), ascending:
/// Householder's reduction to tridiagonal form, then bisection on Sturm counts.
[[nodiscard]] std::vector<double> symmetric_eigenvalues(std::vector<double> matrix, int64_t n);

}  // namespace dino
