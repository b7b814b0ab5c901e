// SPDX-License-Identifier: Apache-2.0
#include "parallel/parameter_state.hpp"

#include "base/error.hpp"
#include "base/timing.hpp"

namespace dino {
namespace {

/// Reductions into parts that are under way at once: each holds a unit's whole gradient.
constexpr size_t kReductions = 2;

}  // namespace

ParameterState::ParameterState(const ParameterLayout& layout, Strategy strategy, int64_t hybrid_ranks,
                               const Context& c)
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
      teacher_weights_(teacher_, groups_, c, buffers_) {}

void ParameterState::begin_step() {
  DINO_CHECK(open_.empty() && reductions_.empty() && sums_.empty(), "a step within a step");
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

void ParameterState::finish_gradient(int64_t unit) {
  if (groups_.parts() == 1) return;
  const Stopwatch watch;
  if (groups_.gradients_whole()) {
    if (!last_pass_) return;
    const TensorView whole = gradients_.unit(unit);
    groups_.shard_ranks().poll();
    groups_.replicas().poll();
    sums_.push_back(groups_.strategy() == Strategy::replicate
                        ? groups_.replicas().all_reduce(c_.stream, whole)
                        : groups_.shard_ranks().reduce_scatter(c_.stream, whole));
  } else {
    while (reductions_.size() >= kReductions) retire();
    auto node = open_.extract(unit);
    DINO_CHECK(!node.empty(), "a gradient that was not begun");
    Reduction& next = reductions_.emplace_back(Reduction{unit, std::move(node.mapped()), {}, last_pass_});
    next.done = groups_.shard_ranks().reduce_scatter(c_.stream, next.buffer);
  }
  wait_seconds_ += watch.seconds();
}

void ParameterState::retire() {
  Reduction reduction = std::move(reductions_.front());
  reductions_.pop_front();
  c_.stream.wait(reduction.done);
  const TensorView sum = gradients_.unit(reduction.unit);
  const int64_t begin = groups_.shard_ranks().rank() * sum.numel();
  c_.ops.axpy(c_.stream, 1.0F, reduction.buffer.view().rows(begin, sum.numel()), sum);
  buffers_.give_back(std::move(reduction.buffer));
  if (reduction.last && groups_.replicas().size() > 1)
    sums_.push_back(groups_.replicas().all_reduce(c_.stream, sum));
}

void ParameterState::finish_step() {
  const Stopwatch watch;
  while (!reductions_.empty()) retire();
  for (const Event& event : sums_) c_.stream.wait(event);
  sums_.clear();
  wait_seconds_ += watch.seconds();
}

void ParameterState::updated(int64_t unit) {
  if (groups_.weights_whole() && groups_.strategy() != Strategy::replicate) student_weights_.refresh(unit);
}

}  // namespace dino
