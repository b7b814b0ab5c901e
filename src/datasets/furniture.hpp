// SPDX-License-Identifier: Apache-2.0
#pragma once
// Furniture catalogues of Sweet Home 3D (.sh3f): a zip of OBJ models and a list of what they are.

#include <array>
#include <functional>
#include <string>

#include "datasets/mesh.hpp"

namespace dino {

struct CatalogueModel {
  std::string id, category, file;
  Vec3 size{};  ///< millimetres: width, height, depth
  std::array<float, 9> rotation{1, 0, 0, 0, 1, 0, 0, 0, 1};
};

/// Every model of a catalogue in its order, turned and scaled to its size in millimetres around the origin.
/// DataError names the catalogue and what is wrong with it.
void each_model(const std::string& catalogue,
                const std::function<void(const CatalogueModel& model, Mesh& mesh)>& use);

/// For names of folders: lower case, everything but letters, digits and '-' becomes '_'.
[[nodiscard]] std::string folder_name(std::string text);

}  // namespace dino
