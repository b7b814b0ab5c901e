// SPDX-License-Identifier: Apache-2.0
// Logistic regression on stored features: C chosen on a part of the training set that is held out, then a
// fit on all of it (DINOv2's eval/log_regression.py; 45 values of C between 1e-6 and 1e5 as there).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/progress.hpp"
#include "heads/logistic_regression.hpp"
#include "inputs/labelled_pair.hpp"

namespace dino::eval {

namespace {

struct LogregConfig {
  std::string c = "1e-6:1e5:45";  ///< from:to:count, or a list
  UsedTokens columns = UsedTokens::cls;
  double validation = 0.1;
};

/// Values of C whose fits begin at each other's solutions, in ascending order; ranks share these chains, so
/// that no number depends on how many ranks there are.
constexpr size_t kChain = 5;

[[noreturn]] void refuse_c(const std::string& text) {
  throw UsageError("logistic regression: --c " + text +
                   ": is neither a list of positive numbers nor FROM:TO:COUNT; use 1e-6:1e5:45");
}

double positive(const std::string& text, const std::string& whole) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value > 0) || !std::isfinite(value)) refuse_c(whole);
  return value;
}

std::vector<std::string> parts_of(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

/// Ascending, each once.
std::vector<double> values_of_c(const std::string& text) {
  std::vector<double> values;
  if (const auto ends = parts_of(text, ':'); ends.size() == 3) {
    const double low = positive(ends[0], text), high = positive(ends[1], text),
                 count = positive(ends[2], text);
    if (low > high || count < 1 || count > 10000 || count != std::floor(count)) refuse_c(text);
    for (int64_t i = 0; i < static_cast<int64_t>(count); ++i) {
      const double at = count > 1 ? static_cast<double>(i) / (count - 1) : 0;
      values.push_back(std::pow(10, std::log10(low) + at * (std::log10(high) - std::log10(low))));
    }
  } else {
    for (const std::string& part : parts_of(text, ',')) values.push_back(positive(part, text));
  }
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

double accuracy(const std::vector<int32_t>& predicted, const std::vector<int32_t>& truth) {
  int64_t right = 0;
  for (size_t i = 0; i < predicted.size(); ++i) right += predicted[i] == truth[i] ? 1 : 0;
  return static_cast<double>(right) / static_cast<double>(std::max<size_t>(predicted.size(), 1));
}

/// Accuracy on the rows that were held out, by value of C. Collective.
std::vector<double> validate(const Communicator& world, const FeatureView& x,
                             const std::vector<int32_t>& labels, const RowSplit& split,
                             const std::vector<double>& values) {
  std::vector<double> scores(values.size());
  std::vector<int32_t> truth;
  for (const int64_t r : split.validation) truth.push_back(labels[static_cast<size_t>(r)]);
  const size_t step = kChain * static_cast<size_t>(world.size());
  if (static_cast<size_t>(world.rank()) * kChain < values.size()) {
    const LogisticRegression problem(x, labels, split.fit);
    Progress progress("logistic regression", static_cast<int64_t>(values.size()), "fits");
    for (size_t first = static_cast<size_t>(world.rank()) * kChain; first < values.size(); first += step) {
      LogisticRegression::Solution last;
      for (size_t i = first; i < std::min(first + kChain, values.size()); ++i) {
        last = problem.fit(values[i], i > first ? &last : nullptr);
        if (!last.converged)
          log::warning(
              fmt::format("logistic regression: C = {:.3g}: stopped short of the optimum after {} steps",
                          values[i], last.iterations));
        scores[i] = accuracy(problem.predict(last, x, split.validation), truth);
        progress.set(
            std::min(static_cast<int64_t>(i + 1) * world.size(), static_cast<int64_t>(values.size())));
      }
    }
    progress.finish();
  }
  world.all_reduce(std::span(scores));
  return scores;
}

/// Mean over classes of the share of right predictions, its interval from the binomial variances of the
/// classes (each with two successes and two failures added, as a class that is all right is not certain).
Estimate mean_per_class(const std::vector<int32_t>& predicted, const std::vector<int32_t>& truth) {
  std::map<int32_t, std::pair<int64_t, int64_t>> classes;  // right, all
  for (size_t i = 0; i < truth.size(); ++i) {
    auto& [right, all] = classes[truth[i]];
    right += predicted[i] == truth[i] ? 1 : 0;
    ++all;
  }
  double mean = 0, variance = 0;
  const auto count = static_cast<double>(classes.size());
  for (const auto& [label, numbers] : classes) {
    const auto right = static_cast<double>(numbers.first), all = static_cast<double>(numbers.second);
    mean += right / all / count;
    const double p = (right + 2) / (all + 4);
    variance += p * (1 - p) / (all + 4) / (count * count);
  }
  const double half = 1.959963984540054 * std::sqrt(variance);
  return {mean, std::max(0.0, mean - half), std::min(1.0, mean + half), static_cast<int64_t>(truth.size())};
}

class Logreg final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = LogregConfig;
    Schema<C> schema;
    schema.section("logistic regression");
    schema.add("c", &C::c,
               "Inverse strengths of the penalty: FROM:TO:COUNT, evenly by their logarithm, or a list.");
    schema.add("columns", &C::columns, "Which columns of the features count.");
    schema.add("validation", &C::validation, "Share of the training groups that selects C.").range(0.01, 0.9);
    table.bind(schema, config_);
  }

  Plan plan(TaskRun& run) override {
    values_ = values_of_c(config_.c);
    pair_ = read_pair(run);
    split_ = split_rows(pair_, config_.validation);
    const FeatureColumns& columns = pair_.train->columns;
    const bool floor = columns.mean_width == 0;  // raw pixels stand for every choice
    if (config_.columns == UsedTokens::patch && floor && pair_.train->model.name != "raw-pixels")
      throw UsageError("logistic regression: --columns patch: " + pair_.train->path +
                       " holds class tokens only; make it with --tokens both");
    if (config_.columns == UsedTokens::cls && columns.layers == 0)
      throw UsageError("logistic regression: --columns cls: " + pair_.train->path +
                       " holds patch tokens only; make it with --tokens both");
    mean_ = !floor && config_.columns != UsedTokens::cls;
    layers_ = config_.columns == UsedTokens::patch && !floor ? 0
              : config_.columns == UsedTokens::all           ? columns.layers
                                                             : std::min<int64_t>(columns.layers, 1);
    Plan plan = pair_plan(pair_);
    plan.protocols = {{card(), {"top1", "mean_per_class"}}};
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& /*plan*/, std::span<const size_t> /*wanted*/) override {
    const FeatureView train = columns_of(*pair_.train, layers_, mean_),
                      test = columns_of(*pair_.test, layers_, mean_);
    const std::vector<double> scores = validate(run.world, train, pair_.train->labels, split_, values_);
    // Equally good ones: the smaller C, that is the stronger penalty.
    const size_t best = static_cast<size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
    if (!run.world.root()) return {};
    const LogisticRegression problem(train, pair_.train->labels, pair_.train_rows);
    const auto solution = problem.fit(values_[best]);
    const std::vector<int32_t> predicted = problem.predict(solution, test, pair_.test_rows),
                               truth = test_truth(pair_);
    Outcome outcome{0, {}, predictions_of(pair_, predicted)};
    const auto right = outcome.predictions->right();
    outcome.scores = {
        {"top1", wilson(std::count(right.begin(), right.end(), 1), static_cast<int64_t>(right.size())), true},
        {"mean_per_class", mean_per_class(predicted, truth)}};
    log::info(
        fmt::format("chosen on validation ({:.4f}): C = {:.4g}; then {} steps on all of the training set",
                    scores[best], values_[best], solution.iterations));
    return {std::move(outcome)};
  }

 private:
  [[nodiscard]] Card card() const {
    Card card = pair_card(pair_);
    card.set("task", "logreg").set("c", config_.c).set("columns", name_of(config_.columns));
    card.set("solver", "L-BFGS to the optimum; L2 on the weights, none on the biases; features as they are");
    card.set("selection", fmt::format("accuracy on {} of the training groups, by hash; then a fit on all",
                                      config_.validation));
    card.set("augmentation", "none (stored features)").set("interval", "Wilson 95 %; mean per class: normal");
    return card;
  }

  LogregConfig config_;
  std::vector<double> values_;
  LabelledPair pair_;
  RowSplit split_;
  int64_t layers_ = 0;
  bool mean_ = false;
};

}  // namespace

TaskEntry logreg_task() {
  TaskInfo info;
  info.name = "logreg";
  info.summary = "Fit logistic regression to stored features";
  info.usage = "--train F.h5 --test G.h5 [--c 1e-6:1e5:45] --output RESULTS";
  info.description =
      "Fits multinomial logistic regression to its optimum (L-BFGS) for each value of C on the training "
      "groups "
      "that are not held out, chooses C by the accuracy on those that are, fits again on all of the training "
      "set, and reports top-1 with Wilson's 95 % interval and the mean over classes on the test set.";
  info.examples = {{"--train train.h5 --test test.h5 --output results"}};
  info.metrics = {{"top1", true, true}, {"mean_per_class"}};
  info.inputs = labelled_inputs();
  info.variants = {{"columns", "", "cls"}};
  info.confusions = true;
  return task_entry<Logreg>(std::move(info));
}

}  // namespace dino::eval
