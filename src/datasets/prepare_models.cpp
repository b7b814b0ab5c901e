// SPDX-License-Identifier: Apache-2.0
// Pictures of furniture, one model each or whole rooms, with exact depth and masks.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "base/error.hpp"
#include "base/random.hpp"
#include "base/working.hpp"
#include "datasets/furniture.hpp"
#include "datasets/prepare.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr double kLeastCoverage = 0.03;  ///< a view that shows less of its object is left out

/// A 16-bit PGM of millimetres, 0 = background.
std::vector<uint8_t> depth_file(const Rendering& picture) {
  std::vector<uint8_t> data;
  for (const float z : picture.depth) {
    const auto millimetres = static_cast<uint16_t>(std::clamp(std::lround(z), 0L, 65535L));
    data.push_back(static_cast<uint8_t>(millimetres >> 8));
    data.push_back(static_cast<uint8_t>(millimetres & 0xffu));
  }
  return with_header(fmt::format("P5\n{} {}\n65535\n", picture.size, picture.size), data);
}

/// A PGM of the parts of a model: its materials from 1 on (those beyond 254 are 255), 0 = background.
std::vector<uint8_t> parts_file(const Rendering& picture) {
  std::vector<uint8_t> data;
  for (const int32_t material : picture.material)
    data.push_back(static_cast<uint8_t>(std::min(material + 1, 255)));
  return with_header(fmt::format("P5\n{} {}\n255\n", picture.size, picture.size), data);
}

View random_view(Random& random, int index, int views) {
  View view;
  view.azimuth = static_cast<float>(2 * std::numbers::pi * (index + random.uniform_double()) / views);
  view.elevation = static_cast<float>(random.uniform(0.1, 0.9));
  const double around = random.uniform(0, 2 * std::numbers::pi), up = random.uniform(0.2, 0.95);
  const double flat = std::sqrt(1 - up * up);
  view.light = {static_cast<float>(flat * std::cos(around)), static_cast<float>(up),
                static_cast<float>(flat * std::sin(around))};
  for (Vec3* colour : {&view.sky, &view.ground})
    for (float& channel : *colour) channel = random.uniform();
  return view;
}

void add_views(TarWriter& tar, const Mesh& mesh, const std::string& name, int views, int size) {
  for (int v = 0; v < views; ++v) {
    work_point();
    // Keyed by the model's name, so that a picture does not depend on which others there are.
    Random random(xxh3(std::as_bytes(std::span(name))), RandomStream::render, static_cast<uint64_t>(v));
    const Rendering picture = render(mesh, random_view(random, v, views), size);
    if (picture.coverage() < kLeastCoverage) continue;
    tar.add(fmt::format("{}/{:02}.ppm", name, v),
            with_header(fmt::format("P6\n{} {}\n255\n", size, size), picture.rgb));
    tar.add(fmt::format("{}/{:02}.depth", name, v), depth_file(picture));
    tar.add(fmt::format("{}/{:02}.parts", name, v), parts_file(picture));
  }
}

/// What stands in rooms.
struct Piece {
  std::string category;
  Mesh mesh;     ///< on the floor: y from 0
  float radius;  ///< of the circle on the floor that it stands in, millimetres
};

/// A mesh with the class of each of its materials.
struct Scene {
  Mesh mesh;
  std::vector<uint8_t> class_of;  ///< by material
  /// `place` moves each point.
  template <class Place>
  void add(const Mesh& piece, const std::function<uint8_t(uint32_t)>& class_of_material, const Place& place) {
    const auto points = static_cast<uint32_t>(mesh.points.size()),
               materials = static_cast<uint32_t>(mesh.colours.size());
    for (const Vec3& point : piece.points) mesh.points.push_back(place(point));
    for (uint32_t m = 0; m < piece.colours.size(); ++m) {
      mesh.colours.push_back(piece.colours[m]);
      class_of.push_back(class_of_material(m));
    }
    for (const auto& triangle : piece.triangles)
      mesh.triangles.push_back(
          {{triangle.corner[0] + points, triangle.corner[1] + points, triangle.corner[2] + points},
           triangle.material + materials});
  }
};

constexpr uint8_t kFloorClass = 0, kWallClass = 1, kFirstCategory = 2, kNoClass = 255;

/// Two triangles.
Mesh plane(const std::array<Vec3, 4>& corners, Vec3 colour) {
  Mesh mesh;
  mesh.points.assign(corners.begin(), corners.end());
  mesh.triangles = {{{0, 1, 2}, 0}, {{0, 2, 3}, 0}};
  mesh.colours = {colour};
  return mesh;
}

Vec3 draw_colour(Random& random, double least) {
  Vec3 colour;
  for (float& channel : colour) channel = static_cast<float>(random.uniform(least, 1));
  return colour;
}

