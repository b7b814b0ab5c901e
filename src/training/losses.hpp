// SPDX-License-Identifier: Apache-2.0
#pragma once
// The losses of DINOv2 (arXiv 2304.07193, section 4): cross-entropy against the teacher's targets (DINO on
// class tokens, iBOT on masked patches; targets.hpp), and the KoLeo regulariser. All in f32. Losses and
// gradients carry the weights of the global batch, so that their sums over ranks are its means; ranks may
// hold different numbers of rows.

#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <vector>

#include "ops/context.hpp"

namespace dino {

// ---- cross-entropy
// ----------------------------------------------------------------------------------------------------------

/// Consecutive rows of the student, and what each is taught.
struct TargetRows {
  int64_t first = 0;  ///< row of the student
  int64_t count = 0;
  /// f32 [n, K] of rows [begin, begin + n) of these, valid until the next call; empty: rows that are taught
  /// nothing, with loss and gradient 0.
  std::function<ConstTensorView(int64_t begin, int64_t n)> targets;

  [[nodiscard]] static TargetRows of(int64_t first, ConstTensorView targets) {
    return {first, targets.dim(0), [targets](int64_t begin, int64_t n) { return targets.rows(begin, n); }};
  }
};

/// loss[r] = CE(target_r, softmax(unit_r W^T / T)); d_unit (=) and d_prototypes (+=) are the gradients of
/// sum_r weight[r] loss[r], f32; on their way there, the logits' gradients are of the prototypes' dtype. The
/// student's logits exist in chunks of logits_chunk_rows() only. `segments` cover the rows of `unit` in
/// order, without gaps.
void prototype_cross_entropy(const Context& c, ConstTensorView unit, ConstTensorView prototypes,
                             std::span<const TargetRows> segments, double temperature, ConstTensorView weight,
                             TensorView loss, TensorView d_unit, TensorView d_prototypes);

/// Denominators of the DINO loss, as the reference: a mean over all (student crop, teacher view) pairs.
struct DinoTerms {
  int64_t local = 0, global = 2;
  explicit DinoTerms(int64_t local_crops) : local(local_crops > 0 ? 2 * local_crops : 1) {}
  [[nodiscard]] double total() const { return static_cast<double>(local + global); }
};

// ---- KoLeo
// ----------------------------------------------------------------------------------------------------------

/// How a batch is spread over the ranks: `counts[rank]` images each, the global batch being theirs rank by
/// rank.
struct BatchSplit {
  std::vector<int64_t> counts;
  int rank = 0;
  [[nodiscard]] int64_t own() const { return counts[static_cast<size_t>(rank)]; }
  [[nodiscard]] int64_t first() const {
    return std::accumulate(counts.begin(), counts.begin() + rank, int64_t{0});
  }
  [[nodiscard]] int64_t total() const { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }
};

/// f32 [views, N, D] of the global batch from this rank's [views, n, D]. Collective.
[[nodiscard]] TensorView gather_batch(const Context& c, ConstTensorView own, const BatchSplit& split);

/// -1/N sum_i log(min_j |x_i - x_j| + eps) of L2-normalised features over the batch of all ranks
/// (arXiv 1806.03198), for independent views of the same images. `batch` f32 [views, N, D]: the normalised
/// features of the global batch. Adds the terms of this rank's anchors to `loss` (f64 [1]; the sum over ranks
/// is the loss); d_unit f32 [views, n, D] (=): gradient with respect to this rank's normalised features,
/// times weight; a row collects the terms of all anchors, of any rank, whose neighbour it is, as in a single
/// process with the whole batch. `neighbours` i64 [views, N] receives each anchor's. Collective. With fewer
/// than two rows in all there is no neighbour: loss and gradient are 0. Rows that are equal but for rounding
/// (nearer than 1e-6) count as that far apart and push each other nowhere.
void koleo(const Context& c, ConstTensorView batch, const BatchSplit& split, double weight, TensorView loss,
           TensorView d_unit, TensorView neighbours);

}  // namespace dino
