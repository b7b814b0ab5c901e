// SPDX-License-Identifier: Apache-2.0
// Monocular depth on frozen tokens (DINOv2, arXiv 2304.07193, section 7.4): a linear layer onto 256 bins of
// depth on one or four blocks (linear), or the decoder of the dense prediction transformer (dpt).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "heads/dense_task.hpp"
#include "numeric/depth_errors.hpp"

namespace dino::eval {

namespace {

enum class DepthHeadKind : uint8_t { linear, ms, dpt };
constexpr auto names_of(DepthHeadKind) {
  return std::to_array<Named<DepthHeadKind>>(
      {{"linear", DepthHeadKind::linear}, {"ms", DepthHeadKind::ms}, {"dpt", DepthHeadKind::dpt}});
}

struct DepthOptions : DenseOptions {
  DepthOptions() {
    lr = 1e-4;
    weight_decay = 0.01;
    batch = 2;
  }
  DepthHeadKind head = DepthHeadKind::linear;
  BinSpread bins = BinSpread::uniform;
  int64_t bin_count = 256, fusion = 256;
  bool flip = true;
};

constexpr int64_t kErrors = 10;  ///< numbers of DepthErrors

class Depth final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = DepthOptions;
    Schema<C> schema;
    schema.add(
        "head", &C::head,
        "A linear layer onto bins of depth, on the last block; the same on four blocks; or the decoder of "
        "the dense prediction transformer.");
    schema.add("bins", &C::bins,
               "Of linear and ms: how the bins lie between the data set's least and largest depth.");
    schema.add("bin-count", &C::bin_count, "Of linear and ms: bins.").range(2, 4096);
    schema.add("fusion", &C::fusion, "Of dpt: channels of its fusion.").range(2, 4096);
    schema.add("flip", &C::flip, "In testing the mean of the image and its mirror image.");
    table.bind(schema, config_);
    table.bind(dense_options(), static_cast<DenseOptions&>(config_));
  }

  Plan plan(TaskRun& run) override {
    input_ = std::make_unique<DenseInput>(run, DenseTask::depth, config_);
    const DepthCoding &first = input_->train().set().depth, &second = input_->test().set().depth;
    if (first.most != second.most || first.least != second.least)
      throw DataError(
          fmt::format("depth: --test {}: its depths lie between {} and {} m, those of --train between {} "
                      "and {} m; give sets of one range",
                      run.options.source(1).reference, second.least, second.most, first.least, first.most));
    std::vector<std::string> metrics;
    for (const NamedDepthError& error : depth_error_names()) metrics.emplace_back(error.name);
    crop_ = crop_of_training();
    return input_->plan(card(run.seed), std::move(metrics));
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& plan, std::span<const size_t>) override {
    const auto place = head_place(run);
    const DepthCoding& range = input_->train().set().depth;
    DenseModel model = fresh_model(place->context(), static_cast<uint64_t>(run.seed));
    DenseTraining training;
    training.task = DenseTask::depth;
    training.crop = crop_;
    training.augment = config_.augment;
    training.least_scale = 1;
    training.most_scale = 1;
    training.steps = input_->steps(config_);
    training.batch = config_.batch;
    training.step = {config_.lr, config_.weight_decay, 0.95, 0.999, kClip};
    training.warmup = kWarmup;
    training.warmup_start = 1e-3;
    training.seed = static_cast<uint64_t>(run.seed);
    train_dense(run.world, input_->encoder(), input_->train(), training, model);
    const auto predict = [&](const Image& image) {
      return measure_image(input_->encoder(), model, image, input_->side(), config_.flip, range.least,
                           range.most);
    };
    const TestValues test = over_test_images(
        run.world, input_->test(), "depth",
        [&](const DenseSample& sample) { return numbers_of(errors_of(sample, predict(sample.image))); });
    if (!run.world.root()) return {};
    draw(run, plan, predict, range.most);
    return {outcome_of(test, static_cast<uint64_t>(run.seed))};
  }

