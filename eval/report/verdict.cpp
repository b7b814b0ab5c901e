// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "base/json.hpp"
#include "report/axis.hpp"
#include "report/html.hpp"
#include "report/parts.hpp"
#include "task.hpp"

namespace dino::eval {

namespace {

std::string join(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, ", "));
}

/// Rows of one protocol on one data set: floors and models side by side.
struct Contest {
  std::string name;
  LocatedRow raw, random;
  LocatedRow best;  ///< of the trained models
};

std::vector<Contest> contests(const ReportInput& input) {
  std::map<std::string, Contest> by_card;
  for (const LocatedRow& located : headline_rows(input)) {
    const ResultRow& row = *located.row;
    const Metric metric = metric_of(row.task, row.metric);
    if (!metric.headline) continue;
    Contest& c = by_card[row.task + "\n" + row.dataset + "\n" + row.metric + "\n" + row.card_hash];
    c.name = row.task + " " + row.dataset;
    if (row.model == "raw-pixels")
      c.raw = located;
    else if (row.model == "random-weights")
      c.random = located;
    else if (c.best.row == nullptr || is_better(metric, row.estimate.value, c.best.row->estimate.value))
      c.best = located;
  }
  std::vector<Contest> out;
  for (const auto& [key, contest] : by_card)
    if (contest.best.row != nullptr) out.push_back(contest);
  return out;
}

/// Protocols by how the best model stands against one floor, each as "knn birds (0.523 against 0.418, p =
/// 0.0012)".
struct Standing {
  std::vector<std::string> won, lost, undecided;
  int64_t without = 0;  ///< protocols that lack the floor
  [[nodiscard]] bool empty() const { return won.empty() && lost.empty() && undecided.empty(); }
};

void judge(const Contest& c, const LocatedRow& floor, Standing& standing) {
  if (floor.row == nullptr) {
    ++standing.without;
    return;
  }
  const Difference found = difference_of(c.best, floor);
  auto& list = found.better ? standing.won : (found.worse ? standing.lost : standing.undecided);
  list.push_back(fmt::format("{} ({:.3f} against {:.3f}, {})", c.name, c.best.row->estimate.value,
                             floor.row->estimate.value, found.evidence));
}

Check floor_check(const std::string& floor, const Standing& s) {
  Check check;
  for (const auto& [word, list] :
       {std::pair("Better on ", &s.won), std::pair("Within noise on ", &s.undecided),
        std::pair("Worse on ", &s.lost)})
    for (const std::string& protocol : *list) check.detail.push_back(word + protocol);
  check.why = fmt::format("Better on {} of {} protocols, within noise on {}, worse on {}.", s.won.size(),
                          check.detail.size(), s.undecided.size(), s.lost.size());
  if (s.without > 0) check.why += fmt::format(" {} more lack the floor.", s.without);
  check.detail.emplace_back(
      "By the paired test on the same images where predictions are kept, else by the intervals.");
  const bool everywhere = s.lost.empty() && s.undecided.empty();
  if (s.won.empty()) {
    check.level = s.lost.empty() ? Level::amber : Level::red;
    check.title =
        s.lost.empty() ? "No better than " + floor + ", as far as the tests tell" : "Does not beat " + floor;
  } else {
    check.level = everywhere ? Level::green : Level::amber;
    check.title = "Beats " + floor + (everywhere ? "" : " on some sets only");
  }
  return check;
}

void check_floors(const std::vector<Contest>& all, std::vector<Check>& checks) {
  Standing random, raw;
  for (const Contest& c : all) {
    judge(c, c.random, random);
    judge(c, c.raw, raw);
  }
  checks.push_back(random.empty()
                       ? Check{Level::amber, "No random-weights floor",
                               "Without features of fresh weights of the same shape (--weights random:...), "
                               "nothing shows that training helped."}
                       : floor_check("random weights", random));
  checks.push_back(raw.empty() ? Check{Level::amber, "No raw-pixel floor",
                                       "Run the same probe on features of --weights raw-pixels."}
                               : floor_check("raw pixels", raw));
}

