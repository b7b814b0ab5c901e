// SPDX-License-Identifier: Apache-2.0
// Retrieval of images by the cosine of frozen features: mean average precision, the revisited Oxford and
// Paris protocol (Radenovic et al., CVPR 2018), global average precision (Weyand et al., CVPR 2020) and
// recall.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.hpp"
#include "comm/together.hpp"
#include "inputs/compared_pair.hpp"
#include "inputs/ground_truth.hpp"
#include "numeric/ranking.hpp"
#include "task.hpp"
#include "vectors/similarities.hpp"

namespace dino::eval {

namespace {

struct RetrievalConfig {
  std::string ground_truth;
  int64_t resamples = 2000;
};

/// What a ranking gives for one query.
struct QueryResult {
  int64_t positives = 0;
  double precision = 0;   ///< average precision
  int64_t first = -1;     ///< rank of the first positive; -1 without any
  double confidence = 0;  ///< cosine of the best row
  bool right = false;     ///< is that row a positive?
};
constexpr size_t kValues = 5;

QueryResult judge(std::span<const float> cosines, std::span<const Relevance> relevance, bool trapezoids) {
  std::vector<int64_t> order(cosines.size());
  std::iota(order.begin(), order.end(), 0);
  // Equal cosines in the order of the database, as neighbours are.
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const float x = cosines[static_cast<size_t>(a)], y = cosines[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  std::vector<Relevance> ranking;
  QueryResult out;
  for (const int64_t row : order) {
    const auto at = static_cast<size_t>(row);
    if (relevance[at] == Relevance::junk) continue;
    if (ranking.empty()) {
      out.confidence = static_cast<double>(cosines[at]);
      out.right = relevance[at] == Relevance::positive;
    }
    ranking.push_back(relevance[at]);
  }
  const std::vector<int64_t> ranks = positive_ranks(ranking);
  out.positives = static_cast<int64_t>(ranks.size());
  out.precision = trapezoids ? trapezoid_average_precision(ranks, out.positives)
                             : average_precision_at_ranks(ranks, out.positives);
  if (!ranks.empty()) out.first = ranks.front();
  return out;
}

class Retrieval final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = RetrievalConfig;
    Schema<C> schema;
    schema.section("retrieval");
    schema.add("ground-truth", &C::ground_truth,
               "JSON file of what each query should find (default: rows of equal labels).");
    schema.add("resamples", &C::resamples, "Bootstrap resamples.").range(100, 1e6);
    table.bind(schema, config_);
  }

  Plan plan(TaskRun& run) override {
    queries_ = run.features("queries");
    database_ = run.features("database");
    truth_ = config_.ground_truth.empty() ? GroundTruth::of_rows(queries_, database_, MatchBy::label)
                                          : GroundTruth::of_file(config_.ground_truth, queries_, database_);
    Plan plan = compared_plan(*queries_);
    if (truth_->graded()) {
      plan.protocols.push_back({card("medium"), {"map_medium", "recall@1", "recall@10", "gap"}});
      plan.protocols.push_back({card("hard"), {"map_hard"}});
    } else {
      plan.protocols.push_back({card("all"), {"map", "recall@1", "recall@10", "gap"}});
    }
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& plan, std::span<const size_t> wanted) override {
    std::vector<Outcome> outcomes;
    for (const size_t p : wanted) {
      const std::vector<QueryResult> results = judge_all(run, p == 1 ? Difficulty::hard : Difficulty::medium);
      on_root(run.world, [&] {
        outcomes.push_back(outcome(p, plan.protocols[p], results, static_cast<uint64_t>(run.seed)));
      });
    }
    return outcomes;
  }

 private:
  [[nodiscard]] Card card(const char* positives) const {
    Card card = compared_card("queries", *queries_, "database", *database_);
    card.set("task", "retrieval").set("similarity", "cosine").set("ground_truth", truth_->text());
    card.set("positives", positives);
    card.set("average_precision", truth_->graded() ? "trapezoids" : "mean of the precision at each positive");
    card.set("gap", "of each query's best row");
    card.set("interval", fmt::format("percentile bootstrap over queries, {} resamples; recall: Wilson 95 %",
                                     config_.resamples));
    return card;
  }

