// SPDX-License-Identifier: Apache-2.0
#include "training/dense_losses.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "base/random.hpp"
#include "host_place.hpp"
#include "model/dense_heads.hpp"
#include "training/head_optimizer.hpp"

namespace dino {
namespace {

std::vector<float> normal_values(size_t count, uint64_t index) {
  Random random(4, RandomStream::test, index);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

Maps maps_of(const Context& c, const std::vector<float>& values, int64_t images, GridSize grid) {
  const int64_t rows = images * grid.pixels();
  return {c.arena.upload(c.stream, std::span<const float>(values))
              .reshaped({rows, static_cast<int64_t>(values.size()) / rows}),
          images, grid};
}

TEST(DenseLosses, CrossEntropyOfEnlargedLogits) {
  const HostPlace place;
  const Context& c = place.c;
  const GridSize coarse{2, 3}, size{5, 7};
  const Maps logits = maps_of(c, normal_values(2 * 6 * 4, 1), 2, coarse);
  std::vector<int16_t> labels;
  for (int i = 0; i < 70; ++i) labels.push_back(static_cast<int16_t>(i * 7 % 5 - 1));  // -1 does not count
  const Maps d = new_maps(c, 2, coarse, 4);
  const double loss = pixel_cross_entropy(c, logits, size, labels, d);
  const auto naive = [&] {
    const Maps fine = resample(c, logits, size, false);
    double sum = 0, count = 0;
    for (size_t p = 0; p < labels.size(); ++p) {
      if (labels[p] < 0) continue;
      double total = 0;
      for (size_t k = 0; k < 4; ++k) total += std::exp(static_cast<double>(fine.values.f32()[p * 4 + k]));
      sum += std::log(total) - static_cast<double>(fine.values.f32()[p * 4 + static_cast<size_t>(labels[p])]);
      ++count;
    }
    return sum / count;
  };
  EXPECT_NEAR(loss, naive(), 1e-6);
  for (size_t i = 0; i < 48; ++i) {
    float& value = logits.values.f32()[i];
    const float start = value;
    value = start + 1e-2F;
    const double above = naive();
    value = start - 1e-2F;
    const double below = naive();
    value = start;
    EXPECT_NEAR(d.values.f32()[i], (above - below) / 2e-2, 1e-5) << i;
  }
  std::vector<int16_t> got(70);
  pixel_classes(c, logits, size, got);
  const Maps fine = resample(c, logits, size, false);
  for (size_t p = 0; p < got.size(); ++p) {
    const float* row = fine.values.as<float>() + p * 4;
    EXPECT_EQ(got[p], std::max_element(row, row + 4) - row);
  }
}

TEST(DenseLosses, NoPixelThatCounts) {
  const HostPlace place;
  const Context& c = place.c;
  const Maps logits = maps_of(c, normal_values(8, 2), 1, {2, 2}), d = new_maps(c, 1, {2, 2}, 2);
  const std::vector<int16_t> labels(16, -1);
  EXPECT_EQ(pixel_cross_entropy(c, logits, {4, 4}, labels, d), 0);
  for (const float g : d.values.f32()) EXPECT_EQ(g, 0);
  std::vector<float> gradient(4, 9);
  const std::vector<float> one(4, 1), unknown(4, 0);
  EXPECT_EQ(depth_loss(one, unknown, 1, {2, 2}, {}, gradient), 0);
  EXPECT_EQ(gradient, unknown);
}

TEST(DenseLosses, DepthByHand) {
  // Two valid pixels, log errors a and b: var = (a - b)^2 / 2.
  const std::vector<float> truth = {1, 0, 2}, predicted = {2, 5, 2};
  std::vector<float> gradient(3);
  const double a = std::log(2.001 / 1.001), mean = a / 2;
  DepthLossWeights weights;
  weights.gradient = 0;
  EXPECT_NEAR(depth_loss(predicted, truth, 1, {1, 3}, weights, gradient),
              std::sqrt(a * a / 2 + 0.15 * mean * mean), 1e-6);
  weights.warm_up = true;
  EXPECT_NEAR(depth_loss(predicted, truth, 1, {1, 3}, weights, gradient), std::sqrt(0.15 * mean * mean),
              1e-6);
  // The gradient loss: pixels 0 and 2 are two apart at stride 1, over two valid pixels; the other strides see
  // pixel 0 (and 2) without a pair.
  weights = {0, 1, false};
  EXPECT_NEAR(depth_loss(predicted, truth, 1, {1, 3}, weights, gradient), a / 2, 1e-6);
}

TEST(DenseLosses, DepthGradientsAreFiniteDifferences) {
  const GridSize size{15, 14};
  const auto count = static_cast<size_t>(2 * size.pixels());
  std::vector<float> truth(count), predicted(count), gradient(count), unused(count);
  const auto noise = normal_values(2 * count, 3);
  for (size_t i = 0; i < count; ++i) {
    truth[i] = i % 5 == 0 ? 0 : 2 + 0.3F * noise[i];
    predicted[i] = 2 + 0.3F * noise[count + i];
  }
  for (const DepthLossWeights weights : {DepthLossWeights{1, 0, false}, DepthLossWeights{1, 0, true},
                                         DepthLossWeights{0, 1, false}, DepthLossWeights{1, 0.5, false}}) {
    (void)depth_loss(predicted, truth, 2, size, weights, gradient);
    for (size_t i = 0; i < count; i += 11) {
      const float start = predicted[i];
      predicted[i] = start + 1e-3F;
      const double above = depth_loss(predicted, truth, 2, size, weights, unused);
      predicted[i] = start - 1e-3F;
      const double below = depth_loss(predicted, truth, 2, size, weights, unused);
      predicted[i] = start;
      EXPECT_NEAR(gradient[i], (above - below) / 2e-3, 2e-5) << i;
      if (truth[i] == 0) {
        EXPECT_EQ(gradient[i], 0);
      }
    }
  }
}

TEST(HeadOptimizer, SchedulesAsPublished) {
  // Segmentation: 1,500 steps of warm-up from 1e-6, then linear to 0.
  EXPECT_NEAR(poly_share(0, 40000, 1500, 1e-6), 1e-6, 1e-12);
  EXPECT_NEAR(poly_share(750, 40000, 1500, 1e-6), (1 - 750.0 / 40000) * 0.5, 1e-6);
  EXPECT_NEAR(poly_share(20000, 40000, 1500, 1e-6), 0.5, 1e-12);
  EXPECT_NEAR(cosine_share(12800, 38400, 12800, 1e-3, 1e-8), 0.75, 1e-6);
  EXPECT_NEAR(cosine_share(38400, 38400, 12800, 1e-3, 1e-8), 1e-8, 1e-12);
  EXPECT_NEAR(poly_share(5, 10, 0, 1e-6), 0.5, 1e-12);
  EXPECT_NEAR(one_cycle_momentum(0, 1001), 0.95, 1e-12);
  EXPECT_NEAR(one_cycle_momentum(300, 1001), 0.85, 1e-12);
  EXPECT_NEAR(one_cycle_momentum(1000, 1001), 0.95, 1e-12);
}

TEST(HeadOptimizer, LearnsWhatAHeadCanSay) {
  const HostPlace place;
  const Context& c = place.c;
  // The class of a pixel is the larger of its two first features.
  const GridSize grid{4, 4};
  const Maps x = maps_of(c, normal_values(4 * 16 * 5, 9), 4, grid);
  std::vector<int16_t> labels;
  for (size_t p = 0; p < 64; ++p) labels.push_back(x.values.f32()[p * 5] > x.values.f32()[p * 5 + 1] ? 1 : 0);
  const auto head = make_linear_segmentation_head(5, 2);
  HeadOptimizer optimizer(c, head->layout(), 1);
  double first = 0, last = 0;
  for (int64_t step = 0; step < 300; ++step) {
    const Arena::Scope scope(c.arena);
    Kept kept;
    const Maps logits = head->forward(c, optimizer.weights(), std::array{x}, &kept);
    const Maps d = new_maps(c, 4, grid, 2);
    last = pixel_cross_entropy(c, logits, grid, labels, d);
    if (step == 0) first = last;
    head->backward(c, optimizer.weights(), std::array{x}, kept, d, optimizer.gradient());
    optimizer.step(c, {0.05 * poly_share(step, 300, 10, 1e-6), 1e-4});
  }
  EXPECT_NEAR(first, std::log(2.0), 0.05);
  EXPECT_LT(last, 0.15);
  EXPECT_EQ(optimizer.steps(), 300);
}

TEST(HeadOptimizer, AGradientThatIsNotFiniteChangesNothing) {
  const HostPlace place;
  const Context& c = place.c;
  const auto head = make_linear_segmentation_head(3, 2);
  HeadOptimizer optimizer(c, head->layout(), 1);
  const auto values = optimizer.values().unit(0).f32();
  const std::vector<float> before(values.begin(), values.end());
  fill(c.stream, optimizer.gradient()(place_of(head->layout(), "segment.bn.bias")), std::nanf(""));
  optimizer.step(c, {});
  EXPECT_EQ(std::vector<float>(values.begin(), values.end()), before);
  // And it is gone.
  fill(c.stream, optimizer.gradient()(place_of(head->layout(), "segment.bn.bias")), 1);
  optimizer.step(c, {});
  EXPECT_NE(std::vector<float>(values.begin(), values.end()), before);
}

}  // namespace
}  // namespace dino
