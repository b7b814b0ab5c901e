// SPDX-License-Identifier: Apache-2.0
#include "heads/dense_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.hpp"
#include "training/dense_losses.hpp"

namespace dino::eval {

namespace {

constexpr double kNormEps = 1e-5, kMomentum = 0.1;

/// The blocks to encode: each once, rising.
std::vector<int64_t> once(std::vector<int64_t> blocks) {
  std::sort(blocks.begin(), blocks.end());
  blocks.erase(std::unique(blocks.begin(), blocks.end()), blocks.end());
  return blocks;
}

/// Mean and variance of each column of rows, in f64.
void column_moments(std::span<const EncodedImage* const> images, int64_t channels, std::vector<double>& mean,
                    std::vector<double>& variance, double& rows) {
  mean.assign(static_cast<size_t>(channels), 0);
  variance.assign(static_cast<size_t>(channels), 0);
  rows = 0;
  for (const EncodedImage* image : images) rows += static_cast<double>(image->grid.pixels());
  const auto sum_up = [&](std::vector<double>& to, const auto& of) {
#pragma omp parallel for
    for (int64_t d = 0; d < channels; ++d) {
      double sum = 0;
      for (const EncodedImage* image : images)
        for (int64_t p = 0; p < image->grid.pixels(); ++p)
          sum += of(static_cast<double>(image->values[static_cast<size_t>(p * channels + d)]),
                    static_cast<size_t>(d));
      to[static_cast<size_t>(d)] = sum / rows;
    }
  };
  std::vector<double> first(mean.size());
  sum_up(first, [](double v, size_t) { return v; });
  mean = first;
  sum_up(variance, [&](double v, size_t d) { return (v - mean[d]) * (v - mean[d]); });
}

void mirror_rows(std::vector<float>& values, GridSize grid, int64_t channels) {
  for (int64_t y = 0; y < grid.height; ++y)
    for (int64_t x = 0; x < grid.width / 2; ++x)
      std::swap_ranges(values.begin() + (y * grid.width + x) * channels,
                       values.begin() + (y * grid.width + x + 1) * channels,
                       values.begin() + (y * grid.width + grid.width - 1 - x) * channels);
}

void softmax_rows(std::vector<float>& values, int64_t channels) {
  const auto rows = static_cast<int64_t>(values.size()) / channels;
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    float* row = values.data() + r * channels;
    const float most = *std::max_element(row, row + channels);
    double sum = 0;
    for (int64_t k = 0; k < channels; ++k) sum += static_cast<double>(row[k] = std::exp(row[k] - most));
    for (int64_t k = 0; k < channels; ++k) row[k] = static_cast<float>(static_cast<double>(row[k]) / sum);
  }
}

/// Where windows of `window` begin that cover `length`, a third of each over the last.
std::vector<int64_t> window_starts(int64_t length, int64_t window) {
  const int64_t stride = std::max<int64_t>(1, window * 2 / 3);
  std::vector<int64_t> starts;
  for (int64_t at = 0;; at += stride) {
    starts.push_back(std::min(at, length - window));
    if (at + window >= length) return starts;
  }
}

/// Mean logits of the windows over an image, [pixels, classes].
std::vector<float> slide(Extractor& encoder, const DenseReading& reading, const WindowScores& scores,
                         const Image& image, int64_t classes, int64_t side) {
  std::vector<float> sum(static_cast<size_t>(image.width * image.height * classes));
  std::vector<float> seen(static_cast<size_t>(image.width * image.height));
  std::vector<Image> windows;
  std::vector<Box> boxes;
  for (const int64_t top : window_starts(image.height, side))
    for (const int64_t left : window_starts(image.width, side)) {
      boxes.push_back({top, left, side, side});
      windows.push_back(crop(image, boxes.back()));
    }
  const std::vector<EncodedImage> encoded = encode(encoder, windows, reading);
  for (size_t i = 0; i < boxes.size(); ++i) {
    const auto map = scores(encoded[i], {side, side});
    for (int64_t y = 0; y < side; ++y)
      for (int64_t x = 0; x < side; ++x) {
        const int64_t pixel = (boxes[i].top + y) * image.width + boxes[i].left + x;
        ++seen[static_cast<size_t>(pixel)];
        const float* from = map.values.data() + (y * side + x) * classes;
        float* to = sum.data() + pixel * classes;
        for (int64_t k = 0; k < classes; ++k) to[k] += from[k];
      }
  }
  for (size_t p = 0; p < seen.size(); ++p)
    for (size_t k = 0; k < static_cast<size_t>(classes); ++k)
      sum[p * static_cast<size_t>(classes) + k] /= seen[p];
  return sum;
}

}  // namespace

