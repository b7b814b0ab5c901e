// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the report is made from, read from files that other programs wrote. Every reader names the file when
// it is broken; files that are absent leave their part empty.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pictures.hpp"
#include "results.hpp"

namespace dino::eval {

/// One training run: RUN/metrics.jsonl, config.ini, run.json.
struct TrainingEvent {
  std::string name;
  double step = 0;
  std::map<std::string, double> numbers;
  std::map<std::string, std::string> texts;
};
struct TrainingRun {
  std::string folder;
  std::vector<double> step;
  std::map<std::string, std::vector<double>> columns;  ///< NaN where a line lacks the field or holds null
  std::vector<TrainingEvent> events;
  std::string config_ini, run_json;
  [[nodiscard]] const TrainingEvent* start() const;  ///< the first `start` event, or null
  [[nodiscard]] int64_t count(const std::string& event) const;
  [[nodiscard]] bool has(const std::string& column) const;
  /// Mean of the finite values in the last `share` of the lines (at least one).
  [[nodiscard]] double late(const std::string& column, double share) const;
};
/// MissingInputError without metrics.jsonl; DataError for a broken line other than the last.
[[nodiscard]] TrainingRun read_training_run(const std::string& folder);

/// One curation: OUT/manifest.json, funnel.json, galleries.json.
struct CurationStage {
  std::string name;
  int64_t remaining = 0;
  std::map<std::string, int64_t> dropped;  ///< by reason
};
using SizeCounts = std::vector<std::pair<int64_t, int64_t>>;  ///< size -> how many
struct SimilarityHistogram {
  double low = 0, high = 1;
  std::vector<int64_t> counts;
};
struct DuplicateGroup {
  struct Member {
    std::string key;
    double similarity = 1;  ///< to the representative
    std::string reason;     ///< "kept", or why it was dropped: a representative can be, by a later stage
    Image image;            ///< empty when it could not be read
  };
  int64_t size = 0;
  std::vector<Member> members;  ///< the representative first
};
struct ClusterLevel {
  int64_t clusters = 0;
  SizeCounts before, after;  ///< sizes of clusters before and after balancing
};
struct Leak {
  std::string key, excluded;
  double similarity = 0;
};
/// Pictures of a curation, drawn from its ledger, its edges and its embeddings.
struct CurationPictures {
  struct Pair {
    std::string first, second;  ///< keys
    Image a, b;
    double similarity = 0;
  };
  struct Cluster {
    int64_t size = 0, kept = 0;
    std::vector<DuplicateGroup::Member> members;  ///< kept ones first
  };
  double threshold = 0;            ///< of the near-duplicates
  std::vector<Pair> above, below;  ///< nearest to the threshold first; below: of images that were both kept
  std::vector<DuplicateGroup::Member> kept;  ///< spread over the ledger
  std::vector<Cluster> clusters;             ///< of the finest level, from the largest to small ones
  std::string note;                          ///< what is not drawn, and why; text
};
struct CurationData {
  std::string folder, manifest_json;
  int64_t records = 0, kept = 0, selected = 0, shards = 0, shard_bytes = 0;
  std::map<std::string, int64_t> dropped;
  std::vector<CurationStage> stages;
  SizeCounts group_sizes;
  SimilarityHistogram similarities;
  std::vector<ClusterLevel> clusters;
  std::vector<DuplicateGroup> groups;
  std::vector<Leak> leaks;
  CurationPictures pictures;
};
/// MissingInputError without manifest.json.
[[nodiscard]] CurationData read_curation(const std::string& folder);

/// At most 96 pixels wide and high; empty when it cannot be read any more.
[[nodiscard]] Image curated_thumbnail(const std::string& path, int64_t offset, int64_t bytes);
/// A bounded number of pictures: equal folders give equal ones. DataError names a broken file; a file that is
/// not there leaves its part empty and `note` says so.
[[nodiscard]] CurationPictures read_curation_pictures(const std::string& folder, int64_t records);

/// A run of dino-jobs: RUN/chain.json and what its stages said of themselves.
struct ChainStage {
  std::string name, started, ended;  ///< times as ISO 8601; empty = not known
  double seconds = 0;                ///< from its last start to its end; 0 = not known
};
struct ChainRun {
  std::string folder, name;
  std::string text;  ///< the chain file, where it still is
  std::vector<ChainStage> stages;
};
/// MissingInputError without chain.json.
[[nodiscard]] ChainRun read_chain(const std::string& folder);

/// A published number, drawn in grey.
struct ReferenceRow {
  std::string task, dataset, model, metric, source;
  double value = 0;
};
[[nodiscard]] std::vector<ReferenceRow> read_reference_rows(const std::string& path);

/// Rows of all results folders; of equal rows the last counts (--force appends).
struct ResultFolder {
  std::string path;
  std::vector<ResultRow> rows;
  std::vector<LoadedPictures> pictures;
};
struct ReportInput {
  std::vector<ResultFolder> results;
  std::optional<CurationData> curation;
  std::optional<TrainingRun> training;
  std::optional<ChainRun> chain;
  std::vector<ReferenceRow> references;
};

[[nodiscard]] inline bool is_floor(const std::string& model) {
  return model == "raw-pixels" || model == "random-weights";
}

/// One row with the folder that holds its predictions.
struct LocatedRow {
  const ResultRow* row = nullptr;
  std::string folder;
};
[[nodiscard]] std::vector<LocatedRow> all_rows(const ReportInput& input);
/// A number of the card, if it has one under that name.
[[nodiscard]] std::optional<double> card_number(const std::string& card, const std::string& name);
/// The card without some fields, for grouping rows of one sweep.
[[nodiscard]] std::string card_without(const std::string& card, const std::vector<std::string>& names);
/// The card's field over which rows of the task make a curve; empty: none.
[[nodiscard]] std::string curve_field(const std::string& task);
/// One row per model, task, data set, metric and protocol; of a curve the point that stands for all.
[[nodiscard]] std::vector<LocatedRow> headline_rows(const ReportInput& input);

}  // namespace dino::eval
