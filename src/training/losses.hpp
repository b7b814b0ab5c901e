// SPDX-License-Identifier: Apache-2.0
#pragma once
// The losses of DINOv2 (arXiv 2304.07193, section 4): cross-entropy against the teacher's targets (DINO on
// class tokens, iBOT on masked patches), Sinkhorn-Knopp or softmax centring of the teacher, and the KoLeo
// regulariser. All in f32. Losses and gradients carry the weights of the global batch, so that their sums
// over ranks are its means; ranks may hold different numbers of rows.

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "ops/context.hpp"

namespace dino {

// ---- the teacher's targets
// ----------------------------------------------------------------------------------------------------------

/// Sinkhorn-Knopp over the rows of all ranks, for several independent problems at once. In: logits [n_p, K_p]
/// f32; out: targets, whose rows sum to 1. n_p may be 0 on some ranks, or on all.
///
/// With E = exp(x / T), the reference alternates two normalisations of Q = E and takes Q diag(column sums)^-1
/// at the end; neither the number of rows nor K survives. In scaling vectors (u over prototypes, v over
/// rows):
///   u_k = 1 / sum_b E_bk v_b   (over all ranks),   v_b = 1 / sum_k E_bk u_k,   Q_bk = E_bk u_k v_b,
/// v = 1 at first. One sum of all problems' K_p per iteration is the only reduction, and E is read once per
/// iteration. Each row is shifted by its own maximum m_b before the exponential, which v_b = exp((m_b - M) /
/// T), with M the maximum over all ranks, undoes at the start: no row can underflow.
void sinkhorn(const Context& c, std::span<const TensorView> problems, double temperature, int64_t iterations);

/// The running centre of softmax centring. A batch's mean is folded into the centre when the next batch is
/// about to use it (the reference reduces it in the background meanwhile):
///   targets_i = softmax((x_i - c_i) / T),   c_{i+1} = m c_i + (1 - m) mean(x_i).
class SoftmaxCentre {
 public:
  SoftmaxCentre() = default;
  /// Zeros, on the device that the logits will be on.
  SoftmaxCentre(int64_t prototypes, double momentum, Memory& memory);
  /// Logits [n, K] -> targets, in place. The mean is over the `all_rows` rows of all ranks (the reference
  /// averages the ranks' means, which is the same for equal numbers of rows). A batch without rows anywhere
  /// changes nothing.
  void targets(const Context& c, TensorView logits, int64_t all_rows, double temperature);
  /// What checkpoints keep: the centre, and the last batch's mean, not folded in yet.
  struct State {
    std::vector<double> centre, pending;
  };
  [[nodiscard]] State state(Stream& stream) const;
  void restore(Stream& stream, const State& state);

 private:
  double momentum_ = 0.9;
  Tensor centre_, pending_;  ///< f32 [K]
};

// ---- cross-entropy
// ----------------------------------------------------------------------------------------------------------

/// Consecutive rows of the student that share a block of targets.
struct TargetRows {
  int64_t first = 0;        ///< row of the student
  ConstTensorView targets;  ///< f32 [count, K]
};

/// Logits f32 [R, K] of unit vectors f32 [R, bottleneck] and prototypes act [K, bottleneck]: operands of the
/// product are of the prototypes' dtype, its sums are f32. Returns the unit vectors as the product read them.
ConstTensorView prototype_logits(const Context& c, ConstTensorView unit, ConstTensorView prototypes,
                                 TensorView logits);

/// loss[r] = CE(target_r, softmax(unit_r W^T / T)); d_unit (=) and d_prototypes (+=) are the gradients of
/// sum_r weight[r] loss[r], f32; on their way there, the logits' gradients are of the prototypes' dtype. The
/// student's logits exist in chunks of rows only. `segments` cover the rows of
/// `unit` in order, without gaps.
void prototype_cross_entropy(const Context& c, ConstTensorView unit, ConstTensorView prototypes,
                             std::span<const TargetRows> segments, double temperature, ConstTensorView weight,
                             TensorView loss, TensorView d_unit, TensorView d_prototypes);
/// Rows of such a chunk: up to 256, fewer when their logits would pass 64 MiB, at least 64 (fewer rows would
/// read the prototypes too often).
[[nodiscard]] int64_t logits_chunk_rows(int64_t prototypes);

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
