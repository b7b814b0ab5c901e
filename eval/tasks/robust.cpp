// SPDX-License-Identifier: Apache-2.0
// Robustness: nearest neighbours among clean training features classify pictures that are spoilt in five
// degrees (imaging/corruptions.hpp), reduced, and covered in part.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.hpp"
#include "base/log.hpp"
#include "comm/together.hpp"
#include "datasets/on_all_ranks.hpp"
#include "imaging/corruptions.hpp"
#include "inputs/compared_pair.hpp"
#include "inputs/image_batches.hpp"
#include "storage/files.hpp"
#include "vectors/embeddings.hpp"
#include "vectors/neighbours.hpp"

namespace dino::eval {

namespace {

struct RobustConfig {
  std::vector<std::string> corruptions = all_names<Corruption>();
  std::vector<int64_t> severities = {1, 2, 3, 4, 5};
  int64_t k = 10, batch = 16, limit = 1000, resamples = 2000;
  double temperature = 0.07;
};

/// One way of showing a picture; no kind: as it is.
struct Condition {
  std::optional<Corruption> kind;
  int severity = 0;
};

constexpr int32_t kFaulty = -3;

class Robust final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = RobustConfig;
    Schema<C> schema;
    schema.section("robustness");
    schema.add("corruptions", &C::corruptions,
               fmt::format("Which of {}.", fmt::join(all_names<Corruption>(), ", ")));
    schema.add("severities", &C::severities, "Degrees, 1 to 5.");
    schema.add("k", &C::k, "Neighbours that vote.").range(1, 1e6);
    schema.add("temperature", &C::temperature, "Temperature of the vote's weights.").range(1e-4, 100);
    schema.add("limit", &C::limit, "At most this many test images, spread evenly; 0 = all.").range(0, 1e9);
    schema.add("batch", &C::batch, "Images per forward pass.").range(1, 4096);
    schema.add("resamples", &C::resamples, "Bootstrap resamples.").range(100, 1e6);
    table.bind(schema, config_);
  }

  Plan plan(TaskRun& run) override {
    read_conditions();
    seed_ = run.seed;
    train_ = run.features("train");
    protocol_ = train_->protocol;
    extractor_ = &run.encoder(input_of(train_->protocol), protocol_);
    own_training_ = extractor_->identity().name != train_->model.name ||
                    extractor_->identity().weights != train_->model.weights;
    if (own_training_ && !is_floor(extractor_->identity().name))
      throw UsageError(fmt::format(
          "robustness: --train {}: holds features of {}, not of {}; extract them with these --weights",
          train_->path, train_->model.name, extractor_->identity().name));
    read_images(run);
    Plan plan;
    plan.model = extractor_->identity();
    plan.data = data_;
    for (const Condition& condition : conditions_) plan.protocols.push_back({card(condition), {"top1"}});
    Card mean = base_card();
    mean.set("corruption", "mean").set("severities", config_.severities);
    mean.set("interval", fmt::format("percentile bootstrap over images, {} resamples", config_.resamples));
    std::string names;
    for (const std::string& name : config_.corruptions) names += (names.empty() ? "" : ", ") + name;
    mean.set("corruptions", names);
    plan.protocols.push_back({mean, {"mean_top1"}});
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& plan, std::span<const size_t> wanted) override {
    const bool all = std::find(wanted.begin(), wanted.end(), conditions_.size()) != wanted.end();
    std::vector<size_t> shown;
    for (size_t c = 0; c < conditions_.size(); ++c)
      if (all || std::find(wanted.begin(), wanted.end(), c) != wanted.end()) shown.push_back(c);
    const Tensor bank = training_bank(run);
    const std::vector<int32_t> predicted = classify(run, bank, shown);
    std::vector<Outcome> outcomes;
    on_root(run.world, [&] {
      const Predictions common = known_images(predicted, shown.size());
      for (const size_t p : wanted) outcomes.push_back(outcome(plan, p, common, predicted, shown, run.seed));
    });
    return outcomes;
  }

 private:
  static bool is_floor(const std::string& name) { return name == "raw-pixels" || name == "random-weights"; }

  void read_conditions() {
    conditions_ = {Condition{}};
    if (config_.corruptions.empty() || config_.severities.empty())
      throw UsageError("robustness: --corruptions, --severities: are empty; name at least one of each");
    for (const std::string& name : config_.corruptions) {
      const auto kind = value_named<Corruption>(name);
      if (!kind)
        throw UsageError(fmt::format("robustness: --corruptions {}: is none of {}", name,
                                     fmt::join(all_names<Corruption>(), ", ")));
      for (const int64_t severity : config_.severities) {
        if (severity < 1 || severity > kSeverities)
          throw UsageError(fmt::format("robustness: --severities {}: is not 1 to {}", severity, kSeverities));
        conditions_.push_back({*kind, static_cast<int>(severity)});
      }
    }
  }

