// SPDX-License-Identifier: Apache-2.0
#include "numeric/map_scores.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.hpp"

namespace dino {
namespace {

TEST(MapAuroc, EqualsTheCountOverAllPairsOfPixels) {
  Random random(2, RandomStream::test, 0);
  for (int round = 0; round < 20; ++round) {
    std::vector<float> scores;
    std::vector<int64_t> object, background;
    for (int cell = 0; cell < 12; ++cell) {
      scores.push_back(static_cast<float>(random.below(5)));  // many ties
      object.push_back(static_cast<int64_t>(random.below(4)));
      background.push_back(static_cast<int64_t>(random.below(4)));
    }
    double won = 0, pairs = 0;
    for (size_t a = 0; a < scores.size(); ++a)
      for (size_t b = 0; b < scores.size(); ++b) {
        const auto count = static_cast<double>(object[a] * background[b]);
        pairs += count;
        won += count * (scores[a] > scores[b] ? 1 : scores[a] == scores[b] ? 0.5 : 0);
      }
    EXPECT_NEAR(map_auroc(scores, object, background), won / pairs, 1e-12);
  }
  const std::vector<float> scores = {1, 2};
  const std::vector<int64_t> some = {1, 0}, none = {0, 0};
  EXPECT_TRUE(std::isnan(map_auroc(scores, none, some)));
  EXPECT_TRUE(std::isnan(map_auroc(scores, some, none)));
}

TEST(MapIou, TakesTheCellsThatHoldTheMass) {
  // Falling: 4, 3, 2, 1 of 10. 60 % are reached by the first two cells.
  const std::vector<float> scores = {1, 4, 2, 3};
  const std::vector<int64_t> object = {2, 8, 10, 0}, background = {8, 2, 0, 10};
  // Taken: cells 1 and 3: 8 pixels of the object, 12 others; 12 of the object are missed.
  EXPECT_DOUBLE_EQ(map_iou(scores, object, background, 0.6), 8.0 / (12 + 20));
  // All mass takes every cell with a score.
  EXPECT_DOUBLE_EQ(map_iou(scores, object, background, 1), 20.0 / 40);
  EXPECT_EQ(map_iou(std::vector<float>{0}, std::vector<int64_t>{0}, std::vector<int64_t>{5}, 0.6), 0);
}

}  // namespace
}  // namespace dino
