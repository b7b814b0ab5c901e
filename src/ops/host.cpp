// SPDX-License-Identifier: Apache-2.0
#include "ops/host.hpp"

#include <algorithm>

namespace dino::ops {
namespace {

void check_range(const int64_t* indices, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i)
    DINO_CHECK(indices[i] >= 0 && indices[i] < limit,
               "row " + std::to_string(indices[i]) + " of " + std::to_string(limit));
}

void check_starts(const int64_t* starts, int64_t count, int64_t total) {
  DINO_CHECK(starts[0] == 0 && starts[count] == total,
             "starts end at " + std::to_string(starts[count]) + " of " + std::to_string(total));
  for (int64_t i = 0; i < count; ++i) DINO_CHECK(starts[i] <= starts[i + 1], "starts descend");
}

}  // namespace

HostRows::HostRows(ConstTensorView rows, int64_t limit) : rows_(rows ? rows.as<int64_t>() : nullptr) {
  check_range(rows_, rows.numel(), limit);
}

HostSequences::HostSequences(const Sequences& sequences)
    : starts_(sequences.starts.as<int64_t>()), count_(sequences.count()) {
  check_starts(starts_, count_, sequences.rows);
  for (int64_t s = 0; s < count_; ++s) longest_ = std::max(longest_, length(s));
  DINO_CHECK(longest_ == sequences.longest, "the longest sequence has " + std::to_string(longest_) +
                                                " rows, not " + std::to_string(sequences.longest));
}

void check_keys(const HostSequences& queries, const HostSequences& keys) {
  for (int64_t s = 0; s < keys.count(); ++s)
    DINO_CHECK(queries.length(s) == 0 || keys.length(s) > 0, "a query without keys");
}

HostSparse::HostSparse(const SparseRows& matrix, int64_t columns) : starts_(matrix.starts.as<int64_t>()) {
  const int64_t entries = matrix.columns.numel();
  check_starts(starts_, matrix.starts.numel() - 1, entries);
  if (entries == 0) return;
  columns_ = matrix.columns.as<int64_t>();
  weights_ = matrix.weights.as<float>();
  check_range(columns_, entries, columns);
}

}  // namespace dino::ops