  /// Results of all queries on the root, each rank having ranked for its part.
  std::vector<QueryResult> judge_all(TaskRun& run, Difficulty difficulty) const {
    const Tensor bank = unit_features(*database_), asked = unit_features(*queries_);
    const Range mine = even_range(queries_->rows, run.world.rank(), run.world.size());
    std::vector<double> values(static_cast<size_t>(mine.size()) * kValues);
    in_pieces(run.world, mine, bank.numel(), [&](Range piece) {
      for_each_similarity_row(
          bank, asked.view().rows(piece.begin, piece.size()), [&](int64_t q, std::span<const float> cosines) {
            std::vector<Relevance> relevance(cosines.size());
            truth_->relevance(piece.begin + q, difficulty, relevance);
            const QueryResult r = judge(cosines, relevance, truth_->graded());
            double* to = values.data() + (piece.begin + q - mine.begin) * static_cast<int64_t>(kValues);
            to[0] = static_cast<double>(r.positives), to[1] = r.precision;
            to[2] = static_cast<double>(r.first), to[3] = r.confidence;
            to[4] = r.right ? 1 : 0;
          });
    });
    const auto all = run.world.gather_values<double>(std::span<const double>(values));
    std::vector<QueryResult> out;
    for (size_t i = 0; i + kValues <= all.size(); i += kValues)
      out.push_back({static_cast<int64_t>(all[i]), all[i + 1], static_cast<int64_t>(all[i + 2]), all[i + 3],
                     all[i + 4] != 0});
    return out;
  }

  [[nodiscard]] Outcome outcome(size_t index, const Protocol& protocol,
                                const std::vector<QueryResult>& results, uint64_t seed) const {
    Predictions predictions;
    std::vector<double> precision, at_one, at_ten;
    std::vector<MicroAveragePrecision::Prediction> best;
    std::vector<int64_t> answerable;
    for (size_t q = 0; q < results.size(); ++q) {
      const QueryResult& r = results[q];
      best.push_back({{r.confidence, r.right}, static_cast<int64_t>(q)});
      answerable.push_back(r.positives > 0 ? 1 : 0);
      // A query that nothing in the database answers has no average precision.
      if (r.positives == 0) continue;
      predictions.keys.push_back(queries_->keys[q]);
      precision.push_back(r.precision);
      at_one.push_back(r.first < 1 ? 1 : 0);
      at_ten.push_back(r.first < 10 ? 1 : 0);
    }
    if (precision.empty())
      throw DataError(fmt::format(
          "retrieval: {}: no query has a {} answer in {}; choose other data, or another ground truth",
          queries_->path, index == 1 ? "hard" : "right", database_->path));
    Outcome out{index, {}, {}};
    const std::string& map = protocol.metrics.front();
    out.scores.push_back({map, bootstrap_mean(precision, config_.resamples, seed), true});
    predictions.values[map] = precision;
    if (protocol.metrics.size() > 1) {
      const auto n = static_cast<int64_t>(precision.size());
      for (const auto& [name, hits] : {std::pair{"recall@1", &at_one}, {"recall@10", &at_ten}}) {
        out.scores.push_back({name, wilson(std::count(hits->begin(), hits->end(), 1.0), n), true});
        predictions.values[name] = *hits;
      }
      const MicroAveragePrecision gap(std::move(best), std::move(answerable));
      out.scores.push_back(
          {"gap", bootstrap(queries_->rows, config_.resamples, seed,
                            [&](std::span<const int64_t> counts) { return gap.value(counts); })});
    }
    out.predictions = std::move(predictions);
    return out;
  }

  RetrievalConfig config_;
  std::shared_ptr<const FeatureSet> queries_, database_;
  std::optional<GroundTruth> truth_;
};

}  // namespace

TaskEntry retrieval_task() {
  TaskInfo info;
  info.name = "retrieval";
  info.summary = "Rank a database for each query";
  info.usage = "--queries Q.h5 --database D.h5 [--ground-truth FILE] --output RESULTS";
  info.description =
      "Ranks the rows of the database by cosine for every query. Without a ground truth, rows of the query's "
      "label are what it should find, and its own row is left out. A ground truth (JSON, see "
      "docs/formats.md) "
      "names positives, or easy and hard ones and junk: then the protocol is that of the revisited Oxford "
      "and "
      "Paris buildings (medium: easy and hard; hard: easy ones are junk). Gives mean average precision, "
      "recall "
      "at 1 and 10, and global average precision of the best row of each query.";
  info.examples = {{"--queries queries.h5 --database database.h5 --output results"},
                   {"--queries oxford_queries.h5 --database oxford.h5 --ground-truth oxford.json --output "
                    "results"}};
  info.metrics = {{"map", true, true},
                  {"map_medium", true, true},
                  {"map_hard", true, true},
                  {"recall@1"},
                  {"recall@10"},
                  {"gap"}};
  info.inputs = {
      {"queries", "Feature file of the queries.", TaskInput::Kind::features, TaskInput::Part::test},
      {"database", "Feature file of the images that are searched.", TaskInput::Kind::features,
       TaskInput::Part::train}};
  return task_entry<Retrieval>(std::move(info));
}

}  // namespace dino::eval
