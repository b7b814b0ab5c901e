// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the teacher teaches (arXiv 2304.07193, section 4): Sinkhorn-Knopp or softmax centring of its logits,
// in f32. Logits over 10^5 prototypes can be the largest tensor of a step: they are kept whole, or made again
// for each block of rows that is read. Either way gives the same bits.

#include <cstdint>
#include <span>
#include <vector>

#include "ops/context.hpp"

namespace dino {

/// The targets of one head's rows on this rank. Lives in the arena's scope in which it is made.
class TeacherTargets {
 public:
  /// Kept: logits f32 [n, K], which become targets in place.
  explicit TeacherTargets(TensorView logits) : whole_(logits), prototypes_(logits.dim(1)) {}
  /// Made again: logits are the products of unit vectors f32 [n, D] and prototypes act [K, D], whose values
  /// may come later.
  TeacherTargets(const Context& c, ConstTensorView unit, ConstTensorView prototypes);

  [[nodiscard]] bool kept() const { return !of_prototypes_; }
  /// Logits or targets [n, K]; empty where they are made again.
  [[nodiscard]] TensorView whole() const { return whole_; }
  [[nodiscard]] int64_t rows() const { return kept() ? whole_.dim(0) : unit_.dim(0); }
  [[nodiscard]] int64_t prototypes() const { return prototypes_; }
  /// The targets f32 [count, K] of rows [first, first + count), at most logits_chunk_rows(K) of them; what is
  /// made again is valid until the next call. Only after sinkhorn() or SoftmaxCentre::targets().
  [[nodiscard]] ConstTensorView block(const Context& c, int64_t first, int64_t count) const;

 private:
  friend void sinkhorn(const Context& c, std::span<TeacherTargets* const> problems, double temperature,
                       int64_t iterations);
  friend class SoftmaxCentre;
  enum class Kind : uint8_t { logits, sinkhorn, softmax };

  [[nodiscard]] TensorView logits(const Context& c, int64_t first, int64_t count) const;
  /// E of the rows; of kept logits in place, once. `maxima` [count] receives the rows' largest logits.
  [[nodiscard]] TensorView exponentials(const Context& c, int64_t first, int64_t count,
                                        TensorView maxima) const;
  /// sums += E^T v, with v = 1 / (E u) where a u is known and as given at first.
  void add_columns(const Context& c, TensorView v, bool has_u, TensorView sums) const;
  void become_targets(const Context& c, TensorView block) const;
  void finish(const Context& c, Kind kind);

  TensorView whole_;                      ///< kept
  ConstTensorView unit_, of_prototypes_;  ///< made again: in `buffer_`, with one number a row in `row_`
  TensorView buffer_, row_;
  int64_t prototypes_ = 0;
  Kind kind_ = Kind::logits;
  float temperature_ = 1;
  TensorView u_;            ///< [K], of Sinkhorn
  ConstTensorView centre_;  ///< [K], of the softmax
};

/// Sinkhorn-Knopp over the rows of all ranks, for several independent problems at once: rows become targets
/// that sum to 1. A problem may have no row on some ranks, or on all.
///
/// With E = exp(x / T), the reference alternates two normalisations of Q = E and takes Q diag(column sums)^-1
/// at the end; neither the number of rows nor K survives. In scaling vectors (u over prototypes, v over
/// rows):
///   u_k = 1 / sum_b E_bk v_b   (over all ranks),   v_b = 1 / sum_k E_bk u_k,   Q_bk = E_bk u_k v_b,
/// v = 1 at first. One sum of all problems' K_p per iteration is the only reduction, and E is read (or made)
/// once per iteration. Each row is shifted by its own maximum m_b before the exponential, which v_b =
/// exp((m_b - M) / T), with M the maximum over all ranks, undoes at the start: no row can underflow.
void sinkhorn(const Context& c, std::span<TeacherTargets* const> problems, double temperature,
              int64_t iterations);

/// The running centre of softmax centring. A batch's mean is folded into the centre when the next batch is
/// about to use it (the reference reduces it in the background meanwhile):
///   targets_i = softmax((x_i - c_i) / T),   c_{i+1} = m c_i + (1 - m) mean(x_i).
class SoftmaxCentre {
 public:
  SoftmaxCentre() = default;
  /// Zeros, on the device that the logits will be on.
  SoftmaxCentre(int64_t prototypes, double momentum, Memory& memory);
  /// Logits become targets. The mean is over the `all_rows` rows of all ranks (the reference averages the
  /// ranks' means, which is the same for equal numbers of rows). A batch without rows anywhere changes
  /// nothing. Outlives what reads the targets.
  void targets(const Context& c, TeacherTargets& rows, int64_t all_rows, double temperature);
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

/// Logits f32 [R, K] of unit vectors f32 [R, bottleneck] and prototypes act [K, bottleneck]: operands of the
/// product are of the prototypes' dtype, its sums are f32. Returns the unit vectors as the product read them.
ConstTensorView prototype_logits(const Context& c, ConstTensorView unit, ConstTensorView prototypes,
                                 TensorView logits);

/// Rows of logits that are made at once, the teacher's or the student's (ops::BlockSizes; on a CPU up to 256,
/// fewer when they would pass 64 MiB, at least 64).
[[nodiscard]] int64_t logits_chunk_rows(const Context& c, int64_t prototypes);

}  // namespace dino
