// SPDX-License-Identifier: Apache-2.0
#include "inputs/labelled_pair.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "base/error.hpp"
#include "base/log.hpp"
#include "inputs/features.hpp"

namespace dino::eval {

std::vector<TaskInput> labelled_inputs() {
  return {{"train", "Feature file of the training set.", TaskInput::Kind::features, TaskInput::Part::train},
          {"test", "Feature file of the test set.", TaskInput::Kind::features, TaskInput::Part::test}};
}

LabelledPair pair_of(std::shared_ptr<const FeatureSet> train, std::shared_ptr<const FeatureSet> test) {
  LabelledPair pair{std::move(train), std::move(test), {}, {}, {}, 0};
  const std::vector<int32_t> mapped = map_labels(*pair.train, *pair.test);
  int64_t unknown = 0;
  for (int64_t i = 0; i < pair.train->rows; ++i)
    if (pair.train->labels[static_cast<size_t>(i)] >= 0) pair.train_rows.push_back(i);
  pair.test_labels.assign(mapped.size(), -1);
  for (size_t i = 0; i < mapped.size(); ++i) {
    if (pair.test->labels[i] < 0) continue;
    pair.test_labels[i] = mapped[i] >= 0 ? mapped[i] : kUnknownClass;
    unknown += mapped[i] < 0 ? 1 : 0;
    pair.test_rows.push_back(static_cast<int64_t>(i));
  }
  if (pair.train_rows.empty() || pair.test_rows.empty())
    throw DataError(fmt::format(
        "probing features: {}: holds no labelled image; labels come from sub-folders or .cls members",
        pair.train_rows.empty() ? pair.train->path : pair.test->path));
  if (unknown > 0)
    log::warning(fmt::format("{} test images are of classes that {} does not have; they count as errors",
                             unknown, pair.train->path));
  if (pair.train->data == pair.test->data) {
    const std::unordered_set<std::string> known(pair.train->keys.begin(), pair.train->keys.end());
    for (const std::string& key : pair.test->keys) pair.shared_keys += known.count(key) > 0 ? 1 : 0;
  }
  if (pair.shared_keys > 0)
    log::warning(
        fmt::format("{} of {} test images are also training images: the result says nothing about new "
                    "images; use --split train and --split test",
                    pair.shared_keys, pair.test->rows));
  return pair;
}

LabelledPair read_pair(TaskRun& run) {
  return pair_of(run.features("train"), run.features("test"));
}

Card pair_card(const LabelledPair& pair) {
  const auto part = [](const FeatureSet& set) {
    Card card;
    card.set("data", dataset_name(set.data))
        .set("images", set.rows)
        .set("keys", keys_hash(set.keys).substr(0, 16));
    card.set("split", name_of(set.protocol.split));
    if (set.protocol.split != Split::all) card.set("test_fraction", set.protocol.test_fraction);
    return card;
  };
  Card card;
  card.set("train", part(*pair.train))
      .set("test", part(*pair.test))
      .set("features", pair.train->protocol.card());
  card.set("shared_keys", pair.shared_keys);
  return card;
}

Plan pair_plan(const LabelledPair& pair) {
  return {pair.test->model, pair.test->data, {}};
}

std::vector<int32_t> train_labels(const LabelledPair& pair) {
  std::vector<int32_t> out;
  for (const int64_t r : pair.train_rows) out.push_back(pair.train->labels[static_cast<size_t>(r)]);
  return out;
}

std::vector<int32_t> test_truth(const LabelledPair& pair) {
  std::vector<int32_t> out;
  for (const int64_t r : pair.test_rows) out.push_back(pair.test_labels[static_cast<size_t>(r)]);
  return out;
}

Predictions predictions_of(const LabelledPair& pair, std::vector<int32_t> predicted) {
  Predictions out;
  for (const int64_t r : pair.test_rows) out.keys.push_back(pair.test->keys[static_cast<size_t>(r)]);
  out.classes = pair.train->classes;
  out.labels = test_truth(pair);
  out.predicted = std::move(predicted);
  return out;
}

RowSplit split_rows(const LabelledPair& pair, double share) {
  const auto draw_of = [&](int64_t r) {
    const auto row = static_cast<size_t>(r);
    return unit_hash("validation:" +
                     (pair.train->groups[row].empty() ? pair.train->keys[row] : pair.train->groups[row]));
  };
  // In a small set the group that was drawn first stands in for a part that came out empty.
  double least = 1;
  for (const int64_t r : pair.train_rows) least = std::min(least, draw_of(r));
  RowSplit split;
  for (const int64_t r : pair.train_rows) {
    const double draw = draw_of(r);
    (draw < share || draw == least ? split.validation : split.fit).push_back(r);
  }
  if (split.fit.empty() || split.validation.empty())
    throw DataError(
        fmt::format("linear probe: {}: {} labelled images cannot be split into a training and a validation "
                    "part; use more images or change --validation",
                    pair.train->path, pair.train_rows.size()));
  return split;
}

}  // namespace dino::eval
