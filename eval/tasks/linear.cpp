// SPDX-License-Identifier: Apache-2.0
// Linear probes on stored features: a grid of heads (learning rate x blocks x mean patch token), the best one
// chosen on a validation part of the training set (DINOv2's eval/linear.py chooses on the test set; that
// number is kept apart as `oracle`).
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/progress.hpp"
#include "heads/linear_heads.hpp"
#include "inputs/labelled_pair.hpp"

namespace dino::eval {

namespace {

struct LinearConfig {
  /// The reference's grid, before scaling by batch / 256.
  std::vector<double> lr = {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1};
  int64_t epochs = 10, batch = 128;
  double validation = 0.1;  ///< share of the training groups that selects the head
};

struct HeadSpec {
  double lr = 0;
  int64_t layers = 0;
  bool mean = false;
};

/// The reference's grid: {1, all} blocks x {without, with} the mean patch token, as far as the file has them.
std::vector<HeadSpec> grid_of(const std::vector<double>& rates, const FeatureColumns& columns) {
  std::vector<std::pair<int64_t, bool>> inputs;
  if (columns.layers == 0) inputs.emplace_back(0, true);
  for (const int64_t layers : {int64_t{1}, columns.layers}) {
    if (columns.layers == 0 || (layers == 1 && columns.layers == 1 && !inputs.empty())) continue;
    for (const bool mean : {false, true})
      if (!mean || columns.mean_width > 0) inputs.emplace_back(layers, mean);
  }
  std::vector<HeadSpec> grid;
  for (const auto& [layers, mean] : inputs)
    for (const double lr : rates) grid.push_back({lr, layers, mean});
  return grid;
}

std::vector<int32_t> labels_of(const std::vector<int32_t>& labels, const std::vector<int64_t>& rows) {
  std::vector<int32_t> out;
  for (const int64_t r : rows) out.push_back(labels[static_cast<size_t>(r)]);
  return out;
}

struct HeadScores {
  std::vector<double> validation, test;  ///< per head
  std::vector<std::vector<int32_t>>
      predicted;  ///< on the test rows, per head; filled where this rank trained
};

/// Heads [first, first + count) of the grid, which are trained side by side.
struct Group {
  size_t first = 0, count = 0;
};

/// Heads of the same columns, enough of them for products that are wide. Groups follow from the grid and the
/// number of classes alone: a head's numbers do not depend on how many ranks share the groups.
std::vector<Group> groups_of(const std::vector<HeadSpec>& grid, int64_t classes) {
  constexpr int64_t kOutputs = 4096;
  const auto most = static_cast<size_t>(std::max<int64_t>(1, kOutputs / classes));
  std::vector<Group> groups;
  for (size_t h = 0; h < grid.size(); ++h) {
    if (h > 0 && grid[h].layers == grid[h - 1].layers && grid[h].mean == grid[h - 1].mean &&
        groups.back().count < most)
      ++groups.back().count;
    else
      groups.push_back({h, 1});
  }
  return groups;
}

double share_of_right(const std::vector<int32_t>& predicted, const std::vector<int32_t>& truth) {
  int64_t right = 0;
  for (size_t i = 0; i < truth.size(); ++i) right += predicted[i] == truth[i] ? 1 : 0;
  return truth.empty() ? 0 : static_cast<double>(right) / static_cast<double>(truth.size());
}

/// The rank that trains each group.
size_t rank_of(const std::vector<Group>& groups, size_t head, const Communicator& world) {
  size_t g = 0;
  while (head >= groups[g].first + groups[g].count) ++g;
  return g % static_cast<size_t>(world.size());
}

HeadScores train_grid(const Communicator& world, const LabelledPair& pair, const LinearConfig& config,
                      uint64_t seed, const std::vector<HeadSpec>& grid, const std::vector<Group>& groups,
                      const RowSplit& split) {
  HeadScores scores{std::vector<double>(grid.size()), std::vector<double>(grid.size()),
                    std::vector<std::vector<int32_t>>(grid.size())};
  const auto classes = static_cast<int64_t>(pair.train->classes.size());
  const std::vector<int32_t> validation_labels = labels_of(pair.train->labels, split.validation),
                             truth = test_truth(pair);
  Progress progress("linear", static_cast<int64_t>(grid.size()), "heads");
  for (size_t g = static_cast<size_t>(world.rank()); g < groups.size();
       g += static_cast<size_t>(world.size())) {
    const auto [first, count] = groups[g];
    const FeatureView train = columns_of(*pair.train, grid[first].layers, grid[first].mean),
                      test = columns_of(*pair.test, grid[first].layers, grid[first].mean);
    std::vector<double> rates;
    for (size_t h = first; h < first + count; ++h) rates.push_back(grid[h].lr);
    LinearHeads heads(train.width, classes, rates, seed);
    heads.fit(train, pair.train->labels, split.fit, {config.epochs, config.batch, seed});
    const auto validation = heads.predict(train, split.validation);
    auto predicted = heads.predict(test, pair.test_rows);
    for (size_t i = 0; i < count; ++i) {
      scores.validation[first + i] = share_of_right(validation[i], validation_labels);
      scores.test[first + i] = share_of_right(predicted[i], truth);
      scores.predicted[first + i] = std::move(predicted[i]);
    }
    progress.set(
        std::min(static_cast<int64_t>(first + count) * world.size(), static_cast<int64_t>(grid.size())));
  }
  progress.finish();
  world.all_reduce(std::span(scores.validation));
  world.all_reduce(std::span(scores.test));
  return scores;
}

class Linear final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = LinearConfig;
    Schema<C> schema = head_options();
    schema.add("batch", &C::batch, "Images per step.").range(1, 1 << 20);
    schema.add("validation", &C::validation, "Share of the training groups that selects the head.")
        .range(0.01, 0.9);
    table.bind(schema, config_);
  }
  void sweep_options(OptionTable& table) override { table.bind(head_options(), config_); }

