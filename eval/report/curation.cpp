// SPDX-License-Identifier: Apache-2.0
// Curation, pictures and provenance.
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
  return out.empty() ? ""
                     : "<h3>Largest groups of near-duplicates</h3><p class=\"note\">The first of a group "
                       "stands for it: in a solid frame where it was kept; dropped ones in dashed frames, "
                       "with their similarity to the first.</p>" +
                           out;
}

std::string strips(const LoadedPictures& set) {
  std::string out = "<div class=\"strips " + escape(set.kind) + "\">";
  for (const LoadedStrip& strip : set.strips) {
    std::vector<report::Picture> pictures;
    for (const auto& e : strip.entries) pictures.push_back({e.image, e.caption, e.css_class});
    out += "<div class=\"strip\"><p class=\"note\">" + escape(strip.title) + "</p>" +
           report::gallery(pictures) + "</div>\n";
  }
  return out + "</div>";
}

std::string pretty(const std::string& json) {
  const auto parsed = nlohmann::ordered_json::parse(json, nullptr, false);
  return parsed.is_discarded() ? json : parsed.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string folded(const std::string& title, const std::string& text) {
  return text.empty()
             ? ""
             : "<details><summary>" + escape(title) + "</summary><pre>" + escape(text) + "</pre></details>\n";
}

/// The starts of the run: when, where, with what.
std::string starts_table(const std::string& run_json) {
  const auto json = nlohmann::json::parse(run_json, nullptr, false);
  if (!json.is_object() || !json.contains("starts") || !json["starts"].is_array()) return {};
  std::vector<std::vector<std::string>> rows;
  const auto text = [](const nlohmann::json& start, const char* name) {
    if (!start.contains(name)) return std::string();
    return escape(start[name].is_string() ? start[name].get<std::string>() : start[name].dump());
  };
  for (const auto& start : json["starts"]) {
    std::string command;
    if (start.contains("argv") && start["argv"].is_array())
      for (const auto& word : start["argv"])
        if (word.is_string()) command += (command.empty() ? "" : " ") + word.get<std::string>();
    rows.push_back({text(start, "time"), text(start, "host"), text(start, "ranks"), text(start, "from_step"),
                    text(start, "version") + " (" + text(start, "commit") + ")", text(start, "SLURM_JOB_ID"),
                    "<code>" + escape(command) + "</code>"});
  }
  return report::table(
      {{"time"}, {"host"}, {"ranks", true}, {"from step", true}, {"version"}, {"Slurm job"}, {"command"}},
      rows, "Starts of the training run");
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
  return out + cluster_table(c) + leak_table(c) + duplicate_groups(c);
}

std::string pictures_html(const ReportInput& input) {
  constexpr const char* kinds[][3] = {
      {"pca", "Principal components of patch tokens",
       "Red, green and blue are three components, fitted jointly over all images of a set; the background is "
       "left out."},
      {"attention", "Attention of the class token",
       "One map per head of the last block, each scaled to its own maximum."},
      {"segment", "Foreground segmentation", "Image, truth, prediction and errors."},
      {"neighbours", "Nearest neighbours",
       "Query in a dark frame, then its nearest training images: solid frame = same class, dashed frame = "
       "another."}};
  std::string out;
  for (const auto& [kind, title, note] : kinds) {
    std::string sets;
    for (const ResultFolder& folder : input.results)
      for (const LoadedPictures& set : folder.pictures)
        if (set.kind == kind)
          sets += fmt::format("<details{}><summary>{} on {}</summary>{}</details>\n",
                              is_floor(set.model) ? "" : " open=\"open\"", escape(set.model),
                              escape(set.dataset), strips(set));
    if (!sets.empty()) out += fmt::format("<h3>{}</h3><p class=\"note\">{}</p>{}", title, note, sets);
  }
  return out;
}

std::string provenance_html(const ReportInput& input) {
  std::map<std::string, std::pair<std::string, std::string>> models;  // name -> weights, data sets
  for (const LocatedRow& located : all_rows(input)) {
    auto& [weights, sets] = models[located.row->model];
    weights = located.row->weights;
    if (("," + sets + ",").find("," + located.row->dataset + ",") == std::string::npos)
      sets += (sets.empty() ? "" : ",") + located.row->dataset;
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, entry] : models)
    rows.push_back({escape(name),
                    entry.first.empty() ? ""
                                        : "<code title=\"" + escape(entry.first) + "\">" +
                                              escape(entry.first.substr(0, 16)) + "</code>",
                    escape(entry.second)});
  std::string out = rows.empty() ? ""
                                 : report::table({{"model"}, {"SHA-256 of the weights"}, {"data sets"}}, rows,
                                                 "Models in this report");
  if (input.training) {
    out += starts_table(input.training->run_json);
    out += folded("Settings of the training run (config.ini)", input.training->config_ini);
    out += folded("run.json", input.training->run_json.empty() ? "" : pretty(input.training->run_json));
  }
  if (input.curation) out += folded("Manifest of the curation", pretty(input.curation->manifest_json));
  return out + fmt::format("<p class=\"note\">Report by dino-eval {} ({}).</p>\n", escape(version()),
                           escape(commit()));
}

}  // namespace dino::eval