 private:
  /// Height and width of a training input: the shape of the first image at --size, in whole patches.
  [[nodiscard]] GridSize crop_of_training() const {
    const int64_t patch = input_->encoder().patch_side(), side = input_->side();
    for (int64_t i = 0; i < input_->train().size(); ++i) {
      const DenseSample sample = input_->train().read(i, true);
      if (!sample.fault.empty()) continue;
      const int64_t least = std::min(sample.image.width, sample.image.height);
      const auto scaled = [&](int64_t length) {
        return std::max(side, (length * side + least * patch / 2) / (least * patch) * patch);
      };
      return {scaled(sample.image.height), scaled(sample.image.width)};
    }
    throw DataError(
        fmt::format("cannot train: {}: none of its images can be used", input_->train().set().reference));
  }

  [[nodiscard]] DenseModel fresh_model(const Context& c, uint64_t seed) const {
    const Extractor& encoder = input_->encoder();
    const DepthCoding& range = input_->train().set().depth;
    const int64_t width = encoder.patch_width();
    DenseReading reading;
    reading.blocks = config_.head == DepthHeadKind::linear ? last_blocks(encoder.depth(), 1)
                                                           : spread_blocks(encoder.depth());
    reading.class_token = true;
    if (config_.head == DepthHeadKind::dpt) {
      reading.apart = true;
      return {c, make_dpt_depth_head({width, config_.fusion, range.least}), reading, false, seed};
    }
    const int64_t channels = 2 * width * static_cast<int64_t>(reading.blocks.size());
    return {c,
            make_binned_depth_head(channels,
                                   bin_centres(config_.bins, config_.bin_count, range.least, range.most)),
            reading, false, seed};
  }

  static std::vector<double> numbers_of(const DepthErrors& errors) {
    std::vector<double> numbers;
    for (const NamedDepthError& error : depth_error_names()) numbers.push_back(errors.*error.member);
    numbers.push_back(static_cast<double>(errors.pixels));
    return numbers;
  }

  [[nodiscard]] DepthErrors errors_of(const DenseSample& sample, const DepthMap& predicted) const {
    const DepthCoding& range = input_->test().set().depth;
    const Box box = evaluation_box(input_->test().set().crop, sample.image.height, sample.image.width);
    const DepthMap truth = crop(sample.depth, box), guess = crop(predicted, box);
    std::vector<uint8_t> valid;
    for (const float z : truth.metres) valid.push_back(z > 0 ? 1 : 0);
    return depth_errors(guess.metres, truth.metres, valid, range.least, range.most);
  }

  /// Means over the images that have a valid pixel.
  [[nodiscard]] Outcome outcome_of(const TestValues& test, uint64_t seed) const {
    Outcome outcome;
    Predictions predictions;
    const auto has_truth = [&](size_t image) { return test.values[(image + 1) * kErrors - 1] > 0; };
    for (size_t i = 0; i < test.keys.size(); ++i)
      if (has_truth(i)) predictions.keys.push_back(test.keys[i]);
    size_t number = 0;
    for (const NamedDepthError& error : depth_error_names()) {
      std::vector<double>& values = predictions.values[error.name];
      for (size_t i = 0; i < test.keys.size(); ++i)
        if (has_truth(i)) values.push_back(test.values[i * kErrors + number]);
      outcome.scores.push_back({error.name, bootstrap_mean(values, config_.resamples, seed), true});
      ++number;
    }
    outcome.predictions = std::move(predictions);
    return outcome;
  }

