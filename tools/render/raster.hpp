// SPDX-License-Identifier: Apache-2.0
#pragma once
// A z-buffer rasteriser: one textured, flat-shaded view of a mesh with its exact mask.

#include "mesh.hpp"

namespace dino::render {

struct View {
  float azimuth = 0;                 ///< radians around the vertical (y) axis
  float elevation = 0;               ///< radians above the horizon
  Vec3 light = {0.4F, 0.8F, 0.45F};  ///< direction to the light, in camera space
};

/// RGBA picture of side x side pixels; alpha is the mask's coverage (2 x 2 samples a pixel). The mesh is
/// scaled to its bounding sphere.
[[nodiscard]] Image render_view(const Mesh& mesh, const View& view, int64_t side);

}  // namespace dino::render
