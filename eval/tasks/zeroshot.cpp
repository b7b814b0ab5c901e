// SPDX-License-Identifier: Apache-2.0
// Zero-shot classification by a CLIP (arXiv 2103.00020, section 3.1.2-3.1.4): an image's class is the text
// that is nearest to it, a class being the mean of its name in several templates.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "base/log.hpp"
#include "inputs/clip_model.hpp"
#include "storage/files.hpp"
#include "task.hpp"
#include "vectors/embeddings.hpp"
#include "vectors/neighbours.hpp"

namespace dino::eval {

namespace {

constexpr const char* kPlace = "{}";  ///< of the class's name in a template

struct ZeroshotConfig {
  ClipOptions clip;
  std::string templates, class_names;
};

std::vector<std::string> lines_of_file(const std::string& path, const char* option) {
  if (!path_exists(path) || is_folder(path))
    throw MissingInputError(fmt::format("no such file: --{} {}: name a text file", option, path));
  const std::string text = read_text(path);
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty()) lines.push_back(line);
    at = end + 1;
  }
  if (lines.empty()) throw DataError(fmt::format("bad file: --{} {}: it has no line", option, path));
  return lines;
}

std::vector<std::string> read_templates(const std::string& path) {
  if (path.empty()) return {"a photo of a {}."};
  std::vector<std::string> templates = lines_of_file(path, "templates");
  for (size_t i = 0; i < templates.size(); ++i)
    if (templates[i].find(kPlace) == std::string::npos)
      throw DataError(
          fmt::format("bad templates: {}: line {} has no {{}} for the class's name", path, i + 1));
  return templates;
}

std::string filled(std::string text, const std::string& name) {
  for (size_t at = text.find(kPlace); at != std::string::npos; at = text.find(kPlace, at + name.size()))
    text.replace(at, 2, name);
  return text;
}

/// Names of folders, as words.
std::vector<std::string> as_words(std::vector<std::string> names) {
  for (std::string& name : names) std::replace(name.begin(), name.end(), '_', ' ');
  return names;
}

/// The mean of classes' accuracies; the interval takes these as independent proportions. Classes without an
/// image do not count.
Estimate mean_per_class(const std::vector<int64_t>& right, const std::vector<int64_t>& counts) {
  Estimate estimate;
  double variance = 0;
  int64_t classes = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) continue;
    const auto n = static_cast<double>(counts[i]), p = static_cast<double>(right[i]) / n;
    estimate.value += p;
    variance += p * (1 - p) / n;
    estimate.n += counts[i];
    ++classes;
  }
  estimate.value /= static_cast<double>(classes);
  const double half = 1.959963984540054 * std::sqrt(variance) / static_cast<double>(classes);
  estimate.low = std::max(0.0, estimate.value - half);
  estimate.high = std::min(1.0, estimate.value + half);
  return estimate;
}

