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

#include "model/sparse_map.hpp"
#include "model/vit_parts.hpp"

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

/// Row 0 is the class token's position, row 1 + i w + j that of patch (i, j).
SparseMap make_map(const VitConfig& config, int64_t grid_h, int64_t grid_w) {
  SparseMap map;
  map.add(0, 1.0F);
  map.end_row();
  const int64_t table = config.position_grid;
  if (is_native(config, grid_h, grid_w)) {
    for (int64_t i = 0; i < table * table; ++i) {
      map.add(1 + i, 1.0F);
      map.end_row();
    }
    return map;
  }
  const auto rows = axis_for(config, grid_h);
  const auto columns = axis_for(config, grid_w);
  for (size_t i = 0; i < static_cast<size_t>(grid_h); ++i)
    for (size_t j = 0; j < static_cast<size_t>(grid_w); ++j) {
      for (int64_t a = rows->begin[i]; a < rows->end[i]; ++a)
        for (int64_t b = columns->begin[j]; b < columns->end[j]; ++b)
          map.add(1 + a * table + b,
                  rows->weight(static_cast<int64_t>(i), a) * columns->weight(static_cast<int64_t>(j), b));
      map.end_row();
    }
  return map;
}

}  // namespace

PositionMaps position_maps(const Context& c, const VitConfig& config, int64_t grid_h, int64_t grid_w) {
  const SparseMap map = make_map(config, grid_h, grid_w);
  const int64_t columns = 1 + config.position_grid * config.position_grid;
  return {uploaded(c, map), uploaded(c, transposed(map, columns))};
}

}  // namespace dino
