// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inside vectors/ only: what a join leaves on its way. Lists and rows have the same numbers for any number of
// ranks, so that a later start takes up what ranks of an earlier one have done, whatever their number.

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "vectors/join.hpp"
#include "vectors/partial.hpp"

namespace dino {

class JoinJournal {
 public:
  /// Reads what earlier starts with the same fingerprint left in `folder`; an empty name keeps nothing.
  /// Collective.
  JoinJournal(std::string folder, std::string fingerprint, const Communicator& comm);

  /// The trained centroids, the same on every rank; empty when there are none yet.
  [[nodiscard]] const std::vector<float>& centroids() const { return centroids_; }
  void keep_centroids(const std::vector<float>& centroids);

  /// Copies the lists of rows [first, first + known.size()) that are known; lists [n, probes].
  void recall_lists(int64_t first, int64_t probes, std::vector<int32_t>& lists,
                    std::vector<uint8_t>& known) const;
  /// Rows [first, first + count) have these lists.
  void keep_lists(int64_t first, int64_t count, int64_t probes, const int32_t* lists);

  /// [lists] 1 where an earlier start has joined the list, the same on every rank; empty when none.
  /// Collective.
  [[nodiscard]] std::vector<uint8_t> joined(int64_t lists) const;
  /// The edges of those lists: each on one rank.
  [[nodiscard]] const std::vector<Edge>& edges() const { return edges_; }
  void keep_edges(const std::vector<int64_t>& lists, const std::vector<Edge>& edges);

  /// Writes what is not written yet.
  void flush();
  /// All lists are joined: the same where that took long enough to be worth a file.
  void settle();

 private:
  struct Rows {
    int64_t first = 0, count = 0;
    std::vector<int32_t> lists;
  };
  void write(const std::string& name, const PartialState& state);
  void read(const std::vector<std::string>& names);
  void take_edges(const PartialState& state);

  std::string folder_, fingerprint_;
  const Communicator& comm_;
  int64_t start_ = 0, written_ = 0;  ///< files of this start have names of their own
  std::vector<float> centroids_;
  std::vector<std::string> row_files_;
  std::vector<int64_t> joined_;  ///< by the files that this rank read
  std::vector<Edge> edges_;
  // What is not written yet.
  std::vector<Rows> new_rows_;
  std::vector<int64_t> new_lists_;
  std::vector<Edge> new_edges_;
  WritePace pace_;
};

}  // namespace dino
