// SPDX-License-Identifier: Apache-2.0
#pragma once
// Wavefront OBJ models and a small z-buffer renderer: pictures with exact depth for a data set of furniture.

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

using Vec3 = std::array<float, 3>;

struct Mesh {
  struct Triangle {
    std::array<uint32_t, 3> corner;  ///< into `points`
    uint32_t material;               ///< into `colours`
  };
  std::vector<Vec3> points;
  std::vector<Triangle> triangles;
  std::vector<Vec3> colours;  ///< diffuse, linear in [0, 1]
};

/// Reads v, f (polygons become fans), usemtl and mtllib (Kd; materials with d < 0.2 are glass and left out).
/// Textures are not read. `material_file` returns the text of a file that mtllib names. DataError names
/// `source` and the line.
[[nodiscard]] Mesh parse_obj(std::string_view text, const std::string& source,
                             const std::function<std::string(const std::string& name)>& material_file);

/// Rotates by a row-major 3 x 3 matrix, then scales and moves the mesh into a box of this size around the
/// origin.
void fit_mesh(Mesh& mesh, const std::array<float, 9>& rotation, Vec3 size);

struct View {
  float azimuth = 0, elevation = 0;  ///< radians
  Vec3 light{0, 1, 0};               ///< towards the light, unit length, world axes (y is up)
  Vec3 sky{0.5F, 0.5F, 0.5F}, ground{0.5F, 0.5F, 0.5F};  ///< background at the top and at the bottom
};

struct Rendering {
  int size = 0;
  std::vector<uint8_t> rgb;       ///< size x size x 3
  std::vector<float> depth;       ///< size x size, along the camera's axis in the mesh's unit; 0 = background
  std::vector<int32_t> material;  ///< size x size, of what is nearest in each pixel; -1 = background
  [[nodiscard]] double coverage() const;  ///< share of pixels that show the object
};

struct Camera {
  float azimuth = 0, elevation = 0;  ///< where it stands as seen from its target; radians
  Vec3 target{};
  float distance = 1;  ///< from the target, in the mesh's unit
  float focal = 1;     ///< of the picture's width
};
/// Perspective view, flat Lambert shading, 2 x 2 samples a pixel, light and background of `view`. Triangles
/// that reach behind the camera are left out.
[[nodiscard]] Rendering render_from(const Mesh& mesh, const Camera& camera, const View& view, int size);

/// Perspective view of the whole mesh around the origin from 2.6 bounding radii.
[[nodiscard]] Rendering render(const Mesh& mesh, const View& view, int size);

}  // namespace dino
