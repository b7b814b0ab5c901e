// SPDX-License-Identifier: Apache-2.0
#pragma once
// One f32 value per parameter element, of which this rank keeps some parts of the plan.

#include <cstdint>
#include <string_view>
#include <vector>

#include "parallel/shard_groups.hpp"
#include "tensor/tensor.hpp"

namespace dino {

class ShardedValues {
 public:
  /// Zeros. The layout, the plan and the groups must outlive the values.
  ShardedValues(const ParameterLayout& layout, const ShardPlan& plan, const ShardGroups& groups,
                PartRange held, Memory& memory);
  [[nodiscard]] const ParameterLayout& layout() const { return layout_; }
  [[nodiscard]] const ShardPlan& plan() const { return plan_; }
  [[nodiscard]] PartRange held() const { return held_; }
  [[nodiscard]] bool whole() const { return held_.count == plan_.parts(); }
  /// f32 [part_numel * held().count]: the unit's elements from plan().range(unit, held()).begin on.
  [[nodiscard]] TensorView unit(int64_t unit) { return units_[static_cast<size_t>(unit)]; }
  [[nodiscard]] ConstTensorView unit(int64_t unit) const { return units_[static_cast<size_t>(unit)]; }
  /// Of all that is held.
  [[nodiscard]] int64_t bytes() const;
  /// Parts that are held.
  [[nodiscard]] TensorView parts(int64_t unit, PartRange parts);
  /// The part that this rank answers for; without the zeros behind the unit's length.
  [[nodiscard]] Range own_range(int64_t unit) const;
  [[nodiscard]] TensorView own(int64_t unit);
  /// Of whole values.
  [[nodiscard]] TensorView view(std::string_view name);

  void zero(Stream& stream);
  /// From whole values on the host or the stream's device: what is held here.
  void set_unit(Stream& stream, int64_t unit, ConstTensorView whole);
  void copy_from(Stream& stream, const ParameterStore& whole);
  /// From the same held parts.
  void copy_from(Stream& stream, const ShardedValues& other);
  /// All ranks' own parts become what each of them holds. Collective.
  void share(Stream& stream);
  /// Whole values, on the host or the stream's device, from all ranks' own parts. Collective.
  void gather(Stream& stream, ParameterStore& whole) const;

 private:
  const ParameterLayout& layout_;
  const ShardPlan& plan_;
  const ShardGroups& groups_;
  PartRange held_;
  Memory* memory_;
  std::vector<Tensor> units_;
};

}  // namespace dino
