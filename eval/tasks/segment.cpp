// SPDX-License-Identifier: Apache-2.0
// Semantic segmentation on frozen patch tokens (DINOv2, arXiv 2304.07193, section 7.4): batch norm and a 1x1
// convolution on the last layer (linear) or on the last four, with several scales and mirror images in
// testing (ms); or k nearest patches without training (knn). Maps come with the data, or are the alpha
// channels of cut-outs.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "heads/dense_neighbours.hpp"
#include "heads/dense_task.hpp"
#include "numeric/segmentation_scores.hpp"

namespace dino::eval {

namespace {

enum class SegmentHeadKind : uint8_t { linear, ms, knn };
constexpr auto names_of(SegmentHeadKind) {
  return std::to_array<Named<SegmentHeadKind>>(
      {{"linear", SegmentHeadKind::linear}, {"ms", SegmentHeadKind::ms}, {"knn", SegmentHeadKind::knn}});
}

struct SegmentOptions : DenseOptions {
  SegmentHeadKind head = SegmentHeadKind::linear;
  std::vector<double> scales = {1, 1.32, 1.73, 2.28, 3};
  int64_t k = 30, patches = 200000;
  double temperature = 0.02;
};

/// Where training or testing has found the class of every pixel.
Image segmentation_errors(const LabelMap& truth, const LabelMap& predicted) {
  Image image{truth.width, truth.height, 3, {}};
  for (size_t p = 0; p < truth.labels.size(); ++p) {
    if (truth.labels[p] < 0)
      image.pixels.insert(image.pixels.end(), {128, 128, 128});
    else if (truth.labels[p] == predicted.labels[p])
      image.pixels.insert(image.pixels.end(), {225, 225, 225});
    else
      image.pixels.insert(image.pixels.end(), {213, 94, 0});  // the page's vermillion
  }
  return image;
}

class Segment final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = SegmentOptions;
    Schema<C> schema;
    schema.add("head", &C::head,
               "Batch norm and a linear layer on the last block; the same on four blocks, tested at several "
               "scales and mirrored; or nearest patches, without training.");
    schema.add("scales", &C::scales, "Of ms: sizes in testing, times --size (1 or more).");
    schema.add("k", &C::k, "Of knn: neighbours of a patch.").range(1, 10000);
    schema.add("temperature", &C::temperature, "Of knn: temperature of the neighbours' weights.")
        .range(1e-4, 100);
    schema.add("memory-patches", &C::patches, "Of knn: training patches remembered at most.").range(1, 1e8);
    table.bind(schema, config_);
    table.bind(dense_options(), static_cast<DenseOptions&>(config_));
  }

  Plan plan(TaskRun& run) override {
    if (config_.scales.empty() || std::any_of(config_.scales.begin(), config_.scales.end(),
                                              [](double s) { return !(s >= 1 && s <= 16); }))
      throw UsageError("segmentation: --scales: are numbers from 1 to 16; give at least one");
    input_ = std::make_unique<DenseInput>(run, DenseTask::segmentation, config_);
    return input_->plan(card(run.seed), {"miou", "macc", "aacc"});
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& plan, std::span<const size_t>) override {
    const auto place = head_place(run);
    const auto classes = static_cast<int64_t>(input_->test().classes().size());
    const DenseReading reading{
        last_blocks(input_->encoder().depth(), config_.head == SegmentHeadKind::ms ? 4 : 1)};
    std::unique_ptr<DenseModel> model;
    std::unique_ptr<PatchMemory> memory;
    WindowScores scores;
    if (config_.head == SegmentHeadKind::knn) {
      memory = std::make_unique<PatchMemory>(
          classes, PatchMemorySettings{config_.k, config_.temperature, config_.patches,
                                       static_cast<uint64_t>(run.seed)});
      memory->fill(run.world, input_->encoder(), input_->train(), input_->side(), reading);
      scores = [&](const EncodedImage& image, GridSize size) { return memory->scores(image, size); };
    } else {
      model = trained(run, place->context(), classes, reading);
      scores = [&](const EncodedImage& image, GridSize size) { return model->predict(image, size); };
    }
    const auto predict = [&](const Image& image) {
      return segment_image(input_->encoder(), reading, scores, image, classes, view());
    };
    const TestValues test =
        over_test_images(run.world, input_->test(), "segment", [&](const DenseSample& sample) {
          std::vector<int64_t> confusion(static_cast<size_t>(classes * classes));
          add_confusion(sample.labels.labels, predict(sample.image).labels, classes, confusion);
          const auto areas = class_areas(confusion, classes);
          return std::vector<double>(areas.begin(), areas.end());
        });
    if (!run.world.root()) return {};
    draw(run, plan, predict);
    Predictions predictions;
    predictions.keys = test.keys;
    predictions.classes = input_->test().classes();
    predictions.pixels.assign(test.values.begin(), test.values.end());
    const SegmentationEstimates found = bootstrap_segmentation(predictions.pixels, classes, config_.resamples,
                                                               static_cast<uint64_t>(run.seed));
    Outcome outcome;
    outcome.scores = {{"miou", found.miou, true}, {"macc", found.macc, true}, {"aacc", found.aacc, true}};
    outcome.predictions = std::move(predictions);
    return {std::move(outcome)};
  }

