// SPDX-License-Identifier: Apache-2.0
#include "numeric/ranking.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "base/random.hpp"

namespace dino {
namespace {

using enum Relevance;

double ap(const std::vector<Scored>& rows, int64_t positives) {
  return average_precision(precision_recall_curve(rows, positives));
}

TEST(AveragePrecision, CountsByHand) {
  // The example of scikit-learn's documentation: 0.5 * 1 + 0.5 * 2/3.
  EXPECT_DOUBLE_EQ(ap({{0.1, false}, {0.4, false}, {0.35, true}, {0.8, true}}, 2), 0.5 + 0.5 * 2 / 3);
  // A positive that is not among the rows costs recall.
  EXPECT_DOUBLE_EQ(ap({{0.9, true}, {0.8, false}, {0.7, true}}, 4), (1 + 2.0 / 3) / 4);
  EXPECT_EQ(ap({{0.9, false}}, 1), 0);
  EXPECT_EQ(ap({{0.9, false}}, 0), 0);
  EXPECT_EQ(ap({}, 3), 0);
}

TEST(AveragePrecision, TiesAreAcceptedTogether) {
  // All rows tied: one point, the share of positives, in whatever order they stand.
  EXPECT_DOUBLE_EQ(ap({{0.5, true}, {0.5, false}, {0.5, false}, {0.5, false}}, 1), 0.25);
  EXPECT_DOUBLE_EQ(ap({{0.5, false}, {0.5, false}, {0.5, false}, {0.5, true}}, 1), 0.25);
  const auto curve = precision_recall_curve({{0.9, true}, {0.5, false}, {0.5, true}, {0.1, false}}, 2);
  ASSERT_EQ(curve.size(), 3U);
  EXPECT_EQ(curve[1].threshold, 0.5);
  EXPECT_DOUBLE_EQ(curve[1].precision, 2.0 / 3);
  EXPECT_EQ(curve[1].recall, 1);
  EXPECT_EQ(recall_at_precision(curve, 0.9), 0.5);
  EXPECT_EQ(recall_at_precision(curve, 0.6), 1);
  EXPECT_EQ(recall_at_precision(precision_recall_curve({{1, false}, {0.5, true}}, 1), 0.9), 0);
}

TEST(Ranks, JunkIsNotThere) {
  const std::vector<Relevance> ranking = {junk, positive, junk, negative, positive, junk, positive};
  EXPECT_EQ(positive_ranks(ranking), (std::vector<int64_t>{0, 2, 3}));
  EXPECT_TRUE(positive_ranks(std::vector<Relevance>{junk, negative}).empty());
}

TEST(Ranks, BothAreasByHand) {
  const std::vector<int64_t> ranks = {0, 2, 3};
  EXPECT_DOUBLE_EQ(average_precision_at_ranks(ranks, 3), (1 + 2.0 / 3 + 3.0 / 4) / 3);
  // Trapezoids: (1 + 1)/2, (1/2 + 2/3)/2, (2/3 + 3/4)/2.
  EXPECT_DOUBLE_EQ(trapezoid_average_precision(ranks, 3),
                   (1 + (0.5 + 2.0 / 3) / 2 + (2.0 / 3 + 0.75) / 2) / 3);
  // One positive at rank 1: precision before it 0, at it 1/2.
  EXPECT_DOUBLE_EQ(trapezoid_average_precision(std::vector<int64_t>{1}, 1), 0.25);
  EXPECT_DOUBLE_EQ(trapezoid_average_precision(std::vector<int64_t>{0}, 2), 0.5);
  EXPECT_EQ(trapezoid_average_precision({}, 2), 0);
  EXPECT_EQ(average_precision_at_ranks({}, 0), 0);
}

TEST(Ranks, WithoutTiesEqualTheCurve) {
  Random random(5, RandomStream::test, 0);
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<Scored> rows;
    std::vector<Relevance> ranking;
    int64_t positives = 0;
    for (int i = 0; i < 40; ++i) {
      const bool right = random.bernoulli(0.2);
      rows.push_back({-i * 0.5, right});
      ranking.push_back(right ? positive : negative);
      positives += right ? 1 : 0;
    }
    EXPECT_NEAR(ap(rows, positives), average_precision_at_ranks(positive_ranks(ranking), positives), 1e-12);
  }
}

TEST(MicroAveragePrecision, OfOnePredictionAQueryByHand) {
  // Confidences .9 right, .8 wrong (and no right answer exists), .7 right, .6 wrong: (1 + 2/3) / 3.
  const MicroAveragePrecision gap({{{0.7, true}, 0}, {{0.9, true}, 1}, {{0.6, false}, 2}, {{0.8, false}, 3}},
                                  {1, 1, 1, 0});
  EXPECT_DOUBLE_EQ(gap.value(std::vector<int64_t>{1, 1, 1, 1}), (1 + 2.0 / 3) / 3);
  // Without the query that cannot be answered.
  EXPECT_DOUBLE_EQ(gap.value(std::vector<int64_t>{1, 1, 1, 0}), (1 + 1.0) / 3);
  EXPECT_EQ(gap.value(std::vector<int64_t>{0, 0, 0, 1}), 0);
}

TEST(MicroAveragePrecision, ARepeatedQueryIsTwoQueries) {
  Random random(6, RandomStream::test, 0);
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<MicroAveragePrecision::Prediction> predictions;
    std::vector<Scored> repeated;
    std::vector<int64_t> answers, counts;
    int64_t positives = 0;
    for (int64_t q = 0; q < 30; ++q) {
      counts.push_back(static_cast<int64_t>(random.below(4)));
      answers.push_back(static_cast<int64_t>(random.below(2)));
      for (uint64_t i = random.below(5); i > 0; --i) {
        const Scored scored{static_cast<double>(random.below(10)), random.bernoulli(0.5)};
        predictions.push_back({scored, q});
        answers.back() += scored.relevant ? 1 : 0;
        repeated.insert(repeated.end(), static_cast<size_t>(counts.back()), scored);
      }
      positives += answers.back() * counts.back();
    }
    EXPECT_NEAR(MicroAveragePrecision(predictions, answers).value(counts), ap(repeated, positives), 1e-12);
  }
}

}  // namespace
}  // namespace dino
