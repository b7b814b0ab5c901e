// SPDX-License-Identifier: Apache-2.0
#pragma once
// Exact k nearest neighbours by inner product, and the DINO-weighted vote.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tensor/tensor.hpp"

namespace dino {

struct Neighbours {
  int64_t k = 0;
  std::vector<int64_t> index;     ///< [queries, k], best first; ties: the smaller index
  std::vector<float> similarity;  ///< [queries, k], ordered products (exact/ordered_gemm.hpp)
};

/// How candidates are found. The neighbours are the same bytes either way.
enum class NeighbourSearchBy : uint8_t {
  automatic,
  floats,  ///< every ordered product
  bytes,   ///< products of bytes exclude the rows that their bound keeps from the first k (byte_rows.hpp)
};

/// A search of a bank that streams past: memory is that of the queries, of k entries each, and of a slice of
/// the bank as bytes.
class NeighbourSearch {
 public:
  /// queries f32 [Q, d], which stay where they are until the end. `bytes` needs a CPU with units for them
  /// (exact::int8_unit()).
  NeighbourSearch(ConstTensorView queries, int64_t k, NeighbourSearchBy by = NeighbourSearchBy::automatic);
  ~NeighbourSearch();
  NeighbourSearch(NeighbourSearch&&) noexcept;
  NeighbourSearch& operator=(NeighbourSearch&&) noexcept;

  /// The next rows of the bank, f32 [n, d], needed during the call only. Uses all threads. DataError when the
  /// widths differ.
  void add(ConstTensorView rows);
  /// The best k of all rows added. UsageError when there are fewer.
  [[nodiscard]] Neighbours finish();
  /// Ordered products that were computed so far.
  [[nodiscard]] int64_t ordered_products() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// bank f32 [N, d], queries f32 [Q, d]; k <= N.
[[nodiscard]] Neighbours nearest(ConstTensorView bank, ConstTensorView queries, int64_t k,
                                 NeighbourSearchBy by = NeighbourSearchBy::automatic);

/// scores [Q, classes]: softmax(similarity / temperature) over all neighbours given, then the first `k` vote
/// (reference eval/knn.py).
[[nodiscard]] std::vector<float> weighted_vote(const Neighbours& neighbours, std::span<const int32_t> labels,
                                               int64_t classes, int64_t k, double temperature);

/// What the scores of weighted_vote say about each query, without the table of them.
struct VoteVerdicts {
  std::vector<int32_t> first;  ///< the class of the largest score; ties: the smaller class
  /// Classes that stand before the true one; -1 where the true class has no vote or is not known.
  std::vector<int32_t> before;
};
/// Verdicts for each of `ks` in one pass. labels: of bank rows; truth: of queries; a label outside
/// 0..classes-1 has no vote.
[[nodiscard]] std::vector<VoteVerdicts> vote_verdicts(const Neighbours& neighbours,
                                                      std::span<const int32_t> labels, int64_t classes,
                                                      std::span<const int64_t> ks, double temperature,
                                                      std::span<const int32_t> truth);

}  // namespace dino
