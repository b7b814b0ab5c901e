// SPDX-License-Identifier: Apache-2.0
// Linear probes on stored features: a grid of heads (learning rate x blocks x mean patch token), the best one
// chosen on a validation part of the training set (DINOv2's eval/linear.py chooses on the test set; that
// number is kept apart as `oracle`).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/progress.hpp"
#include "base/random.hpp"
#include "base/timing.hpp"
#include "commands.hpp"
#include "features.hpp"
#include "linear_head.hpp"
#include "options.hpp"
#include "probe.hpp"
#include "storage/files.hpp"
#include "storage/output_folder.hpp"

namespace dino::eval {

namespace {

struct HeadSpec {
  double lr = 0;
  int64_t layers = 0;
  bool mean = false;
};

/// The reference's grid: {1, all} blocks x {without, with} the mean patch token, as far as the file has them.
std::vector<HeadSpec> grid_of(const LinearConfig& config, const FeatureColumns& columns) {
  std::vector<std::pair<int64_t, bool>> inputs;
  if (columns.layers == 0) inputs.emplace_back(0, true);
  for (const int64_t layers : {int64_t{1}, columns.layers}) {
    if (columns.layers == 0 || (layers == 1 && columns.layers == 1 && !inputs.empty())) continue;
    for (const bool mean : {false, true})
      if (!mean || columns.mean_width > 0) inputs.emplace_back(layers, mean);
  }
  std::vector<HeadSpec> grid;
  for (const auto& [layers, mean] : inputs)
    for (const double lr : config.lr) grid.push_back({lr, layers, mean});
  return grid;
}

struct RowSplit {
  std::vector<int64_t> fit, validation;
};

/// By hash of the group (or the key), so that views of one object stay together and every model sees the
/// same.
RowSplit split_rows(const LabelledPair& pair, double share) {
  const auto draw_of = [&](int64_t r) {
    const auto row = static_cast<size_t>(r);
    return unit_hash("validation:" +
                     (pair.train.groups[row].empty() ? pair.train.keys[row] : pair.train.groups[row]));
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
                    "part; use more images or change "
                    "--validation",
                    pair.train.path, pair.train_rows.size()));
  return split;
}

std::vector<int32_t> labels_of(const std::vector<int32_t>& labels, const std::vector<int64_t>& rows) {
  std::vector<int32_t> out;
  for (const int64_t r : rows) out.push_back(labels[static_cast<size_t>(r)]);
  return out;
}

Card linear_card(const LabelledPair& pair, const LinearConfig& config) {
  Card card = pair_card(pair);
  card.set("task", "linear").set("lr", config.lr).set("epochs", config.epochs).set("batch", config.batch);
  card.set("optimizer", "SGD, momentum 0.9, no weight decay, cosine to 0, lr * batch / 256");
  card.set("grid",
           "learning rate x class tokens of {1, all stored} blocks x {without, with} mean patch token");
  card.set("selection", fmt::format("accuracy on {} of the training groups, by hash", config.validation));
  card.set("augmentation", "none (stored features)")
      .set("seed", config.input.seed)
      .set("interval", "Wilson 95 %");
  return card;
}

struct Scores {
  std::vector<double> validation, test;  ///< per head
  std::vector<std::vector<int32_t>>
      predicted;  ///< on the test rows, per head; filled where this rank trained
};

Scores train_grid(const Communicator& world, const LabelledPair& pair, const LinearConfig& config,
                  const std::vector<HeadSpec>& grid, const RowSplit& split) {
  Scores scores{std::vector<double>(grid.size()), std::vector<double>(grid.size()),
                std::vector<std::vector<int32_t>>(grid.size())};
  const auto classes = static_cast<int64_t>(pair.train.classes.size());
  const std::vector<int32_t> validation_labels = labels_of(pair.train.labels, split.validation),
                             test_labels = labels_of(pair.test_labels, pair.test_rows);
  std::vector<float> train, test;
  size_t columns_of = grid.size();
  Progress progress("linear", static_cast<int64_t>(grid.size()), "heads");
  // Every head is trained alone, by one rank: its numbers do not depend on how many ranks share the grid.
  for (size_t h = static_cast<size_t>(world.rank()); h < grid.size();
       h += static_cast<size_t>(world.size())) {
    if (columns_of == grid.size() || grid[h].layers != grid[columns_of].layers ||
        grid[h].mean != grid[columns_of].mean) {
      train = select_columns(pair.train, grid[h].layers, grid[h].mean);
      test = select_columns(pair.test, grid[h].layers, grid[h].mean);
      columns_of = h;
    }
    const int64_t width = static_cast<int64_t>(train.size()) / pair.train.rows;
    LinearHead head(width, classes, static_cast<uint64_t>(config.input.seed));
    head.fit(train.data(), pair.train.labels, split.fit,
             {grid[h].lr, config.epochs, config.batch, static_cast<uint64_t>(config.input.seed)});
    scores.validation[h] = head.accuracy(train.data(), split.validation, validation_labels);
    scores.predicted[h] = head.predict(test.data(), pair.test_rows);
    int64_t right = 0;
    for (size_t i = 0; i < test_labels.size(); ++i) right += scores.predicted[h][i] == test_labels[i] ? 1 : 0;
    scores.test[h] = static_cast<double>(right) / static_cast<double>(test_labels.size());
    progress.set(std::min(static_cast<int64_t>(h) + world.size(), static_cast<int64_t>(grid.size())));
  }
  progress.finish();
  world.all_reduce(std::span(scores.validation));
  world.all_reduce(std::span(scores.test));
  return scores;
}

}  // namespace