  void read_images(TaskRun& run) {
    Dataset dataset = run.images("data");
    data_ = dataset.reference;
    std::unordered_map<std::string, int32_t> classes;
    for (size_t c = 0; c < train_->classes.size(); ++c)
      classes.emplace(train_->classes[c], static_cast<int32_t>(c));
    std::erase_if(dataset.records, [](const Record& record) { return record.label < 0; });
    records_ = spread_records(std::move(dataset.records), config_.limit);
    truth_.clear();
    bool known = false;
    for (const Record& record : records_) {
      const auto found = classes.find(dataset.classes[static_cast<size_t>(record.label)]);
      truth_.push_back(found == classes.end() ? -2 : found->second);
      known |= found != classes.end();
    }
    if (!known)
      throw DataError(fmt::format(
          "robustness: {}: no image has a label that {} knows; give labelled images of its classes", data_,
          train_->path));
  }

  [[nodiscard]] Card base_card() const {
    std::vector<std::string> keys;
    for (const Record& record : records_) keys.push_back(record.key);
    Card card;
    card.set("task", "robust")
        .set("train", Card()
                          .set("data", dataset_name(train_->data))
                          .set("images", train_->rows)
                          .set("keys", keys_hash(train_->keys).substr(0, 16)))
        .set("test", Card()
                         .set("data", dataset_name(data_))
                         .set("images", static_cast<int64_t>(keys.size()))
                         .set("keys", keys_hash(keys).substr(0, 16)));
    card.set("features", train_->protocol.card());
    card.set("head", "k nearest training images vote, softmax(cosine / temperature)")
        .set("k", votes())
        .set("temperature", config_.temperature);
    return card.set("applied", "to the model's input, after it is resized and cropped");
  }
  [[nodiscard]] Card card(const Condition& condition) const {
    Card card = base_card();
    card.set("interval", "Wilson 95 %");
    if (!condition.kind) return card.set("corruption", "none");
    return card.set("corruption", name_of(*condition.kind))
        .set("severity", int64_t{condition.severity})
        .set("seed", seed_);
  }
  [[nodiscard]] int64_t votes() const { return std::min(config_.k, train_->rows); }

  /// Unit rows of the training images: those of the file, or a floor's own of the same images. On all ranks.
  Tensor training_bank(TaskRun& run) const {
    if (!own_training_) return unit_features(*train_);
    const Dataset dataset = open_on_all_ranks(train_->data, run.world);
    std::unordered_map<std::string, size_t> index;
    for (size_t i = 0; i < dataset.records.size(); ++i) index.emplace(dataset.records[i].key, i);
    std::vector<Record> records;
    for (const std::string& key : train_->keys) {
      const auto found = index.find(key);
      if (found == index.end())
        throw DataError(
            fmt::format("robustness: {}: has no image {} any more, which {} was made of; extract "
                        "the features again",
                        train_->data, key, train_->path));
      records.push_back(dataset.records[found->second]);
    }
    const int64_t width = extractor_->columns(protocol_).width();
    std::vector<float> mine;
    for_each_batch(run.world, train_->rows, config_.batch, "training features", [&](Range range) {
      const auto loaded = load_batch(
          range, [&](int64_t i) { return load_image(records[static_cast<size_t>(i)], protocol_); });
      std::vector<Image> images;
      for (const LoadedImage& image : loaded) images.push_back(image.image);
      const size_t before = mine.size();
      mine.resize(before + static_cast<size_t>(range.size() * width));
      extractor_->extract(images, protocol_, mine.data() + before, nullptr);
    });
    const auto all = run.world.all_gather_values<float>(std::span<const float>(mine));
    Tensor bank = Tensor::uninitialised({train_->rows, width});
    std::copy(all.begin(), all.end(), bank.as<float>());
    normalize_rows(bank.as<float>(), train_->rows, width);
    return bank;
  }

  /// [images, shown] classes on the root.
  std::vector<int32_t> classify(TaskRun& run, const Tensor& bank, const std::vector<size_t>& shown) const {
    const int64_t width = extractor_->columns(protocol_).width(),
                  classes = static_cast<int64_t>(train_->classes.size());
    const uint64_t seed = static_cast<uint64_t>(run.seed);
    std::vector<int32_t> mine;
    for_each_batch(
        run.world, static_cast<int64_t>(records_.size()), config_.batch, "robustness", [&](Range range) {
          const auto clean = load_batch(
              range, [&](int64_t i) { return load_image(records_[static_cast<size_t>(i)], protocol_); });
          const size_t before = mine.size();
          mine.resize(before + clean.size() * shown.size(), kFaulty);
          for (size_t s = 0; s < shown.size(); ++s) {
            const auto spoilt = load_batch(range, [&](int64_t i) {
              return spoil(clean[static_cast<size_t>(i - range.begin)], conditions_[shown[s]],
                           records_[static_cast<size_t>(i)].key, seed);
            });
            std::vector<Image> images;
            for (const LoadedImage& image : spoilt) images.push_back(image.image);
            Tensor features = Tensor::uninitialised({range.size(), width});
            extractor_->extract(images, protocol_, features.as<float>(), nullptr);
            normalize_rows(features.as<float>(), range.size(), width);
            const std::vector<float> scores = weighted_vote(nearest(bank, features, votes()), train_->labels,
                                                            classes, votes(), config_.temperature);
            for (size_t i = 0; i < clean.size(); ++i) {
              if (!clean[i].fault.empty()) continue;
              const float* row = scores.data() + static_cast<int64_t>(i) * classes;
              mine[before + i * shown.size() + s] =
                  static_cast<int32_t>(std::max_element(row, row + classes) - row);
            }
          }
        });
    return run.world.gather_values<int32_t>(std::span<const int32_t>(mine));
  }

