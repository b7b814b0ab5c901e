// SPDX-License-Identifier: Apache-2.0
// Tasks on two feature files: retrieval and copy detection.
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.hpp"
#include "eval/task_call.hpp"
#include "eval/temporary.hpp"
#include "storage/hdf5.hpp"

namespace dino::eval {
namespace {

struct Row {
  std::string key;
  int32_t label = -1;
  float angle = 0;  ///< of a unit vector in the plane, degrees
  std::string group{};
};

void write_rows(const std::string& path, const std::string& data, const std::vector<Row>& rows,
                const std::string& model = "m") {
  FeatureSet set;
  set.data = data;
  set.model = {model, "w"};
  set.columns = {2, 1, 0};
  set.rows = static_cast<int64_t>(rows.size());
  set.classes = {"a", "b", "c"};
  std::vector<float> x;
  for (const Row& row : rows) {
    set.keys.push_back(row.key), set.groups.push_back(row.group), set.labels.push_back(row.label);
    // Any length: rows are normalised.
    for (const float value :
         {std::cos(row.angle * 3.14159265F / 180), std::sin(row.angle * 3.14159265F / 180)})
      x.push_back(value * (1 + row.angle));
  }
  Hdf5File file = Hdf5File::create(path);
  file.write("/features", view_of(x.data(), {set.rows, 2}));
  file.write("/labels", view_of(set.labels.data(), {set.rows}));
  file.write_strings("/keys", set.keys);
  file.write_strings("/groups", set.groups);
  write_feature_attributes(file, set);
  file.close();
}

double value_of(const std::string& folder, const std::string& metric, const std::string& in_card = "") {
  for (const ResultRow& row : read_results(folder + "/results.jsonl"))
    if (row.metric == metric && row.card.find(in_card) != std::string::npos) return row.estimate.value;
  ADD_FAILURE() << "no row of " << metric << " " << in_card;
  return -1;
}

/// q at 0 degrees finds d1 (a), d2 (b), d3 (a); r at 90 finds d4 (c), d3, d2, d1.
void write_example(const TemporaryFolder& folder) {
  write_rows(folder / "q.h5", "queries", {{"q", 0, 0}, {"r", 1, 90}, {"s", 2, 80}, {"t", -1, 3}});
  write_rows(folder / "d.h5", "database",
             {{"d1", 0, 5}, {"d2", 1, 20}, {"d3", 0, 40}, {"d4", 2, 85}, {"d5", -1, 179}});
}

TEST(Retrieval, ByHand) {
  const TemporaryFolder folder;
  write_example(folder);
  const TaskCall task{"retrieval", {folder / "q.h5", folder / "d.h5"}};
  EXPECT_EQ(call(task, folder / "R").size(), 4U);
  // q: ranks 0 and 2 -> (1 + 2/3) / 2; r: d4, d3, d2: 1/3; s: 1; t has no label and no answer.
  EXPECT_NEAR(value_of(folder / "R", "map"), ((1 + 2.0 / 3) / 2 + 1.0 / 3 + 1) / 3, 1e-12);
  EXPECT_NEAR(value_of(folder / "R", "recall@1"), 2.0 / 3, 1e-12);
  EXPECT_EQ(value_of(folder / "R", "recall@10"), 1);
  // Confidences: q 5, r 5 (wrong), s 5, t 2 degrees (wrong, and nothing could be right): t comes first, then
  // q, r and s about together, in the order of their rounding.
  const double gap = value_of(folder / "R", "gap");
  EXPECT_GE(gap, (1.0 / 3 + 2.0 / 4) / 3 - 1e-12);
  EXPECT_LE(gap, (1.0 / 2 + 2.0 / 3) / 3 + 1e-12);
  const auto rows = read_results(folder / "R/results.jsonl");
  const Predictions kept = read_predictions(folder / ("R/" + rows[0].predictions));
  EXPECT_EQ(kept.keys, (std::vector<std::string>{"q", "r", "s"}));
}

TEST(Retrieval, AQuerysOwnRowIsLeftOut) {
  const TemporaryFolder folder;
  const std::vector<Row> rows = {{"x", 0, 0}, {"y", 0, 10}, {"z", 1, 4}, {"w", 1, 60}};
  write_rows(folder / "a.h5", "the same", rows);
  write_rows(folder / "b.h5", "other", rows);
  call({"retrieval", {folder / "a.h5", folder / "a.h5"}}, folder / "R");
  // x: z, y: 1/2. y: z, x: 1/2. z: x, y, w: 1/3. w: y, z: 1/2.
  EXPECT_NEAR(value_of(folder / "R", "map"), (0.5 + 0.5 + 1.0 / 3 + 0.5) / 4, 1e-12);
  // In another data set the same key is another picture.
  call({"retrieval", {folder / "b.h5", folder / "a.h5"}}, folder / "S");
  EXPECT_EQ(value_of(folder / "S", "recall@1"), 1);
}

TEST(Retrieval, TheRevisitedProtocol) {
  const TemporaryFolder folder;
  write_example(folder);
  put(folder / "truth.json",
      R"({"queries": {"q": {"easy": ["d1"], "hard": ["d3"], "junk": ["d2"]},
                      "r": {"easy": ["d3"], "hard": [], "junk": ["d4"]},
                      "s": {"hard": ["d1"]}, "t": {}}})");
  EXPECT_EQ(call({"retrieval", {folder / "q.h5", folder / "d.h5"}, {"--ground-truth", folder / "truth.json"}},
                 folder / "R")
                .size(),
            5U);
  // Medium: q: ranks 0, 1 without junk: 1. r: rank 0: 1. s: d4, d3, d2, d1: rank 3: (0 + 1/4) / 2.
  EXPECT_NEAR(value_of(folder / "R", "map_medium"), (1 + 1 + 1.0 / 8) / 3, 1e-12);
  // Hard: q without d1 and d2: 1; r has none; s as before.
  EXPECT_NEAR(value_of(folder / "R", "map_hard"), (1 + 1.0 / 8) / 2, 1e-12);
}

