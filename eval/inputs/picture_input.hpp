// SPDX-License-Identifier: Apache-2.0
#pragma once
// Images and model behind the picture commands (pca, attention).

#include <memory>
#include <string>
#include <vector>

#include "comm/program.hpp"
#include "inputs/extractor.hpp"
#include "options.hpp"
#include "pictures.hpp"

namespace dino::eval {

struct PictureConfig {
  PictureConfig() { input.enlarge = 2; }  // finer maps: four times the patches
  ModelOptions model;
  std::string data, dataset;
  InputOptions input;
  FeatureProtocol protocol;
  int64_t images = 8;
  bool force = false;
};
/// A command with the options of these; a dry run checks the data alone, `draw` writes into the locked
/// --output.
[[nodiscard]] Command picture_command(ExitCode (*draw)(CommandContext& context, const PictureConfig& config));

class PictureInput {
 public:
  /// Takes images spread evenly over the data set; those that cannot be decoded are named and replaced by the
  /// next ones.
  PictureInput(PictureConfig config, uint64_t seed);
  [[nodiscard]] const std::vector<Image>& images() const { return images_; }
  [[nodiscard]] const std::vector<std::string>& keys() const { return keys_; }
  /// Settled.
  [[nodiscard]] const FeatureProtocol& protocol() const { return config_.protocol; }
  [[nodiscard]] Extractor& extractor() const { return *extractor_; }
  [[nodiscard]] Card card() const;
  [[nodiscard]] ResultRow row(const std::string& task, const Card& card) const;

 private:
  PictureConfig config_;
  std::unique_ptr<Extractor> extractor_;
  std::vector<Image> images_;
  std::vector<std::string> keys_;
};

/// Repeats every pixel so that the longer side is about `side` (nearest neighbour, whole factors).
[[nodiscard]] Image enlarge(const Image& image, int64_t side);
/// 1 = foreground per patch, from scores of the first component over [images, grid * grid].
[[nodiscard]] std::vector<uint8_t> foreground_of(const std::vector<double>& scores, int64_t images,
                                                 int64_t grid);

}  // namespace dino::eval
