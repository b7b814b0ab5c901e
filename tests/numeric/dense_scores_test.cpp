// SPDX-License-Identifier: Apache-2.0
// Scores of label maps and of depth maps, by hand and against a second way to count.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.hpp"
#include "base/random.hpp"
#include "numeric/depth_errors.hpp"
#include "numeric/segmentation_scores.hpp"

namespace dino {
namespace {

constexpr int16_t kIgnoredLabel = -1;

TEST(SegmentationScores, ByHand) {
  // Truth 0 0 0 1 1 2 and a pixel that does not count; class 3 is predicted once and occurs nowhere.
  const std::vector<int16_t> truth = {0, 0, 0, 1, 1, 2, kIgnoredLabel}, predicted = {0, 0, 1, 1, 0, 3, 2};
  std::vector<int64_t> confusion(25);
  add_confusion(truth, predicted, 5, confusion);
  EXPECT_EQ(confusion, (std::vector<int64_t>{2, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0,
                                             1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  const auto areas = class_areas(confusion, 5);
  EXPECT_EQ(areas, (std::vector<int64_t>{2, 3, 3, 1, 2, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0}));
  const SegmentationScores scores = segmentation_scores(areas, 5);
  // IoU: 2/4, 1/3, 0/1, 0/1; class 4 is nowhere. Accuracy: 2/3, 1/2, 0/1.
  EXPECT_DOUBLE_EQ(scores.miou, (0.5 + 1.0 / 3) / 4);
  EXPECT_DOUBLE_EQ(scores.macc, (2.0 / 3 + 0.5) / 3);
  EXPECT_DOUBLE_EQ(scores.aacc, 3.0 / 6);
  EXPECT_DOUBLE_EQ(scores.miou, mean_iou(confusion, 5));
}

TEST(SegmentationScores, NothingThatCounts) {
  const std::vector<int16_t> truth = {kIgnoredLabel}, predicted = {1};
  std::vector<int64_t> confusion(4);
  add_confusion(truth, predicted, 2, confusion);
  const SegmentationScores scores = segmentation_scores(class_areas(confusion, 2), 2);
  EXPECT_EQ(scores.miou, 0);
  EXPECT_EQ(scores.macc, 0);
  EXPECT_EQ(scores.aacc, 0);
}

TEST(SegmentationScores, MapsThatDoNotFitAreAProgrammersError) {
  std::vector<int64_t> confusion(4);
  const std::vector<int16_t> two = {0, 1}, three = {0, 1, 1}, beyond = {0, 2}, unknown = {0, -1};
  EXPECT_THROW(add_confusion(two, three, 2, confusion), InternalError);
  EXPECT_THROW(add_confusion(beyond, two, 2, confusion), InternalError);
  EXPECT_THROW(add_confusion(two, beyond, 2, confusion), InternalError);
  EXPECT_THROW(add_confusion(two, unknown, 2, confusion), InternalError);
}

TEST(SegmentationScores, BootstrapDrawsImages) {
  // Two kinds of images: all right and all wrong. The mean lies between, equal seeds give equal bounds.
  std::vector<int64_t> areas;
  for (int i = 0; i < 40; ++i) {
    const std::vector<int64_t> one =
        i % 4 == 0 ? std::vector<int64_t>{0, 5, 5, 0, 5, 5} : std::vector<int64_t>{5, 5, 5, 5, 5, 5};
    areas.insert(areas.end(), one.begin(), one.end());
  }
  const SegmentationEstimates e = bootstrap_segmentation(areas, 2, 500, 3);
  EXPECT_DOUBLE_EQ(e.aacc.value, 0.75);
  EXPECT_DOUBLE_EQ(e.miou.value, 0.75 / 1.25);
  for (const Estimate& one : {e.miou, e.macc, e.aacc}) {
    EXPECT_LT(one.low, one.value);
    EXPECT_GT(one.high, one.value);
    EXPECT_EQ(one.n, 40);
  }
  // A proportion of 40: +-0.134.
  EXPECT_NEAR(e.aacc.high - e.aacc.low, 2 * 0.134, 0.05);
  EXPECT_EQ(bootstrap_segmentation(areas, 2, 500, 3).miou.low, e.miou.low);
  EXPECT_EQ(bootstrap_segmentation({}, 2, 500, 3).miou.n, 0);
}

TEST(DepthErrors, ByHand) {
  const std::vector<float> truth = {1, 2, 4, 0, 8}, predicted = {1.2F, 2, 8, 5, 100};
  const std::vector<uint8_t> valid = {1, 1, 1, 0, 1};
  const DepthErrors e = depth_errors(predicted, truth, valid, 1e-3, 10);  // 100 is cut to 10
  const double off = static_cast<double>(1.2F) - 1;
  EXPECT_EQ(e.pixels, 4);
  EXPECT_NEAR(e.rmse, std::sqrt((off * off + 0 + 16 + 4) / 4), 1e-12);
  EXPECT_NEAR(e.abs_rel, (off + 0 + 1 + 0.25) / 4, 1e-12);
  EXPECT_NEAR(e.sq_rel, (off * off + 0 + 4 + 0.5) / 4, 1e-12);
  const double a = std::log(1 + off), b = std::log(2.0), c = std::log(1.25), mean = (a + b + c) / 4,
               square = (a * a + b * b + c * c) / 4;
  EXPECT_NEAR(e.rmse_log, std::sqrt(square), 1e-12);
  EXPECT_NEAR(e.log10, mean / std::log(10.0), 1e-12);
  EXPECT_NEAR(e.silog, 100 * std::sqrt(square - mean * mean), 1e-10);
  // 1.2 and 1 are below 1.25; 1.25 itself is not; 2 is above 1.25^3.
  EXPECT_DOUBLE_EQ(e.delta1, 0.5);
  EXPECT_DOUBLE_EQ(e.delta2, 0.75);
  EXPECT_DOUBLE_EQ(e.delta3, 0.75);
}

TEST(DepthErrors, AConstantFactorIsNoScaleInvariantError) {
  std::vector<float> truth, predicted;
  Random random(1, RandomStream::test, 0);
  for (int i = 0; i < 1000; ++i) {
    truth.push_back(static_cast<float>(random.uniform(0.5, 5)));
    predicted.push_back(2 * truth.back());
  }
  const DepthErrors e = depth_errors(predicted, truth, std::vector<uint8_t>(truth.size(), 1), 1e-3, 100);
  EXPECT_NEAR(e.silog, 0, 1e-4);
  EXPECT_NEAR(e.abs_rel, 1, 1e-12);
  EXPECT_NEAR(e.rmse_log, std::log(2.0), 1e-12);
}

TEST(DepthErrors, OfImagesTheMeanOfThoseWithAValidPixel) {
  const DepthErrors none =
      depth_errors(std::vector<float>{1}, std::vector<float>{0}, std::vector<uint8_t>{0}, 0.1, 9);
  EXPECT_EQ(none.pixels, 0);
  EXPECT_EQ(none.rmse, 0);
  const auto off_by = [](float by) {
    return depth_errors(std::vector<float>{1 + by}, std::vector<float>{1}, std::vector<uint8_t>{1}, 0.1, 9);
  };
  const std::vector<DepthErrors> images = {off_by(1), none, off_by(3)};
  EXPECT_DOUBLE_EQ(mean_errors(images).rmse, 2);
  EXPECT_EQ(mean_errors(images).pixels, 2);
  EXPECT_EQ(mean_errors({}).rmse, 0);
  EXPECT_THROW(
      (void)depth_errors(std::vector<float>{1}, std::vector<float>{0}, std::vector<uint8_t>{1}, 0.1, 9),
      InternalError);
}

}  // namespace
}  // namespace dino