TEST(Retrieval, BrokenGroundTruthsAreNamed) {
  const TemporaryFolder folder;
  write_example(folder);
  const std::string path = folder / "truth.json";
  const std::vector<std::pair<std::string, std::string>> broken = {
      {"{", "is not a JSON object"},
      {"[]", "is not a JSON object"},
      {R"({"queries": []})", "is not a JSON object"},
      {R"({"queries": {"q": 3}})", "query q is not an object"},
      {R"({"queries": {"q": {"easi": []}}})", "\"easi\" is none of"},
      {R"({"queries": {"q": {"positive": "d1"}}})", "is not a list of keys"},
      {R"({"queries": {"q": {"positive": [1]}}})", "is not a list of keys"},
      {R"({"queries": {"q": {"positive": ["d9"]}}})", "is no key of the database"},
      {R"({"queries": {"u": {"positive": ["d1"]}}})", "query u is not in"},
      {R"({"queries": {"q": {"positive": ["d1"], "junk": ["d1"]}}})", "names d1 twice"},
      {R"({"queries": {"q": {"positive": ["d1"], "hard": []}}})", "beside"},
      {R"({"queries": {"q": {"positive": ["d1"]}, "r": {"easy": []}, "s": {}, "t": {}}})", "some queries"},
      {R"({"queries": {"q": {"positive": ["d1"]}}})", "says nothing of query r"}};
  for (const auto& [text, cause] : broken) {
    put(path, text);
    const std::string message = message_of<DataError>([&] {
      call({"retrieval", {folder / "q.h5", folder / "d.h5"}, {"--ground-truth", path}}, folder / "R");
    });
    EXPECT_NE(message.find(cause), std::string::npos) << text << "\n" << message;
    EXPECT_NE(message.find("truth.json"), std::string::npos) << message;
  }
  EXPECT_THROW(call({"retrieval", {folder / "q.h5", folder / "d.h5"}, {"--ground-truth", folder / "none"}},
                    folder / "R"),
               MissingInputError);
  write_rows(folder / "other.h5", "database", {{"d1", 0, 5}}, "another model");
  EXPECT_THROW(call({"retrieval", {folder / "q.h5", folder / "other.h5"}}, folder / "R"), UsageError);
  write_rows(folder / "unlabelled.h5", "queries", {{"q", -1, 5}});
  EXPECT_THROW(call({"retrieval", {folder / "unlabelled.h5", folder / "d.h5"}}, folder / "R"), DataError);
}

