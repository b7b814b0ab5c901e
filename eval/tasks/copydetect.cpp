// SPDX-License-Identifier: Apache-2.0
// Copy detection: which original an edited picture comes from, by the cosine of frozen features; micro
// average precision over all candidate pairs, as in the image similarity challenge (arXiv 2106.09672).
#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "base/error.hpp"
#include "comm/together.hpp"
#include "inputs/compared_pair.hpp"
#include "inputs/ground_truth.hpp"
#include "numeric/ranking.hpp"
#include "task.hpp"
#include "vectors/neighbours.hpp"

namespace dino::eval {

namespace {

struct CopyConfig {
  std::string ground_truth;
  MatchBy match = MatchBy::key;
  int64_t candidates = 10, resamples = 2000;
  std::vector<double> thresholds = {0.5, 0.6, 0.7, 0.8, 0.9};
};

/// The candidate pairs of all copies, and how many originals each copy has.
struct Candidates {
  std::vector<MicroAveragePrecision::Prediction> pairs;
  std::vector<int64_t> positives;
};

/// Shares over the pairs of resampled copies: `counts` says how often each copy was drawn.
struct Accepted {
  double right = 0, pairs = 0, positives = 0;
};
Accepted accept(const Candidates& all, double threshold, std::span<const int64_t> counts) {
  Accepted out;
  for (size_t c = 0; c < counts.size(); ++c)
    out.positives += static_cast<double>(counts[c] * all.positives[c]);
  for (const auto& [scored, copy] : all.pairs) {
    if (scored.score < threshold) continue;
    const auto count = static_cast<double>(counts[static_cast<size_t>(copy)]);
    out.pairs += count;
    out.right += scored.relevant ? count : 0;
  }
  return out;
}

class CopyDetection final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = CopyConfig;
    Schema<C> schema;
    schema.section("copy detection");
    schema.add("ground-truth", &C::ground_truth, "JSON file of the originals of each copy.");
    schema.add("match", &C::match, "Without it: what a copy and its original have in common.");
    schema.add("candidates", &C::candidates, "Originals proposed for each copy: its nearest.").range(1, 1e6);
    schema.add("thresholds", &C::thresholds, "Cosines from which a pair is accepted.");
    schema.add("resamples", &C::resamples, "Bootstrap resamples.").range(100, 1e6);
    table.bind(schema, config_);
  }

  Plan plan(TaskRun& run) override {
    originals_ = run.features("originals");
    copies_ = run.features("copies");
    for (const double threshold : config_.thresholds)
      if (!(threshold >= -1 && threshold <= 1))
        throw UsageError(
            fmt::format("copy detection: --thresholds {}: is no cosine; give numbers between -1 "
                        "and 1",
                        threshold));
    truth_ = config_.ground_truth.empty() ? GroundTruth::of_rows(copies_, originals_, config_.match)
                                          : GroundTruth::of_file(config_.ground_truth, copies_, originals_);
    if (truth_->graded())
      throw UsageError("copy detection: --ground-truth " + config_.ground_truth +
                       ": tells easy from hard originals; give \"positive\" ones");
    Plan plan = compared_plan(*copies_);
    plan.protocols.push_back({card(), {"micro_ap", "recall_at_p90"}});
    for (const double threshold : config_.thresholds)
      plan.protocols.push_back({card().set("threshold", threshold), {"precision", "recall"}});
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& /*plan*/, std::span<const size_t> wanted) override {
    const Candidates all = propose(run);
    std::vector<Outcome> outcomes;
    on_root(run.world, [&] {
      require_positives(all);
      for (const size_t p : wanted) outcomes.push_back(outcome(p, all, static_cast<uint64_t>(run.seed)));
    });
    return outcomes;
  }

 private:
  [[nodiscard]] Outcome outcome(size_t p, const Candidates& all, uint64_t seed) const {
    const auto estimate = [&](const std::function<double(std::span<const int64_t>)>& statistic) {
      return bootstrap(copies_->rows, config_.resamples, seed, statistic);
    };
    Outcome out{p, {}, {}};
    if (p == 0) {
      const MicroAveragePrecision micro(all.pairs, all.positives);
      out.scores.push_back({"micro_ap", estimate([&](auto counts) { return micro.value(counts); })});
      out.scores.push_back(
          {"recall_at_p90", estimate([&](auto counts) { return recall_at_90(all, counts); })});
      return out;
    }
    const double threshold = config_.thresholds[p - 1];
    out.scores.push_back({"precision", estimate([&](auto counts) {
                            const Accepted a = accept(all, threshold, counts);
                            return a.pairs == 0 ? 1 : a.right / a.pairs;  // nothing wrong was accepted
                          })});
    out.scores.push_back({"recall", estimate([&](auto counts) {
                            const Accepted a = accept(all, threshold, counts);
                            return a.positives == 0 ? 0 : a.right / a.positives;
                          })});
    return out;
  }

  [[nodiscard]] Card card() const {
    Card card = compared_card("originals", *originals_, "copies", *copies_);
    card.set("task", "copydetect").set("similarity", "cosine").set("ground_truth", truth_->text());
    card.set("candidates", config_.candidates);
    card.set("interval", fmt::format("percentile bootstrap over copies, {} resamples", config_.resamples));
    return card;
  }

