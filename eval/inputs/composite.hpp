// SPDX-License-Identifier: Apache-2.0
#pragma once
// Foreground segmentation data from images with an alpha channel: the object is pasted on a drawn background,
// since on a constant one the task would be trivial.

#include <cstdint>
#include <string>
#include <vector>

#include "base/random.hpp"
#include "datasets/dataset.hpp"
#include "imaging/image.hpp"

namespace dino::eval {

struct Composite {
  Image image;                ///< size x size RGB
  std::vector<uint8_t> mask;  ///< [size * size], 1 = foreground
  std::string fault;          ///< why there is none: undecodable, no alpha, nothing or everything covered
};

/// A colour, a gradient, stripes, a checkerboard or smooth noise, all drawn from `random`.
[[nodiscard]] Image draw_background(int64_t size, Random& random);

/// Pads to a square, resizes to `size`, blends colours by alpha on the background, and takes alpha >= 128 as
/// foreground. Never throws for bad input.
[[nodiscard]] Composite composite_on_background(const Image& rgba, int64_t size, Random& random);
/// IoError when the file system fails.
[[nodiscard]] Composite load_composite(const Record& record, int64_t size, int64_t decode_memory,
                                       uint64_t seed);

}  // namespace dino::eval
