// SPDX-License-Identifier: Apache-2.0
#include "vectors/propagate.hpp"

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "exact/ordered_gemm.hpp"

namespace dino {
namespace {

struct ContextPatch {
  float cosine = 0;
  int64_t frame = 0, patch = 0;
};

bool nearer(const ContextPatch& a, const ContextPatch& b) {
  if (a.cosine != b.cosine) return a.cosine > b.cosine;
  return a.frame != b.frame ? a.frame < b.frame : a.patch < b.patch;
}

/// Keeps the best `limit`, best first.
void offer(std::vector<ContextPatch>& best, const ContextPatch& candidate, size_t limit) {
  if (best.size() == limit && !nearer(candidate, best.back())) return;
  if (best.size() == limit) best.pop_back();
  best.insert(std::upper_bound(best.begin(), best.end(), candidate, nearer), candidate);
}

void mix(const std::vector<ContextPatch>& best, std::span<const LabelledGrid> context, int64_t classes,
         double temperature, float* out) {
  std::vector<double> sum(static_cast<size_t>(classes));
  double total = 0;
  for (const ContextPatch& c : best) {
    const double weight =
        std::exp((static_cast<double>(c.cosine) - static_cast<double>(best.front().cosine)) / temperature);
    const float* labels = context[static_cast<size_t>(c.frame)].labels + c.patch * classes;
    for (size_t k = 0; k < sum.size(); ++k) sum[k] += weight * static_cast<double>(labels[k]);
    total += weight;
  }
  for (size_t k = 0; k < sum.size(); ++k) out[k] = static_cast<float>(sum[k] / total);
}

}  // namespace

std::vector<float> propagate_labels(std::span<const LabelledGrid> context, const float* target,
                                    const GridShape& shape, const PropagationOptions& options) {
  DINO_CHECK(!context.empty() && options.neighbours >= 1 && options.radius >= 0, "something to learn from");
  const int64_t columns = shape.columns, width = shape.width;
  std::vector<float> out(static_cast<size_t>(shape.rows * columns * shape.classes));
#pragma omp parallel for schedule(dynamic)
  for (int64_t y = 0; y < shape.rows; ++y) {
    // One row of the target with the rows of each frame that its radius reaches.
    const int64_t first = std::max<int64_t>(0, y - options.radius),
                  last = std::min(shape.rows, y + options.radius + 1), patches = (last - first) * columns;
    std::vector<float> cosines(static_cast<size_t>(columns * patches));
    std::vector<std::vector<ContextPatch>> best(static_cast<size_t>(columns));
    for (int64_t frame = 0; frame < static_cast<int64_t>(context.size()); ++frame) {
      exact::ordered_gemm_nt(columns, patches, width, target + y * columns * width, width,
                             context[static_cast<size_t>(frame)].features + first * columns * width, width,
                             cosines.data(), patches);
      for (int64_t x = 0; x < columns; ++x)
        for (int64_t j = 0; j < last - first; ++j)
          for (int64_t i = std::max<int64_t>(0, x - options.radius);
               i < std::min(columns, x + options.radius + 1); ++i)
            offer(best[static_cast<size_t>(x)],
                  {cosines[static_cast<size_t>(x * patches + j * columns + i)], frame,
                   (first + j) * columns + i},
                  static_cast<size_t>(options.neighbours));
    }
    for (int64_t x = 0; x < columns; ++x)
      mix(best[static_cast<size_t>(x)], context, shape.classes, options.temperature,
          out.data() + (y * columns + x) * shape.classes);
  }
  return out;
}

}  // namespace dino
