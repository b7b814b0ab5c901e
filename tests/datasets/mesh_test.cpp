// SPDX-License-Identifier: Apache-2.0
#include "datasets/mesh.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "storage/scratch.hpp"

namespace dino {
namespace {

using testing::expect_error;

std::string none(const std::string&) {
  return {};
}

/// A square of side 2 in the plane z = `z`, seen from +z.
std::string square(float z, int first = 1) {
  std::string text;
  for (const char* xy : {"-1 -1", "1 -1", "1 1", "-1 1"})
    text += "v " + std::string(xy) + " " + std::to_string(z) + "\n";
  text += "f";
  for (int i = 0; i < 4; ++i) text += " " + std::to_string(first + i);
  return text + "\n";
}

TEST(Mesh, ReadsFacesMaterialsAndIndicesFromTheEnd) {
  const Mesh mesh = parse_obj(
      "# c\nmtllib a b.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nusemtl red\nf 1/1/1 2//2 3 4\n"
      "usemtl glass\nf 1 2 3\nusemtl unknown\nf -3 -2 -1\n",
      "m.obj", [](const std::string& name) {
        EXPECT_EQ(name, "a b.mtl");
        return "newmtl red\nKd 1 0.5 0\nnewmtl glass\nd 0.1\n";
      });
  EXPECT_EQ(mesh.points.size(), 4u);
  ASSERT_EQ(mesh.triangles.size(), 3u);  // two of the square, none of glass, one more
  EXPECT_EQ(mesh.colours[mesh.triangles[0].material], (Vec3{1, 0.5F, 0}));
  EXPECT_EQ(mesh.triangles[2].corner, (std::array<uint32_t, 3>{1, 2, 3}));
  EXPECT_EQ(mesh.triangles[2].material, 0u);
}

TEST(Mesh, BrokenModelsNameTheLine) {
  for (const auto& [text, why] :
       std::vector<std::pair<std::string, std::string>>{{"v 0 0\n", "line 1: not a number"},
                                                        {"v 0 0 x\n", "line 1: not a number"},
                                                        {"v 0 0 1e30\n", "line 1: not a number"},
                                                        {"v 0 0 nan\n", "line 1: not a number"},
                                                        {"v 0 0 0\nf 1 2 3\n", "line 2: a face"},
                                                        {"v 0 0 0\nf 1 0 1\n", "line 2: a face"},
                                                        {"v 0 0 0\nf 1 -2 1\n", "line 2: a face"},
                                                        {"v 0 0 0\nf 1 a 1\n", "line 2: a face"}})
    expect_error<DataError>([&, t = text] { (void)parse_obj(t, "m.obj", none); }, "m.obj", why);
  EXPECT_TRUE(parse_obj("", "m.obj", none).points.empty());
}

TEST(Mesh, FitsIntoItsBoxAfterTheRotation) {
  Mesh mesh = parse_obj("v 0 0 0\nv 2 0 0\nv 2 4 1\nf 1 2 3\n", "m.obj", none);
  fit_mesh(mesh, {0, 1, 0, 1, 0, 0, 0, 0, 1}, {100, 200, 300});  // x and y change places
  for (size_t axis = 0; axis < 3; ++axis) {
    const auto [low, high] =
        std::minmax_element(mesh.points.begin(), mesh.points.end(),
                            [&](const Vec3& a, const Vec3& b) { return a[axis] < b[axis]; });
    EXPECT_NEAR((*high)[axis] - (*low)[axis], 100.0F * static_cast<float>(axis + 1), 1e-3);
    EXPECT_NEAR((*high)[axis] + (*low)[axis], 0, 1e-3);
  }
  EXPECT_NEAR(mesh.points[2][0], 50, 1e-3);
}

TEST(Mesh, DepthIsTheDistanceAlongTheAxisAndTheNearestFaceIsSeen) {
  View view;
  view.light = {0, 0, 1};
  const int size = 64;
  const Mesh one = parse_obj(square(0), "m.obj", none);
  const float distance = 2.6F * std::sqrt(2.0F);  // bounding radius of the square
  const Rendering flat = render(one, view, size);
  const auto centre = static_cast<size_t>(size / 2 * size + size / 2);
  EXPECT_NEAR(flat.depth[centre], distance, 1e-4);
  EXPECT_NEAR(flat.depth[centre + 10], distance, 1e-4);  // a plane across the axis has one depth
  EXPECT_EQ(flat.depth[0], 0);
  EXPECT_EQ(flat.rgb[3 * centre], 204);  // .8 under full light
  EXPECT_EQ(flat.rgb[0], 128);           // background
  // The square has side 2 of focal * 2 / distance samples.
  const double side = std::sqrt(2.6 * 2.6 - 1) / distance;
  EXPECT_NEAR(flat.coverage(), side * side, 0.03);
  // A second square in front hides the first, whatever their order.
  for (const std::string& text : {square(0) + square(0.5F, 5), square(0.5F) + square(0, 5)}) {
    const Rendering both = render(parse_obj(text, "m.obj", none), view, size);
    EXPECT_NEAR(both.depth[centre], 2.6F * 1.5F - 0.5F, 1e-4);
  }
  // A tilted plane: depth along a row of pixels follows 1/z linearly.
  view.azimuth = 0.6F;
  const Rendering tilted = render(one, view, 128);
  const auto at = [&](int x) { return 1 / tilted.depth[static_cast<size_t>(64 * 128 + x)]; };
  EXPECT_NEAR(at(60) - at(50), at(80) - at(70), 2e-4);
  EXPECT_GT(std::abs(at(80) - at(50)), 0.01);
}

TEST(Mesh, AnEmptyOrFlatModelIsBackground) {
  EXPECT_EQ(render(Mesh{}, View{}, 16).coverage(), 0);
  EXPECT_EQ(render(parse_obj("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "m.obj", none), View{}, 16).coverage(),
            0);
}

TEST(Mesh, ACameraSeesDepthAndMaterialFromWhereItStands) {
  // A near square before a far one, both facing +z; the camera stands 5 from the near one.
  Mesh mesh = parse_obj("usemtl a\n" + square(0) + "usemtl b\n" + square(-3, 5), "m.obj", none);
  mesh.colours.push_back({1, 0, 0});
  for (size_t t = 2; t < 4; ++t) mesh.triangles[t].material = 1;
  for (size_t p = 4; p < 8; ++p) mesh.points[p][0] *= 4;  // the far one is wider
  Camera camera;
  camera.distance = 5;
  camera.focal = 1;
  const Rendering picture = render_from(mesh, camera, {}, 32);
  const auto at = [](int x, int y) { return static_cast<size_t>(y * 32 + x); };
  EXPECT_NEAR(picture.depth[at(16, 16)], 5, 1e-4);
  EXPECT_EQ(picture.material[at(16, 16)], 0);
  EXPECT_NEAR(picture.depth[at(2, 16)], 8, 1e-4);
  EXPECT_EQ(picture.material[at(2, 16)], 1);
  EXPECT_EQ(picture.material[at(16, 0)], -1);
  EXPECT_EQ(picture.depth[at(16, 0)], 0);
  // The near square fills 2 / 5 of the width.
  EXPECT_EQ(picture.material[at(10, 16)], 0);
  EXPECT_EQ(picture.material[at(8, 16)], 1);
  // Behind the camera nothing is drawn.
  camera.distance = -1;
  camera.target = {0, 0, 0};
  EXPECT_EQ(render_from(mesh, camera, {}, 32).material[at(16, 16)], 1);
}

}  // namespace
}  // namespace dino
