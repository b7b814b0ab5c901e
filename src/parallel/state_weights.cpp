// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "base/error.hpp"
#include "parallel/parameter_state.hpp"

namespace dino {

StateWeights::StateWeights(ShardedValues& values, const ShardGroups& groups, const Context& c,
                           UnitBuffers& buffers)
    : values_(values), groups_(groups), c_(c), buffers_(buffers), entries_(values.layout().units().size()) {}

void StateWeights::settle(Entry& entry) const {
  c_.stream.wait(entry.ready);
  entry.ready = {};
}

void StateWeights::refresh(int64_t unit) {
  Entry& entry = entries_[static_cast<size_t>(unit)];
  DINO_CHECK(values_.whole() && entry.handles == 0, "only idle values that are whole are refreshed");
  settle(entry);
  entry.ready = groups_.shard_ranks().all_gather(c_.stream, values_.unit(unit));
}

void StateWeights::prefetch(int64_t unit) const {
  groups_.shard_ranks().poll();
  Entry& entry = entries_[static_cast<size_t>(unit)];
  if (values_.whole() || entry.buffer.numel() > 0) return;
  entry.buffer = buffers_.take(values_.plan().buffer_numel(unit));
  const TensorView own = values_.unit(unit);
  copy(c_.stream, entry.buffer.view().rows(groups_.shard_ranks().rank() * own.numel(), own.numel()), own);
  entry.ready = groups_.shard_ranks().all_gather(c_.stream, entry.buffer);
}

UnitView StateWeights::acquire(int64_t unit) const {
  prefetch(unit);
  Entry& entry = entries_[static_cast<size_t>(unit)];
  settle(entry);
  const int64_t length = values_.layout().units()[static_cast<size_t>(unit)].padded;
  if (values_.whole()) return {values_.unit(unit).rows(0, length), nullptr, unit};
  ++entry.handles;
  // Handles change the count, and nothing that a reader of the weights sees.
  return {entry.buffer.view().rows(0, length), const_cast<StateWeights*>(this), unit};
}

void StateWeights::release(int64_t unit) {
  Entry& entry = entries_[static_cast<size_t>(unit)];
  if (--entry.handles == 0) buffers_.give_back(std::move(entry.buffer));
  if (entry.handles == 0) entry.buffer = {};
}

}  // namespace dino
