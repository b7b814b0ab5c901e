// SPDX-License-Identifier: Apache-2.0
#include "training/dense_losses.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <vector>

#include "base/error.hpp"

namespace dino {
namespace {

/// Pixels whose logits are worked on at a time.
int64_t pixels_at_once(const Context& c, int64_t classes) {
  return std::max<int64_t>(256, c.ops.block_sizes().product_bytes / (classes * 4));
}

/// Calls `use` with the enlarged logits of pixels [first, first + count) of an image, and with the map that
/// enlarges.
void enlarge_in_blocks(const Context& c, const Maps& logits, GridSize size,
                       const std::function<void(int64_t image, int64_t first, TensorView block,
                                                const ops::SparseRows& back)>& use,
                       bool backward) {
  const int64_t classes = logits.channels(), coarse = logits.grid.pixels();
  const int64_t most = pixels_at_once(c, classes);
  for (int64_t first = 0; first < size.pixels(); first += most) {
    const Arena::Scope scope(c.arena);
    const int64_t count = std::min(most, size.pixels() - first);
    const SparseMap map = bilinear_map(logits.grid, size, false, first, first + count);
    const ops::SparseRows rows = uploaded(c, map);
    const ops::SparseRows back = backward ? uploaded(c, transposed(map, coarse)) : ops::SparseRows{};
    for (int64_t image = 0; image < logits.images; ++image) {
      const Arena::Scope block_scope(c.arena);
      const TensorView block = c.arena.make({count, classes});
      c.ops.sparse_rows(c.stream, rows, logits.values.rows(image * coarse, coarse), block, false);
      use(image, first, block, back);
    }
  }
}

constexpr double kLogShift = 1e-3, kMeanShare = 0.15;
constexpr std::array<int64_t, 4> kStrides = {1, 2, 4, 6};

struct LogError {
  std::vector<double> value;  ///< 0 where not valid
  std::vector<uint8_t> valid;
  int64_t count = 0;
};

LogError log_error(std::span<const float> predicted, std::span<const float> truth) {
  LogError g{std::vector<double>(truth.size()), std::vector<uint8_t>(truth.size()), 0};
  for (size_t i = 0; i < truth.size(); ++i) {
    if (!(truth[i] > 0)) continue;
    g.valid[i] = 1;
    ++g.count;
    g.value[i] = std::log(static_cast<double>(predicted[i]) + kLogShift) -
                 std::log(static_cast<double>(truth[i]) + kLogShift);
  }
  return g;
}

double scale_invariant_loss(const LogError& g, bool warm_up, double weight, std::vector<double>& d) {
  const auto n = static_cast<double>(g.count);
  double mean = 0, variance = 0;
  for (const double value : g.value) mean += value;
  mean /= n;
  for (size_t i = 0; i < g.value.size(); ++i)
    if (g.valid[i] != 0) variance += (g.value[i] - mean) * (g.value[i] - mean);
  variance = g.count > 1 ? variance / (n - 1) : 0;
  const double loss = std::sqrt((warm_up ? 0 : variance) + kMeanShare * mean * mean);
  if (loss <= 0) return 0;
  const double of_variance = warm_up || g.count < 2 ? 0 : 1 / (n - 1);
  for (size_t i = 0; i < g.value.size(); ++i)
    if (g.valid[i] != 0) d[i] += weight * ((g.value[i] - mean) * of_variance + kMeanShare * mean / n) / loss;
  return weight * loss;
}

double gradient_loss(const LogError& g, int64_t images, GridSize size, int64_t stride, double weight,
                     std::vector<double>& d) {
  const auto at = [&](int64_t image, int64_t y, int64_t x) {
    return static_cast<size_t>((image * size.height + y) * size.width + x);
  };
  int64_t count = 0;
  for (int64_t i = 0; i < images; ++i)
    for (int64_t y = 0; y < size.height; y += stride)
      for (int64_t x = 0; x < size.width; x += stride) count += g.valid[at(i, y, x)];
  if (count == 0) return 0;
  const double each = weight / static_cast<double>(count);
  double sum = 0;
  const auto pair = [&](size_t a, size_t b) {
    if (g.valid[a] == 0 || g.valid[b] == 0) return;
    const double difference = g.value[a] - g.value[b];
    sum += std::abs(difference);
    const double sign = difference > 0 ? each : difference < 0 ? -each : 0;
    d[a] += sign;
    d[b] -= sign;
  };
  const int64_t step = 2 * stride;
  for (int64_t i = 0; i < images; ++i)
    for (int64_t y = 0; y < size.height; y += stride)
      for (int64_t x = 0; x < size.width; x += stride) {
        if (y + step < size.height) pair(at(i, y, x), at(i, y + step, x));
        if (x + step < size.width) pair(at(i, y, x), at(i, y, x + step));
      }
  return each * sum;
}

}  // namespace

double pixel_cross_entropy(const Context& c, const Maps& logits, GridSize size,
                           std::span<const int16_t> labels, const Maps& d_logits) {
  const int64_t classes = logits.channels(), coarse = logits.grid.pixels();
  DINO_CHECK(static_cast<int64_t>(labels.size()) == logits.images * size.pixels(), "labels of another size");
  const auto counted = std::count_if(labels.begin(), labels.end(), [](int16_t label) { return label >= 0; });
  fill(c.stream, d_logits.values, 0);
  if (counted == 0) return 0;
  const Arena::Scope scope(c.arena);
  const TensorView total = c.arena.zeros(c.stream, {1}, DType::f64);
  std::vector<float> targets, weights;
  enlarge_in_blocks(
      c, logits, size,
      [&](int64_t image, int64_t first, TensorView block, const ops::SparseRows& back) {
        const int64_t count = block.dim(0);
        targets.assign(static_cast<size_t>(count * classes), 0);
        weights.assign(static_cast<size_t>(count), 0);
        for (int64_t i = 0; i < count; ++i) {
          const int16_t label = labels[static_cast<size_t>(image * size.pixels() + first + i)];
          if (label < 0) continue;
          DINO_CHECK(label < classes, "a label of no class");
          targets[static_cast<size_t>(i * classes + label)] = 1;
          weights[static_cast<size_t>(i)] = 1.0F / static_cast<float>(counted);
        }
        const TensorView weight = c.arena.upload(c.stream, std::span<const float>(weights)),
                         loss = c.arena.make({count});
        c.ops.cross_entropy(
            c.stream, block,
            c.arena.upload(c.stream, std::span<const float>(targets)).reshaped({count, classes}), 1, weight,
            loss);
        c.ops.weighted_sum(c.stream, loss, weight, 1, total);
        c.ops.sparse_rows(c.stream, back, block, d_logits.values.rows(image * coarse, coarse), true);
      },
      true);
  Tensor buffer;
  return host_view(c, total, buffer).as<double>()[0];
}

void pixel_classes(const Context& c, const Maps& logits, GridSize size, std::span<int16_t> labels) {
  const int64_t classes = logits.channels();
  DINO_CHECK(static_cast<int64_t>(labels.size()) == logits.images * size.pixels(), "labels of another size");
  Tensor buffer;
  enlarge_in_blocks(
      c, logits, size,
      [&](int64_t image, int64_t first, TensorView block, const ops::SparseRows&) {
        const float* values = host_view(c, block, buffer).as<float>();
        for (int64_t i = 0; i < block.dim(0); ++i) {
          const float* row = values + i * classes;
          labels[static_cast<size_t>(image * size.pixels() + first + i)] =
              static_cast<int16_t>(std::max_element(row, row + classes) - row);
        }
      },
      false);
}

double depth_loss(std::span<const float> predicted, std::span<const float> truth, int64_t images,
                  GridSize size, const DepthLossWeights& weights, std::span<float> gradient) {
  DINO_CHECK(static_cast<int64_t>(truth.size()) == images * size.pixels() &&
                 predicted.size() == truth.size() && gradient.size() == truth.size(),
             "depths of another size");
  const LogError g = log_error(predicted, truth);
  std::fill(gradient.begin(), gradient.end(), 0.0F);
  if (g.count == 0) return 0;
  std::vector<double> d(truth.size());
  double loss = scale_invariant_loss(g, weights.warm_up, weights.scale_invariant, d);
  for (const int64_t stride : kStrides) loss += gradient_loss(g, images, size, stride, weights.gradient, d);
  for (size_t i = 0; i < d.size(); ++i)
    gradient[i] = static_cast<float>(d[i] / (static_cast<double>(predicted[i]) + kLogShift));
  return loss;
}

}  // namespace dino
