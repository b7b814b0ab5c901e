// SPDX-License-Identifier: Apache-2.0
// ledger.h5, funnel.json, galleries.json, and manifest.json last: a folder with a manifest is a finished
// curation.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/version.hpp"
#include "export_names.hpp"
#include "pipeline.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"
#include "vector_commands.hpp"

namespace dino::curation {
namespace {

constexpr int64_t kSimilarityBins = 20;
constexpr size_t kGalleries = 50, kGalleryMembers = 24;

using Groups = std::map<int64_t, std::vector<int64_t>>;  ///< representative -> members, ascending

/// Rows that were dropped as duplicates, under the row that stands for them.
Groups duplicate_groups(const Ledger& ledger) {
  Groups groups;
  for (int64_t row = 0; row < ledger.rows(); ++row) {
    const Verdict& v = ledger.verdict[static_cast<size_t>(row)];
    const bool duplicate = v.reason == Reason::exact_duplicate || v.reason == Reason::hash_duplicate ||
                           v.reason == Reason::near_duplicate;
    if (duplicate && v.representative >= 0) groups[v.representative].push_back(row);
  }
  return groups;
}

OrderedJson dropped_counts(const Ledger& ledger) {
  OrderedJson dropped = OrderedJson::object();
  const std::vector<int64_t> counts = ledger.counts();
  for (size_t reason = 1; reason < counts.size(); ++reason) {
    if (counts[reason] > 0) dropped[reason_names()[reason]] = counts[reason];
  }
  return dropped;
}

/// How many images enter and leave each stage, and why they stay behind.
OrderedJson funnel_stages(const Ledger& ledger) {
  OrderedJson stages = OrderedJson::array();
  int64_t entering = ledger.rows();
  for (const Stage stage : dropping_stages()) {
    std::map<Reason, int64_t> reasons;
    int64_t lost = 0;
    for (const Verdict& v : ledger.verdict) {
      if (v.reason == Reason::kept || v.stage != stage) continue;
      ++reasons[v.reason];
      ++lost;
    }
    OrderedJson dropped = OrderedJson::object();
    for (const auto& [reason, count] : reasons) dropped[name_of(reason)] = count;
    stages.push_back({{"stage", stage_names()[static_cast<size_t>(stage)]},
                      {"in", entering},
                      {"out", entering - lost},
                      {"dropped", dropped}});
    entering -= lost;
  }
  return stages;
}

OrderedJson sizes_histogram(const std::map<int64_t, int64_t>& count_of_size) {
  OrderedJson rows = OrderedJson::array();
  for (const auto& [size, count] : count_of_size) rows.push_back({{"size", size}, {"count", count}});
  return rows;
}

OrderedJson group_sizes(const Groups& groups) {
  std::map<int64_t, int64_t> count_of_size;
  for (const auto& [row, members] : groups) ++count_of_size[static_cast<int64_t>(members.size()) + 1];
  return sizes_histogram(count_of_size);
}

OrderedJson cluster_sizes(const Ledger& ledger) {
  OrderedJson levels = OrderedJson::array();
  for (const std::vector<int64_t>& column : ledger.cluster) {
    std::map<int64_t, std::pair<int64_t, int64_t>> clusters;  // before, after balancing
    for (size_t row = 0; row < column.size(); ++row) {
      if (column[row] < 0) continue;
      auto& [before, after] = clusters[column[row]];
      ++before;
      after += ledger.kept(static_cast<int64_t>(row));
    }
    std::map<int64_t, int64_t> before, after;
    for (const auto& [cluster, sizes] : clusters) {
      ++before[sizes.first];
      ++after[sizes.second];
    }
    levels.push_back({{"clusters", clusters.size()},
                      {"before", sizes_histogram(before)},
                      {"after", sizes_histogram(after)}});
  }
  return levels;
}

/// Similarities of near-duplicates to their representatives, in bins of equal width from the threshold to 1.
OrderedJson similarity_histogram(const Ledger& ledger, double threshold) {
  std::vector<int64_t> bins(kSimilarityBins, 0);
  for (const Verdict& v : ledger.verdict) {
    if (v.reason != Reason::near_duplicate) continue;
    const double place = (static_cast<double>(v.similarity) - threshold) / std::max(1e-9, 1.0 - threshold);
    const auto bin = static_cast<int64_t>(std::floor(place * kSimilarityBins));
    ++bins[static_cast<size_t>(std::clamp<int64_t>(bin, 0, kSimilarityBins - 1))];
  }
  return {{"low", threshold}, {"high", 1.0}, {"counts", bins}};
}

OrderedJson picture(const Ledger& ledger, int64_t row) {
  const auto at = static_cast<size_t>(row);
  const Measured& m = ledger.measured[at];
  return {{"row", row},
          {"key", ledger.key[at]},
          {"path", ledger.path[at]},
          {"offset", ledger.offset[at]},
          {"bytes", m.bytes},
          {"width", m.width},
          {"height", m.height},
          {"reason", name_of(ledger.verdict[at].reason)},
          {"similarity", ledger.verdict[at].similarity}};
}

/// The largest groups, with where their pictures lie, so that a report can draw them.
OrderedJson galleries(const Ledger& ledger, const Groups& groups) {
  std::vector<std::pair<int64_t, int64_t>> order;  // -size, representative
  for (const auto& [row, members] : groups) order.emplace_back(-static_cast<int64_t>(members.size()), row);
  std::sort(order.begin(), order.end());
  OrderedJson list = OrderedJson::array();
  for (size_t i = 0; i < std::min(order.size(), kGalleries); ++i) {
    const std::vector<int64_t>& members = groups.at(order[i].second);
    OrderedJson pictures = OrderedJson::array();
    for (size_t j = 0; j < std::min(members.size(), kGalleryMembers); ++j) {
      pictures.push_back(picture(ledger, members[j]));
    }
    list.push_back({{"representative", picture(ledger, order[i].second)},
                    {"size", members.size() + 1},
                    {"members", pictures}});
  }
  OrderedJson leaks = OrderedJson::array();
  for (int64_t row = 0; row < ledger.rows() && leaks.size() < kGalleries; ++row) {
    const int64_t leak = ledger.leak[static_cast<size_t>(row)];
    if (leak < 0) continue;
    OrderedJson entry = picture(ledger, row);
    entry["excluded"] = ledger.excluded[static_cast<size_t>(leak)];
    leaks.push_back(entry);
  }
  return {{"duplicates", list}, {"leaks", leaks}};
}

/// A JSON file of an earlier stage, compared with its checksum.
OrderedJson stage_json(const Run& run, const std::string& name, const std::string& stage) {
  const std::string path = run.stage_file(name), text = read_text(path);
  check_sealed_json(text, path, do_again(run.out, stage));
  return OrderedJson::parse(text);
}

/// The same names as export gave: they follow from the keys of all rows.
void name_exported(Ledger& ledger) {
  ledger.exported = export_names(ledger.key);
  for (size_t row = 0; row < ledger.key.size(); ++row)
    if (!ledger.kept(static_cast<int64_t>(row))) ledger.exported[row].clear();
}

OrderedJson manifest(const Run& run, const Ledger& ledger) {
  OrderedJson m;
  m["schema"] = 1;
  m["program"] = "dino-curate";
  m["version"] = version();
  m["config_hash"] = run.hash;
  const OrderedJson inputs = stage_json(run, "inputs.json", "ingest");
  m["inputs"] = inputs.at("inputs");
  if (!run.config.exclude.empty())
    m["exclude"] = stage_json(run, "excluded.json", "decontaminate").at("excluded");
  m["filters"] = OrderedJson::object();
  for (const auto& [option, limit] : filters_in_force(run.config)) m["filters"][option] = limit;
  const OrderedJson dropped = dropped_counts(ledger);
  const auto kept = ledger.counts()[0];
  int64_t lost = 0;
  for (const auto& [reason, count] : dropped.items()) lost += count.get<int64_t>();
  DINO_CHECK(kept + lost == ledger.rows(), "records were lost");
  m["records"] = ledger.rows();
  m["kept"] = kept;
  m["dropped"] = dropped;
  m["selected_with_multiplicity"] = kept;  // no image is drawn twice
  m["shards"] = stage_json(run, "shards.json", "export").at("shards");
  return m;
}

}  // namespace

bool report_stage(Run& run) {
  on_root(run.world, [&] {
    Ledger ledger = load_stage(run, "export");
    name_exported(ledger);
    const Groups groups = duplicate_groups(ledger);
    ledger.save(run.out + "/ledger.h5", run.hash);
    OrderedJson funnel;
    funnel["records"] = ledger.rows();
    funnel["kept"] = ledger.counts()[0];
    funnel["stages"] = funnel_stages(ledger);
    funnel["dropped"] = dropped_counts(ledger);
    funnel["duplicate_group_sizes"] = group_sizes(groups);
    funnel["similarity"] = similarity_histogram(ledger, run.config.threshold);
    funnel["clusters"] = cluster_sizes(ledger);
    write_file_atomically(run.out + "/funnel.json", sealed_json(json_text(funnel, 1)));
    write_file_atomically(run.out + "/galleries.json", sealed_json(json_text(galleries(ledger, groups), 1)));
    const OrderedJson m = manifest(run, ledger);
    write_file_atomically(run.out + "/manifest.json", sealed_json(json_text(m, 1)));
    for (const char* file : {"ledger.h5", "funnel.json", "galleries.json", "manifest.json"})
      run.add_written(file);
    log::info(fmt::format("report: {} kept of {}: {}/manifest.json", m["kept"].get<int64_t>(), ledger.rows(),
                          run.out));
  });
  return true;
}

}  // namespace dino::curation
