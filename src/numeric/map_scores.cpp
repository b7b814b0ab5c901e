// SPDX-License-Identifier: Apache-2.0
#include "numeric/map_scores.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "base/error.hpp"

namespace dino {

namespace {

/// Cells by falling score.
std::vector<size_t> falling(std::span<const float> scores) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  return order;
}

}  // namespace

double map_auroc(std::span<const float> scores, std::span<const int64_t> object,
                 std::span<const int64_t> background) {
  DINO_CHECK(scores.size() == object.size() && scores.size() == background.size(), "cells differ");
  const std::vector<size_t> order = falling(scores);
  double above = 0, area = 0, all_background = 0;  // pixels of the object that score higher; pairs won
  for (size_t i = 0; i < order.size();) {
    double tied_object = 0, tied_background = 0;
    const float score = scores[order[i]];
    for (; i < order.size() && scores[order[i]] == score; ++i) {
      tied_object += static_cast<double>(object[order[i]]);
      tied_background += static_cast<double>(background[order[i]]);
    }
    area += tied_background * (above + tied_object / 2);
    above += tied_object;
    all_background += tied_background;
  }
  if (above == 0 || all_background == 0) return std::numeric_limits<double>::quiet_NaN();
  return area / (above * all_background);
}

double map_iou(std::span<const float> scores, std::span<const int64_t> object,
               std::span<const int64_t> background, double mass) {
  DINO_CHECK(scores.size() == object.size() && scores.size() == background.size(), "cells differ");
  double total = 0, held = 0;
  for (const float score : scores) total += static_cast<double>(score);
  int64_t both = 0, outside = 0;
  for (const size_t cell : falling(scores)) {
    if (held >= mass * total) break;
    held += static_cast<double>(scores[cell]);
    both += object[cell];
    outside += background[cell];
  }
  const int64_t either = std::accumulate(object.begin(), object.end(), outside);
  return either == 0 ? 0 : static_cast<double>(both) / static_cast<double>(either);
}

}  // namespace dino
