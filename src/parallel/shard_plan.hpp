// SPDX-License-Identifier: Apache-2.0
#pragma once
// How units are split over ranks: the one rule, which checkpoints follow too.

#include <cstdint>
#include <vector>

#include "base/names.hpp"
#include "comm/communicator.hpp"
#include "model/parameters.hpp"

namespace dino {

/// What every rank keeps whole, and what it keeps a part of (ZeRO, arXiv 1910.02054; fully sharded data
/// parallelism, arXiv 2304.11277):
///  replicate  all of everything;
///  optimizer  AdamW's moments in parts;
///  gradients  gradients too, summed in every micro-batch;
///  full       weights of student and teacher too, gathered unit by unit when they are computed with;
///  hybrid     as full within groups of ranks (a node), which are replicas of each other.
enum class Strategy : uint8_t { replicate, optimizer, gradients, full, hybrid };
constexpr auto names_of(Strategy) {
  return std::to_array<Named<Strategy>>({{"replicate", Strategy::replicate},
                                         {"optimizer", Strategy::optimizer},
                                         {"gradients", Strategy::gradients},
                                         {"full", Strategy::full},
                                         {"hybrid", Strategy::hybrid}});
}

/// Consecutive parts of the plan.
struct PartRange {
  int first = 0, count = 0;
};

/// A unit's buffer is cut into equal parts, one for each rank, of a multiple of 16 floats: collectives work
/// in place, and no parameter's cache line is shared. Beyond the unit's own length the buffer is zero.
class ShardPlan {
 public:
  ShardPlan(const ParameterLayout& layout, int parts);
  [[nodiscard]] int parts() const { return parts_; }
  [[nodiscard]] int64_t part_numel(int64_t unit) const { return part_[static_cast<size_t>(unit)]; }
  [[nodiscard]] int64_t buffer_numel(int64_t unit) const { return part_numel(unit) * parts_; }
  /// The unit's elements [begin, end) in these parts; without the zeros behind its length.
  [[nodiscard]] Range range(int64_t unit, PartRange parts) const;

 private:
  int parts_;
  std::vector<int64_t> part_, length_;
};

}  // namespace dino
