// SPDX-License-Identifier: Apache-2.0
#include "vectors/propagate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <tuple>

#include "exact/ordered_gemm.hpp"
#include "vectors/synthetic.hpp"

namespace dino {
namespace {

using synthetic::unit_rows;

/// The protocol with one full sort a patch.
std::vector<double> naive(const std::vector<LabelledGrid>& context, const float* target, const GridShape& s,
                          const PropagationOptions& o) {
  std::vector<double> out;
  for (int64_t p = 0; p < s.rows * s.columns; ++p) {
    std::vector<std::tuple<float, int64_t, int64_t>> all;
    for (int64_t f = 0; f < static_cast<int64_t>(context.size()); ++f)
      for (int64_t q = 0; q < s.rows * s.columns; ++q)
        if (std::abs(p / s.columns - q / s.columns) <= o.radius &&
            std::abs(p % s.columns - q % s.columns) <= o.radius)
          all.emplace_back(
              -exact::ordered_dot(target + p * s.width,
                                  context[static_cast<size_t>(f)].features + q * s.width, s.width),
              f, q);
    std::sort(all.begin(), all.end());
    all.resize(std::min(all.size(), static_cast<size_t>(o.neighbours)));
    for (int64_t c = 0; c < s.classes; ++c) {
      double sum = 0, total = 0;
      for (const auto& [negative, f, q] : all) {
        const double weight = std::exp(-static_cast<double>(negative) / o.temperature);
        sum += weight * static_cast<double>(context[static_cast<size_t>(f)].labels[q * s.classes + c]);
        total += weight;
      }
      out.push_back(sum / total);
    }
  }
  return out;
}

TEST(PropagateLabels, EqualsAFullSort) {
  const GridShape shape{7, 5, 12, 3};
  const int64_t patches = 35;
  auto features = unit_rows({.rows = 4 * patches, .width = 12, .subspace = 4}, 17);
  std::copy_n(features.begin(), 12, features.begin() + (patches + 1) * 12);  // a tie between two frames
  std::vector<float> labels(static_cast<size_t>(3 * patches * 3));
  for (size_t i = 0; i < labels.size() / 3; ++i) labels[3 * i + i * 7 % 3] = 1;
  std::vector<LabelledGrid> context;
  for (int64_t f = 0; f < 3; ++f)
    context.push_back({features.data() + f * patches * 12, labels.data() + f * patches * 3});
  const float* target = features.data() + 3 * patches * 12;
  for (const int64_t radius : {0, 1, 3, 20})
    for (const int64_t neighbours : {1, 5, 1000}) {
      const PropagationOptions options{neighbours, radius, 0.1};
      const auto expected = naive(context, target, shape, options);
      const auto found = propagate_labels(context, target, shape, options);
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i)
        ASSERT_NEAR(static_cast<double>(found[i]), expected[i], 1e-6) << radius << " " << neighbours;
    }
}

TEST(PropagateLabels, AFrameLikeTheLastOneKeepsItsLabels) {
  const GridShape shape{4, 6, 8, 2};
  const auto features = unit_rows({.rows = 24, .width = 8, .subspace = 8}, 5);
  std::vector<float> labels(48);
  for (size_t i = 0; i < 24; ++i) labels[2 * i + (i % 3 == 0 ? 1 : 0)] = 1;
  const std::vector<LabelledGrid> context = {{features.data(), labels.data()}};
  EXPECT_EQ(propagate_labels(context, features.data(), shape, {1, 12, 0.1}), labels);
}

}  // namespace
}  // namespace dino
