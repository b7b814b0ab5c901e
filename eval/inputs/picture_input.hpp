// SPDX-License-Identifier: Apache-2.0
#pragma once
// Images and model behind tasks that draw (pca, attention).

#include <functional>
#include <string>
#include <vector>

#include "task.hpp"

namespace dino::eval {

struct PictureOptions {
  PictureOptions() { input.enlarge = 2; }  // finer maps: four times the patches
  InputOptions input;
  FeatureProtocol protocol;
  int64_t images = 8;
};
[[nodiscard]] Schema<PictureOptions> picture_options();
/// The input --data of such a task.
[[nodiscard]] std::vector<TaskInput> picture_inputs();

/// Images spread evenly over --data; those that cannot be decoded are named and replaced by the next ones.
/// Every rank has all of them.
struct PictureInput {
  std::vector<Image> images;
  std::vector<std::string> keys;
  FeatureProtocol protocol;  ///< settled
  Extractor* encoder = nullptr;
  [[nodiscard]] int64_t grid() const { return protocol.size / encoder->patch_side(); }
};
/// `load` gives the image of a record, or why there is none; load_image unless given.
using PictureLoader = std::function<LoadedImage(const Record& record, const FeatureProtocol& protocol)>;
[[nodiscard]] PictureInput read_picture_input(TaskRun& run, const PictureOptions& options,
                                              const PictureLoader& load = load_image);
/// The model's and the data's part of a plan with one protocol, whose card is begun: what the images are.
[[nodiscard]] Plan picture_plan(const TaskRun& run, const PictureInput& input, const std::string& kind);
/// `values` floats of each image on the root, in order, each image computed by one rank. Collective.
[[nodiscard]] std::vector<float> by_image(const TaskRun& run, const PictureInput& input, int64_t values,
                                          const std::function<void(std::span<const Image>, float*)>& compute);

/// Repeats every pixel so that the longer side is about `side` (nearest neighbour, whole factors).
[[nodiscard]] Image enlarge(const Image& image, int64_t side);
/// 1 = foreground per patch, from scores of the first component over [images, grid * grid].
[[nodiscard]] std::vector<uint8_t> foreground_of(const std::vector<double>& scores, int64_t images,
                                                 int64_t grid);

}  // namespace dino::eval
