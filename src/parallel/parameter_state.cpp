// SPDX-License-Identifier: Apache-2.0
#include "parallel/parameter_state.hpp"

#include "base/error.hpp"
#include "base/timing.hpp"

namespace dino {
namespace {

/// Reductions in buffers of their own that are under way at once, of either kind.
constexpr size_t kReductions = 2;

/// A shard's length is a multiple of 16: as many rows, which threads share.
TensorView as_rows(TensorView shard) {
  return shard.reshaped({16, shard.numel() / 16});
}

}  // namespace

ParameterState::ParameterState(const ParameterLayout& layout, Strategy strategy, int64_t hybrid_ranks,
                               DType reduce, const Context& c)
    : layout_(layout),
      c_(c),
      groups_(strategy, hybrid_ranks, c.collective),
      plan_(layout, groups_.parts()),
      buffers_(c.ops.memory()),
      student_(layout, plan_, groups_, groups_.weights(), c.ops.memory()),
      teacher_(layout, plan_, groups_, groups_.weights(), c.ops.memory()),
      gradients_(layout, plan_, groups_, groups_.gradients(), c.ops.memory()),
      m_(layout, plan_, groups_, groups_.moments(), c.ops.memory()),
      v_(layout, plan_, groups_, groups_.moments(), c.ops.memory()),
      student_weights_(student_, groups_, c, buffers_),
      teacher_weights_(teacher_, groups_, c, buffers_),
      reduce_(reduce) {}

void ParameterState::begin_step() {
  DINO_CHECK(open_.empty() && scatters_.empty() && sums_.empty() && sums_in_place_.empty(),
             "a step within a step");
  gradients_.zero(c_.stream);
}

UnitGradient ParameterState::gradient(int64_t unit) {
  const int64_t length = layout_.units()[static_cast<size_t>(unit)].padded;
  if (groups_.gradients_whole()) return UnitGradient(gradients_.unit(unit).rows(0, length));
  DINO_CHECK(!open_.contains(unit), "a gradient is finished before it is begun again");
  Tensor& buffer = open_.emplace(unit, buffers_.take(plan_.buffer_numel(unit))).first->second;
  fill(c_.stream, buffer, 0);
  return UnitGradient(buffer.view().rows(0, length));
}

Tensor ParameterState::outgoing(int64_t unit) {
  const bool held = groups_.gradients_whole();
  Tensor whole;
  if (!held) {
    auto node = open_.extract(unit);
    DINO_CHECK(!node.empty(), "a gradient that was not begun");
    whole = std::move(node.mapped());
    if (reduce_ == DType::f32) return whole;
  }
  Tensor rounded = buffers_.take(plan_.buffer_numel(unit), reduce_);
  c_.ops.convert(c_.stream, held ? gradients_.unit(unit) : whole.view(), rounded);
  if (!held) buffers_.give_back(std::move(whole));
  return rounded;
}

void ParameterState::scatter(int64_t unit) {
  while (scatters_.size() >= kReductions) retire_scatter();
  Reduction& next = scatters_.emplace_back(Reduction{unit, outgoing(unit), {}, last_pass_});
  next.done = groups_.shard_ranks().reduce_scatter(c_.stream, next.buffer);
}

void ParameterState::retire_scatter() {
  Reduction reduction = std::move(scatters_.front());
  scatters_.pop_front();
  c_.stream.wait(reduction.done);
  const TensorView held = gradients_.unit(reduction.unit);
  const int64_t count = reduction.buffer.numel() / groups_.shard_ranks().size();
  const int64_t begin = groups_.shard_ranks().rank() * count;
  const TensorView sum = reduction.buffer.view().rows(begin, count);
  if (groups_.gradients_whole())
    c_.ops.convert(c_.stream, sum, held.rows(begin, count));
  else
    c_.ops.scaled_index_add(c_.stream, as_rows(held), as_rows(sum), {}, 1.0F, {});
  buffers_.give_back(std::move(reduction.buffer));
  if (!groups_.gradients_whole() && reduction.last) sum_replicas(reduction.unit);
}

void ParameterState::sum_replicas(int64_t unit) {
  if (groups_.replicas().size() == 1) return;
  const TensorView held = gradients_.unit(unit);
  if (reduce_ == DType::f32) {
    sums_in_place_.push_back(groups_.replicas().all_reduce(c_.stream, held));
    return;
  }
  while (sums_.size() >= kReductions) retire_sum();
  Reduction& next = sums_.emplace_back(Reduction{unit, buffers_.take(held.numel(), reduce_), {}, true});
  c_.ops.convert(c_.stream, held, next.buffer);
  next.done = groups_.replicas().all_reduce(c_.stream, next.buffer);
}

void ParameterState::retire_sum() {
  Reduction reduction = std::move(sums_.front());
  sums_.pop_front();
  c_.stream.wait(reduction.done);
  c_.ops.convert(c_.stream, reduction.buffer, gradients_.unit(reduction.unit));
  buffers_.give_back(std::move(reduction.buffer));
}

void ParameterState::finish_gradient(int64_t unit) {
  if (groups_.parts() == 1 || (groups_.gradients_whole() && !last_pass_)) return;
  const Stopwatch watch;
  const ClockSpan span(c_.stream.clock(), "reduce");
  groups_.shard_ranks().poll();
  groups_.replicas().poll();
  if (groups_.strategy() == Strategy::replicate)
    sum_replicas(unit);
  else if (groups_.gradients_whole() && reduce_ == DType::f32)
    sums_in_place_.push_back(groups_.shard_ranks().reduce_scatter(c_.stream, gradients_.unit(unit)));
  else
    scatter(unit);
  wait_seconds_ += watch.seconds();
}

void ParameterState::finish_step() {
  const Stopwatch watch;
  const ClockSpan span(c_.stream.clock(), "reduce");
  while (!scatters_.empty()) retire_scatter();
  while (!sums_.empty()) retire_sum();
  for (const Event& event : sums_in_place_) c_.stream.wait(event);
  sums_in_place_.clear();
  wait_seconds_ += watch.seconds();
}

void ParameterState::updated(int64_t unit) {
  if (groups_.weights_whole() && groups_.strategy() != Strategy::replicate) student_weights_.refresh(unit);
}

}  // namespace dino