class Zeroshot final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = ZeroshotConfig;
    Schema<C> schema;
    schema.add(&C::clip, clip_options());
    schema.section("texts");
    schema.add("templates", &C::templates,
               "File of templates, one a line, with {} for the class's name; a class is the mean over them "
               "(default: a photo of a {}.).");
    schema.add("class-names", &C::class_names,
               "File of the classes' names, one a line in the data set's order (default: its own, _ being a "
               "space).");
    table.bind(schema, config_);
  }

  Plan plan(TaskRun& run) override {
    Dataset dataset = run.images("data");
    const size_t all = dataset.records.size();
    std::erase_if(dataset.records, [](const Record& record) { return record.label < 0; });
    if (dataset.records.empty())
      throw DataError(
          fmt::format("zero-shot: {}: no image has a class; give a folder with a sub-folder for each",
                      dataset.reference));
    if (dataset.records.size() < all)
      log::info(fmt::format("zero-shot: {} of {} images have a class", dataset.records.size(), all));
    templates_ = read_templates(config_.templates);
    names_ = config_.class_names.empty() ? as_words(dataset.classes)
                                         : lines_of_file(config_.class_names, "class-names");
    if (names_.size() != dataset.classes.size())
      throw DataError(fmt::format("bad file: --class-names {}: {} names for {} classes of {}",
                                  config_.class_names, names_.size(), dataset.classes.size(),
                                  dataset.reference));
    clip_ = std::make_unique<ClipModel>(config_.clip, static_cast<uint64_t>(run.seed), run.world);
    records_ = std::move(dataset.records);
    classes_ = std::move(dataset.classes);
    Plan plan{clip_->identity(), run.options.source(0).reference, {}};
    plan.protocols.push_back({card(), {"top1", "mean_per_class"}});
    if (classes_.size() > 5) plan.protocols.back().metrics.emplace_back("top5");
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan&, std::span<const size_t>) override {
    const Tensor classes = class_rows(run.world);
    const EncodedImages images = clip_->encode(records_, run.world);
    if (!run.world.root()) return {};
    const auto most = std::min<int64_t>(5, std::ssize(classes_));
    const Neighbours found = nearest(classes, images.rows, most);
    Predictions predictions;
    predictions.classes = classes_;
    int64_t right_of_five = 0;
    std::vector<int64_t> right(classes_.size()), counts(classes_.size());
    for (size_t i = 0; i < images.records.size(); ++i) {
      const Record& record = records_[static_cast<size_t>(images.records[i])];
      const auto label = static_cast<size_t>(record.label);
      const auto first = found.index.begin() + static_cast<int64_t>(i) * most;
      predictions.keys.push_back(record.key);
      predictions.labels.push_back(record.label);
      predictions.predicted.push_back(static_cast<int32_t>(*first));
      right[label] += *first == record.label ? 1 : 0;
      ++counts[label];
      right_of_five += std::find(first, first + most, record.label) != first + most ? 1 : 0;
    }
    const auto n = std::ssize(images.records);
    int64_t all_right = 0;
    for (const int64_t count : right) all_right += count;
    Outcome outcome{0, {{"top1", wilson(all_right, n), true}}, std::move(predictions)};
    outcome.scores.push_back({"mean_per_class", mean_per_class(right, counts)});
    if (classes_.size() > 5) outcome.scores.push_back({"top5", wilson(right_of_five, n)});
    std::vector<Outcome> outcomes;
    outcomes.push_back(std::move(outcome));
    return outcomes;
  }

 private:
  /// f32 [classes, width]: unit means of the templates' unit rows.
  [[nodiscard]] Tensor class_rows(const Communicator& world) {
    std::vector<std::string> texts;
    for (const std::string& name : names_)
      for (const std::string& text : templates_) texts.push_back(filled(text, name));
    const Tensor rows = clip_->texts().encode(texts, world);
    const int64_t width = rows.shape()[1], each = std::ssize(templates_), count = std::ssize(names_);
    Tensor means = Tensor::uninitialised({count, width});
    for (int64_t c = 0; c < count; ++c)
      for (int64_t d = 0; d < width; ++d) {
        double sum = 0;
        for (int64_t t = 0; t < each; ++t)
          sum += static_cast<double>(rows.as<float>()[(c * each + t) * width + d]);
        means.as<float>()[c * width + d] = static_cast<float>(sum / static_cast<double>(each));
      }
    normalize_rows(means.as<float>(), count, width);
    return means;
  }
  [[nodiscard]] Card card() const {
    std::vector<std::string> keys;
    for (const Record& record : records_) keys.push_back(record.key);
    Card card;
    card.set("task", "zeroshot").set("features", clip_->protocol().card()).set("keys", keys_hash(keys));
    card.set("templates", keys_hash(templates_)).set("template_count", std::ssize(templates_));
    card.set("class_names", keys_hash(names_)).set("classes", std::ssize(names_));
    card.set("similarity", "cosine").set("interval", "Wilson 95 %");
    card.set("class_vector", "unit mean of the templates' unit vectors");
    return card;
  }

  ZeroshotConfig config_;
  std::vector<std::string> templates_, names_, classes_;
  std::vector<Record> records_;
  std::unique_ptr<ClipModel> clip_;
};

}  // namespace

TaskEntry zeroshot_task() {
  TaskInfo info;
  info.name = "zeroshot";
  info.summary = "Classify images by the names of their classes";
  info.usage = "--clip W --data REF [--templates FILE] --output RESULTS";
  info.description =
      "A CLIP's text tower turns the name of every class, in each template, into a vector; an image gets the "
      "class "
      "whose mean vector is nearest. Appends top-1, the mean of the classes' accuracies and, with more than "
      "five "
      "classes, top-5. Text is lower-cased and normalised (NFC) and nothing else is repaired; no vocabulary "
      "is "
      "shipped: it is the model's own, from the folder of its weights.";
  info.examples = {{"--clip ViT-B-32 --data val --output results"},
                   {"--clip aligned --data val --templates templates.txt --output results",
                    "A text tower that align trained on frozen features."}};
  info.metrics = {{"top1", true, true}, {"top5"}, {"mean_per_class"}};
  info.inputs = {
      {"data", "Data reference whose images have classes.", TaskInput::Kind::images, TaskInput::Part::test}};
  info.confusions = true;
  return task_entry<Zeroshot>(std::move(info));
}

}  // namespace dino::eval
