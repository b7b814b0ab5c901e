// SPDX-License-Identifier: Apache-2.0
#include "parallel/shard_plan.hpp"

#include <algorithm>

namespace dino {
namespace {

constexpr int64_t kPartAlignment = 16;

}  // namespace

ShardPlan::ShardPlan(const ParameterLayout& layout, int parts) : parts_(parts) {
  DINO_CHECK(parts >= 1, "a plan has parts");
  for (const UnitInfo& unit : layout.units()) {
    const int64_t lines = (unit.padded + kPartAlignment - 1) / kPartAlignment;
    part_.push_back((lines + parts - 1) / parts * kPartAlignment);
    length_.push_back(unit.padded);
  }
}

Range ShardPlan::range(int64_t unit, PartRange parts) const {
  const int64_t length = length_[static_cast<size_t>(unit)];
  const auto clipped = [&](int part) { return std::min(part * part_numel(unit), length); };
  return {clipped(parts.first), clipped(parts.first + parts.count)};
}

}  // namespace dino
