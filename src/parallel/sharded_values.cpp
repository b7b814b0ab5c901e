// SPDX-License-Identifier: Apache-2.0
#include "parallel/sharded_values.hpp"

#include "base/error.hpp"

namespace dino {

ShardedValues::ShardedValues(const ParameterLayout& layout, const ShardPlan& plan, const ShardGroups& groups,
                             PartRange held, Memory& memory)
    : layout_(layout), plan_(plan), groups_(groups), held_(held), memory_(&memory) {
  const auto count = static_cast<int64_t>(layout.units().size());
  for (int64_t unit = 0; unit < count; ++unit)
    units_.emplace_back(Shape{plan.part_numel(unit) * held.count}, DType::f32, memory);
}

int64_t ShardedValues::bytes() const {
  int64_t bytes = 0;
  for (const Tensor& unit : units_) bytes += unit.bytes();
  return bytes;
}

TensorView ShardedValues::parts(int64_t unit, PartRange parts) {
  DINO_CHECK(parts.first >= held_.first && parts.first + parts.count <= held_.first + held_.count,
             "parts that another rank holds");
  const int64_t length = plan_.part_numel(unit);
  return this->unit(unit).rows((parts.first - held_.first) * length, parts.count * length);
}

Range ShardedValues::own_range(int64_t unit) const {
  return plan_.range(unit, {groups_.own_part(), 1});
}

TensorView ShardedValues::own(int64_t unit) {
  return parts(unit, {groups_.own_part(), 1}).rows(0, own_range(unit).size());
}

TensorView ShardedValues::view(std::string_view name) {
  DINO_CHECK(whole(), "a parameter of values in parts");
  const ParameterInfo& info = layout_.find(name);
  return unit(info.unit).rows(info.offset, info.shape.numel()).reshaped(info.shape);
}

void ShardedValues::zero(Stream& stream) {
  for (Tensor& unit : units_) fill(stream, unit, 0);
}

void ShardedValues::copy_from(Stream& stream, const ParameterStore& whole) {
  const auto count = static_cast<int64_t>(units_.size());
  for (int64_t i = 0; i < count; ++i) set_unit(stream, i, whole.unit(i));
}

void ShardedValues::set_unit(Stream& stream, int64_t index, ConstTensorView whole) {
  const Range range = plan_.range(index, held_);
  copy(stream, unit(index).rows(0, range.size()), whole.rows(range.begin, range.size()));
}

void ShardedValues::copy_from(Stream& stream, const ShardedValues& other) {
  DINO_CHECK(held_.first == other.held_.first && held_.count == other.held_.count, "other parts are held");
  for (size_t i = 0; i < units_.size(); ++i) copy(stream, units_[i], other.units_[i]);
}

void ShardedValues::share(Stream& stream) {
  const auto count = static_cast<int64_t>(units_.size());
  for (int64_t i = 0; i < count; ++i) {
    if (held_.count == 1) continue;
    const PartRange shard = groups_.shard();
    if (shard.count > 1) stream.wait(groups_.replicas().all_gather(stream, parts(i, shard)));
    if (whole()) stream.wait(groups_.shard_ranks().all_gather(stream, unit(i)));
  }
}

void ShardedValues::gather(Stream& stream, ParameterStore& whole) const {
  const auto count = static_cast<int64_t>(units_.size());
  const PartRange shard = groups_.shard();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t length = plan_.part_numel(i);
    Tensor all(Shape{plan_.buffer_numel(i)}, DType::f32, *memory_);
    copy(stream, all.view().rows(groups_.own_part() * length, length),
         unit(i).rows((groups_.own_part() - held_.first) * length, length));
    stream.wait(
        groups_.replicas().all_gather(stream, all.view().rows(shard.first * length, shard.count * length)));
    stream.wait(groups_.shard_ranks().all_gather(stream, all));
    copy(stream, whole.unit(i), all.view().rows(0, whole.unit(i).numel()));
    stream.synchronize();
  }
}

}  // namespace dino