std::vector<std::string> run_linear(const Communicator& world, const LinearConfig& config,
                                    const std::string& output) {
  const log::Phase phase("linear");
  const Stopwatch watch;
  const LabelledPair pair = read_pair(config.input);
  ResultRow row = pair_row(pair, config.input, "linear", linear_card(pair, config), "top1");
  row.predictions = predictions_name(row);
  std::string known;
  if (world.root() && !config.input.force) {
    ResultStore store(output);
    if (const ResultRow* found = store.find(row); found != nullptr) {
      known = to_json_line(*found);
      store.add(*found, false);
    }
  }
  world.broadcast(known);
  if (!known.empty()) return {known};

  const std::vector<HeadSpec> grid = grid_of(config, pair.train.columns);
  const RowSplit split = split_rows(pair, config.validation);
  const Scores scores = train_grid(world, pair, config, grid, split);
  // Equal validation accuracy: the smaller index, that is the simpler input and the smaller learning rate.
  const size_t best = static_cast<size_t>(
      std::max_element(scores.validation.begin(), scores.validation.end()) - scores.validation.begin());
  const auto mine = world.rank() == static_cast<int>(best % static_cast<size_t>(world.size()))
                        ? scores.predicted[best]
                        : std::vector<int32_t>{};
  const auto predicted = world.gather_values<int32_t>(std::span<const int32_t>(mine));
  if (!world.root()) return {};

  Predictions predictions{{}, pair.train.classes, labels_of(pair.test_labels, pair.test_rows), predicted};
  for (const int64_t r : pair.test_rows) predictions.keys.push_back(pair.test.keys[static_cast<size_t>(r)]);
  const auto right = predictions.right();
  row.estimate =
      wilson(std::accumulate(right.begin(), right.end(), int64_t{0}), static_cast<int64_t>(right.size()));
  row.oracle = *std::max_element(scores.test.begin(), scores.test.end());
  row.seconds = watch.seconds();
  ResultStore store(output);
  write_predictions(output + "/" + row.predictions, predictions);
  store.add(row, config.input.force);
  log::info(
      fmt::format("chosen on validation ({:.4f}): lr {}, {} block(s){}; best on the test set over the grid "
                  "(oracle): {:.4f}",
                  scores.validation[best], grid[best].lr, grid[best].layers,
                  grid[best].mean ? " and mean patch token" : "", *row.oracle));
  return {to_json_line(row)};
}

namespace {

Schema<LinearConfig> linear_options() {
  using C = LinearConfig;
  Schema<C> schema;
  schema.add(&C::input, probe_options());
  declare_heads(schema);
  schema.add("batch", &C::batch, "Images per step.").range(1, 1 << 20);
  schema.add("validation", &C::validation, "Share of the training groups that selects the head.")
      .range(0.01, 0.9);
  return schema;
}

ExitCode start_linear(LinearConfig config, CommandContext& context) {
  if (config.lr.empty()) throw UsageError("linear probe: --lr: is empty; name at least one learning rate");
  config.input.seed = context.common.seed;
  if (context.common.dry_run) {
    (void)split_rows(read_pair(config.input), config.validation);
    return ExitCode::done;
  }
  const auto lock = lock_output_folder(context, output_kind::results);
  const auto lines = run_linear(context.world, config, context.common.output);
  return report_rows(context, lines);
}

}  // namespace

Command linear_command() {
  Command command;
  command.name = "linear";
  command.summary = "Train linear probes on stored features";
  command.usage = "--train F.h5 --test G.h5 [--lr 1e-3,1e-2,...] [--epochs 10] --output RESULTS";
  command.description =
      "Trains a grid of linear heads (learning rate x last block or all stored blocks x without or with the "
      "mean patch token, as far as the file "
      "holds them: make it with --tokens both --layers 4 for the published grid), chooses one on a "
      "validation part of the training groups and reports "
      "its accuracy on the test set with Wilson's 95 % interval. The best head by test accuracy, which "
      "papers report, is in the field oracle.";
  command.output = "Results folder.";
  command.examples = {{"--train train.h5 --test test.h5 --epochs 10 --output results"}};
  command.make = with_options(linear_options(), start_linear);
  return command;
}

}  // namespace dino::eval
