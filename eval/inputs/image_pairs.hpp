// SPDX-License-Identifier: Apache-2.0
#pragma once
// Pairs of images with points that belong together.

#include <array>
#include <string>
#include <vector>

#include "datasets/dataset.hpp"
#include "imaging/image.hpp"

namespace dino::eval {

/// A point of one image, and where it is in the other.
struct PointMatch {
  double x = 0, y = 0, to_x = 0, to_y = 0;
};

struct ImagePair {
  std::string name;
  Record first, second;
  std::vector<PointMatch> points;  ///< in pixels of the files
};

/// REFERENCE/pairs.json (docs/formats.md); empty where there is none. DataError names file, pair and cause.
[[nodiscard]] std::vector<ImagePair> read_pairs(const Dataset& dataset);
[[nodiscard]] bool has_pairs(const std::string& reference);

/// A second view of a picture: turned, scaled, shifted and lightened by drawn amounts.
struct DrawnView {
  Image image;
  std::array<double, 6> to_view{};  ///< (x, y) -> (a x + b y + c, d x + e y + f)
  [[nodiscard]] PointMatch match(double x, double y) const;
};
/// Turned by up to 30 degrees, scaled by 0.75 to 1.33, shifted by up to a tenth of the side, brightness 0.8
/// to 1.2; gray where the picture does not reach.
[[nodiscard]] DrawnView draw_view(const Image& image, Random& random);

}  // namespace dino::eval
