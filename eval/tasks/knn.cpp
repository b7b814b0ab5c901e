// SPDX-License-Identifier: Apache-2.0
// Weighted k-nearest-neighbour classification on frozen features (Wu et al., CVPR 2018; DINOv2's
// eval/knn.py).
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "base/working.hpp"
#include "inputs/labelled_pair.hpp"
#include "vectors/embeddings.hpp"
#include "vectors/neighbours.hpp"

namespace dino::eval {

namespace {

struct KnnConfig {
  std::vector<int64_t> k = {5, 10, 20};
  double temperature = 0.07;
  UsedTokens columns = UsedTokens::all;
  bool gallery = true;
};

/// The columns of both files that count.
struct Columns {
  int64_t layers = 0;
  bool mean = false;
};

Columns wanted_columns(const FeatureSet& set, UsedTokens columns) {
  // The raw-pixel floor has class columns only, and stands for every choice.
  if (set.columns.mean_width == 0) {
    if (columns == UsedTokens::patch && set.model.name != "raw-pixels")
      throw UsageError("k-NN: --columns patch: " + set.path +
                       " holds class tokens only; make it with --tokens both");
    return {set.columns.layers, false};
  }
  if (columns == UsedTokens::cls && set.columns.layers == 0)
    throw UsageError("k-NN: --columns cls: " + set.path +
                     " holds patch tokens only; make it with --tokens both");
  return {columns == UsedTokens::patch ? 0 : set.columns.layers, columns != UsedTokens::cls};
}

/// L2-normalised, f32 [rows, width], in the order of `rows`.
Tensor unit_rows(const FeatureView& view, const std::vector<int64_t>& rows) {
  const auto count = static_cast<int64_t>(rows.size());
  Tensor out = Tensor::uninitialised({count, view.width});
  float* const to = out.as<float>();
#pragma omp parallel for
  for (int64_t i = 0; i < count; ++i)
    std::copy_n(view.row(rows[static_cast<size_t>(i)]), view.width, to + i * view.width);
  normalize_rows(to, count, view.width);
  return out;
}

/// Neighbours of all queries on the root, each rank having searched for its part.
Neighbours search(const Communicator& world, ConstTensorView bank, ConstTensorView queries, int64_t k) {
  const Range mine = even_range(queries.dim(0), world.rank(), world.size());
  NeighbourSearch part(queries.rows(mine.begin, mine.end - mine.begin), k);
  // Rows between two points of stopping: a few seconds of products.
  const int64_t piece = std::max<int64_t>(
      4096, int64_t{500'000'000'000} / std::max<int64_t>(1, (mine.end - mine.begin) * bank.dim(1)));
  for (int64_t begin = 0; begin < bank.dim(0) && !stop_requested(); begin += piece) {
    part.add(bank.rows(begin, std::min(piece, bank.dim(0) - begin)));
    still_working();
  }
  if (world.any(stop_requested())) throw_stopped();
  const Neighbours found = part.finish();
  Neighbours all;
  all.k = k;
  all.index = world.gather_values<int64_t>(std::span<const int64_t>(found.index));
  all.similarity = world.gather_values<float>(std::span<const float>(found.similarity));
  return all;
}

/// Queries spread over the test set: their images and the eight nearest training images with verdicts.
void write_gallery(PictureSet set, const LabelledPair& pair, const Neighbours& found,
                   const std::vector<int32_t>& labels, const std::vector<int32_t>& truth) {
  constexpr int64_t kQueries = 8, kShown = 8;
  const auto n = static_cast<int64_t>(truth.size());
  std::unique_ptr<PictureSource> train, test;
  try {
    train = std::make_unique<PictureSource>(*pair.train);
    test = std::make_unique<PictureSource>(*pair.test);
  } catch (const Error& e) {
    log::info(fmt::format("no gallery of neighbours: {}", e.what()));
    return;
  }
  const auto name = [&](int32_t label) {
    return label >= 0 ? pair.train->classes[static_cast<size_t>(label)] : std::string("unknown");
  };
  for (int64_t g = 0; g < std::min(kQueries, n); ++g) {
    const int64_t q = g * n / std::min(kQueries, n);
    const auto query = static_cast<size_t>(q);
    set.begin_strip(pair.test->keys[static_cast<size_t>(pair.test_rows[query])]);
    set.add(test->thumbnail(pair.test_rows[query]), name(truth[query]), "query");
    for (int64_t k = 0; k < std::min(kShown, found.k); ++k) {
      const auto neighbour = static_cast<size_t>(found.index[static_cast<size_t>(q * found.k + k)]);
      const int32_t label = labels[neighbour];
      set.add(train->thumbnail(pair.train_rows[neighbour]),
              fmt::format("{} {:.2f}", name(label), found.similarity[static_cast<size_t>(q * found.k + k)]),
              label == truth[query] ? "good" : "bad");
    }
  }
  set.commit();
}

class Knn final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = KnnConfig;
    Schema<C> schema = vote_options();
    schema.add("columns", &C::columns, "Which columns of the features count.");
    schema.add("gallery", &C::gallery, "Keep pictures of queries and neighbours where the data can be read.");
    table.bind(schema, config_);
  }
  void sweep_options(OptionTable& table) override {
    as_fits_ = true;
    table.bind(vote_options(), config_);
  }

  Plan plan(TaskRun& run) override {
    if (config_.k.empty()) throw UsageError("k-NN: --k: is empty; name at least one number of neighbours");
    pair_ = read_pair(run);
    columns_ = wanted_columns(*pair_.train, config_.columns);
    const auto images = static_cast<int64_t>(pair_.train_rows.size());
    k_ = fitting_k(images);
    if (*std::min_element(k_.begin(), k_.end()) < 1 || k_max() > images)
      throw UsageError(
          fmt::format("k-NN: --k {}: must lie between 1 and the {} training images", k_max(), images));
    Plan plan = pair_plan(pair_);
    for (const int64_t k : k_) {
      plan.protocols.push_back({card(k), {"top1"}});
      if (pair_.train->classes.size() > 5) plan.protocols.back().metrics.emplace_back("top5");
    }
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& plan, std::span<const size_t> wanted) override {
    const Tensor bank = unit_rows(columns_of(*pair_.train, columns_.layers, columns_.mean), pair_.train_rows),
                 queries =
                     unit_rows(columns_of(*pair_.test, columns_.layers, columns_.mean), pair_.test_rows);
    const Neighbours found = search(run.world, bank, queries, k_max());
    std::vector<Outcome> outcomes;
    if (!run.world.root()) return outcomes;
    const std::vector<int32_t> labels = train_labels(pair_), truth = test_truth(pair_);
    const auto classes = static_cast<int64_t>(pair_.train->classes.size()),
               n = static_cast<int64_t>(truth.size());
    std::vector<int64_t> ks;
    for (const size_t p : wanted) ks.push_back(k_[p]);
    const auto verdicts = vote_verdicts(found, labels, classes, ks, config_.temperature, truth);
    for (size_t i = 0; i < wanted.size(); ++i) {
      const size_t p = wanted[i];
      const auto& before = verdicts[i].before;
      const auto among = [&](int32_t most) {
        return wilson(
            std::count_if(before.begin(), before.end(), [&](int32_t b) { return b >= 0 && b < most; }), n);
      };
      Outcome outcome{p, {{"top1", among(1), true}}, predictions_of(pair_, verdicts[i].first)};
      // A class without any vote is not among the first five, whatever its index.
      if (classes > 5) outcome.scores.push_back({"top5", among(5)});
      outcomes.push_back(std::move(outcome));
      if (config_.gallery && k_[p] == k_max())
        write_gallery(run.pictures("neighbours", plan, plan.protocols[p]), pair_, found, labels, truth);
    }
    return outcomes;
  }

 private:
  static Schema<KnnConfig> vote_options() {
    using C = KnnConfig;
    Schema<C> schema;
    schema.section("k-NN");
    schema.add("k", &C::k, "Numbers of neighbours.");
    schema.add("temperature", &C::temperature, "Temperature of the vote's weights.").range(1e-4, 100);
    return schema;
  }
  /// A sweep over sets of any size leaves out those of the usual k that a set has too few images for.
  [[nodiscard]] std::vector<int64_t> fitting_k(int64_t images) const {
    if (!as_fits_ || config_.k != KnnConfig{}.k) return config_.k;
    std::vector<int64_t> fitting;
    for (const int64_t k : config_.k)
      if (k <= images) fitting.push_back(k);
    if (fitting.empty()) fitting.push_back(1);
    if (fitting != config_.k)
      log::info(fmt::format("k-NN: of k = {} those of at most {} training images: {}",
                            fmt::join(config_.k, ", "), images, fmt::join(fitting, ", ")));
    return fitting;
  }
  [[nodiscard]] int64_t k_max() const { return *std::max_element(k_.begin(), k_.end()); }
  [[nodiscard]] Card card(int64_t k) const {
    Card card = pair_card(pair_);
    card.set("task", "knn")
        .set("k", k)
        .set("k_max", k_max())
        .set("temperature", config_.temperature)
        .set("columns", name_of(config_.columns));
    card.set("similarity", "cosine").set("interval", "Wilson 95 %");
    card.set("vote", "softmax(similarity / temperature) over the k_max nearest, the first k vote");
    return card;
  }

  KnnConfig config_;
  bool as_fits_ = false;
  LabelledPair pair_;
  Columns columns_;
  std::vector<int64_t> k_;  ///< a protocol each
};

}  // namespace

TaskEntry knn_task() {
  TaskInfo info;
  info.name = "knn";
  info.summary = "Classify by weighted nearest neighbours";
  info.usage = "--train F.h5 --test G.h5 [--k 5,10,20] [--temperature 0.07] --output RESULTS";
  info.description =
      "Appends a row per k to RESULTS/results.jsonl (top-1, and top-5 with more than five classes) with "
      "Wilson's 95 % interval, keeps the "
      "predictions in RESULTS/predictions/ for paired tests, and a gallery of queries with their neighbours "
      "in RESULTS/pictures/. A result "
      "that RESULTS already holds is kept, and said so.";
  info.examples = {{"--train train.h5 --test test.h5 --k 10,20 --output results"}};
  info.metrics = {{"top1", true, true}, {"top5"}};
  info.inputs = labelled_inputs();
  info.variants = {{"k", "k = "}, {"columns", "", "all"}};
  info.curve = {"k", "Number of neighbours", 20};
  info.pictures = {
      {"neighbours", "Nearest neighbours",
       "Query in a dark frame, then its nearest training images: solid frame = same class, dashed "
       "frame = another."}};
  info.confusions = true;
  info.in_sweep = true;
  return task_entry<Knn>(std::move(info));
}

}  // namespace dino::eval