std::vector<float> resampled(const std::vector<float>& from, GridSize grid, int64_t channels, GridSize to) {
  if (grid == to) return from;
  std::vector<float> out(static_cast<size_t>(to.pixels() * channels));
#pragma omp parallel for
  for (int64_t y = 0; y < to.height; ++y) {
    const SparseMap map = bilinear_map(grid, to, false, y * to.width, (y + 1) * to.width);
    for (int64_t x = 0; x < to.width; ++x)
      for (int64_t e = map.starts[static_cast<size_t>(x)]; e < map.starts[static_cast<size_t>(x) + 1]; ++e) {
        const float weight = map.weights[static_cast<size_t>(e)];
        const float* source = from.data() + map.columns[static_cast<size_t>(e)] * channels;
        float* target = out.data() + (y * to.width + x) * channels;
        for (int64_t k = 0; k < channels; ++k) target[k] += weight * source[k];
      }
  }
  return out;
}

std::vector<int64_t> last_blocks(int64_t depth, int64_t layers) {
  std::vector<int64_t> blocks;
  for (int64_t i = 0; i < layers; ++i) blocks.push_back(std::max<int64_t>(0, depth - layers + i));
  return blocks;
}

std::vector<int64_t> spread_blocks(int64_t depth) {
  if (depth == 24) return {4, 11, 17, 23};
  std::vector<int64_t> blocks;
  for (int64_t i = 1; i <= 4; ++i) blocks.push_back(std::max<int64_t>(0, i * depth / 4 - 1));
  return blocks;
}

std::vector<EncodedImage> encode(Extractor& encoder, std::span<const Image> images,
                                 const DenseReading& reading) {
  const std::vector<int64_t> blocks = once(reading.blocks);
  const auto made = static_cast<int64_t>(blocks.size()), asked = static_cast<int64_t>(reading.blocks.size());
  const int64_t width = encoder.patch_width(), channels = reading.class_token ? 2 * width : width;
  std::vector<EncodedImage> out;
  for (size_t first = 0; first < images.size(); first += kEncodedTogether) {
    const auto part = images.subspan(first, std::min<size_t>(kEncodedTogether, images.size() - first));
    const GridSize grid{part[0].height / encoder.patch_side(), part[0].width / encoder.patch_side()};
    const int64_t pixels = grid.pixels();
    std::vector<float> cls(part.size() * static_cast<size_t>(made * width)),
        patches(part.size() * static_cast<size_t>(pixels * made * width));
    encoder.dense(part, blocks, cls.data(), patches.data());
    for (size_t i = 0; i < part.size(); ++i) {
      EncodedImage image{grid, std::vector<float>(static_cast<size_t>(pixels * asked * channels))};
      const float* of_image = patches.data() + static_cast<int64_t>(i) * pixels * made * width;
      for (int64_t p = 0; p < pixels; ++p)
        for (int64_t b = 0; b < asked; ++b) {
          const int64_t at =
              std::lower_bound(blocks.begin(), blocks.end(), reading.blocks[static_cast<size_t>(b)]) -
              blocks.begin();
          float* to = image.values.data() + (p * asked + b) * channels;
          to = std::copy_n(of_image + (p * made + at) * width, width, to);
          if (reading.class_token)
            std::copy_n(cls.data() + (static_cast<int64_t>(i) * made + at) * width, width, to);
        }
      out.push_back(std::move(image));
    }
  }
  return out;
}

DenseModel::DenseModel(const Context& c, std::unique_ptr<DenseHead> head, DenseReading reading,
                       bool normalise, uint64_t seed)
    : c_(c),
      head_(std::move(head)),
      reading_(std::move(reading)),
      optimizer_(c, head_->layout(), seed),
      normalise_(normalise) {}

