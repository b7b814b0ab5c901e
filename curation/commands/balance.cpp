// SPDX-License-Identifier: Apache-2.0
// dino-curate balance: an exact number of rows, spread evenly over a tree of clusters.
#include <fmt/format.h>

#include <cstdio>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"
#include "storage/hdf5.hpp"
#include "storage/output_folder.hpp"
#include "storage/seal.hpp"
#include "vector_commands.hpp"
#include "vectors/kmeans.hpp"

namespace dino {
namespace {

struct BalanceConfig {
  std::string clusters;
  SampleStrategy strategy = SampleStrategy::random;
  int64_t target = 0;
};

Schema<BalanceConfig> balance_options() {
  using C = BalanceConfig;
  Schema<C> schema;
  schema.add("clusters", &C::clusters, "clusters.h5 of dino-curate cluster.").required();
  schema.add("target", &C::target, "Rows to select.").range(0, 9e18).required();
  schema.add("strategy", &C::strategy, "Which rows of a cluster: random, or the closest to its centroid.");
  return schema;
}

struct ClusterTree {
  std::vector<std::vector<int64_t>> assignments;
  std::vector<int64_t> clusters;
  Tensor distance;  ///< f32, of the rows; empty unless asked for
};

ClusterTree read_tree(const std::string& path, bool with_distance) {
  const Hdf5File file = open_checked(path, "cluster again");
  ClusterTree tree;
  for (int64_t level = 1;; ++level) {
    const std::string group = fmt::format("/level{}", level);
    if (!file.exists(group + "/assignment")) break;
    const Tensor assignment = file.read(group + "/assignment", DType::i64);
    const auto info = file.exists(group + "/centroids") ? file.info(group + "/centroids") : Hdf5File::Info{};
    if (info.dims.size() != 2)
      throw DataError(fmt::format("bad clusters: {}: {}/centroids is not a K x d array; make the file again",
                                  path, group));
    tree.clusters.push_back(info.dims[0]);
    tree.assignments.emplace_back(assignment.as<int64_t>(), assignment.as<int64_t>() + assignment.numel());
  }
  if (tree.assignments.empty())
    throw DataError(fmt::format(
        "bad clusters: {}: there is no /level1/assignment; give a file written by dino-curate cluster",
        path));
  if (!with_distance) return tree;
  if (!file.exists("/level1/distance"))
    throw DataError(fmt::format(
        "bad clusters: {}: there is no /level1/distance; use --strategy random or cluster again", path));
  tree.distance = file.read("/level1/distance", DType::f32);
  if (tree.distance.numel() != static_cast<int64_t>(tree.assignments[0].size()))
    throw DataError(fmt::format(
        "bad clusters: {}: /level1/distance and /level1/assignment differ in length; make the file again",
        path));
  return tree;
}

ExitCode run_balance(const BalanceConfig& config, CommandContext& context) {
  const Stopwatch whole;
  const ClusterTree tree = read_tree(config.clusters, config.strategy == SampleStrategy::closest);
  std::vector<int64_t> selected;
  try {
    selected = balanced_sample(tree.assignments, tree.clusters, tree.distance.f32(), config.target,
                               config.strategy, static_cast<uint64_t>(context.common.seed));
  } catch (const DataError& error) {
    throw DataError(fmt::format("{} [{}]", error.what(), config.clusters));
  }
  if (context.common.dry_run) {
    log::info(
        fmt::format("dry run: would select {} of {} rows", selected.size(), tree.assignments[0].size()));
    return ExitCode::done;
  }
  const auto lock = lock_output_folder(context, output_kind::none);
  const std::string path = context.common.output + "/selection.h5";
  on_root(context.world, [&] {
    commit_hdf5(path, [&](Hdf5File& file) {
      file.write("/selected", view_of(selected.data(), Shape{static_cast<int64_t>(selected.size())}));
      file.write_attribute("/", "strategy", name_of(config.strategy));
      file.write_attribute("/", "seed", context.common.seed);
    });
  });
  if (!context.world.root()) return ExitCode::done;
  log::info(fmt::format("{} of {} rows: {}", selected.size(), tree.assignments[0].size(), path));
  context.result = json_line({{"points", tree.assignments[0].size()},
                              {"selected", selected.size()},
                              {"seconds", whole.seconds()},
                              {"peak_rss_bytes", peak_rss_bytes()}});
  return ExitCode::done;
}

}  // namespace

Command balance_command() {
  Command command;
  command.name = "balance";
  command.summary = "select an exact number of rows, evenly over the clusters";
  command.usage = "--clusters OUT/clusters.h5 --target T [--strategy random|closest] --output OUT";
  command.description =
      "Reads the tree that `cluster` wrote and writes OUT/selection.h5: /selected, exactly T rows in "
      "ascending order. At every "
      "node the children share its number as evenly as their sizes allow. With --strategy random the rows of "
      "a cluster are "
      "drawn by a hash of the seed and the row, with closest those nearest to the centroid are taken.\n\n"
      "Fails with 65 when there are fewer than T rows, and says how many are missing.";
  command.output = "Folder of the results.";
  command.examples = {{"--clusters clusters/clusters.h5 --target 100000 --output balanced"}};
  command.make = with_options(balance_options(), run_balance);
  return command;
}

}  // namespace dino
