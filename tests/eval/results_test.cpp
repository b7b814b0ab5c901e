// SPDX-License-Identifier: Apache-2.0
#include "results.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "eval/temporary.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"

namespace dino::eval {
namespace {

ResultRow sample(const std::string& model = "m", int64_t k = 5) {
  Card card;
  card.set("task", "knn")
      .set("k", k)
      .set("temperature", 0.07)
      .set("nested", Card().set("b", true).set("a", "x\"y"));
  ResultRow row;
  row.task = "knn";
  row.dataset = "set";
  row.model = model;
  row.metric = "top1";
  row.estimate = wilson(7, 10);
  row.card = card.json();
  row.card_hash = card.hash();
  row.weights = "abc";
  return row;
}

TEST(Card, IsCanonical) {
  EXPECT_EQ(sample().card, R"({"k":5,"nested":{"a":"x\"y","b":true},"task":"knn","temperature":0.07})");
  Card one, two;
  one.set("a", int64_t{1}).set("b", 0.1);
  two.set("b", 0.1).set("a", int64_t{1});
  EXPECT_EQ(one.hash(), two.hash());
  EXPECT_EQ(one.hash(), sha256_hex(std::as_bytes(std::span(std::string_view(R"({"a":1,"b":0.1})")))));
  EXPECT_NE(one.hash(), Card().set("a", int64_t{1}).set("b", 0.2).hash());
}

TEST(ResultRow, SurvivesTheFile) {
  ResultRow row = sample();
  row.oracle = 0.8125;
  row.predictions = "predictions/x.h5";
  row.model_input = R"({"from":"config.ini","mean":[0.5,0.5,0.5],"std":[0.25,0.25,0.25]})";
  const ResultRow back = parse_result(to_json_line(row), "here");
  EXPECT_EQ(to_json_line(back), to_json_line(row));
  EXPECT_EQ(back.card, row.card);
  for (const char* field :
       {"task", "dataset", "model", "metric", "value", "low", "high", "n", "card", "card_hash", "seconds"})
    EXPECT_NE(to_json_line(row).find("\"" + std::string(field) + "\":"), std::string::npos) << field;
}

TEST(ResultStore, AppendsSkipsAndForces) {
  const TemporaryFolder folder;
  {
    ResultStore store(folder.path());
    EXPECT_TRUE(store.add(sample(), false));
    EXPECT_FALSE(store.add(sample(), false));
    EXPECT_TRUE(store.add(sample("other"), false));
    EXPECT_TRUE(store.add(sample("m", 10), false));
  }
  ResultStore store(folder.path());
  EXPECT_EQ(store.rows().size(), 3U);
  EXPECT_FALSE(store.add(sample(), false));
  ResultRow other_weights = sample();
  other_weights.weights = "def";
  EXPECT_TRUE(store.add(other_weights, false));
  EXPECT_TRUE(store.add(sample(), true));
  EXPECT_EQ(read_results(folder / "results.jsonl").size(), 5U);
}

TEST(ResultStore, AHalfWrittenLineOfAKilledRunIsCutOff) {
  const TemporaryFolder folder;
  put(folder / "results.jsonl", to_json_line(sample()) + "\n" + to_json_line(sample("cut")).substr(0, 40));
  ResultStore store(folder.path());
  EXPECT_EQ(store.rows().size(), 1U);
  EXPECT_TRUE(store.add(sample("cut"), false));
  const auto rows = read_results(folder / "results.jsonl");
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[1].model, "cut");
}

TEST(ResultStore, ABrokenLineNamesFileAndLine) {
  const TemporaryFolder folder;
  for (const char* line : {"not json", "{\"task\":\"knn\"}", "[]", "{\"task\":3}"}) {
    put(folder / "results.jsonl", to_json_line(sample()) + "\n" + line + "\n");
    const std::string message = message_of<DataError>([&] { ResultStore store(folder.path()); });
    EXPECT_NE(message.find("results.jsonl:2: not a result row"), std::string::npos) << message;
  }
}

TEST(ResultStore, EveryFlippedByteOfARowIsNamedOrHarmless) {
  const TemporaryFolder folder;
  const std::string path = folder / "results.jsonl";
  ResultStore(folder.path()).add(sample(), false);
  const std::string line = read_text(path), row = to_json_line(read_results(path).at(0));
  int64_t named = 0;
  for (size_t at = 0; at + 1 < line.size(); ++at) {
    std::string bent = line;
    bent[at] = static_cast<char>(bent[at] ^ 1);
    put(path, bent);
    try {
      EXPECT_EQ(to_json_line(read_results(path).at(0)), row) << at;  // in the name of the checksum itself
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find("results.jsonl:1"), std::string::npos);
      ++named;
    }
  }
  EXPECT_GT(named, static_cast<int64_t>(row.size()));
}

TEST(Predictions, SurviveTheFileAndRefuseDamage) {
  const TemporaryFolder folder;
  const Predictions p{{"a", "b", "c"}, {"cat", "dog"}, {0, 1, 1}, {0, 0, 1}};
  const std::string path = folder / predictions_name(sample());
  write_predictions(path, p);
  const Predictions back = read_predictions(path);
  EXPECT_EQ(back.keys, p.keys);
  EXPECT_EQ(back.classes, p.classes);
  EXPECT_EQ(back.right(), (std::vector<uint8_t>{1, 0, 1}));
  Predictions dense;
  dense.keys = {"a", "b"};
  dense.classes = {"ground", "object"};
  dense.values = {{"rmse", {0.5, 0.25}}, {"delta1", {1, 0}}};
  dense.pixels = {3, 4, 3, 0, 0, 1, 2, 2, 2, 2, 2, 2};
  write_predictions(path, dense);
  EXPECT_EQ(read_predictions(path).values, dense.values);
  EXPECT_EQ(read_predictions(path).pixels, dense.pixels);
  EXPECT_TRUE(read_predictions(path).labels.empty());
  write_predictions(path, dense);
  {  // one pixel count too few
    Hdf5File file = Hdf5File::create(path);
    file.write("/pixels", view_of(dense.pixels.data(), {11}));
    file.write_strings("/keys", dense.keys);
    file.write_attribute("/", "classes", dense.classes);
    file.close();
  }
  EXPECT_NE(message_of<DataError>([&] { (void)read_predictions(path); }).find("differ in length"),
            std::string::npos);
  write_predictions(path, dense);
  std::string bent = read_text(path);
  bent[bent.size() / 2] = static_cast<char>(bent[bent.size() / 2] ^ 1);
  put(path, bent);
  EXPECT_THROW((void)read_predictions(path), DataError);
  put(path, "no hdf5");
  EXPECT_THROW((void)read_predictions(path), DataError);
}

}  // namespace
}  // namespace dino::eval