TEST(CopyDetection, ByHand) {
  const TemporaryFolder folder;
  write_rows(folder / "o.h5", "originals", {{"a", -1, 0}, {"b", -1, 30}, {"c", -1, 60}});
  write_rows(folder / "c.h5", "copies", {{"a", -1, 2}, {"b", -1, 53}, {"x", -1, 64}});
  EXPECT_EQ(call({"copydetect",
                  {folder / "o.h5", folder / "c.h5"},
                  {"--candidates", "1", "--thresholds", "0.9,0.995,1"}},
                 folder / "R")
                .size(),
            8U);
  // Pairs by cosine: a-a 2 degrees (right), x-c 4 (wrong), b-c 7 (wrong); b is not proposed.
  EXPECT_NEAR(value_of(folder / "R", "micro_ap"), 0.5, 1e-12);
  EXPECT_NEAR(value_of(folder / "R", "recall_at_p90"), 0.5, 1e-12);
  EXPECT_NEAR(value_of(folder / "R", "precision", "\"threshold\":0.9,"), 1.0 / 3, 1e-12);
  EXPECT_NEAR(value_of(folder / "R", "recall", "\"threshold\":0.9,"), 0.5, 1e-12);
  EXPECT_NEAR(value_of(folder / "R", "precision", "\"threshold\":0.995,"), 0.5, 1e-12);
  EXPECT_EQ(value_of(folder / "R", "precision", "\"threshold\":1,"), 1);  // nothing is accepted
  EXPECT_EQ(value_of(folder / "R", "recall", "\"threshold\":1,"), 0);
  // All three are proposed: a-a 2, x-c 4, b-c 7, b-b 23 degrees is the third of rank 4.
  call({"copydetect", {folder / "o.h5", folder / "c.h5"}}, folder / "S");
  EXPECT_NEAR(value_of(folder / "S", "micro_ap"), (1 + 2.0 / 4) / 2, 1e-12);
}

TEST(CopyDetection, GroupsAndFaults) {
  const TemporaryFolder folder;
  const std::vector<Row> rows = {
      {"a1", -1, 0, "a"}, {"a2", -1, 3, "a"}, {"b1", -1, 40, "b"}, {"b2", -1, 44, "b"}};
  write_rows(folder / "all.h5", "the same", rows);
  call({"copydetect", {folder / "all.h5", folder / "all.h5"}, {"--match", "group", "--candidates", "1"}},
       folder / "R");
  EXPECT_EQ(value_of(folder / "R", "micro_ap"), 1);  // its own row is no candidate
  const auto message = message_of<DataError>([&] {
    call({"copydetect", {folder / "all.h5", folder / "all.h5"}}, folder / "S");
  });
  EXPECT_NE(message.find("no copy has an original"), std::string::npos) << message;
  EXPECT_THROW(
      call({"copydetect", {folder / "all.h5", folder / "all.h5"}, {"--thresholds", "1.5"}}, folder / "S"),
      UsageError);
  put(folder / "graded.json", R"({"queries": {"a1": {"hard": ["a2"]}, "a2": {}, "b1": {}, "b2": {}}})");
  EXPECT_THROW(
      call({"copydetect", {folder / "all.h5", folder / "all.h5"}, {"--ground-truth", folder / "graded.json"}},
           folder / "S"),
      UsageError);
}

}  // namespace
}  // namespace dino::eval