std::vector<Maps> DenseModel::uploaded(std::span<const EncodedImage* const> images,
                                       const std::vector<float>& mean,
                                       const std::vector<float>& scale) const {
  const GridSize grid = images[0]->grid;
  const auto count = static_cast<int64_t>(images.size());
  const auto blocks = static_cast<int64_t>(reading_.blocks.size());
  const auto all = static_cast<int64_t>(images[0]->values.size()) / grid.pixels();
  const int64_t parts = reading_.apart ? blocks : 1, channels = all / parts;
  std::vector<Maps> maps;
  std::vector<float> host(static_cast<size_t>(count * grid.pixels() * channels));
  for (int64_t part = 0; part < parts; ++part) {
    for (int64_t i = 0; i < count; ++i) {
      const float* from = images[static_cast<size_t>(i)]->values.data() + part * channels;
      float* to = host.data() + i * grid.pixels() * channels;
#pragma omp parallel for
      for (int64_t p = 0; p < grid.pixels(); ++p)
        for (int64_t d = 0; d < channels; ++d) {
          const float value = from[p * all + d];
          to[p * channels + d] =
              mean.empty() ? value : (value - mean[static_cast<size_t>(d)]) * scale[static_cast<size_t>(d)];
        }
    }
    maps.push_back(
        {c_.arena.upload(c_.stream, std::span<const float>(host)).reshaped({count * grid.pixels(), channels}),
         count, grid});
  }
  return maps;
}

std::vector<Maps> DenseModel::inputs_of(std::span<const EncodedImage* const> images, bool training) {
  if (!normalise_) return uploaded(images, {}, {});
  const auto channels = static_cast<int64_t>(images[0]->values.size()) / images[0]->grid.pixels();
  std::vector<double> mean = mean_, variance = variance_;
  if (training) {
    double rows = 0;
    column_moments(images, channels, mean, variance, rows);
    if (mean_.empty()) mean_.assign(mean.size(), 0), variance_.assign(mean.size(), 1);
    for (size_t d = 0; d < mean.size(); ++d) {
      mean_[d] += kMomentum * (mean[d] - mean_[d]);
      variance_[d] += kMomentum * (variance[d] * rows / std::max(rows - 1, 1.0) - variance_[d]);
    }
  }
  std::vector<float> shift, scale;
  for (size_t d = 0; d < mean.size(); ++d) {
    shift.push_back(static_cast<float>(mean[d]));
    scale.push_back(static_cast<float>(1 / std::sqrt(variance[d] + kNormEps)));
  }
  return uploaded(images, shift, scale);
}

double DenseModel::train(const std::vector<const EncodedImage*>& images,
                         const std::vector<const DenseSample*>& truth, const DenseTraining& training) {
  c_.arena.reset();
  Kept kept;
  const std::vector<Maps> inputs = inputs_of(images, true);
  const auto count = static_cast<int64_t>(images.size());
  const GridSize size = training.crop;
  const Maps output = head_->forward(c_, optimizer_.weights(), inputs, &kept);
  const bool labels = training.task == DenseTask::segmentation;
  double loss = 0;
  Maps d_output = new_maps(c_, count, output.grid, output.channels());
  if (labels) {
    std::vector<int16_t> classes;
    for (const DenseSample* sample : truth)
      classes.insert(classes.end(), sample->labels.labels.begin(), sample->labels.labels.end());
    loss = pixel_cross_entropy(c_, output, size, classes, d_output);
  } else {
    std::vector<float> metres, gradient(static_cast<size_t>(count * size.pixels()));
    for (const DenseSample* sample : truth)
      metres.insert(metres.end(), sample->depth.metres.begin(), sample->depth.metres.end());
    constexpr int64_t kWarmSteps = 100;
    const Maps fine = resample(c_, output, size, false);
    Tensor buffer;
    DepthLossWeights weights;
    weights.warm_up = optimizer_.steps() < std::min(kWarmSteps, training.steps / 10);
    loss = depth_loss(host_view(c_, fine.values, buffer).f32(), metres, count, size, weights, gradient);
    const Maps d_fine{
        c_.arena.upload(c_.stream, std::span<const float>(gradient)).reshaped({count * size.pixels(), 1}),
        count, size};
    d_output = resample_backward(c_, d_fine, output.grid, false);
  }
  head_->backward(c_, optimizer_.weights(), inputs, kept, d_output, optimizer_.gradient());
  const auto warmup = static_cast<int64_t>(training.warmup * static_cast<double>(training.steps));
  HeadStep step = training.step;
  step.lr *= labels ? poly_share(optimizer_.steps(), training.steps, warmup, training.warmup_start)
                    : cosine_share(optimizer_.steps(), training.steps, warmup, training.warmup_start, 1e-8);
  if (!labels) step.beta1 = one_cycle_momentum(optimizer_.steps(), training.steps);
  optimizer_.step(c_, step);
  return loss;
}

