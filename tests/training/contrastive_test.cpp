// SPDX-License-Identifier: Apache-2.0
#include "training/contrastive.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.hpp"
#include "host_place.hpp"

namespace dino {
namespace {

std::vector<double> unit_rows(int64_t rows, int64_t width, uint64_t index) {
  Random random(31, RandomStream::test, index);
  std::vector<double> values(static_cast<size_t>(rows * width));
  for (int64_t r = 0; r < rows; ++r) {
    double norm = 0;
    for (int64_t d = 0; d < width; ++d) {
      double& x = values[static_cast<size_t>(r * width + d)];
      x = random.normal();
      norm += x * x;
    }
    for (int64_t d = 0; d < width; ++d) values[static_cast<size_t>(r * width + d)] /= std::sqrt(norm);
  }
  return values;
}

Tensor as_tensor(const std::vector<double>& values, int64_t width) {
  Tensor tensor({static_cast<int64_t>(values.size()) / width, width});
  std::transform(values.begin(), values.end(), tensor.f32().begin(),
                 [](double x) { return static_cast<float>(x); });
  return tensor;
}

/// The formula of the header, by plain loops.
double naive_loss(const std::vector<double>& u, const std::vector<double>& v, int64_t width, double scale) {
  const auto n = static_cast<int64_t>(u.size()) / width;
  const auto dot = [&](int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t d = 0; d < width; ++d)
      sum += u[static_cast<size_t>(i * width + d)] * v[static_cast<size_t>(j * width + d)];
    return scale * sum;
  };
  double loss = 0;
  for (int64_t i = 0; i < n; ++i) {
    double of_text = 0, of_image = 0;
    for (int64_t j = 0; j < n; ++j) {
      of_text += std::exp(dot(i, j));
      of_image += std::exp(dot(j, i));
    }
    loss += std::log(of_text) + std::log(of_image) - 2 * dot(i, i);
  }
  return loss / (2 * static_cast<double>(n));
}

TEST(Contrastive, LossAndGradientAreThoseOfTheFormula) {
  constexpr int64_t n = 7, width = 5;
  std::vector<double> u = unit_rows(n, width, 1);
  const std::vector<double> v = unit_rows(n, width, 2);
  for (const double scale : {1.0, 12.5}) {
    HostPlace host;
    Tensor du({n, width});
    const ContrastiveLoss loss =
        contrastive_loss(host.c, as_tensor(u, width), as_tensor(v, width), scale, du);
    EXPECT_NEAR(loss.loss, naive_loss(u, v, width, scale), 1e-5);
    const double step = 1e-5;
    EXPECT_NEAR(
        loss.scale_gradient,
        (naive_loss(u, v, width, scale * std::exp(step)) - naive_loss(u, v, width, scale * std::exp(-step))) /
            (2 * step),
        1e-4);
    for (size_t i = 0; i < u.size(); ++i) {
      const double kept = u[i];
      u[i] = kept + step;
      const double above = naive_loss(u, v, width, scale);
      u[i] = kept - step;
      const double below = naive_loss(u, v, width, scale);
      u[i] = kept;
      EXPECT_NEAR(static_cast<double>(du.f32()[i]), (above - below) / (2 * step), 2e-4);
    }
  }
}

/// Four texts learn to tell four pictures apart; a step without a finite gradient changes nothing.
TEST(Contrastive, ATowerLearnsItsPairs) {
  TextConfig config{.vocabulary = 12, .context = 6, .width = 16, .depth = 2, .heads = 2, .hidden = 32};
  config.projection = 8;
  const auto model = random_text_model(config, 1);
  HostPlace host;
  TextTraining training(host.c, *model);
  const std::vector<std::vector<int32_t>> texts = {{1, 5, 2}, {1, 6, 7, 2}, {1, 7, 6, 2}, {1, 2}};
  Tensor images = as_tensor(unit_rows(4, 8, 3), 8);
  TextTrainingRates rates;
  rates.learning_rate = 5e-3;
  rates.weight_decay = 0;
  const double first = training.step(texts, images, rates).loss;
  double last = first;
  for (int i = 0; i < 60; ++i) last = training.step(texts, images, rates).loss;
  EXPECT_LT(last, 0.05 * first);
  ParameterStore before(model->layout);
  before.copy_from(host.c.stream, model->weights);
  images.f32()[3] = NAN;
  EXPECT_FALSE(std::isfinite(training.step(texts, images, rates).gradient_norm));
  for (const ParameterInfo& info : model->layout.parameters())
    EXPECT_TRUE(std::equal(before.view(info).f32().begin(), before.view(info).f32().end(),
                           model->weights.view(info).f32().begin()))
        << info.name;
}

}  // namespace
}  // namespace dino
