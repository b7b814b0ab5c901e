// SPDX-License-Identifier: Apache-2.0
#include "probe.hpp"

#include <fmt/format.h>

#include <unordered_set>

#include "base/error.hpp"
#include "base/log.hpp"

namespace dino::eval {

Schema<ProbeInput> probe_options() {
  using C = ProbeInput;
  Schema<C> schema;
  schema.section("data");
  schema.add("train", &C::train, "Feature file of the training set.").required();
  schema.add("test", &C::test, "Feature file of the test set.").required();
  schema.add("dataset", &C::dataset, "Name of the data set in results (default: from the test set).");
  schema.add("force", &C::force, "Append the result even if RESULTS already has one with the same card.");
  return schema;
}

void declare_vote(Schema<KnnConfig>& schema) {
  using C = KnnConfig;
  schema.section("k-NN");
  schema.add("k", &C::k, "Numbers of neighbours.");
  schema.add("temperature", &C::temperature, "Temperature of the vote's weights.").range(1e-4, 100);
}

void declare_heads(Schema<LinearConfig>& schema) {
  using C = LinearConfig;
  schema.section("linear probe");
  schema.add("lr", &C::lr, "Learning rates of the grid, before scaling by batch / 256.");
  schema.add("epochs", &C::epochs, "Passes over the training part.").range(1, 10000);
}

LabelledPair read_pair(const ProbeInput& input) {
  LabelledPair pair{read_features(input.train), read_features(input.test), {}, {}, {}, 0};
  const std::vector<int32_t> mapped = map_labels(pair.train, pair.test);
  int64_t unknown = 0;
  for (int64_t i = 0; i < pair.train.rows; ++i)
    if (pair.train.labels[static_cast<size_t>(i)] >= 0) pair.train_rows.push_back(i);
  pair.test_labels.assign(mapped.size(), -1);
  for (size_t i = 0; i < mapped.size(); ++i) {
    if (pair.test.labels[i] < 0) continue;
    pair.test_labels[i] = mapped[i] >= 0 ? mapped[i] : kUnknownClass;
    unknown += mapped[i] < 0 ? 1 : 0;
    pair.test_rows.push_back(static_cast<int64_t>(i));
  }
  if (pair.train_rows.empty() || pair.test_rows.empty())
    throw DataError(fmt::format(
        "probing features: {}: holds no labelled image; labels come from sub-folders or .cls members",
        pair.train_rows.empty() ? input.train : input.test));
  if (unknown > 0)
    log::warning(fmt::format("{} test images are of classes that {} does not have; they count as errors",
                             unknown, input.train));
  if (pair.train.data == pair.test.data) {
    const std::unordered_set<std::string> known(pair.train.keys.begin(), pair.train.keys.end());
    for (const std::string& key : pair.test.keys) pair.shared_keys += known.count(key) > 0 ? 1 : 0;
  }
  if (pair.shared_keys > 0)
    log::warning(
        fmt::format("{} of {} test images are also training images: the result says nothing about new "
                    "images; use --split train and "
                    "--split test",
                    pair.shared_keys, pair.test.rows));
  return pair;
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
  card.set("train", part(pair.train))
      .set("test", part(pair.test))
      .set("features", pair.train.protocol.card());
  card.set("shared_keys", pair.shared_keys);
  return card;
}

ResultRow pair_row(const LabelledPair& pair, const ProbeInput& input, const std::string& task,
                   const Card& card, const std::string& metric) {
  ResultRow row;
  row.task = task;
  row.dataset = input.dataset.empty() ? dataset_name(pair.test.data) : input.dataset;
  row.model = pair.test.model.name;
  row.weights = pair.test.model.weights;
  row.model_input = pair.test.model.input;
  row.metric = metric;
  row.card = card.json();
  row.card_hash = card.hash();
  return row;
}

}  // namespace dino::eval
