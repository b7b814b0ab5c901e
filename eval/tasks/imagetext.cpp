// SPDX-License-Identifier: Apache-2.0
// Retrieval between images and their captions (recall at K, as of COCO and Flickr30k in arXiv 2103.00020,
// table 13): an image finds a caption of its own among all, and a caption its image.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "inputs/captions.hpp"
#include "inputs/clip_model.hpp"
#include "task.hpp"
#include "vectors/neighbours.hpp"

namespace dino::eval {

namespace {

constexpr int64_t kAt[] = {1, 5, 10};

enum Direction : size_t { image_to_text, text_to_image };
constexpr const char* kDirections[] = {"image to text", "text to image"};

std::string recall_name(int64_t k) {
  return fmt::format("recall@{}", k);
}

class ImageText final : public Task {
 public:
  void options(OptionTable& table) override { table.bind(clip_options(), config_); }

  Plan plan(TaskRun& run) override {
    const std::string& reference = run.options.source(0).reference;
    records_ = captioned_records(reference, run.world);
    clip_ = std::make_unique<ClipModel>(config_, static_cast<uint64_t>(run.seed), run.world);
    Plan plan{clip_->identity(), reference, {}};
    for (const char* direction : kDirections) {
      plan.protocols.push_back({card(direction), {}});
      for (const int64_t k : kAt) plan.protocols.back().metrics.push_back(recall_name(k));
    }
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan&, std::span<const size_t> wanted) override {
    std::vector<Record> records;
    for (const CaptionedRecord& each : records_) records.push_back(each.record);
    const EncodedImages images = clip_->encode(records, run.world);
    // Captions of the images that could be read.
    std::vector<std::string> texts, text_keys, image_keys;
    std::vector<int64_t> owner;
    for (const int64_t record : images.records) {
      const CaptionedRecord& each = records_[static_cast<size_t>(record)];
      for (const std::string& caption : each.captions) {
        text_keys.push_back(fmt::format("{}#{}", each.record.key, texts.size()));
        texts.push_back(caption);
        owner.push_back(std::ssize(image_keys));
      }
      image_keys.push_back(each.record.key);
    }
    const Tensor rows = clip_->texts().encode(texts, run.world);
    std::vector<Outcome> outcomes;
    if (!run.world.root()) return outcomes;
    for (const size_t direction : wanted) {
      const bool of_images = direction == image_to_text;
      const Tensor& bank = of_images ? rows : images.rows;
      const Tensor& queries = of_images ? images.rows : rows;
      const Neighbours found = nearest(bank, queries, std::min<int64_t>(kAt[2], bank.shape()[0]));
      const auto belongs = [&](int64_t query, int64_t hit) {
        return of_images ? owner[static_cast<size_t>(hit)] == query
                         : owner[static_cast<size_t>(query)] == hit;
      };
      outcomes.push_back(outcome_of(direction, found, of_images ? image_keys : text_keys, belongs));
    }
    return outcomes;
  }

 private:
  template <class Belongs>
  static Outcome outcome_of(size_t direction, const Neighbours& found, const std::vector<std::string>& keys,
                            const Belongs& belongs) {
    Outcome outcome{direction};
    Predictions predictions;
    predictions.keys = keys;
    for (const int64_t k : kAt) {
      std::vector<double>& hits = predictions.values[recall_name(k)];
      int64_t count = 0;
      for (int64_t q = 0; q < std::ssize(keys); ++q) {
        bool hit = false;
        for (int64_t i = 0; i < std::min(k, found.k) && !hit; ++i)
          hit = belongs(q, found.index[static_cast<size_t>(q * found.k + i)]);
        hits.push_back(hit ? 1 : 0);
        count += hit ? 1 : 0;
      }
      outcome.scores.push_back({recall_name(k), wilson(count, std::ssize(keys)), true});
    }
    outcome.predictions = std::move(predictions);
    return outcome;
  }
  [[nodiscard]] Card card(const char* direction) const {
    std::vector<std::string> keys, texts;
    for (const CaptionedRecord& each : records_) {
      keys.push_back(each.record.key);
      texts.insert(texts.end(), each.captions.begin(), each.captions.end());
    }
    Card card;
    card.set("task", "imagetext").set("features", clip_->protocol().card()).set("keys", keys_hash(keys));
    card.set("captions", keys_hash(texts))
        .set("caption_count", std::ssize(texts))
        .set("direction", direction);
    card.set("similarity", "cosine").set("interval", "Wilson 95 %");
    return card;
  }

  ClipOptions config_;
  std::vector<CaptionedRecord> records_;
  std::unique_ptr<ClipModel> clip_;
};

}  // namespace

TaskEntry imagetext_task() {
  TaskInfo info;
  info.name = "imagetext";
  info.summary = "Find captions by images, and images by captions";
  info.usage = "--clip W --data REF --output RESULTS";
  info.description =
      "Every image with a text beside it is held against the captions of all, and every caption against all "
      "images: "
      "the share that find their own among the first 1, 5 and 10. Tars have the caption as KEY.txt, else as "
      "\"caption\" in KEY.json; a folder has NAME.txt beside NAME.jpg, with one caption a line.";
  info.examples = {{"--clip ViT-B-32 --data pairs --output results"}};
  info.metrics = {{"recall@1", true, true}, {"recall@5"}, {"recall@10"}};
  info.inputs = {
      {"data", "Data reference whose images have captions.", TaskInput::Kind::images, TaskInput::Part::test}};
  info.variants = {{"direction"}};
  return task_entry<ImageText>(std::move(info));
}

}  // namespace dino::eval
