// SPDX-License-Identifier: Apache-2.0
#pragma once
// Batch norm + 1x1 convolution onto {background, foreground}.

#include <cstdint>
#include <vector>

namespace dino::eval {

class SegmentHead {
 public:
  explicit SegmentHead(int64_t width);
  struct Training {
    double lr = 1e-3;
    int64_t epochs = 20, batch = 16;
    uint64_t seed = 0;
  };
  /// patches [images, grid * grid, width], masks [images, size * size] of 0 and 1. The statistics of the
  /// batch norm are those of all training patches: with a frozen backbone they do not change. Two classes
  /// need one logit z, the loss is -t log s(z) - (1 - t) log s(-z) with t the patch's foreground share.
  void fit(const std::vector<float>& patches, const std::vector<uint8_t>& masks, int64_t grid, int64_t size,
           const Training& training);
  /// 1 = foreground for every pixel, from bilinearly resampled logits.
  [[nodiscard]] std::vector<uint8_t> segment(const float* patches, int64_t grid, int64_t size) const;
  [[nodiscard]] int64_t width() const { return width_; }

 private:
  int64_t width_;
  std::vector<float> mean_, scale_;  ///< of the normalisation: (x - mean) * scale
  std::vector<float> weight_;        ///< [width + 1], the last is the bias
};

/// Bilinear with half-pixel centres and clamped borders: [grid, grid] -> [size, size].
[[nodiscard]] std::vector<float> upsample(const std::vector<float>& map, int64_t grid, int64_t size);

}  // namespace dino::eval
