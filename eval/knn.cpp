// SPDX-License-Identifier: Apache-2.0
// Weighted k-nearest-neighbour classification on frozen features (Wu et al., CVPR 2018; DINOv2's
// eval/knn.py).
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"
#include "base/working.hpp"
#include "commands.hpp"
#include "extractor.hpp"
#include "options.hpp"
#include "pictures.hpp"
#include "probe.hpp"
#include "storage/files.hpp"
#include "storage/output_folder.hpp"
#include "vectors/embeddings.hpp"
#include "vectors/neighbours.hpp"

namespace dino::eval {

namespace {

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

/// Rows of the wanted columns, L2-normalised, in the order of `rows`.
std::vector<float> unit_rows(const FeatureSet& set, const Columns& columns, const std::vector<int64_t>& rows,
                             int64_t& width) {
  const std::vector<float> all = select_columns(set, columns.layers, columns.mean);
  width = static_cast<int64_t>(all.size()) / std::max<int64_t>(set.rows, 1);
  std::vector<float> out(rows.size() * static_cast<size_t>(width));
  for (size_t i = 0; i < rows.size(); ++i)
    std::copy_n(all.data() + rows[i] * width, width, out.data() + static_cast<int64_t>(i) * width);
  normalize_rows(out.data(), static_cast<int64_t>(rows.size()), width);
  return out;
}

struct Votes {
  std::vector<int32_t> predicted;
  int64_t right = 0, right_of_five = 0;
};

/// Classes in order of falling score, equal scores by smaller class.
Votes count_votes(const std::vector<float>& scores, int64_t classes, const std::vector<int32_t>& truth) {
  Votes votes;
  for (size_t q = 0; q < truth.size(); ++q) {
    const float* row = scores.data() + static_cast<int64_t>(q) * classes;
    votes.predicted.push_back(static_cast<int32_t>(std::max_element(row, row + classes) - row));
    if (truth[q] < 0) continue;
    int64_t above = 0;
    for (int64_t c = 0; c < classes; ++c)
      above += (row[c] > row[truth[q]] || (row[c] == row[truth[q]] && c < truth[q])) ? 1 : 0;
    votes.right += votes.predicted.back() == truth[q] ? 1 : 0;
    // A class without any vote is not among the first five, whatever its index.
    votes.right_of_five += (above < 5 && row[truth[q]] > 0) ? 1 : 0;
  }
  return votes;
}

/// Queries spread over the test set: their images and the eight nearest training images with verdicts.
void write_gallery(const std::string& output, const LabelledPair& pair, const ResultRow& row,
                   const Neighbours& found, const std::vector<int32_t>& train_labels,
                   const std::vector<int32_t>& truth) {
  constexpr int64_t kQueries = 8, kShown = 8;
  const auto n = static_cast<int64_t>(truth.size());
  std::unique_ptr<PictureSource> train, test;
  try {
    train = std::make_unique<PictureSource>(pair.train);
    test = std::make_unique<PictureSource>(pair.test);
  } catch (const Error& e) {
    log::info(fmt::format("no gallery of neighbours: {}", e.what()));
    return;
  }
  PictureSet set(output, "neighbours", row);
  const auto name = [&](int32_t label) {
    return label >= 0 ? pair.train.classes[static_cast<size_t>(label)] : std::string("unknown");
  };
  for (int64_t g = 0; g < std::min(kQueries, n); ++g) {
    const int64_t q = g * n / std::min(kQueries, n);
    const auto query = static_cast<size_t>(q);
    set.begin_strip(pair.test.keys[static_cast<size_t>(pair.test_rows[query])]);
    set.add(test->thumbnail(pair.test_rows[query]), name(truth[query]), "query");
    for (int64_t k = 0; k < std::min(kShown, found.k); ++k) {
      const auto neighbour = static_cast<size_t>(found.index[static_cast<size_t>(q * found.k + k)]);
      const int32_t label = train_labels[neighbour];
      set.add(train->thumbnail(pair.train_rows[neighbour]),
              fmt::format("{} {:.2f}", name(label), found.similarity[static_cast<size_t>(q * found.k + k)]),
              label == truth[query] ? "good" : "bad");
    }
  }
  set.commit();
}

Card knn_card(const LabelledPair& pair, const KnnConfig& config, int64_t k, int64_t k_max) {
  Card card = pair_card(pair);
  card.set("task", "knn")
      .set("k", k)
      .set("k_max", k_max)
      .set("temperature", config.temperature)
      .set("columns", name_of(config.columns));
  card.set("similarity", "cosine").set("interval", "Wilson 95 %");
  card.set("vote", "softmax(similarity / temperature) over the k_max nearest, the first k vote");
  return card;
}

/// Neighbours of all queries on the root, each rank having searched for its part.
Neighbours search(const Communicator& world, const std::vector<float>& bank,
                  const std::vector<float>& queries, int64_t width, int64_t k) {
  const auto rows = [&](const std::vector<float>& x) { return static_cast<int64_t>(x.size()) / width; };
  const Range mine = even_range(rows(queries), world.rank(), world.size());
  Neighbours found;
  // Queries between two points of stopping: a few seconds of products.
  const int64_t piece =
      std::max<int64_t>(1024, int64_t{10'000'000'000} / std::max<int64_t>(1, rows(bank) * width));
  for (int64_t begin = mine.begin; begin < mine.end && !stop_requested(); begin += piece) {
    const int64_t count = std::min(piece, mine.end - begin);
    const Neighbours part = nearest(view_of(bank.data(), {rows(bank), width}),
                                    view_of(queries.data() + begin * width, {count, width}), k);
    found.index.insert(found.index.end(), part.index.begin(), part.index.end());
    found.similarity.insert(found.similarity.end(), part.similarity.begin(), part.similarity.end());
    still_working();
  }
  if (world.any(stop_requested())) throw_stopped();
  Neighbours all;
  all.k = k;
  all.index = world.gather_values<int64_t>(std::span<const int64_t>(found.index));
  all.similarity = world.gather_values<float>(std::span<const float>(found.similarity));
  return all;
}

/// The numbers of neighbours to take; at least one.
std::vector<int64_t> fitting_k(const KnnConfig& config, int64_t images) {
  std::vector<int64_t> fitting;
  for (const int64_t k : config.k)
    if (!config.k_as_fits || k <= images) fitting.push_back(k);
  if (fitting.empty()) fitting.push_back(1);
  if (fitting != config.k)
    log::info(fmt::format("k-NN: of k = {} those of at most {} training images: {}",
                          fmt::join(config.k, ", "), images, fmt::join(fitting, ", ")));
  return fitting;
}

}  // namespace

std::vector<std::string> run_knn(const Communicator& world, const KnnConfig& config,
                                 const std::string& output) {
  const log::Phase phase("knn");
  const Stopwatch watch;
  const LabelledPair pair = read_pair(config.input);
  const Columns columns = wanted_columns(pair.train, config.columns);
  int64_t width = 0;
  const std::vector<float> bank = unit_rows(pair.train, columns, pair.train_rows, width);
  const std::vector<float> queries = unit_rows(pair.test, columns, pair.test_rows, width);
  const auto bank_rows = static_cast<int64_t>(pair.train_rows.size());
  const std::vector<int64_t> wanted = fitting_k(config, bank_rows);
  const int64_t k_max = *std::max_element(wanted.begin(), wanted.end());
  if (*std::min_element(wanted.begin(), wanted.end()) < 1 || k_max > bank_rows)
    throw UsageError(
        fmt::format("k-NN: --k {}: must lie between 1 and the {} training images", k_max, bank_rows));
  const Neighbours found = search(world, bank, queries, width, k_max);
  std::vector<std::string> lines;
  if (!world.root()) return lines;

  std::vector<int32_t> train_labels, truth;
  for (const int64_t r : pair.train_rows) train_labels.push_back(pair.train.labels[static_cast<size_t>(r)]);
  for (const int64_t r : pair.test_rows) truth.push_back(pair.test_labels[static_cast<size_t>(r)]);
  const auto classes = static_cast<int64_t>(pair.train.classes.size()),
             n = static_cast<int64_t>(truth.size());
  ResultStore store(output);
  for (const int64_t k : wanted) {
    const Votes votes =
        count_votes(weighted_vote(found, train_labels, classes, k, config.temperature), classes, truth);
    ResultRow row = pair_row(pair, config.input, "knn", knn_card(pair, config, k, k_max), "top1");
    row.estimate = wilson(votes.right, n);
    row.seconds = watch.seconds();
    row.predictions = predictions_name(row);
    if (config.input.force || store.find(row) == nullptr) {
      Predictions predictions{{}, pair.train.classes, truth, votes.predicted};
      for (const int64_t r : pair.test_rows)
        predictions.keys.push_back(pair.test.keys[static_cast<size_t>(r)]);
      write_predictions(output + "/" + row.predictions, predictions);
      if (config.gallery && k == k_max) write_gallery(output, pair, row, found, train_labels, truth);
    }
    store.add(row, config.input.force);
    lines.push_back(to_json_line(row));
    if (classes <= 5) continue;
    row.metric = "top5";
    row.estimate = wilson(votes.right_of_five, n);
    row.predictions.clear();
    store.add(row, config.input.force);
    lines.push_back(to_json_line(row));
  }
  return lines;
}

namespace {

Schema<KnnConfig> knn_options() {
  using C = KnnConfig;
  Schema<C> schema;
  schema.add(&C::input, probe_options());
  declare_vote(schema);
  schema.add("columns", &C::columns, "Which columns of the features count.");
  schema.add("gallery", &C::gallery, "Keep pictures of queries and neighbours where the data can be read.");
  return schema;
}

ExitCode start_knn(KnnConfig config, CommandContext& context) {
  if (config.k.empty()) throw UsageError("k-NN: --k: is empty; name at least one number of neighbours");
  if (context.common.dry_run) {
    (void)read_pair(config.input);
    return ExitCode::done;
  }
  const auto lock = lock_output_folder(context, output_kind::results);
  const auto lines = run_knn(context.world, config, context.common.output);
  return report_rows(context, lines);
}

}  // namespace

Command knn_command() {
  Command command;
  command.name = "knn";
  command.summary = "Classify by weighted nearest neighbours";
  command.usage = "--train F.h5 --test G.h5 [--k 5,10,20] [--temperature 0.07] --output RESULTS";
  command.description =
      "Appends a row per k to RESULTS/results.jsonl (top-1, and top-5 with more than five classes) with "
      "Wilson's 95 % interval, keeps the "
      "predictions in RESULTS/predictions/ for paired tests, and a gallery of queries with their neighbours "
      "in RESULTS/pictures/. A result "
      "that RESULTS already holds is kept, and said so.";
  command.output = "Results folder.";
  command.examples = {{"--train train.h5 --test test.h5 --k 10,20 --output results"}};
  command.make = with_options(knn_options(), start_knn);
  return command;
}

}  // namespace dino::eval