void check_leaks(const ReportInput& input, std::vector<Check>& checks) {
  std::vector<std::string> leaking, small;
  for (const LocatedRow& located : headline_rows(input)) {
    const ResultRow& row = *located.row;
    const double shared = card_number(row.card, "shared_keys").value_or(0);
    if (shared > 0) leaking.push_back(fmt::format("{} {} ({:.0f} images)", row.task, row.dataset, shared));
    if (row.estimate.n < 30)
      small.push_back(fmt::format("{} {} (n = {})", row.task, row.dataset, row.estimate.n));
  }
  for (auto* list : {&leaking, &small}) {
    std::sort(list->begin(), list->end());
    list->erase(std::unique(list->begin(), list->end()), list->end());
  }
  if (!leaking.empty())
    checks.push_back({Level::red, "Test images are in the training set", join(leaking) + "."});
  if (!small.empty())
    checks.push_back(
        {Level::amber, "Few test images",
         "Fewer than 30: " + join(small) + ". The intervals are wide, and normal approximations fail."});
}

void check_training(const TrainingRun& run, std::vector<Check>& checks) {
  checks.push_back(collapse_check(run));
  const int64_t skipped = run.count("skip"), back = run.count("rollback");
  int64_t broken = 0;
  if (const auto it = run.columns.find("loss"); it != run.columns.end())
    broken = std::count_if(it->second.begin(), it->second.end(), [](double v) { return !std::isfinite(v); });
  if (skipped + back + broken == 0)
    checks.push_back({Level::green, "No step was skipped",
                      "No loss was non-finite, no step was left out, nothing was rolled back."});
  else
    checks.push_back({back > 0 || broken > 0 ? Level::red : Level::amber, "Steps were skipped",
                      fmt::format("{} skipped, {} rolled back, {} logged with a non-finite loss.", skipped,
                                  back, broken)});
  const TrainingEvent* start = run.start();
  const double done = run.step.empty() ? 0 : run.step.back();
  const double wanted =
      start != nullptr && start->numbers.count("steps") > 0 ? start->numbers.at("steps") : 0;
  const int64_t resumed = run.count("resume");
  const std::string resumes = resumed == 0 ? "in one go" : fmt::format("resumed {} time(s)", resumed);
  if (wanted > 0 && done + 1 < wanted)
    checks.push_back({Level::amber, "Training has not finished",
                      fmt::format("Step {:.0f} of {:.0f}; {}.", done, wanted, resumes)});
  else if (wanted > 0)
    checks.push_back({Level::green, "Training finished", fmt::format("{:.0f} steps, {}.", wanted, resumes)});
}

void check_curation(const CurationData& c, std::vector<Check>& checks) {
  int64_t sum = c.kept;
  for (const auto& [reason, count] : c.dropped) sum += count;
  const std::string text =
      fmt::format("{} records = {} kept + {} dropped under {} reason(s).", report::with_commas(c.records),
                  report::with_commas(c.kept), report::with_commas(sum - c.kept), c.dropped.size());
  if (sum == c.records)
    checks.push_back({Level::green, "Every image is accounted for", text});
  else
    checks.push_back({Level::red, "The ledger does not add up", text});
}

}  // namespace

Check collapse_check(const TrainingRun& run) {
  const CollapseVerdict verdict = judge_collapse(health_history(run));
  constexpr Level levels[] = {Level::green, Level::amber, Level::red};
  return {levels[static_cast<size_t>(verdict.level)], verdict.title, verdict.why};
}

std::vector<Check> verdict_checks(const ReportInput& input) {
  std::vector<Check> checks;
  const std::vector<Contest> all = contests(input);
  if (!all.empty()) check_floors(all, checks);
  check_leaks(input, checks);
  if (input.training) check_training(*input.training, checks);
  if (input.curation) check_curation(*input.curation, checks);
  return checks;
}

}  // namespace dino::eval
