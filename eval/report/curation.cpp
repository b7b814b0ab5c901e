// SPDX-License-Identifier: Apache-2.0
// The curation: funnel, sizes, galleries.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>

#include "base/json.hpp"
#include "base/timing.hpp"
#include "base/version.hpp"
#include "report/axis.hpp"
#include "report/html.hpp"
#include "report/parts.hpp"
#include "report/plot.hpp"

namespace dino::eval {

using report::escape;

namespace {

/// Bars of doubling width: 2, 3-4, 5-8, ...
std::string size_bars(const std::string& title, const SizeCounts& sizes, int64_t smallest) {
  std::vector<report::Bar> bars;
  int64_t largest = 0;
  for (const auto& [size, count] : sizes) largest = std::max(largest, size);
  for (int64_t low = smallest, high = smallest; low <= largest; low = high + 1, high *= 2) {
    int64_t sum = 0;
    for (const auto& [size, count] : sizes) sum += size >= low && size <= high ? count : 0;
    bars.push_back({low == high ? std::to_string(low) : fmt::format("{} to {}", low, high),
                    static_cast<double>(sum), ""});
  }
  return report::bar_plot(title, bars, true);
}

std::string similarity_plot(const SimilarityHistogram& h) {
  std::vector<double> edges;
  for (size_t i = 0; i <= h.counts.size(); ++i)
    edges.push_back(h.low + (h.high - h.low) * static_cast<double>(i) / static_cast<double>(h.counts.size()));
  return report::histogram("Similarity of near-duplicates to what stands for them", edges, h.counts, h.low,
                           true);
}

std::string cluster_table(const CurationData& c) {
  std::vector<std::vector<std::string>> rows;
  const auto largest = [](const SizeCounts& sizes) {
    int64_t most = 0;
    for (const auto& [size, count] : sizes) most = std::max(most, size);
    return report::with_commas(most);
  };
  for (size_t level = 0; level < c.clusters.size(); ++level)
    rows.push_back({std::to_string(level + 1), report::with_commas(c.clusters[level].clusters),
                    largest(c.clusters[level].before), largest(c.clusters[level].after)});
  return rows.empty() ? ""
                      : report::table({{"level", true},
                                       {"clusters", true},
                                       {"largest before balancing", true},
                                       {"largest after", true}},
                                      rows, "Clusters");
}

std::string leak_table(const CurationData& c) {
  std::vector<std::vector<std::string>> rows;
  for (const Leak& leak : c.leaks)
    rows.push_back({escape(leak.key), escape(leak.excluded), fmt::format("{:.3f}", leak.similarity)});
  return rows.empty() ? ""
                      : "<details><summary>Images dropped because an evaluation set has them</summary>" +
                            report::table({{"image"}, {"like"}, {"similarity", true}}, rows) + "</details>\n";
}

/// What stands under a member of a group; the first stands for the others, whatever became of it later.
std::string caption_of(const DuplicateGroup::Member& m, bool representative) {
  const std::string name = m.key.substr(m.key.rfind('/') + 1) + ", ";
  if (!representative) return name + fmt::format("{:.3f}", m.similarity);
  return name + (m.reason == "kept" ? "kept" : "stands for these, dropped later: " + m.reason);
}

std::string duplicate_groups(const CurationData& c) {
  std::string out;
  for (const DuplicateGroup& group : c.groups) {
    std::vector<report::Picture> pictures;
    for (size_t i = 0; i < group.members.size(); ++i) {
      const DuplicateGroup::Member& m = group.members[i];
      if (m.image.width > 0)
        pictures.push_back({m.image, caption_of(m, i == 0), m.reason == "kept" ? "kept" : "dropped"});
    }
    if (!pictures.empty())
      out += fmt::format("<div class=\"strip\"><p class=\"note\">group of {}{}</p>{}</div>\n", group.size,
                         group.size > static_cast<int64_t>(pictures.size()) ? ", the first shown" : "",
                         report::gallery(pictures));
  }
  return out.empty()
             ? ""
             : "<h3>Largest groups of near-duplicates</h3><p class=\"note before\">The first of a group "
               "stands for it: in a solid frame where it was kept; dropped ones in dashed frames, "
               "with their similarity to the first.</p>" +
                   out;
}

std::string gallery_of(const std::vector<DuplicateGroup::Member>& members, bool with_reason) {
  std::vector<report::Picture> pictures;
  for (const DuplicateGroup::Member& m : members) {
    const std::string name = m.key.substr(m.key.rfind('/') + 1);
    const bool kept = m.reason == "kept";
    pictures.push_back({m.image, with_reason && !kept ? name + ", " + m.reason : name,
                        with_reason ? (kept ? "kept" : "dropped") : ""});
  }
  return report::gallery(pictures);
}

std::string pairs_html(const std::vector<CurationPictures::Pair>& pairs) {
  std::string out = "<div class=\"pairs\">";
  for (const CurationPictures::Pair& pair : pairs)
    out += fmt::format("<div class=\"pair\"><p class=\"note\">similarity <b>{:.4f}</b></p>{}</div>\n",
                       pair.similarity,
                       report::gallery({{pair.a, pair.first.substr(pair.first.rfind('/') + 1), ""},
                                        {pair.b, pair.second.substr(pair.second.rfind('/') + 1), ""}}));
  return out + "</div>\n";
}

/// Around the threshold: here it shows whether it was set well.
std::string threshold_pairs(const CurationPictures& p) {
  std::string out;
  if (!p.above.empty())
    out += fmt::format(
        "<h3>Pairs just above the threshold</h3><p class=\"note before\">Taken for duplicates at {}: if "
        "these are "
        "different images, the threshold is too low.</p>{}",
        report::short_number(p.threshold), pairs_html(p.above));
  if (!p.below.empty())
    out += fmt::format(
        "<h3>Pairs just below the threshold</h3><p class=\"note before\">Both of a pair were told apart at "
        "{} (a "
        "later stage may have dropped one): if these are the same image, the threshold is too high.</p>{}",
        report::short_number(p.threshold), pairs_html(p.below));
  return out;
}

std::string cluster_galleries(const CurationPictures& p) {
  std::string out;
  for (const CurationPictures::Cluster& c : p.clusters)
    out += fmt::format("<div class=\"strip\"><p class=\"note\">cluster of {}, {} kept{}</p>{}</div>\n",
                       report::with_commas(c.size), report::with_commas(c.kept),
                       c.size > static_cast<int64_t>(c.members.size()) ? ", some shown" : "",
                       gallery_of(c.members, true));
  return out.empty()
             ? ""
             : "<h3>Clusters</h3><p class=\"note before\">Of the finest level, from the largest to a small "
               "one. Images that balancing kept stand first, in solid frames; dashed ones were dropped.</p>" +
                   out;
}

std::string kept_gallery(const CurationPictures& p) {
  return p.kept.empty()
             ? ""
             : "<h3>Kept images</h3><p class=\"note before\">At even steps through all that were kept.</p>" +
                   gallery_of(p.kept, false);
}

}  // namespace

std::string curation_html(const CurationData& c) {
  std::string out = "<div class=\"figures\">";
  if (!c.stages.empty()) {
    std::vector<report::FunnelStage> stages;
    stages.push_back({"input", c.records, 0});
    for (const CurationStage& s : c.stages) {
      int64_t lost = 0;
      for (const auto& [reason, count] : s.dropped) lost += count;
      stages.push_back({s.name, s.remaining, lost});
    }
    out += report::funnel(stages);
  }
  std::vector<report::Bar> bars;
  for (const auto& [reason, count] : c.dropped) bars.push_back({reason, static_cast<double>(count), ""});
  std::stable_sort(bars.begin(), bars.end(),
                   [](const report::Bar& a, const report::Bar& b) { return a.value > b.value; });
  out += report::bar_plot("Why images were dropped", bars, false);
  if (!c.group_sizes.empty()) out += size_bars("Sizes of duplicate groups", c.group_sizes, 2);
  if (!c.similarities.counts.empty()) out += similarity_plot(c.similarities);
  out += "</div>\n";
  out +=
      fmt::format("<p class=\"note\">{} records, {} kept, {} samples after balancing, {} shard(s), {}.</p>\n",
                  report::with_commas(c.records), report::with_commas(c.kept),
                  report::with_commas(c.selected), c.shards, human_bytes(c.shard_bytes));
  if (!c.pictures.note.empty()) out += "<p class=\"note\">" + escape(c.pictures.note) + "</p>\n";
  return out + cluster_table(c) + leak_table(c) + kept_gallery(c.pictures) + threshold_pairs(c.pictures) +
         duplicate_groups(c) + cluster_galleries(c.pictures);
}

}  // namespace dino::eval
