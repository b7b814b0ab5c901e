// SPDX-License-Identifier: Apache-2.0
#include "split_options.hpp"

#include <fmt/format.h>

#include "base/error.hpp"

namespace dino::pretrain {

Schema<SplitConfig> split_options() {
  using C = SplitConfig;
  Schema<C> schema;
  schema.add("strategy", &C::strategy,
             "What the ranks keep in parts: nothing; AdamW's moments (optimizer); gradients too; weights too "
             "(full); or all of it within groups that are replicas of each other (hybrid).");
  schema.add("shard-group", &C::hybrid_ranks, "Ranks of a group of --strategy hybrid (0: those of a node).")
      .range(0, 1e6);
  schema
      .add("accumulate", &C::accumulate,
           "Micro-batches of a step: less memory, the same result. From 2 on the student's forward pass runs "
           "twice.")
      .range(1, 4096);
  schema.add("recompute", &C::recompute,
             "What the student's backward pass makes again to save memory: nothing; the feed-forwards' first "
             "products (selective); or every block but the last.");
  return schema;
}

void settle_split(SplitConfig& split, int64_t batch, const Communicator& world) {
  if (split.hybrid_ranks == 0)
    split.hybrid_ranks = static_cast<int>(world.max(int64_t{ranks_of_node(world)}));
  if (split.strategy == Strategy::hybrid && world.size() % split.hybrid_ranks != 0)
    throw UsageError(fmt::format("bad group: --shard-group: {} ranks are no multiple of {}; give a divisor",
                                 world.size(), split.hybrid_ranks));
  if (batch < world.size() * split.accumulate)
    throw UsageError(fmt::format(
        "batch too small: --batch: {} images for {} ranks{}; every rank needs one at least{}", batch,
        world.size(),
        split.accumulate > 1 ? fmt::format(" of {} micro-batches (--accumulate)", split.accumulate) : "",
        split.accumulate > 1 ? " in each" : ""));
}

}  // namespace dino::pretrain
