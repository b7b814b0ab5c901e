// SPDX-License-Identifier: Apache-2.0
// Damaged results are read or refused by file and line, damaged ground truths and pairs by file.
#include "mutation.hpp"

#include <gtest/gtest.h>

#include "inputs/ground_truth.hpp"
#include "inputs/image_pairs.hpp"
#include "results.hpp"
#include "temporary.hpp"

namespace dino::eval {
namespace {

TEST(ResultsMutation, Jsonl) {
  std::string good;
  for (int k : {5, 10}) {
    ResultRow row{"knn", "pets", "model", "top1", {0.5, 0.4, 0.6, 100}, "", "", 1.5, "", {}, ""};
    Card card;
    card.set("k", int64_t{k}).set("temperature", 0.07);
    row.card = card.json();
    row.card_hash = card.hash();
    good += to_json_line(row) + "\n";
  }
  const TemporaryFolder folder;
  testing::run_file_mutations({{good, good.substr(0, good.find('\n') + 1)}, 51, {}, 0.1},
                              folder.path() + "/results.jsonl",
                              [](const std::string& path) { (void)read_results(path); });
}

TEST(GroundTruthMutation, Json) {
  auto set = std::make_shared<FeatureSet>();
  set->columns = {1, 1, 0};
  set->rows = 3;
  set->keys = {"a", "b", "c"};
  set->groups = {"", "", ""};
  set->labels = {-1, -1, -1};
  const TemporaryFolder folder;
  testing::run_file_mutations(
      {{R"({"queries": {"a": {"positive": ["b"], "junk": ["c"]}, "b": {}, "c": {"positive": ["a", "b"]}}})",
        R"({"queries": {"a": {"easy": ["b"], "hard": []}, "b": {"hard": ["c"]}, "c": {}}})"},
       52,
       {},
       0.1},
      folder / "truth.json", [&](const std::string& path) { (void)GroundTruth::of_file(path, set, set); });
}

TEST(PairsMutation, Json) {
  const TemporaryFolder folder;
  Dataset dataset;
  dataset.reference = folder.path();
  dataset.records.resize(2);
  dataset.records[0].key = "a", dataset.records[1].key = "b";
  testing::run_file_mutations(
      {{R"({"pairs": [{"a": "a", "b": "b", "points": [[1, 2, 3, 4], [5.5, 6, 7, 8]]}]})",
        R"({"pairs": [{"a": "b", "b": "a", "points": [[1e3, 2, 3, 4]]}]})"},
       53,
       {},
       0.1},
      folder / "pairs.json", [&](const std::string&) { (void)read_pairs(dataset); });
}

}  // namespace
}  // namespace dino::eval
