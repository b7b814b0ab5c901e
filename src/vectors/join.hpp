// SPDX-License-Identifier: Apache-2.0
#pragma once
// Threshold join: all pairs of unit vectors with cosine >= threshold where one row visits the list that owns
// the other. Visits that can find nothing new are left out. The edges are the same bytes for any number of
// ranks and threads: lists come from a fixed sample trained in a fixed order, and every similarity is an
// ordered product of the given rows. Most pairs are excluded by an exact bound that costs a fraction of the
// product (vectors/leading.hpp).

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "tensor/tensor.hpp"

namespace dino {

struct Edge {
  int64_t source = 0, target = 0;  ///< global rows, source < target
  float similarity = 0;            ///< cosine
};

struct JoinConfig {
  double threshold = 0.95;
  int64_t lists = 0;  ///< inverted lists; 0 = one up to 32,768 rows (no pair is missed), then about sqrt(N)
  /// Lists that a row is compared with where they may hold a pair (1 = its own only). Visits that can find
  /// nothing cost their assignment alone, so that a few too many are cheap; all lists find all pairs.
  int64_t probes = 8;
  int64_t train_per_list = 32;
  int64_t train_iterations = 6;
  /// DataError beyond: a threshold too low for the data, or rows that repeat. Every rank holds all edges, 24
  /// bytes each and about three times that while they are sorted.
  int64_t max_edges = 100'000'000;
  uint64_t seed = 0;
  /// A folder in which the ranks keep what is done; a later call with the same rows and settings goes on
  /// there, on any number of ranks, to the same edges. Removed by the caller (remove_partial). Empty = none.
  std::string state;
};

struct JoinResult {
  std::vector<Edge> edges;                ///< all of them on every rank, sorted by (source, target)
  std::map<std::string, double> seconds;  ///< train, assign, join
  int64_t lists = 0;
  double multiply_adds = 0;  ///< of the products that were needed, over all ranks
};

/// Self-join of rows laid out contiguously over ranks (even_range): `local` holds this rank's rows, already
/// normalised, f32 [n, d]. Collective. When a stop is requested all ranks throw the Error of exit code 75
/// within one list, or a few that take seconds together.
[[nodiscard]] JoinResult threshold_self_join(ConstTensorView local, int64_t total_rows,
                                             const JoinConfig& config, const Communicator& comm);

/// Pairs between this rank's rows and a small reference set held by every rank (decontamination), exhaustive:
/// source = global row, target = reference row. When a stop is requested the rest is left undone: the caller
/// asks.
[[nodiscard]] std::vector<Edge> threshold_cross_join(ConstTensorView local, int64_t first_row,
                                                     ConstTensorView reference, double threshold);

/// The exhaustive oracle: every pair at or above the threshold; for tests and audits.
[[nodiscard]] std::vector<Edge> brute_force_join(ConstTensorView rows, double threshold);

}  // namespace dino