DenseModel::HostMap DenseModel::predict(const EncodedImage& image, GridSize size) const {
  c_.arena.reset();
  const std::array<const EncodedImage*, 1> one = {&image};
  std::vector<float> shift, scale;
  for (size_t d = 0; d < mean_.size(); ++d) {
    shift.push_back(static_cast<float>(mean_[d]));
    scale.push_back(static_cast<float>(1 / std::sqrt(variance_[d] + kNormEps)));
  }
  const std::vector<Maps> inputs = uploaded(one, shift, scale);
  Maps output = head_->forward(c_, optimizer_.weights(), inputs, nullptr);
  if (size.pixels() > 0) output = resample(c_, output, size, false);
  Tensor buffer;
  const auto values = host_view(c_, output.values, buffer).f32();
  return {output.grid, output.channels(), {values.begin(), values.end()}};
}

LabelMap segment_image(Extractor& encoder, const DenseReading& reading, const WindowScores& scores,
                       const Image& image, int64_t classes, const SegmentView& view) {
  const GridSize whole{image.height, image.width};
  const bool several = view.scales.size() > 1 || view.flip;
  std::vector<float> sum;
  for (const double scale : view.scales)
    for (int mirrored = 0; mirrored < (view.flip ? 2 : 1); ++mirrored) {
      const auto side = static_cast<int64_t>(std::lround(static_cast<double>(view.side) * scale));
      Image scaled = scaled_to(image, side);
      if (mirrored != 0) scaled = flip_horizontal(std::move(scaled));
      const GridSize grid{scaled.height, scaled.width};
      std::vector<float> logits = slide(encoder, reading, scores, scaled, classes, view.side);
      if (mirrored != 0) mirror_rows(logits, grid, classes);
      std::vector<float> fine = resampled(logits, grid, classes, whole);
      if (several) softmax_rows(fine, classes);
      if (sum.empty())
        sum = std::move(fine);
      else
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += fine[i];
    }
  LabelMap map{image.width, image.height, std::vector<int16_t>(static_cast<size_t>(whole.pixels()))};
#pragma omp parallel for
  for (int64_t p = 0; p < whole.pixels(); ++p) {
    const float* row = sum.data() + p * classes;
    map.labels[static_cast<size_t>(p)] = static_cast<int16_t>(std::max_element(row, row + classes) - row);
  }
  return map;
}

DepthMap measure_image(Extractor& encoder, const DenseModel& model, const Image& image, int64_t side,
                       bool flip, double least, double most) {
  const Image scaled = scaled_to(image, side);
  std::vector<float> sum;
  const GridSize whole{image.height, image.width};
  for (int mirrored = 0; mirrored < (flip ? 2 : 1); ++mirrored) {
    Box inner;
    const Image padded =
        padded_to_patches(mirrored != 0 ? flip_horizontal(scaled) : scaled, encoder.patch_side(), inner);
    const auto encoded = encode(encoder, std::span(&padded, 1), model.reading());
    const auto map = model.predict(encoded[0], {padded.height, padded.width});
    std::vector<float> part;
    for (int64_t y = 0; y < inner.height; ++y) {
      const auto row = map.values.begin() + (inner.top + y) * padded.width + inner.left;
      part.insert(part.end(), row, row + inner.width);
    }
    const GridSize grid{inner.height, inner.width};
    if (mirrored != 0) mirror_rows(part, grid, 1);
    const std::vector<float> fine = resampled(part, grid, 1, whole);
    if (sum.empty()) sum.assign(fine.size(), 0);
    for (size_t i = 0; i < fine.size(); ++i) sum[i] += fine[i];
  }
  DepthMap depth{image.width, image.height, std::move(sum)};
  for (float& z : depth.metres)
    z = static_cast<float>(std::clamp(static_cast<double>(z) / (flip ? 2 : 1), least, most));
  return depth;
}

}  // namespace dino::eval
