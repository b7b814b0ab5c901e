// SPDX-License-Identifier: Apache-2.0
#pragma once
// Triangle meshes from Wavefront OBJ + MTL inside a zip catalogue (Sweet Home 3D's .sh3f).

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "imaging/image.hpp"

namespace dino::render {

using Vec3 = std::array<float, 3>;

struct Material {
  Vec3 diffuse = {0.8F, 0.8F, 0.8F};     ///< Kd, 0..1
  std::shared_ptr<const Image> texture;  ///< map_Kd; empty = plain
};

struct Triangle {
  std::array<Vec3, 3> position;
  std::array<std::array<float, 2>, 3> uv{};
  int64_t material = 0;
};

struct Mesh {
  std::vector<Triangle> triangles;
  std::vector<Material> materials;  ///< [0] is the default
};

/// All members of a zip by name. MissingInputError, DataError. A member above 256 MiB is refused.
[[nodiscard]] std::map<std::string, std::vector<uint8_t>> read_zip(const std::string& path);

/// Parses an OBJ member; materials and textures are looked up beside it. Faces with indices out of range are
/// DataError (they name the member and line).
[[nodiscard]] Mesh load_obj(const std::map<std::string, std::vector<uint8_t>>& files,
                            const std::string& member);

struct CatalogueEntry {
  std::string id, category, model;  ///< model = member name of the OBJ
};
/// The pieces of PluginFurnitureCatalog.properties, in its order.
[[nodiscard]] std::vector<CatalogueEntry> read_catalogue(
    const std::map<std::string, std::vector<uint8_t>>& files);

}  // namespace dino::render