  [[nodiscard]] Card card(int64_t seed) const {
    const DenseDataset& set = input_->test().set();
    Card card = input_->card(config_, true);
    card.set("task", "depth").set("head", name_of(config_.head)).set("seed", seed);
    card.set("features", config_.head == DepthHeadKind::linear
                             ? "patch and class tokens of the last block"
                             : "patch and class tokens of 4 blocks over the depth");
    card.set("train_input", fmt::format("{} x {}", crop_.width, crop_.height));
    card.set("least_depth", set.depth.least).set("largest_depth", set.depth.most);
    card.set("crop", name_of(set.crop)).set("image_crop", name_of(set.image_crop));
    card.set("valid", "pixels whose depth is known and lies in the range");
    if (config_.head == DepthHeadKind::dpt)
      card.set("fusion", config_.fusion);
    else
      card.set("bins", fmt::format("{} {}", config_.bin_count, name_of(config_.bins)));
    card.set("loss", "scale-invariant (0.15) + 0.5 gradient at four strides")
        .set("schedule", "cosine after a linear warm-up over 1/3 of the steps, one-cycle momentum, clip 35");
    card.set("test_input", "shorter side at size, zeros to whole patches, bilinear to the image's own size")
        .set("test_flip", config_.flip);
    card.set("metrics", "of each image, then the mean over images");
    return card;
  }

  void draw(const TaskRun& run, const Plan& plan, const std::function<DepthMap(const Image&)>& predict,
            double most) const {
    PictureSet set = run.pictures("depth", plan, plan.protocols[0]);
    for (int64_t i = 0, drawn = 0; i < input_->test().size() && drawn < kDensePictures; ++i) {
      const DenseSample sample = input_->test().read(i, false);
      if (!sample.fault.empty()) continue;
      ++drawn;
      const DepthMap predicted = predict(sample.image);
      DepthMap errors = sample.depth;
      double far = 0;
      for (size_t p = 0; p < errors.metres.size(); ++p) {
        far = std::max(far, static_cast<double>(sample.depth.metres[p]));
        if (sample.depth.metres[p] > 0)
          errors.metres[p] = std::max(1e-3F, std::abs(predicted.metres[p] - sample.depth.metres[p]));
      }
      if (far <= 0) far = most;
      set.begin_strip(input_->test().key(i));
      set.add(fit(sample.image, 160), "image", "");
      set.add(fit(depth_picture(sample.depth, far), 160), "truth: near is bright", "");
      set.add(fit(depth_picture(predicted, far), 160), "prediction", "");
      set.add(fit(depth_picture(errors, far / 2), 160), "error: small is bright", "");
    }
    set.commit();
  }

  static constexpr double kWarmup = 1.0 / 3, kClip = 35;
  DepthOptions config_;
  std::unique_ptr<DenseInput> input_;
  GridSize crop_;
};

}  // namespace

TaskEntry depth_task() {
  TaskInfo info;
  info.name = "depth";
  info.summary = "Depth of every pixel with a head on frozen tokens";
  info.usage = "--weights W --train REF --test REF [--head linear|ms|dpt] --output RESULTS";
  info.description =
      "REF is a data set of images with depth maps: NAME/PART:ROOT of one that is defined (nyu, kitti, "
      "sunrgbd, "
      "castle-rgbd), a folder with images/ and depth/ (16-bit PNG of millimetres), tars with sidecars "
      "KEY.depth "
      "(sweethome3d-furniture/train), an HDF5 file with /images and /depths. Appends RMSE, absolute and "
      "squared "
      "relative error, RMSE of logarithms, log10, silog and delta 1 to 3 with bootstrap intervals over "
      "images.";
  info.examples = {
      {"--weights vits14 --train nyu/train:NYU --test nyu/test:NYU --head dpt --output results"}};
  for (const NamedDepthError& error : depth_error_names())
    info.metrics.push_back({error.name, error.higher_is_better, std::string_view(error.name) == "rmse"});
  info.inputs = {
      {"train", "Data reference of the training images.", TaskInput::Kind::images, TaskInput::Part::train},
      {"test", "Data reference of the test images.", TaskInput::Kind::images, TaskInput::Part::test}};
  info.variants = {{"head", "", "linear"}};
  info.pictures = {
      {"depth", "Depth",
       "Image, true depth, predicted depth (near is bright), and their difference (small is bright); "
       "grey pixels have no known depth."}};
  info.encoder = TaskInfo::Encoder::tokens;
  return task_entry<Depth>(std::move(info));
}

}  // namespace dino::eval