 private:
  [[nodiscard]] SegmentView view() const {
    SegmentView view;
    view.side = input_->side();
    if (config_.head == SegmentHeadKind::ms) view.scales = config_.scales, view.flip = true;
    return view;
  }

  [[nodiscard]] std::unique_ptr<DenseModel> trained(const TaskRun& run, const Context& c, int64_t classes,
                                                    const DenseReading& reading) const {
    const int64_t width = input_->encoder().patch_width() * static_cast<int64_t>(reading.blocks.size());
    auto model = std::make_unique<DenseModel>(c, make_linear_segmentation_head(width, classes), reading, true,
                                              static_cast<uint64_t>(run.seed));
    DenseTraining training;
    training.task = DenseTask::segmentation;
    training.crop = {input_->side(), input_->side()};
    training.augment = config_.augment;
    if (config_.head == SegmentHeadKind::ms) training.least_scale = 1, training.most_scale = 3;
    training.steps = input_->steps(config_);
    training.batch = config_.batch;
    training.step = {config_.lr, config_.weight_decay, 0.9, 0.999, 0};
    training.warmup = kWarmup;
    training.seed = static_cast<uint64_t>(run.seed);
    train_dense(run.world, input_->encoder(), input_->train(), training, *model);
    return model;
  }

  [[nodiscard]] Card card(int64_t seed) const {
    const bool knn = config_.head == SegmentHeadKind::knn, ms = config_.head == SegmentHeadKind::ms;
    Card card = input_->card(config_, !knn);
    card.set("task", "segment").set("head", name_of(config_.head)).set("seed", seed);
    card.set("features", ms ? "patch tokens of the last 4 blocks" : "patch tokens of the last block");
    card.set("classes", static_cast<int64_t>(input_->test().classes().size()));
    card.set("maps", input_->test().cut_outs() ? "alpha >= 128, on backgrounds drawn from the seed"
                                               : "of the data set");
    card.set("ignored", "pixels without a class count neither in training nor in testing");
    card.set("test_input",
             "shorter side at size, windows of size with stride 2/3, logits averaged, bilinear to the "
             "image's own size");
    if (ms) card.set("test_scales", config_.scales).set("test_flip", true);
    if (knn) {
      card.set("k", config_.k).set("temperature", config_.temperature).set("memory_patches", config_.patches);
      return card;
    }
    card.set("layers_on_top", "batch norm (batch statistics, momentum 0.1) + 1x1 convolution")
        .set("loss", "cross-entropy of every pixel, logits bilinear")
        .set("schedule", fmt::format("linear to 0 after a linear warm-up over {:g} of the steps", kWarmup));
    if (config_.augment == DenseAugment::published) card.set("scale_range", ms ? "1 - 3" : "0.5 - 2");
    return card;
  }

  void draw(const TaskRun& run, const Plan& plan,
            const std::function<LabelMap(const Image&)>& predict) const {
    PictureSet set = run.pictures("segment", plan, plan.protocols[0]);
    for (int64_t i = 0, drawn = 0; i < input_->test().size() && drawn < kDensePictures; ++i) {
      const DenseSample sample = input_->test().read(i, false);
      if (!sample.fault.empty()) continue;
      ++drawn;
      const LabelMap predicted = predict(sample.image);
      set.begin_strip(input_->test().key(i));
      set.add(fit(sample.image, 160), "image", "");
      set.add(fit(class_picture(sample.labels), 160), "truth", "");
      set.add(fit(class_picture(predicted), 160), "prediction", "");
      set.add(fit(segmentation_errors(sample.labels, predicted), 160), "errors: orange", "");
    }
    set.commit();
  }

  static constexpr double kWarmup = 1500.0 / 40000;  ///< the published share
  SegmentOptions config_;
  std::unique_ptr<DenseInput> input_;
};

}  // namespace

TaskEntry segment_task() {
  TaskInfo info;
  info.name = "segment";
  info.summary = "Semantic segmentation with a head on frozen patch tokens";
  info.usage = "--weights W --train REF --test REF [--head linear|ms|knn] --output RESULTS";
  info.description =
      "REF is a data set of images with label maps: NAME/PART:ROOT of one that is defined (ade20k, "
      "cityscapes, "
      "voc2012, voc2012aug), a folder with images/, labels/ and classes.txt, tars with sidecars KEY.labels, "
      "an HDF5 "
      "file; or cut-outs (PNG or WebP with alpha), which are drawn on backgrounds, alpha being two classes. "
      "Appends "
      "mIoU, mAcc and aAcc with bootstrap intervals over images.";
  info.examples = {
      {"--weights vits14 --train ade20k/train:ADEChallengeData2016 --test ade20k/val:ADEChallengeData2016 "
       "--size 518 --output results"}};
  info.metrics = {{"miou", true, true}, {"macc"}, {"aacc"}};
  info.inputs = {
      {"train", "Data reference of the training images.", TaskInput::Kind::images, TaskInput::Part::train},
      {"test", "Data reference of the test images.", TaskInput::Kind::images, TaskInput::Part::test}};
  info.variants = {{"head", "", "linear"}};
  info.pictures = {
      {"segment", "Segmentation",
       "Image, true classes, predicted classes, and where they differ (orange); grey pixels have no "
       "class."}};
  info.encoder = TaskInfo::Encoder::tokens;
  return task_entry<Segment>(std::move(info));
}

}  // namespace dino::eval
