// SPDX-License-Identifier: Apache-2.0
// dino-curate dedup: near-duplicates of an embeddings file by a threshold join.
#include <fmt/format.h>

#include <cstdio>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"
#include "config.hpp"
#include "storage/hdf5.hpp"
#include "storage/output_folder.hpp"
#include "storage/seal.hpp"
#include "vector_commands.hpp"
#include "vectors/components.hpp"
#include "vectors/embeddings.hpp"
#include "vectors/join.hpp"
#include "vectors/partial.hpp"

namespace dino {
namespace {

struct DedupConfig {
  std::string embeddings;
  GroupRule rule = GroupRule::star;
  double threshold = 0.95;
  int64_t lists = 0, probes = JoinConfig{}.probes;
  curation::PairLimit limit;
};

Schema<DedupConfig> dedup_options() {
  using C = DedupConfig;
  Schema<C> schema;
  schema.add("embeddings", &C::embeddings, "Embeddings: .npy, .h5 (/features) or a folder of them.")
      .required();
  schema.add("threshold", &C::threshold, "Least cosine of a near-duplicate pair.").range(0, 1);
  schema.add("rule", &C::rule,
             "Groups: star (each member has an edge to its representative) or components (chains).");
  schema
      .add("lists", &C::lists,
           "Inverted lists (0: one up to 32,768 rows, which misses no pair, then about sqrt(rows)).")
      .range(0, 1e9);
  schema
      .add("probes", &C::probes,
           "Lists that a row is compared with where they may hold a pair, its own included.")
      .range(1, 1e9);
  schema.add(&C::limit, curation::pair_limit_options());
  return schema;
}

void write_dedup(const std::string& path, const DedupConfig& config, const std::vector<Edge>& edges,
                 const Groups& groups) {
  const auto count = static_cast<int64_t>(edges.size()), rows = static_cast<int64_t>(groups.group.size());
  std::vector<int64_t> source(edges.size()), target(edges.size());
  std::vector<float> similarity(edges.size());
  for (size_t i = 0; i < edges.size(); ++i) {
    source[i] = edges[i].source;
    target[i] = edges[i].target;
    similarity[i] = edges[i].similarity;
  }
  commit_hdf5(path, [&](Hdf5File& file) {
    file.write("/edges/source", view_of(source.data(), Shape{count}));
    file.write("/edges/target", view_of(target.data(), Shape{count}));
    file.write("/edges/similarity", view_of(similarity.data(), Shape{count}));
    file.write("/group", view_of(groups.group.data(), Shape{rows}));
    file.write("/representative", view_of(groups.representative.data(), Shape{rows}));
    file.write("/similarity", view_of(groups.similarity.data(), Shape{rows}));
    file.write("/keep", view_of(groups.keep.data(), Shape{rows}));
    file.write_attribute("/", "threshold", config.threshold);
    file.write_attribute("/", "rule", name_of(config.rule));
  });
}

ExitCode run_dedup(const DedupConfig& config, CommandContext& context) {
  const Communicator& comm = context.world;
  const Stopwatch whole;
  if (context.common.dry_run) {
    const EmbeddingStore store = EmbeddingStore::open(config.embeddings);
    log::info(fmt::format("dry run: would join {} rows of width {}", store.rows(), store.width()));
    return ExitCode::done;
  }
  const auto lock = lock_output_folder(context, output_kind::none);
  const LocalRows local = load_rows(config.embeddings, true, comm);
  const double reading = whole.seconds();

  JoinConfig join;
  join.threshold = config.threshold;
  join.lists = config.lists;
  join.probes = config.probes;
  join.max_edges = config.limit.max_pairs;
  join.seed = static_cast<uint64_t>(context.common.seed);
  join.state = context.common.output + "/.partial/join";
  const JoinResult joined = threshold_self_join(local.rows, local.total, join, comm);
  const Stopwatch grouping;
  const Groups groups = group_rows(local.total, joined.edges, config.rule, {});
  const double components = grouping.seconds();
  const std::string path = context.common.output + "/dedup.h5";
  on_root(comm, [&] {
    write_dedup(path, config, joined.edges, groups);
    remove_partial(join.state);
  });

  const int64_t peak = comm.max(peak_rss_bytes());
  if (!comm.root()) return ExitCode::done;
  log::info(fmt::format("{} rows, {} pairs at or above {}, {} groups, {} kept: {}", local.total,
                        joined.edges.size(), config.threshold, groups.count, groups.count, path));
  nlohmann::ordered_json result;
  result["points"] = local.total;
  result["edges"] = joined.edges.size();
  result["groups"] = groups.count;
  result["kept"] = groups.count;
  result["lists"] = joined.lists;
  result["multiply_adds"] = joined.multiply_adds;
  result["seconds"] = whole.seconds();
  result["phases"] = {{"read", reading},
                      {"train", joined.seconds.at("train")},
                      {"assign", joined.seconds.at("assign")},
                      {"join", joined.seconds.at("join")},
                      {"components", components}};
  result["peak_rss_bytes"] = peak;
  context.result = json_line(result);
  return ExitCode::done;
}

}  // namespace

Command dedup_command() {
  Command command;
  command.name = "dedup";
  command.summary = "find near-duplicates among embeddings and keep one of each group";
  command.usage = "--embeddings E --threshold 0.95 [--rule star|components] --output OUT";
  command.description =
      "Reads an embeddings reference (.npy, .h5 or a folder of them), normalises the rows, and writes "
      "OUT/dedup.h5: all pairs whose cosine reaches the threshold, the group of every row, and which row of "
      "each group is kept. Pairs are searched in inverted lists: with --probes equal to --lists the search "
      "is "
      "exhaustive, and every pair that is found is exact in any case.\n\n"
      "With --rule star every dropped row has an edge to the row that is kept for it. With --rule components "
      "the groups are the connected components, which chain: the ends of a chain may have little in "
      "common.\n\n"
      "The file is the same bytes for any number of ranks and threads. Fails with 66 when the embeddings do "
      "not exist, with 65 when a file is damaged or holds values that are not finite, or when more than "
      "--max-pairs pairs reach the threshold.\n\n"
      "Asked to stop by a signal it ends with 75 within seconds; the same command, on any number of ranks, "
      "goes on "
      "with the lists that are not joined yet (OUT/.partial, removed at the end).";
  command.output = "Folder of the results.";
  command.examples = {{"--embeddings features.h5 --threshold 0.95 --output dedup"}};
  command.make = with_options(dedup_options(), run_dedup);
  return command;
}

}  // namespace dino
