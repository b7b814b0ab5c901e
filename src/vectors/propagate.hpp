// SPDX-License-Identifier: Apache-2.0
#pragma once
// Labels handed from the patches of earlier frames to those of the next one.

#include <cstdint>
#include <span>
#include <vector>

namespace dino {

struct PropagationOptions {
  int64_t neighbours = 5;  ///< patches of all context frames together that have a say
  int64_t radius = 12;     ///< how far they may lie from the target's place, in patches along either axis
  double temperature = 0.1;
};

/// A frame's grid of patches: unit rows [rows * columns, width] and labels [rows * columns, classes].
struct LabelledGrid {
  const float* features = nullptr;
  const float* labels = nullptr;
};
struct GridShape {
  int64_t rows = 0, columns = 0, width = 0, classes = 0;
};

/// The labels of a frame, [rows * columns, classes]: the mean over its nearest patches in the context, by
/// cosine and within the radius, weighted by exp(cosine / temperature) (the protocol of Jabri et al., arXiv
/// 2006.14613, and of DINO). Of equally near patches the earlier frame, then the smaller index counts. The
/// same bytes for any number of threads.
[[nodiscard]] std::vector<float> propagate_labels(std::span<const LabelledGrid> context, const float* target,
                                                  const GridShape& shape, const PropagationOptions& options);

}  // namespace dino