  static LoadedImage spoil(const LoadedImage& clean, const Condition& condition, const std::string& key,
                           uint64_t seed) {
    if (!condition.kind || !clean.fault.empty()) return clean;
    const uint64_t picture = xxh3(std::as_bytes(std::span(key)));
    const Random random(seed, RandomStream::spoil, picture ^ static_cast<uint64_t>(*condition.kind));
    return {corrupt(clean.image, *condition.kind, condition.severity, random), ""};
  }

  /// Keys and labels of the images that could be read.
  [[nodiscard]] Predictions known_images(const std::vector<int32_t>& predicted, size_t shown) const {
    Predictions out;
    out.classes = train_->classes;
    std::vector<std::string> faults;
    for (size_t i = 0; i < records_.size(); ++i) {
      if (predicted[i * shown] == kFaulty) {
        faults.push_back(records_[i].key + ": does not decode");
        continue;
      }
      out.keys.push_back(records_[i].key);
      out.labels.push_back(truth_[i]);
    }
    say_left_out(faults);
    if (out.keys.empty())
      throw DataError(fmt::format("robustness: {}: none of its images could be decoded", data_));
    return out;
  }

  [[nodiscard]] Outcome outcome(const Plan& plan, size_t p, const Predictions& common,
                                const std::vector<int32_t>& predicted, const std::vector<size_t>& shown,
                                int64_t seed) const {
    Outcome out{p, {}, common};
    const auto class_of = [&](size_t image, size_t column) {
      return predicted[image * shown.size() + column];
    };
    if (p < conditions_.size()) {
      const auto column = static_cast<size_t>(std::find(shown.begin(), shown.end(), p) - shown.begin());
      int64_t right = 0;
      for (size_t i = 0; i < records_.size(); ++i) {
        if (class_of(i, column) == kFaulty) continue;
        out.predictions->predicted.push_back(class_of(i, column));
        right += class_of(i, column) == truth_[i] ? 1 : 0;
      }
      out.scores.push_back({"top1", wilson(right, static_cast<int64_t>(common.keys.size())), true});
      return out;
    }
    std::vector<double> shares;
    for (size_t i = 0; i < records_.size(); ++i) {
      if (class_of(i, 0) == kFaulty) continue;
      double right = 0;
      for (size_t c = 1; c < conditions_.size(); ++c) right += class_of(i, c) == truth_[i] ? 1 : 0;
      shares.push_back(right / static_cast<double>(conditions_.size() - 1));
    }
    out.predictions->labels.clear();
    out.predictions->classes.clear();
    out.scores.push_back({plan.protocols[p].metrics[0],
                          bootstrap_mean(shares, config_.resamples, static_cast<uint64_t>(seed)), true});
    out.predictions->values["mean_top1"] = std::move(shares);
    return out;
  }

  RobustConfig config_;
  std::vector<Condition> conditions_;  ///< a protocol each; then their mean
  std::shared_ptr<const FeatureSet> train_;
  FeatureProtocol protocol_;
  Extractor* extractor_ = nullptr;
  bool own_training_ = false;
  std::string data_;
  int64_t seed_ = 0;
  std::vector<Record> records_;
  std::vector<int32_t> truth_;  ///< in the training set's classes; -2 for one that it does not know
};

}  // namespace

TaskEntry robust_task() {
  TaskInfo info;
  info.name = "robust";
  info.summary = "Classify pictures that are spoilt on purpose";
  info.usage = "--weights W --train F.h5 --data REF [--severities 1,3,5] --output RESULTS";
  info.description =
      "Votes of the nearest training features (F.h5, of the same weights) classify the images of --data as "
      "they are, under each corruption and severity (noise, blurs, fog, colours, pixels and JPEG as in "
      "ImageNet-C), at smaller resolutions, and with cells of a grid covered: a top-1 each, and their mean "
      "over all but the pictures as they are. A floor extracts the training images anew.";
  info.examples = {{"--weights run --train train.h5 --data wesnoth-units/test --output results"},
                   {"--weights run --train train.h5 --data photos --corruptions jpeg,fog --severities 3 "
                    "--output results"}};
  info.metrics = {{"mean_top1", true, true}, {"top1"}};
  info.inputs = {
      {"train", "Feature file of the training images.", TaskInput::Kind::features, TaskInput::Part::train},
      {"data", "Data reference of the test images.", TaskInput::Kind::images, TaskInput::Part::test}};
  info.variants = {{"corruption", "", "mean"}, {"severity", "severity "}};
  info.encoder = TaskInfo::Encoder::tokens;
  return task_entry<Robust>(std::move(info));
}

}  // namespace dino::eval
