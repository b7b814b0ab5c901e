// SPDX-License-Identifier: Apache-2.0
// dino-curate cluster: hierarchical k-means of an embeddings file.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"
#include "storage/hdf5.hpp"
#include "storage/output_folder.hpp"
#include "storage/seal.hpp"
#include "vector_commands.hpp"
#include "vectors/embeddings.hpp"
#include "vectors/kmeans.hpp"
#include "vectors/partial.hpp"

namespace dino {
namespace {

struct ClusterConfig {
  std::string embeddings;
  std::vector<int64_t> levels;
  int64_t iterations = 20, resample = 10;
  bool spherical = true;
};

Schema<ClusterConfig> cluster_options() {
  using C = ClusterConfig;
  Schema<C> schema;
  schema.add("embeddings", &C::embeddings, "Embeddings: .npy, .h5 (/features) or a folder of them.")
      .required();
  schema.add("levels", &C::levels, "Clusters of each level, falling.").required();
  schema.add("iterations", &C::iterations, "Most iterations of one k-means.").range(0, 1e6);
  schema.add("resample", &C::resample, "Resampling steps per level.").range(0, 1000);
  schema.add("spherical", &C::spherical, "Normalise rows and centroids (cosine).");
  return schema;
}

void write_clusters(const std::string& path, const ClusterConfig& config, const std::vector<Level>& levels,
                    const std::vector<int64_t>& assignment, const std::vector<float>& distance) {
  commit_hdf5(path, [&](Hdf5File& file) {
    for (size_t l = 0; l < levels.size(); ++l) {
      const Level& level = levels[l];
      const std::string group = fmt::format("/level{}", l + 1);
      const auto& assigned = l == 0 ? assignment : level.assignment;
      const auto& distances = l == 0 ? distance : level.distance;
      const Shape shape{static_cast<int64_t>(assigned.size())};
      file.write(group + "/centroids", level.centroids);
      file.write(group + "/assignment", view_of(assigned.data(), shape));
      file.write(group + "/distance", view_of(distances.data(), shape));
      file.write_attribute(group, "inertia", level.inertia);
      file.write_attribute(group, "iterations", level.iterations);
      if (level.distance_exponent != 0)
        file.write_attribute(group, "distance_exponent", level.distance_exponent);
    }
    file.write_attribute("/", "spherical", static_cast<int64_t>(config.spherical));
  });
}

/// Clusters with at least one member.
int64_t used_clusters(const std::vector<int64_t>& assignment, int64_t clusters) {
  std::vector<uint8_t> used(static_cast<size_t>(clusters), 0);
  for (const int64_t c : assignment) used[static_cast<size_t>(c)] = 1;
  return std::count(used.begin(), used.end(), 1);
}

std::string result_of(const ClusterConfig& config, const std::vector<Level>& levels,
                      const std::vector<int64_t>& assignment, double seconds, int64_t peak) {
  nlohmann::ordered_json result;
  result["points"] = assignment.size();
  for (size_t l = 0; l < levels.size(); ++l)
    result["levels"].push_back(
        {{"clusters", config.levels[l]},
         {"used", used_clusters(l == 0 ? assignment : levels[l].assignment, config.levels[l])},
         {"inertia", levels[l].inertia},
         {"iterations", levels[l].iterations}});
  result["seconds"] = seconds;
  result["peak_rss_bytes"] = peak;
  return json_line(result);
}

ExitCode run_cluster(const ClusterConfig& config, CommandContext& context) {
  const Communicator& comm = context.world;
  const Stopwatch whole;
  if (context.common.dry_run) {
    const EmbeddingStore store = EmbeddingStore::open(config.embeddings);
    log::info(fmt::format("dry run: would cluster {} rows of width {}", store.rows(), store.width()));
    return ExitCode::done;
  }
  const auto lock = lock_output_folder(context, output_kind::none);
  const LocalRows local = load_rows(config.embeddings, config.spherical, comm);
  HierarchyConfig hierarchy;
  hierarchy.levels = config.levels;
  hierarchy.iterations = config.iterations;
  hierarchy.resample = config.resample;
  hierarchy.spherical = config.spherical;
  hierarchy.seed = static_cast<uint64_t>(context.common.seed);
  hierarchy.state = context.common.output + "/.partial/cluster.h5";
  const auto levels = hierarchical_kmeans(local.rows, local.total, hierarchy, comm);

  const auto assignment = comm.gather_values<int64_t>(levels[0].assignment);
  const auto distance = comm.gather_values<float>(levels[0].distance);
  const std::string path = context.common.output + "/clusters.h5";
  on_root(comm, [&] {
    write_clusters(path, config, levels, assignment, distance);
    remove_partial(hierarchy.state);
  });
  const int64_t peak = comm.max(peak_rss_bytes());
  if (!comm.root()) return ExitCode::done;
  log::info(fmt::format("{} rows in {} levels: {}", local.total, levels.size(), path));
  context.result = result_of(config, levels, assignment, whole.seconds(), peak);
  return ExitCode::done;
}

}  // namespace

Command cluster_command() {
  Command command;
  command.name = "cluster";
  command.summary = "cluster embeddings by hierarchical k-means";
  command.usage =
      "--embeddings E --levels 1000,100,10 [--iterations 20] [--resample 10] [--spherical true] --output OUT";
  command.description =
      "Reads an embeddings reference and writes OUT/clusters.h5: /level1/centroids, /level1/assignment and "
      "/level1/distance "
      "(squared, to the centroid) of every row, then for each higher level the same of the centroids below. "
      "After the first "
      "k-means of a level, --resample times the same number of rows is taken from each cluster, these are "
      "clustered, and all "
      "rows are assigned again: dense regions then get no more clusters than sparse ones (arXiv "
      "2405.15613).\n\n"
      "With --spherical the rows are normalised first and centroids have unit length. The file is the same "
      "bytes for any "
      "number of ranks and threads. Rows of any finite size are clustered; where float32 does not hold their "
      "squared distances, /distance is those times 2^-distance_exponent (an attribute of the level).\n\n"
      "Asked to stop by a signal it ends with 75 within seconds; the same command, on any number of ranks, "
      "goes on "
      "at the iteration that it was in (OUT/.partial, removed at the end).";
  command.output = "Folder of the results.";
  command.examples = {{"--embeddings features.h5 --levels 1000,100,10 --output clusters"}};
  command.make = with_options(cluster_options(), run_cluster);
  return command;
}

}  // namespace dino
