// SPDX-License-Identifier: Apache-2.0
// Hierarchical k-means of the images that are left, and an exact, balanced sample of them.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "pipeline.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/seal.hpp"
#include "vector_commands.hpp"
#include "vectors/embeddings.hpp"
#include "vectors/kmeans.hpp"
#include "vectors/partial.hpp"

namespace dino::curation {
namespace {

std::string cluster_state(const Run& run) {
  return run.out + "/.partial/cluster.h5";
}

/// 16 images a cluster, then 10 clusters a cluster, down to at least 10.
std::vector<int64_t> default_levels(int64_t images) {
  std::vector<int64_t> levels = {std::max<int64_t>(1, images / 16)};
  while (levels.back() >= 100) levels.push_back(levels.back() / 10);
  return levels;
}

void write_clusters(const Run& run, const std::vector<int64_t>& rows, const std::vector<Level>& levels,
                    const std::vector<int64_t>& assignment, const std::vector<float>& distance) {
  commit_hdf5(run.out + "/clusters.h5", [&](Hdf5File& file) {
    for (size_t l = 0; l < levels.size(); ++l) {
      const std::string group = fmt::format("/level{}", l + 1);
      const auto& assigned = l == 0 ? assignment : levels[l].assignment;
      const auto& distances = l == 0 ? distance : levels[l].distance;
      const Shape shape{static_cast<int64_t>(assigned.size())};
      file.write(group + "/centroids", levels[l].centroids);
      file.write(group + "/assignment", view_of(assigned.data(), shape));
      file.write(group + "/distance", view_of(distances.data(), shape));
      file.write_attribute(group, "inertia", levels[l].inertia);
      file.write_attribute(group, "iterations", levels[l].iterations);
    }
    file.write("/row", view_of(rows.data(), Shape{static_cast<int64_t>(rows.size())}));
    file.write_attribute("/", "spherical", int64_t{1});
  });
}

void record_clusters(Ledger& ledger, const std::vector<int64_t>& rows,
                     const std::vector<std::vector<int64_t>>& tree) {
  for (size_t level = 0; level < tree.size(); ++level) {
    std::vector<int64_t> column(ledger.key.size(), -1);
    for (size_t i = 0; i < rows.size(); ++i) {
      int64_t cluster = static_cast<int64_t>(i);
      for (size_t l = 0; l <= level; ++l) cluster = tree[l][static_cast<size_t>(cluster)];
      column[static_cast<size_t>(rows[i])] = cluster;
    }
    ledger.cluster.push_back(std::move(column));
  }
}

void select(const Run& run, Ledger& ledger, const std::vector<int64_t>& rows,
            const std::vector<Level>& levels, const std::vector<int64_t>& assignment,
            const std::vector<float>& distance) {
  std::vector<std::vector<int64_t>> tree = {assignment};
  std::vector<int64_t> clusters;
  for (size_t l = 1; l < levels.size(); ++l) tree.push_back(levels[l].assignment);
  for (const Level& level : levels) clusters.push_back(level.centroids.shape()[0]);
  write_clusters(run, rows, levels, assignment, distance);
  record_clusters(ledger, rows, tree);
  const std::vector<int64_t> taken =
      balanced_sample(tree, clusters, distance, run.config.target, run.config.strategy,
                      static_cast<uint64_t>(run.config.seed));
  std::vector<uint8_t> chosen(rows.size(), 0);
  std::vector<int64_t> selected;
  for (const int64_t i : taken) {
    chosen[static_cast<size_t>(i)] = 1;
    selected.push_back(rows[static_cast<size_t>(i)]);
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    if (chosen[i] == 0) ledger.drop(rows[i], verdict_of(Reason::balance, Stage::balance));
  }
  commit_hdf5(run.out + "/selection.h5", [&](Hdf5File& file) {
    file.write("/selected",
               view_of(std::as_const(selected).data(), Shape{static_cast<int64_t>(selected.size())}));
    file.write_attribute("/", "strategy", name_of(run.config.strategy));
    file.write_attribute("/", "seed", run.config.seed);
  });
  log::info(fmt::format("balance: {} of {} images are selected", selected.size(), rows.size()));
}

void check_target(const Run& run, int64_t left) {
  if (left >= run.config.target) return;
  throw DataError(
      fmt::format("target out of reach: --target {}: only {} images are left, {} too few; "
                  "lower it, or relax the filters, and run again",
                  run.config.target, left, run.config.target - left));
}

}  // namespace

bool balance_stage(Run& run) {
  Ledger ledger;
  on_root(run.world, [&] { ledger = load_stage(run, "decontaminate"); });
  if (run.config.target > 0) {
    verify_embeddings(run);
    const KeptRows kept =
        share_kept(run, ledger, [&](const KeptRows& rows) { check_target(run, rows.count()); });
    const int64_t count = kept.count();
    HierarchyConfig hierarchy;
    hierarchy.levels = run.config.levels.empty() ? default_levels(count) : run.config.levels;
    hierarchy.iterations = run.config.iterations;
    hierarchy.resample = run.config.resample;
    hierarchy.seed = static_cast<uint64_t>(run.config.seed);
    hierarchy.state = cluster_state(run);
    const Tensor local = load_kept(run, kept);
    const auto levels = hierarchical_kmeans(local, count, hierarchy, run.world);
    const auto assignment = run.world.gather_values<int64_t>(levels[0].assignment);
    const auto distance = run.world.gather_values<float>(levels[0].distance);
    on_root(run.world, [&] { select(run, ledger, kept.row, levels, assignment, distance); });
  }
  on_root(run.world, [&] {
    save_stage(run, ledger, "balance");
    remove_partial(cluster_state(run));
    if (run.config.target == 0) return;
    run.add_written("clusters.h5");
    run.add_written("selection.h5");
  });
  return true;
}

}  // namespace dino::curation
