// SPDX-License-Identifier: Apache-2.0
// Learned positions on another grid. Bicubic resampling is separable: out[i,j] = sum_ab R[i,a] C[j,b]
// table[a,b], with R [h, M] and C [w, M] made once per (kernel, M, size) in double precision.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "model/vit.hpp"

namespace dino {
namespace {

/// One axis: row i of the matrix is zero outside [begin[i], end[i]).
struct Axis {
  int64_t table = 0, size = 0;
  std::vector<float> weights;  ///< [size, table]
  std::vector<int64_t> begin, end;
  [[nodiscard]] float weight(int64_t i, int64_t a) const {
    return weights[static_cast<size_t>(i * table + a)];
  }
};

/// Keys' cubic convolution kernel.
double cubic(double x, double a) {
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

/// Four taps around (i + 1/2) / scale - 1/2, clamped at the borders; a = -0.75 (torch's upsample_bicubic2d).
void fill_plain(Axis& axis, double scale, std::vector<double>& weights) {
  for (int64_t i = 0; i < axis.size; ++i) {
    const double source = (static_cast<double>(i) + 0.5) / scale - 0.5;
    const auto first = static_cast<int64_t>(std::floor(source)) - 1;
    for (int64_t tap = first; tap < first + 4; ++tap) {
      const int64_t a = std::clamp<int64_t>(tap, 0, axis.table - 1);
      weights[static_cast<size_t>(i * axis.table + a)] += cubic(source - static_cast<double>(tap), -0.75);
    }
  }
}

/// a = -0.5, support widened when shrinking, weights renormalised (torch's _upsample_bicubic2d_aa).
void fill_antialias(Axis& axis, double scale, std::vector<double>& weights) {
  const double stretch = std::max(1 / scale, 1.0);
  const double support = 2.0 * stretch;
  for (int64_t i = 0; i < axis.size; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) / scale;
    const int64_t first = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
    const int64_t last = std::min<int64_t>(static_cast<int64_t>(centre + support + 0.5), axis.table);
    double sum = 0;
    for (int64_t a = first; a < last; ++a) {
      const double weight = cubic((static_cast<double>(a) - centre + 0.5) / stretch, -0.5);
      weights[static_cast<size_t>(i * axis.table + a)] = weight;
      sum += weight;
    }
    for (int64_t a = first; a < last; ++a) weights[static_cast<size_t>(i * axis.table + a)] /= sum;
  }
}

std::shared_ptr<const Axis> make_axis(PositionKernel kernel, double offset, int64_t table, int64_t size) {
  auto axis = std::make_shared<Axis>();
  axis->table = table;
  axis->size = size;
  std::vector<double> weights(static_cast<size_t>(size * table), 0.0);
  const double shift = kernel == PositionKernel::target_size ? 0.0 : offset;
  const double scale = (static_cast<double>(size) + shift) / static_cast<double>(table);
  if (kernel == PositionKernel::antialias) {
    fill_antialias(*axis, scale, weights);
  } else {
    fill_plain(*axis, scale, weights);
  }
  axis->weights.assign(weights.begin(), weights.end());
  for (int64_t i = 0; i < size; ++i) {
    int64_t begin = 0;
    int64_t end = table;
    while (begin < end && axis->weight(i, begin) == 0) ++begin;
    while (end > begin && axis->weight(i, end - 1) == 0) --end;
    axis->begin.push_back(begin);
    axis->end.push_back(end);
  }
  return axis;
}

/// A handful of grids occur in a run; entries are small and kept for the life of the process.
std::shared_ptr<const Axis> axis_for(const VitConfig& config, int64_t size) {
  static std::mutex mutex;
  static std::map<std::tuple<PositionKernel, double, int64_t, int64_t>, std::shared_ptr<const Axis>> cache;
  const std::lock_guard lock(mutex);
  auto& axis = cache[{config.position_kernel, config.interpolate_offset, config.position_grid, size}];
  if (!axis) axis = make_axis(config.position_kernel, config.interpolate_offset, config.position_grid, size);
  return axis;
}

/// The reference resamples unless the grid is the table's own: 14 x 686 pixels hold 49 patches too, but are
/// not 7 x 7.
bool is_native(const VitConfig& config, int64_t grid_h, int64_t grid_w) {
  return grid_h == config.position_grid && grid_w == config.position_grid;
}

void check_shapes(ConstTensorView table, ConstTensorView grid, const VitConfig& config, int64_t grid_h,
                  int64_t grid_w) {
  DINO_CHECK(table.numel() == (1 + config.position_grid * config.position_grid) * config.width,
             "position table " + table.shape.str());
  DINO_CHECK(grid.numel() == (1 + grid_h * grid_w) * config.width, "positions " + grid.shape.str());
}

void add_scaled(float scale, const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += scale * x[i];
}

}  // namespace

void interpolate_positions(ConstTensorView pos_embed, const VitConfig& config, int64_t grid_h, int64_t grid_w,
                           TensorView out) {
  check_shapes(pos_embed, out, config, grid_h, grid_w);
  const int64_t width = config.width;
  const int64_t table = config.position_grid;
  const float* from = pos_embed.as<float>();
  float* to = out.as<float>();
  if (is_native(config, grid_h, grid_w)) {
    std::copy_n(from, out.numel(), to);
    return;
  }
  std::copy_n(from, width, to);
  const auto rows = axis_for(config, grid_h);
  const auto columns = axis_for(config, grid_w);
#pragma omp parallel for collapse(2)
  for (int64_t i = 0; i < grid_h; ++i) {
    for (int64_t j = 0; j < grid_w; ++j) {
      float* cell = to + (1 + i * grid_w + j) * width;
      std::fill_n(cell, width, 0.0F);
      for (int64_t a = rows->begin[static_cast<size_t>(i)]; a < rows->end[static_cast<size_t>(i)]; ++a)
        for (int64_t b = columns->begin[static_cast<size_t>(j)]; b < columns->end[static_cast<size_t>(j)];
             ++b)
          add_scaled(rows->weight(i, a) * columns->weight(j, b), from + (1 + a * table + b) * width, cell,
                     width);
    }
  }
}

void interpolate_positions_backward(ConstTensorView d_out, const VitConfig& config, int64_t grid_h,
                                    int64_t grid_w, TensorView d_table) {
  check_shapes(d_table, d_out, config, grid_h, grid_w);
  const int64_t width = config.width;
  const int64_t table = config.position_grid;
  const float* from = d_out.as<float>();
  float* to = d_table.as<float>();
  if (is_native(config, grid_h, grid_w)) {
    add_scaled(1.0F, from, to, d_out.numel());
    return;
  }
  add_scaled(1.0F, from, to, width);
  const auto rows = axis_for(config, grid_h);
  const auto columns = axis_for(config, grid_w);
  // Each thread owns rows of the table, and adds in grid order: the same sums for any number of threads.
#pragma omp parallel for
  for (int64_t a = 0; a < table; ++a) {
    for (int64_t i = 0; i < grid_h; ++i) {
      if (rows->weight(i, a) == 0) continue;
      for (int64_t j = 0; j < grid_w; ++j) {
        for (int64_t b = columns->begin[static_cast<size_t>(j)]; b < columns->end[static_cast<size_t>(j)];
             ++b)
          add_scaled(rows->weight(i, a) * columns->weight(j, b), from + (1 + i * grid_w + j) * width,
                     to + (1 + a * table + b) * width, width);
      }
    }
  }
}

}  // namespace dino