  /// The largest recall at a precision of .9; pairs stand in falling order of score, tied ones are accepted
  /// together.
  static double recall_at_90(const Candidates& all, std::span<const int64_t> counts) {
    int64_t positives = 0, seen = 0, right = 0;
    for (size_t c = 0; c < counts.size(); ++c) positives += counts[c] * all.positives[c];
    double best = 0;
    for (size_t i = 0; i < all.pairs.size(); ++i) {
      const auto& [scored, copy] = all.pairs[i];
      seen += counts[static_cast<size_t>(copy)];
      right += scored.relevant ? counts[static_cast<size_t>(copy)] : 0;
      const bool tied = i + 1 < all.pairs.size() && all.pairs[i + 1].scored.score == scored.score;
      if (tied || seen == 0 || positives == 0 || static_cast<double>(right) < 0.9 * static_cast<double>(seen))
        continue;
      best = std::max(best, static_cast<double>(right) / static_cast<double>(positives));
    }
    return best;
  }

  /// On the root, each rank having searched for its part of the copies.
  Candidates propose(TaskRun& run) const {
    const Tensor bank = unit_features(*originals_), asked = unit_features(*copies_);
    const Range mine = even_range(copies_->rows, run.world.rank(), run.world.size());
    std::vector<double> scores;
    std::vector<int64_t> copies, relevant, positives;
    // One more than asked for: a copy's own row may be among them, and does not count.
    const int64_t k = std::min(originals_->rows, config_.candidates + 1);
    in_pieces(run.world, mine, bank.numel(), [&](Range piece) {
      const Neighbours found = nearest(bank, asked.view().rows(piece.begin, piece.size()), k);
      std::vector<Relevance> relevance(static_cast<size_t>(originals_->rows));
      for (int64_t q = 0; q < piece.size(); ++q) {
        truth_->relevance(piece.begin + q, Difficulty::medium, relevance);
        positives.push_back(std::count(relevance.begin(), relevance.end(), Relevance::positive));
        int64_t taken = 0;
        for (int64_t j = 0; j < k && taken < config_.candidates; ++j) {
          const auto at = static_cast<size_t>(q * k + j);
          const Relevance what = relevance[static_cast<size_t>(found.index[at])];
          if (what == Relevance::junk) continue;
          ++taken;
          scores.push_back(static_cast<double>(found.similarity[at]));
          copies.push_back(piece.begin + q);
          relevant.push_back(what == Relevance::positive ? 1 : 0);
        }
      }
    });
    const auto all_scores = run.world.gather_values<double>(std::span<const double>(scores));
    const auto all_copies = run.world.gather_values<int64_t>(std::span<const int64_t>(copies)),
               all_relevant = run.world.gather_values<int64_t>(std::span<const int64_t>(relevant));
    Candidates all;
    all.positives = run.world.gather_values<int64_t>(std::span<const int64_t>(positives));
    for (size_t i = 0; i < all_scores.size(); ++i)
      all.pairs.push_back({{all_scores[i], all_relevant[i] != 0}, all_copies[i]});
    std::stable_sort(all.pairs.begin(), all.pairs.end(),
                     [](const auto& a, const auto& b) { return a.scored.score > b.scored.score; });
    return all;
  }

  void require_positives(const Candidates& all) const {
    if (std::all_of(all.positives.begin(), all.positives.end(), [](int64_t n) { return n == 0; }))
      throw DataError(fmt::format(
          "copy detection: {}: no copy has an original in {} (by {}); give --ground-truth or another --match",
          copies_->path, originals_->path, truth_->text()));
  }

  CopyConfig config_;
  std::shared_ptr<const FeatureSet> originals_, copies_;
  std::optional<GroundTruth> truth_;
};

}  // namespace

TaskEntry copydetect_task() {
  TaskInfo info;
  info.name = "copydetect";
  info.summary = "Find the originals of edited copies";
  info.usage = "--originals F.h5 --copies G.h5 [--ground-truth FILE] --output RESULTS";
  info.description =
      "Proposes the nearest originals of every copy by cosine. Gives micro average precision over all pairs, "
      "the recall at a precision of .9, and precision and recall of the pairs from each threshold on. "
      "Originals and copies belong together by equal keys (or groups, or labels), or by a ground truth in "
      "JSON (docs/formats.md); copies without an original are distractors.";
  info.examples = {{"--originals originals.h5 --copies copies.h5 --output results"},
                   {"--originals icons.h5 --copies icons.h5 --match group --output results"}};
  info.metrics = {{"micro_ap", true, true}, {"recall_at_p90"}, {"precision"}, {"recall"}};
  info.inputs = {
      {"originals", "Feature file of the originals.", TaskInput::Kind::features, TaskInput::Part::train},
      {"copies", "Feature file of the copies.", TaskInput::Kind::features, TaskInput::Part::test}};
  info.variants = {{"threshold", "from "}};
  return task_entry<CopyDetection>(std::move(info));
}

}  // namespace dino::eval
