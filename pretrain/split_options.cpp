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
  schema
      .add("targets-gib", &C::targets_gib,
           "Memory for the teacher's targets of a rank's masked patches. Larger ones are made again, a block "
           "of rows at a time, in each pass of Sinkhorn-Knopp: slower, the same bits.")
      .range(0, 1e6);
  return schema;
}

void check_groups(const SplitConfig& split, int ranks) {
  const bool hybrid = split.strategy == Strategy::hybrid;
  if (!hybrid && split.hybrid_ranks > 0)
    throw UsageError(
        fmt::format("contradictory options: --shard-group {}: only --strategy hybrid has groups, this is {}; "
                    "leave it out, or give 0",
                    split.hybrid_ranks, name_of(split.strategy)));
  if (hybrid && split.hybrid_ranks == 0)
    throw UsageError(
        "missing option: --shard-group: the ranks of a node are not known here; give those of a group");
  if (hybrid && ranks % split.hybrid_ranks != 0)
    throw UsageError(fmt::format("bad group: --shard-group: {} ranks are no multiple of {}; give a divisor",
                                 ranks, split.hybrid_ranks));
}

void settle_groups(SplitConfig& split, const Communicator& world) {
  if (split.strategy == Strategy::hybrid && split.hybrid_ranks == 0)
    split.hybrid_ranks = static_cast<int>(world.max(int64_t{ranks_of_node(world)}));
  check_groups(split, world.size());
}

void check_pieces(const SplitConfig& split, int64_t batch, int ranks) {
  const bool micro = split.accumulate > 1;
  if (batch < ranks * split.accumulate)
    throw UsageError(fmt::format(
        "batch too small: --batch: {} images for {} ranks{}; every rank needs one at least{}", batch, ranks,
        micro ? fmt::format(" of {} micro-batches (--accumulate)", split.accumulate) : "",
        micro ? " in each" : ""));
}

}  // namespace dino::pretrain
