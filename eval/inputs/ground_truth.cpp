// SPDX-License-Identifier: Apache-2.0
#include "inputs/ground_truth.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/text.hpp"
#include "storage/files.hpp"

namespace dino::eval {

namespace {

[[noreturn]] void fail_truth(const std::string& path, const std::string& why) {
  throw DataError(fmt::format("reading a ground truth: {}: {}; the format is in docs/formats.md",
                              printable_name(path), why));
}

using Rows = std::unordered_map<std::string, int64_t>;

/// A list of keys of the database as rows.
std::vector<int64_t> rows_of(const Json& entry, const char* name, const Rows& database,
                             const std::string& path, const std::string& query) {
  std::vector<int64_t> out;
  if (!entry.contains(name)) return out;
  if (!entry.at(name).is_array())
    fail_truth(path, fmt::format("\"{}\" of query {} is not a list of keys", name, printable_name(query)));
  for (const Json& item : entry.at(name)) {
    if (!item.is_string())
      fail_truth(path, fmt::format("\"{}\" of query {} is not a list of keys", name, printable_name(query)));
    const auto found = database.find(item.get_ref<const std::string&>());
    if (found == database.end())
      fail_truth(path, fmt::format("query {}: {} is no key of the database", printable_name(query),
                                   json_ascii(item)));
    out.push_back(found->second);
  }
  return out;
}

Json parse_truth(const std::string& path) {
  constexpr int64_t kMost = int64_t{1} << 28;
  if (file_size(path) > kMost) fail_truth(path, "is larger than 256 MiB");
  Json json = Json::parse(read_text(path), nullptr, false);
  if (json.is_discarded() || !json.is_object() || !json.contains("queries") ||
      !json.at("queries").is_object())
    fail_truth(path, "is not a JSON object with \"queries\"");
  return std::move(json.at("queries"));
}

/// Nothing that is misspelt may be passed over in silence.
void check_members(const Json& entry, const std::string& path, const std::string& query) {
  if (!entry.is_object()) fail_truth(path, fmt::format("query {} is not an object", printable_name(query)));
  for (const auto& [name, value] : entry.items())
    if (name != "positive" && name != "easy" && name != "hard" && name != "junk")
      fail_truth(path, fmt::format("query {}: \"{}\" is none of positive, easy, hard, junk",
                                   printable_name(query), printable_name(name)));
  if (entry.contains("positive") && (entry.contains("easy") || entry.contains("hard")))
    fail_truth(path,
               fmt::format("query {} has \"positive\" beside \"easy\" or \"hard\"", printable_name(query)));
}

void check_once(std::vector<int64_t> rows, const FeatureSet& database, const std::string& path,
                const std::string& query) {
  std::sort(rows.begin(), rows.end());
  const auto twice = std::adjacent_find(rows.begin(), rows.end());
  if (twice != rows.end())
    fail_truth(path, fmt::format("query {} names {} twice", printable_name(query),
                                 printable_name(database.keys[static_cast<size_t>(*twice)])));
}

const std::string& group_or_key(const FeatureSet& set, size_t row) {
  return set.groups[row].empty() ? set.keys[row] : set.groups[row];
}

}  // namespace

GroundTruth GroundTruth::of_rows(std::shared_ptr<const FeatureSet> queries,
                                 std::shared_ptr<const FeatureSet> database, MatchBy by) {
  GroundTruth out;
  out.by_ = by;
  out.same_data_ = queries->data == database->data;
  out.text_ = fmt::format("equal {}s, a query's own row left out", name_of(by));
  out.class_of_ = map_labels(*database, *queries);  // refuses features that cannot be compared
  if (by == MatchBy::label &&
      std::none_of(out.class_of_.begin(), out.class_of_.end(), [](int32_t label) { return label >= 0; }))
    throw DataError(
        fmt::format("retrieval: {}: no row has a label that {} knows; give --ground-truth, or features of "
                    "labelled data",
                    queries->path, database->path));
  out.queries_ = std::move(queries);
  out.database_ = std::move(database);
  return out;
}

GroundTruth GroundTruth::of_file(const std::string& path, std::shared_ptr<const FeatureSet> queries,
                                 std::shared_ptr<const FeatureSet> database) {
  GroundTruth out;
  out.class_of_ = map_labels(*database, *queries);  // refuses features that cannot be compared
  const Json json = parse_truth(path);
  out.from_file_ = true;
  out.text_ = "file " + sha256_file(path).substr(0, 16);
  Rows rows, query_rows;
  for (size_t i = 0; i < database->keys.size(); ++i) rows.emplace(database->keys[i], static_cast<int64_t>(i));
  for (size_t i = 0; i < queries->keys.size(); ++i)
    query_rows.emplace(queries->keys[i], static_cast<int64_t>(i));
  out.listed_.resize(queries->keys.size());
  bool plain = false;
  for (const auto& [query, entry] : json.items()) {
    check_members(entry, path, query);
    const auto row = query_rows.find(query);
    if (row == query_rows.end())
      fail_truth(path, fmt::format("query {} is not in {}", printable_name(query), queries->path));
    const bool graded = entry.contains("easy") || entry.contains("hard");
    plain |= entry.contains("positive");
    out.graded_ |= graded;
    Listed listed{rows_of(entry, graded ? "easy" : "positive", rows, path, query),
                  rows_of(entry, "hard", rows, path, query), rows_of(entry, "junk", rows, path, query)};
    std::vector<int64_t> all = listed.easy;
    all.insert(all.end(), listed.hard.begin(), listed.hard.end());
    all.insert(all.end(), listed.junk.begin(), listed.junk.end());
    check_once(std::move(all), *database, path, query);
    out.listed_[static_cast<size_t>(row->second)] = std::move(listed);
  }
  if (plain && out.graded_) fail_truth(path, "some queries have \"positive\", others \"easy\" or \"hard\"");
  for (const std::string& key : queries->keys)
    if (!json.contains(key)) fail_truth(path, fmt::format("says nothing of query {}", printable_name(key)));
  out.queries_ = std::move(queries);
  out.database_ = std::move(database);
  return out;
}

void GroundTruth::relevance(int64_t query, Difficulty difficulty, std::span<Relevance> out) const {
  std::fill(out.begin(), out.end(), Relevance::negative);
  const auto q = static_cast<size_t>(query);
  if (from_file_) {
    const bool hard = difficulty == Difficulty::hard;
    for (const int64_t row : listed_[q].easy)
      out[static_cast<size_t>(row)] = hard ? Relevance::junk : Relevance::positive;
    for (const int64_t row : listed_[q].hard) out[static_cast<size_t>(row)] = Relevance::positive;
    for (const int64_t row : listed_[q].junk) out[static_cast<size_t>(row)] = Relevance::junk;
    return;
  }
  const auto same = [&](size_t row) {
    if (by_ == MatchBy::label) return class_of_[q] >= 0 && database_->labels[row] == class_of_[q];
    if (by_ == MatchBy::key) return database_->keys[row] == queries_->keys[q];
    return group_or_key(*database_, row) == group_or_key(*queries_, q);
  };
  for (size_t row = 0; row < out.size(); ++row) {
    if (same(row)) out[row] = Relevance::positive;
    if (same_data_ && database_->keys[row] == queries_->keys[q]) out[row] = Relevance::junk;
  }
}

}  // namespace dino::eval
