// SPDX-License-Identifier: Apache-2.0
#include "parallel/shard_groups.hpp"

#include "base/error.hpp"

namespace dino {

ShardGroups::ShardGroups(Strategy strategy, int64_t hybrid_ranks, const Collective& world)
    : strategy_(world.size() == 1 ? Strategy::replicate : strategy) {
  const int ranks = world.size();
  const int group = strategy_ == Strategy::replicate ? 1
                    : strategy_ == Strategy::hybrid  ? static_cast<int>(hybrid_ranks)
                                                     : ranks;
  DINO_CHECK(group >= 1 && ranks % group == 0, "a shard group's size divides the number of ranks");
  shard_ = world.split([&](int rank) { return rank / group; });
  replicas_ = world.split([&](int rank) { return rank % group; });
}

}  // namespace dino
