// SPDX-License-Identifier: Apache-2.0
#pragma once
// Heads for dense tasks on a frozen encoder: how they are trained, and what they predict for whole images.

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "comm/communicator.hpp"
#include "inputs/dense_images.hpp"
#include "inputs/extractor.hpp"
#include "model/dense_heads.hpp"
#include "training/head_optimizer.hpp"

namespace dino::eval {

/// What a head reads of the encoder.
struct DenseReading {
  std::vector<int64_t> blocks;  ///< from 0; may repeat, where the encoder has too few
  bool class_token = false;     ///< beside each patch token
  bool apart = false;           ///< a map for each block; else all channels in one
};
/// The last `layers` blocks.
[[nodiscard]] std::vector<int64_t> last_blocks(int64_t depth, int64_t layers);
/// Four blocks spread over the depth: those that DINOv2's depth heads read of 12, 24 and 40 blocks.
[[nodiscard]] std::vector<int64_t> spread_blocks(int64_t depth);

/// Tokens of an image, f32 [pixels of the grid, blocks, channels].
struct EncodedImage {
  GridSize grid;
  std::vector<float> values;
};
/// Of images of one size; bytes do not depend on what else a caller encodes, as images go in by
/// kEncodedTogether.
[[nodiscard]] std::vector<EncodedImage> encode(Extractor& encoder, std::span<const Image> images,
                                               const DenseReading& reading);
constexpr int64_t kEncodedTogether = 4;

struct DenseTraining {
  DenseTask task = DenseTask::segmentation;
  GridSize crop;  ///< pixels of a training input: whole patches
  DenseAugment augment = DenseAugment::none;
  double least_scale = 0.5, most_scale = 2;
  int64_t steps = 1000, batch = 16;
  HeadStep step;
  double warmup = 0;  ///< share of the steps
  double warmup_start = 1e-6;
  uint64_t seed = 0;
};

/// A head with what it has learnt.
class DenseModel {
 public:
  /// `normalise`: inputs go through a batch norm's statistics, of the batch while it is trained, running ones
  /// (momentum 0.1) afterwards.
  DenseModel(const Context& c, std::unique_ptr<DenseHead> head, DenseReading reading, bool normalise,
             uint64_t seed);
  /// One step on images of one size; the loss.
  double train(const std::vector<const EncodedImage*>& images, const std::vector<const DenseSample*>& truth,
               const DenseTraining& training);
  /// The head's map of one image, f32 [pixels, channels] on the host.
  struct HostMap {
    GridSize grid;
    int64_t channels = 0;
    std::vector<float> values;
  };
  /// Enlarged to `size` (bilinear) where that is not empty.
  [[nodiscard]] HostMap predict(const EncodedImage& image, GridSize size) const;
  [[nodiscard]] const DenseReading& reading() const { return reading_; }

 private:
  [[nodiscard]] std::vector<Maps> inputs_of(std::span<const EncodedImage* const> images, bool training);
  [[nodiscard]] std::vector<Maps> uploaded(std::span<const EncodedImage* const> images,
                                           const std::vector<float>& mean,
                                           const std::vector<float>& scale) const;

  const Context& c_;
  std::unique_ptr<DenseHead> head_;
  DenseReading reading_;
  HeadOptimizer optimizer_;
  bool normalise_;
  std::vector<double> mean_, variance_;  ///< running, by channel of the single input
};

/// Trains on images drawn from `images` in a keyed order. Ranks share the encoding of each step's images; all
/// of them step alike, so that the head is the same on all and for any number of ranks. Images that cannot be
/// read are replaced by the next and told. Collective.
void train_dense(const Communicator& world, Extractor& encoder, const DenseImages& images,
                 const DenseTraining& training, DenseModel& model);

/// Bilinear resampling on the host of [grid, channels] (areas coincide).
[[nodiscard]] std::vector<float> resampled(const std::vector<float>& from, GridSize grid, int64_t channels,
                                           GridSize to);

/// The class of every pixel of an image: scaled so that its shorter side is `side` times each scale, seen
/// through windows of `side` that overlap by a third, logits averaged; with several passes their
/// probabilities are averaged, at the image's own size.
struct SegmentView {
  int64_t side = 224;
  std::vector<double> scales = {1};
  bool flip = false;
};
/// Logits or probabilities of an encoded window at its own size, [side * side, classes].
using WindowScores = std::function<DenseModel::HostMap(const EncodedImage&, GridSize)>;
[[nodiscard]] LabelMap segment_image(Extractor& encoder, const DenseReading& reading,
                                     const WindowScores& scores, const Image& image, int64_t classes,
                                     const SegmentView& view);

/// Metres of every pixel, cut to [least, most]: the whole image with its shorter side at `side`, padded with
/// zeros to whole patches; with `flip` the mean of it and its mirror image.
[[nodiscard]] DepthMap measure_image(Extractor& encoder, const DenseModel& model, const Image& image,
                                     int64_t side, bool flip, double least, double most);

}  // namespace dino::eval