  Plan plan(TaskRun& run) override {
    if (config_.lr.empty()) throw UsageError("linear probe: --lr: is empty; name at least one learning rate");
    pair_ = read_pair(run);
    split_ = split_rows(pair_, config_.validation);
    Plan plan = pair_plan(pair_);
    plan.protocols = {{card(run.seed), {"top1"}}};
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& /*plan*/, std::span<const size_t> /*wanted*/) override {
    const Communicator& world = run.world;
    const std::vector<HeadSpec> grid = grid_of(config_.lr, pair_.train->columns);
    const std::vector<Group> groups = groups_of(grid, static_cast<int64_t>(pair_.train->classes.size()));
    const HeadScores scores =
        train_grid(world, pair_, config_, static_cast<uint64_t>(run.seed), grid, groups, split_);
    // Equal validation accuracy: the smaller index, that is the simpler input and the smaller learning rate.
    const size_t best = static_cast<size_t>(
        std::max_element(scores.validation.begin(), scores.validation.end()) - scores.validation.begin());
    const auto mine = world.rank() == static_cast<int>(rank_of(groups, best, world)) ? scores.predicted[best]
                                                                                     : std::vector<int32_t>{};
    const auto predicted = world.gather_values<int32_t>(std::span<const int32_t>(mine));
    if (!world.root()) return {};
    Outcome outcome{0, {}, predictions_of(pair_, predicted)};
    const auto right = outcome.predictions->right();
    const double oracle = *std::max_element(scores.test.begin(), scores.test.end());
    outcome.scores = {
        {"top1",
         wilson(std::accumulate(right.begin(), right.end(), int64_t{0}), static_cast<int64_t>(right.size())),
         true, oracle}};
    log::info(
        fmt::format("chosen on validation ({:.4f}): lr {}, {} block(s){}; best on the test set over the grid "
                    "(oracle): {:.4f}",
                    scores.validation[best], grid[best].lr, grid[best].layers,
                    grid[best].mean ? " and mean patch token" : "", oracle));
    return {std::move(outcome)};
  }

 private:
  static Schema<LinearConfig> head_options() {
    using C = LinearConfig;
    Schema<C> schema;
    schema.section("linear probe");
    schema.add("lr", &C::lr, "Learning rates of the grid, before scaling by batch / 256.");
    schema.add("epochs", &C::epochs, "Passes over the training part.").range(1, 10000);
    return schema;
  }
  [[nodiscard]] Card card(int64_t seed) const {
    Card card = pair_card(pair_);
    card.set("task", "linear")
        .set("lr", config_.lr)
        .set("epochs", config_.epochs)
        .set("batch", config_.batch);
    card.set("optimizer", "SGD, momentum 0.9, no weight decay, cosine to 0, lr * batch / 256");
    card.set("grid",
             "learning rate x class tokens of {1, all stored} blocks x {without, with} mean patch token");
    card.set("selection", fmt::format("accuracy on {} of the training groups, by hash", config_.validation));
    card.set("augmentation", "none (stored features)").set("seed", seed).set("interval", "Wilson 95 %");
    return card;
  }

  LinearConfig config_;
  LabelledPair pair_;
  RowSplit split_;
};

}  // namespace

TaskEntry linear_task() {
  TaskInfo info;
  info.name = "linear";
  info.summary = "Train linear probes on stored features";
  info.usage = "--train F.h5 --test G.h5 [--lr 1e-3,1e-2,...] [--epochs 10] --output RESULTS";
  info.description =
      "Trains a grid of linear heads (learning rate x last block or all stored blocks x without or with the "
      "mean patch token, as far as the file "
      "holds them: make it with --tokens both --layers 4 for the published grid), chooses one on a "
      "validation part of the training groups and reports "
      "its accuracy on the test set with Wilson's 95 % interval. The best head by test accuracy, which "
      "papers report, is in the field oracle.";
  info.examples = {{"--train train.h5 --test test.h5 --epochs 10 --output results"}};
  info.metrics = {{"top1", true, true}};
  info.inputs = labelled_inputs();
  info.in_sweep = true;
  return task_entry<Linear>(std::move(info));
}

}  // namespace dino::eval