/// Floor, back wall and the wall opposite to the camera; pieces that do not touch each other; millimetres.
Rendering render_room(const std::vector<Piece>& pieces, const std::map<std::string, uint8_t>& classes,
                      Random random, int size, std::vector<uint8_t>& labels) {
  const auto between = [&](double low, double high) { return static_cast<float>(random.uniform(low, high)); };
  const float width = between(3500, 6000), depth = between(3500, 6000), height = between(2400, 3000);
  const float x = width / 2, z = depth / 2, azimuth = between(-0.6, 0.6);
  const auto same = [](const Vec3& point) { return point; };
  Scene scene;
  scene.add(
      plane({Vec3{-x, 0, -z}, {x, 0, -z}, {x, 0, z}, {-x, 0, z}}, draw_colour(random, 0.2)),
      [](uint32_t) { return kFloorClass; }, same);
  const Vec3 paint = draw_colour(random, 0.5);
  const float side = azimuth > 0 ? -x : x;
  for (const auto& corners :
       {std::array<Vec3, 4>{Vec3{-x, 0, -z}, {x, 0, -z}, {x, height, -z}, {-x, height, -z}},
        std::array<Vec3, 4>{Vec3{side, 0, -z}, {side, 0, z}, {side, height, z}, {side, height, -z}}})
    scene.add(
        plane(corners, paint), [](uint32_t) { return kWallClass; }, same);
  struct Place {
    float x, z, radius;
  };
  std::vector<Place> taken;
  const auto wanted = static_cast<int>(4 + random.below(6));
  for (int tries = 0; tries < 60 && static_cast<int>(taken.size()) < wanted; ++tries) {
    const Piece& piece = pieces[random.below(pieces.size())];
    const Place here{between(-1, 1) * (x - piece.radius), between(-1, 1) * (z - piece.radius), piece.radius};
    const float turn = between(0, 2 * std::numbers::pi), ca = std::cos(turn), sa = std::sin(turn);
    const bool fits =
        piece.radius < std::min(x, z) && std::none_of(taken.begin(), taken.end(), [&](const Place& other) {
          return std::hypot(other.x - here.x, other.z - here.z) < other.radius + here.radius;
        });
    if (!fits) continue;
    taken.push_back(here);
    const uint8_t category = classes.at(piece.category);
    scene.add(
        piece.mesh, [&](uint32_t) { return category; },
        [&](const Vec3& p) {
          return Vec3{ca * p[0] + sa * p[2] + here.x, p[1], -sa * p[0] + ca * p[2] + here.z};
        });
  }
  View view = random_view(random, 0, 1);
  Camera camera;
  camera.azimuth = azimuth;
  camera.elevation = between(0.1, 0.5);
  camera.target = {0, 0.35F * height, 0};
  camera.distance = std::hypot(x, z) + between(1200, 2200);
  camera.focal = between(0.7, 1);
  const Rendering picture = render_from(scene.mesh, camera, view, size);
  labels.clear();
  for (const int32_t material : picture.material)
    labels.push_back(material < 0 ? kNoClass : scene.class_of[static_cast<size_t>(material)]);
  return picture;
}

/// Which part of a data set of rooms a model belongs to: seven tenths, one tenth and two tenths by its name.
const char* part_of_model(const std::string& id) {
  const uint64_t tenth = xxh3(std::as_bytes(std::span(id))) % 10;
  return tenth < 7 ? "train" : tenth < 8 ? "val" : "test";
}

}  // namespace

void prepare_models(const std::vector<std::string>& catalogues, int views, int size, const std::string& out) {
  prepare_tar(out, [&](TarWriter& tar) {
    for (const std::string& path : catalogues)
      each_model(path, [&](const CatalogueModel& model, const Mesh& mesh) {
        add_views(tar, mesh, folder_name(model.category) + "/" + folder_name(model.id), views, size);
      });
  });
}

std::vector<std::string> prepare_rooms(const std::vector<std::string>& catalogues, const std::string& part,
                                       int rooms, int size, const std::string& out) {
  std::vector<Piece> pieces;
  std::map<std::string, uint8_t> classes;
  for (const std::string& path : catalogues)
    each_model(path, [&](const CatalogueModel& model, Mesh& mesh) {
      work_point();
      classes[folder_name(model.category)] = 0;
      const auto [width, height, depth] = model.size;
      const float radius = 0.5F * std::hypot(width, depth);
      // What is larger than a room or lies flat on its floor is no furniture.
      if (part_of_model(model.id) != part || radius > 1500 || radius < 100 || height < 150 || height > 2300)
        return;
      for (Vec3& point : mesh.points) point[1] += height / 2;
      pieces.push_back({folder_name(model.category), std::move(mesh), radius});
    });
  std::vector<std::string> names = {"floor", "wall"};
  for (auto& [category, number] : classes) {
    number = static_cast<uint8_t>(names.size());
    names.push_back(category);
  }
  static_assert(kFirstCategory == 2);
  if (pieces.empty() || names.size() > kNoClass)
    throw DataError(fmt::format("bad catalogues: {} and more: part {} has {} models in {} categories",
                                catalogues.empty() ? "" : catalogues.front(), part, pieces.size(),
                                classes.size()));
  prepare_tar(out, [&](TarWriter& tar) {
    for (int r = 0; r < rooms; ++r) {
      work_point();
      const auto key = static_cast<uint64_t>(r);
      std::vector<uint8_t> labels;
      const Rendering picture =
          render_room(pieces, classes,
                      Random(xxh3(std::as_bytes(std::span(part))), RandomStream::render, key), size, labels);
      tar.add(fmt::format("{:05}.ppm", r),
              with_header(fmt::format("P6\n{} {}\n255\n", size, size), picture.rgb));
      tar.add(fmt::format("{:05}.depth", r), depth_file(picture));
      tar.add(fmt::format("{:05}.labels", r),
              with_header(fmt::format("P5\n{} {}\n255\n", size, size), labels));
    }
  });
  return names;
}

}  // namespace dino
