// SPDX-License-Identifier: Apache-2.0
// Near-duplicates among the embedded images: the best picture of each group stays.
#include <fmt/format.h>

#include "base/log.hpp"
#include "pipeline.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/seal.hpp"
#include "vector_commands.hpp"
#include "vectors/components.hpp"
#include "vectors/join.hpp"
#include "vectors/partial.hpp"

namespace dino::curation {
namespace {

void write_dedup(const Run& run, const std::vector<int64_t>& rows, const std::vector<Edge>& edges,
                 const Groups& groups) {
  std::vector<int64_t> source, target;
  std::vector<float> similarity;
  for (const Edge& edge : edges) {
    source.push_back(edge.source), target.push_back(edge.target), similarity.push_back(edge.similarity);
  }
  const auto m = static_cast<int64_t>(edges.size()), n = static_cast<int64_t>(rows.size());
  commit_hdf5(run.out + "/dedup.h5", [&](Hdf5File& file) {
    file.write("/edges/source", view_of(std::as_const(source).data(), Shape{m}));
    file.write("/edges/target", view_of(std::as_const(target).data(), Shape{m}));
    file.write("/edges/similarity", view_of(std::as_const(similarity).data(), Shape{m}));
    file.write("/group", view_of(groups.group.data(), Shape{n}));
    file.write("/representative", view_of(groups.representative.data(), Shape{n}));
    file.write("/similarity", view_of(groups.similarity.data(), Shape{n}));
    file.write("/keep", view_of(groups.keep.data(), Shape{n}));
    file.write("/row", view_of(rows.data(), Shape{n}));  // of the ledger
    file.write_attribute("/", "threshold", run.config.threshold);
    file.write_attribute("/", "rule", name_of(run.config.rule));
  });
}

void drop_duplicates(const Run& run, Ledger& ledger, const std::vector<int64_t>& rows,
                     const std::vector<Edge>& edges) {
  const std::vector<double> quality = representative_ranks(ledger, rows);
  const GroupRule rule = run.config.rule;
  const Groups groups = group_rows(static_cast<int64_t>(rows.size()), edges, rule, quality);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (groups.keep[i] != 0) continue;
    Verdict verdict = verdict_of(Reason::near_duplicate, Stage::dedup);
    verdict.representative = rows[static_cast<size_t>(groups.representative[i])];
    verdict.similarity = verdict.value = groups.similarity[i];
    verdict.threshold = static_cast<float>(run.config.threshold);
    ledger.drop(rows[i], verdict);
  }
  write_dedup(run, rows, edges, groups);
  log::info(fmt::format("dedup: {} pairs, {} of {} images stay", edges.size(), groups.count, rows.size()));
}

}  // namespace

bool dedup_stage(Run& run) {
  Ledger ledger;
  on_root(run.world, [&] { ledger = load_stage(run, "filter"); });
  verify_embeddings(run);
  if (run.config.dedup) {
    const KeptRows kept = share_kept(run, ledger);
    const Tensor local = load_kept(run, kept);
    JoinConfig join;
    join.threshold = run.config.threshold;
    join.lists = run.config.lists;
    join.probes = run.config.probes;
    join.max_edges = run.config.pairs.max_pairs;
    join.seed = static_cast<uint64_t>(run.config.seed);
    join.state = run.out + "/.partial/join";
    const JoinResult joined = threshold_self_join(local, kept.count(), join, run.world);
    on_root(run.world, [&] {
      drop_duplicates(run, ledger, kept.row, joined.edges);
      run.add_written("dedup.h5");
    });
  }
  on_root(run.world, [&] {
    save_stage(run, ledger, "dedup");
    remove_partial(run.out + "/.partial/join");
  });
  return true;
}

}  // namespace dino::curation
