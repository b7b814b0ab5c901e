// SPDX-License-Identifier: Apache-2.0
#include "imaging/mask_measures.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/random.hpp"

namespace dino {
namespace {

struct Mask {
  std::vector<uint8_t> pixels;
  int64_t width = 0, height = 0;
  operator MaskView() const { return {pixels, width, height}; }  // NOLINT(google-explicit-constructor)
};

Mask drawn(const std::vector<std::string>& rows) {
  Mask mask{{}, static_cast<int64_t>(rows.front().size()), static_cast<int64_t>(rows.size())};
  for (const std::string& row : rows)
    for (const char c : row) mask.pixels.push_back(c == '#' ? 1 : 0);
  return mask;
}

/// What of the box lies in the picture.
Mask rectangle(int64_t width, int64_t height, Box box) {
  Mask mask{std::vector<uint8_t>(static_cast<size_t>(width * height)), width, height};
  for (int64_t y = box.top; y < std::min(height, box.top + box.height); ++y)
    for (int64_t x = box.left; x < std::min(width, box.left + box.width); ++x)
      mask.pixels[static_cast<size_t>(y * width + x)] = 1;
  return mask;
}

/// The definition, word for word and slow.
double naive_boundary_accuracy(MaskView a, MaskView b, double radius) {
  const auto boundary = [](MaskView m) {
    std::vector<std::pair<int64_t, int64_t>> points;
    for (int64_t y = 0; y < m.height; ++y)
      for (int64_t x = 0; x < m.width; ++x) {
        bool differs = false;
        for (const auto& [i, j] : {std::pair<int64_t, int64_t>{1, 0}, {0, 1}, {1, 1}}) {
          if (x + i < m.width && y + j < m.height) differs |= m.at(x, y) != m.at(x + i, y + j);
        }
        if (differs) points.emplace_back(x, y);
      }
    return points;
  };
  const auto within = [&](const auto& from, const auto& to) {
    double hits = 0;
    for (const auto& [x, y] : from)
      for (const auto& [u, v] : to)
        if (std::hypot(x - u, y - v) <= radius) {
          ++hits;
          break;
        }
    return hits / static_cast<double>(from.size());
  };
  const auto p = boundary(a), t = boundary(b);
  if (p.empty() || t.empty()) return p.empty() == t.empty() ? 1 : 0;
  const double precision = within(p, t), recall = within(t, p);
  return precision + recall == 0 ? 0 : 2 * precision * recall / (precision + recall);
}

TEST(Region, CountsByHand) {
  const Mask a = drawn({"##..", "##..", "...."}), b = drawn({".##.", ".##.", "...."});
  EXPECT_DOUBLE_EQ(region_similarity(a, b), 2.0 / 6);
  const Mask none = drawn({"....", "....", "...."});
  EXPECT_EQ(region_similarity(none, none), 1);
  EXPECT_EQ(region_similarity(a, none), 0);
}

TEST(Boundary, EqualsTheDefinition) {
  Random random(4, RandomStream::test, 0);
  for (int trial = 0; trial < 40; ++trial) {
    const auto side = [&] { return static_cast<int64_t>(4 + random.below(20)); };
    const auto start = [&] { return static_cast<int64_t>(random.below(30)); };
    const Mask a = rectangle(60, 50, {start(), start(), side(), side()}),
               b = rectangle(60, 50, {start(), start(), side(), side()});
    for (const double tolerance : {0.008, 0.03, 0.1}) {
      const double radius = std::ceil(tolerance * std::hypot(60, 50));
      ASSERT_NEAR(boundary_accuracy(a, b, tolerance), naive_boundary_accuracy(a, b, radius), 1e-12);
    }
  }
}

TEST(Boundary, OfShiftsAndOfNothing) {
  // 100 x 100: the tolerance is ceil(.008 * 141.4) = 2 pixels.
  const Mask a = rectangle(100, 100, {20, 20, 40, 40}), near = rectangle(100, 100, {22, 20, 40, 40}),
             far = rectangle(100, 100, {40, 40, 40, 40});
  EXPECT_EQ(boundary_accuracy(a, a), 1);
  EXPECT_EQ(boundary_accuracy(a, near), 1);
  EXPECT_LT(boundary_accuracy(a, far), 0.2);
  const Mask none = rectangle(100, 100, {}), all = rectangle(100, 100, {0, 0, 100, 100});
  EXPECT_EQ(boundary_accuracy(none, none), 1);
  EXPECT_EQ(boundary_accuracy(a, none), 0);
  EXPECT_EQ(boundary_accuracy(none, a), 0);
  EXPECT_EQ(boundary_accuracy(all, none), 1);  // neither has a boundary
}

TEST(Parts, AreConnectedOverEdges) {
  const Mask mask = drawn({"##..#", ".#.#.", ".#..#"});
  EXPECT_EQ(connected_part(mask, 0, 0), drawn({"##...", ".#...", ".#..."}).pixels);
  EXPECT_EQ(connected_part(mask, 3, 1), drawn({".....", "...#.", "....."}).pixels);
  EXPECT_EQ(connected_part(mask, 2, 1), drawn({".....", ".....", "....."}).pixels);
}

TEST(Boxes, ByHand) {
  const Box box = bounding_box(drawn({".....", "..#..", ".##.."}));
  EXPECT_EQ(box.left, 1);
  EXPECT_EQ(box.top, 1);
  EXPECT_EQ(box.width, 2);
  EXPECT_EQ(box.height, 2);
  EXPECT_EQ(bounding_box(drawn({"...", "..."})).width, 0);
  EXPECT_DOUBLE_EQ(box_overlap({0, 0, 2, 2}, {1, 1, 2, 2}), 1.0 / 7);
  EXPECT_EQ(box_overlap({0, 0, 2, 2}, {0, 0, 2, 2}), 1);
  EXPECT_EQ(box_overlap({0, 0, 2, 2}, {2, 2, 2, 2}), 0);
  EXPECT_EQ(box_overlap({}, {}), 0);
}

TEST(Cells, HoldTheirShare) {
  EXPECT_EQ(cell_shares(drawn({"##..", "#...", "....", "...#"}), 2), (std::vector<double>{0.75, 0, 0, 0.25}));
}

}  // namespace
}  // namespace dino
