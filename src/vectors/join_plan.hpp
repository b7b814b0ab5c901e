// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who joins which inverted list when, and the exchange of the rows for it.

#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"

namespace dino {

/// Rows of one rank by list: as owned rows (their best list) and as visitors (their other lists).
struct ListMembers {
  std::vector<int64_t> own_begin, own;      ///< own[own_begin[l] .. own_begin[l + 1]) = local rows, ascending
  std::vector<int64_t> visit_begin, visit;  ///< the same for visitors
  /// From [n, probes] lists, best first; -1 = no visit.
  static ListMembers group(const std::vector<int32_t>& lists_of, int64_t probes, int64_t lists);
};

/// The same on every rank. Lists go to ranks by falling cost (longest processing time first); a round is as
/// many lists of each rank as fit a budget of memory and of a few seconds of work, the most that a stop
/// undoes.
struct JoinPlan {
  std::vector<int> owner;      ///< [lists]
  std::vector<int32_t> round;  ///< [lists]; -1: was done by an earlier start
  int32_t rounds = 0;
  double pairs = 0;  ///< compared, over all lists
  [[nodiscard]] std::vector<int64_t> lists_of(int rank, int32_t in_round) const;
  /// `done` [lists], or empty.
  static JoinPlan make(const ListMembers& members, int64_t lists, int64_t stride,
                       const std::vector<uint8_t>& done, const Communicator& comm);
};

/// Row-major keys that decide about pairs: leading coordinates and rest norm, or the rows themselves.
struct Keys {
  const float* data = nullptr;
  int64_t stride = 0;
};

/// One list, gathered from all ranks: global rows in ascending order, and their keys side by side.
struct GatheredList {
  std::vector<int64_t> own, visit;
  std::vector<float> own_keys, visit_keys;  ///< [own or visit, stride]
};

/// The lists that this rank joins in `round`, by ascending list number. Collective.
[[nodiscard]] std::vector<GatheredList> gather_lists(const JoinPlan& plan, int32_t round,
                                                     const ListMembers& members, const Keys& keys,
                                                     int64_t first_row, const Communicator& comm);

}  // namespace dino
