// SPDX-License-Identifier: Apache-2.0
#include "heads/linear_head.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/random.hpp"
#include "base/working.hpp"
#include "ops/ops.hpp"

namespace dino::eval {

namespace {

/// logits -> (softmax - one-hot) / batch, in place.
void cross_entropy_gradient(float* logits, const int32_t* labels, int64_t batch, int64_t classes) {
  for (int64_t i = 0; i < batch; ++i) {
    float* row = logits + i * classes;
    const float top = *std::max_element(row, row + classes);
    double sum = 0;
    for (int64_t c = 0; c < classes; ++c) sum += static_cast<double>(row[c] = std::exp(row[c] - top));
    const auto scale = static_cast<float>(1.0 / (sum * static_cast<double>(batch)));
    for (int64_t c = 0; c < classes; ++c) row[c] *= scale;
    row[labels[i]] -= 1.0F / static_cast<float>(batch);
  }
}

void momentum_step(std::span<float> w, std::span<const float> gradient, std::span<float> velocity, float lr) {
  for (size_t i = 0; i < w.size(); ++i) {
    velocity[i] = 0.9F * velocity[i] + gradient[i];
    w[i] -= lr * velocity[i];
  }
}

}  // namespace

LinearHead::LinearHead(int64_t width, int64_t classes, uint64_t seed)
    : width_(width), classes_(classes), weight_({classes, width}), bias_({classes}) {
  Random random(seed, RandomStream::probe, ~uint64_t{0});
  for (float& w : weight_.f32()) w = static_cast<float>(0.01 * random.normal());
}

void LinearHead::fit(const FeatureView& x, const std::vector<int32_t>& labels,
                     const std::vector<int64_t>& rows, const Training& training) {
  ops::Backend& backend = ops::backend_named("cpu");
  HostStream stream;
  const auto n = static_cast<int64_t>(rows.size());
  const int64_t batch = std::min(training.batch, n), per_epoch = n / batch,
                steps = per_epoch * training.epochs;
  const double peak = training.lr * static_cast<double>(batch) / 256;
  Tensor input({batch, width_}), logits({batch, classes_}), d_weight({classes_, width_}), d_bias({classes_});
  Tensor v_weight({classes_, width_}), v_bias({classes_});
  std::vector<int32_t> target(static_cast<size_t>(batch));
  for (int64_t epoch = 0, step = 0; epoch < training.epochs; ++epoch) {
    Random random(training.seed, RandomStream::probe, static_cast<uint64_t>(epoch));
    const std::vector<int64_t> order = permutation(random, n);
    for (int64_t b = 0; b < per_epoch; ++b, ++step) {
      work_point();
      for (int64_t i = 0; i < batch; ++i) {
        const int64_t row = rows[static_cast<size_t>(order[static_cast<size_t>(b * batch + i)])];
        std::copy_n(x.row(row), width_, input.as<float>() + i * width_);
        target[static_cast<size_t>(i)] = labels[static_cast<size_t>(row)];
      }
      backend.linear(stream, input, weight_, bias_, ops::Activation::none, logits, {});
      cross_entropy_gradient(logits.as<float>(), target.data(), batch, classes_);
      fill(stream, d_weight, 0);
      fill(stream, d_bias, 0);
      backend.linear_backward_weight(stream, logits, input, d_weight, d_bias);
      const auto lr = static_cast<float>(
          peak * 0.5 *
          (1 + std::cos(std::numbers::pi * static_cast<double>(step) / static_cast<double>(steps))));
      momentum_step(weight_.f32(), d_weight.f32(), v_weight.f32(), lr);
      momentum_step(bias_.f32(), d_bias.f32(), v_bias.f32(), lr);
    }
  }
}

std::vector<int32_t> LinearHead::predict(const FeatureView& x, const std::vector<int64_t>& rows) const {
  constexpr int64_t kChunk = 1024;
  ops::Backend& backend = ops::backend_named("cpu");
  HostStream stream;
  std::vector<int32_t> out;
  out.reserve(rows.size());
  Tensor input({kChunk, width_}), logits({kChunk, classes_});
  for (size_t begin = 0; begin < rows.size(); begin += kChunk) {
    const auto count = static_cast<int64_t>(std::min<size_t>(kChunk, rows.size() - begin));
    for (int64_t i = 0; i < count; ++i)
      std::copy_n(x.row(rows[begin + static_cast<size_t>(i)]), width_, input.as<float>() + i * width_);
    backend.linear(stream, input.view().rows(0, count), weight_, bias_, ops::Activation::none,
                   logits.view().rows(0, count), {});
    for (int64_t i = 0; i < count; ++i) {
      const float* row = logits.as<float>() + i * classes_;
      out.push_back(static_cast<int32_t>(std::max_element(row, row + classes_) - row));
    }
  }
  return out;
}

double LinearHead::accuracy(const FeatureView& x, const std::vector<int64_t>& rows,
                            const std::vector<int32_t>& truth) const {
  const std::vector<int32_t> predicted = predict(x, rows);
  int64_t right = 0;
  for (size_t i = 0; i < predicted.size(); ++i) right += predicted[i] == truth[i] ? 1 : 0;
  return predicted.empty() ? 0 : static_cast<double>(right) / static_cast<double>(predicted.size());
}

}  // namespace dino::eval
