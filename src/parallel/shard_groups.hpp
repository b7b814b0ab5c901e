// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which ranks share a copy of the model's state, and which are copies of each other.

#include <memory>

#include "comm/collective.hpp"
#include "parallel/shard_plan.hpp"

namespace dino {

/// Shard groups are consecutive ranks, so that a group lies on one node where ranks do. With G ranks a group
/// and R groups, a rank holds its group's R parts [g R, (g + 1) R), g being its place in the group; its own
/// part among these is that of its replica. In this order the shards of a group, and the parts of a shard
/// over its replicas, lie one after another.
class ShardGroups {
 public:
  /// `hybrid_ranks`: of a hybrid's groups; it divides the number of ranks. Collective.
  ShardGroups(Strategy strategy, int64_t hybrid_ranks, const Collective& world);
  [[nodiscard]] Strategy strategy() const { return strategy_; }
  [[nodiscard]] int parts() const { return shard_->size() * replicas_->size(); }
  /// The part that this rank alone answers for: of checkpoints, and of sums over the state.
  [[nodiscard]] int own_part() const { return shard_->rank() * replicas_->size() + replicas_->rank(); }
  [[nodiscard]] PartRange shard() const { return {shard_->rank() * replicas_->size(), replicas_->size()}; }
  [[nodiscard]] PartRange everything() const { return {0, parts()}; }
  // What this rank keeps.
  [[nodiscard]] PartRange weights() const { return weights_whole() ? everything() : shard(); }
  [[nodiscard]] PartRange gradients() const { return gradients_whole() ? everything() : shard(); }
  [[nodiscard]] PartRange moments() const { return shard(); }
  [[nodiscard]] bool weights_whole() const {
    return strategy_ != Strategy::full && strategy_ != Strategy::hybrid;
  }
  [[nodiscard]] bool gradients_whole() const {
    return strategy_ == Strategy::replicate || strategy_ == Strategy::optimizer;
  }
  /// The ranks whose shards make a whole.
  [[nodiscard]] Collective& shard_ranks() const { return *shard_; }
  /// The ranks that keep the same shard.
  [[nodiscard]] Collective& replicas() const { return *replicas_; }

 private:
  Strategy strategy_;
  std::unique_ptr<Collective> shard_, replicas_;
};

}  // namespace dino
