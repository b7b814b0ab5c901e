// SPDX-License-Identifier: Apache-2.0
#include "model/sparse_map.hpp"

#include <algorithm>
#include <numeric>

#include "base/error.hpp"

namespace dino {
namespace {

/// Two neighbours on one axis, and the share of the second.
struct Neighbours {
  int64_t low, high;
  float share;
};

Neighbours neighbours_of(int64_t at, int64_t from, int64_t to, bool align_corners) {
  double place = 0;
  if (align_corners)
    place =
        to > 1 ? static_cast<double>(at) * static_cast<double>(from - 1) / static_cast<double>(to - 1) : 0;
  else
    place = (static_cast<double>(at) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5;
  place = std::clamp(place, 0.0, static_cast<double>(from - 1));
  const auto low = static_cast<int64_t>(place);
  return {low, std::min(low + 1, from - 1), static_cast<float>(place - static_cast<double>(low))};
}

}  // namespace

SparseMap transposed(const SparseMap& map, int64_t columns) {
  SparseMap result;
  result.starts.assign(static_cast<size_t>(columns) + 1, 0);
  for (const int64_t column : map.columns) ++result.starts[static_cast<size_t>(column) + 1];
  std::partial_sum(result.starts.begin(), result.starts.end(), result.starts.begin());
  std::vector<int64_t> next(result.starts.begin(), result.starts.end() - 1);
  result.columns.resize(map.columns.size());
  result.weights.resize(map.columns.size());
  for (size_t row = 0; row + 1 < map.starts.size(); ++row)
    for (auto e = static_cast<size_t>(map.starts[row]); e < static_cast<size_t>(map.starts[row + 1]); ++e) {
      const auto to = static_cast<size_t>(next[static_cast<size_t>(map.columns[e])]++);
      result.columns[to] = static_cast<int64_t>(row);
      result.weights[to] = map.weights[e];
    }
  return result;
}

ops::SparseRows uploaded(const Context& c, const SparseMap& map) {
  return {c.arena.upload(c.stream, std::span<const int64_t>(map.starts)),
          c.arena.upload(c.stream, std::span<const int64_t>(map.columns)),
          c.arena.upload(c.stream, std::span<const float>(map.weights))};
}

SparseMap bilinear_map(GridSize from, GridSize to, bool align_corners, int64_t first, int64_t last) {
  DINO_CHECK(first >= 0 && first <= last && last <= to.pixels() && from.pixels() > 0, "rows beyond the grid");
  SparseMap map;
  std::vector<Neighbours> across;
  for (int64_t x = 0; x < to.width; ++x)
    across.push_back(neighbours_of(x, from.width, to.width, align_corners));
  for (int64_t row = first; row < last; ++row) {
    const Neighbours down = neighbours_of(row / to.width, from.height, to.height, align_corners);
    const Neighbours& aside = across[static_cast<size_t>(row % to.width)];
    const auto add = [&](int64_t y, int64_t x, float weight) {
      if (weight != 0) map.add(y * from.width + x, weight);
    };
    add(down.low, aside.low, (1 - down.share) * (1 - aside.share));
    add(down.low, aside.high, (1 - down.share) * aside.share);
    add(down.high, aside.low, down.share * (1 - aside.share));
    add(down.high, aside.high, down.share * aside.share);
    map.end_row();
  }
  return map;
}

}  // namespace dino
