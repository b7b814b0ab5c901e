// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the tasks of segmentation and of depth share: options, data, cards, and the walk over the test images.

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/auto_setting.hpp"
#include "base/options.hpp"
#include "heads/dense_model.hpp"
#include "imaging/decode_options.hpp"
#include "task.hpp"

namespace dino::eval {

struct DenseOptions {
  Auto<int64_t> size;
  DecodeMemory decode_memory;
  DenseAugment augment = DenseAugment::none;
  int64_t limit = 500, epochs = 20, steps = 0, batch = 16, resamples = 2000;
  double lr = 1e-3, weight_decay = 1e-4;
};
/// The schema's defaults are those of the object that it is bound to.
[[nodiscard]] Schema<DenseOptions> dense_options();

/// Both data sets and the encoder of a task; made by plan().
class DenseInput {
 public:
  /// UsageError where the size does not suit the patch; errors as DenseImages. Collective.
  DenseInput(TaskRun& run, DenseTask task, const DenseOptions& options);
  [[nodiscard]] Extractor& encoder() const { return *encoder_; }
  [[nodiscard]] const DenseImages& train() const { return *train_; }
  [[nodiscard]] const DenseImages& test() const { return *test_; }
  [[nodiscard]] int64_t side() const { return side_; }
  /// Steps of training: as given, else epochs over the training images.
  [[nodiscard]] int64_t steps(const DenseOptions& options) const;
  /// Both sets, the size, and how a head is trained (where `trained`).
  [[nodiscard]] Card card(const DenseOptions& options, bool trained) const;
  [[nodiscard]] Plan plan(Card card, std::vector<std::string> metrics) const;

 private:
  Extractor* encoder_;
  std::unique_ptr<DenseImages> train_, test_;
  int64_t side_ = 0;
};

/// Calls `measure` on every test image of this rank's part that can be read, and gathers what it returns, in
/// the images' order, on the root: equally many numbers for each. `keys` (root): of those images. Collective.
struct TestValues {
  std::vector<double> values;
  std::vector<std::string> keys;
};
[[nodiscard]] TestValues over_test_images(
    const Communicator& world, const DenseImages& images, const char* stage,
    const std::function<std::vector<double>(const DenseSample&)>& measure);

/// Where a head computes: on the device of --device.
[[nodiscard]] std::unique_ptr<Workplace> head_place(const TaskRun& run);

constexpr int64_t kDensePictures = 6;
/// Colours of classes, far from each other; what does not count is grey.
[[nodiscard]] Image class_picture(const LabelMap& map);
/// Near is bright, `most` metres and unknown are dark.
[[nodiscard]] Image depth_picture(const DepthMap& map, double most);

}  // namespace dino::eval
