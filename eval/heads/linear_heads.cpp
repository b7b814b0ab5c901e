// SPDX-License-Identifier: Apache-2.0
#include "heads/linear_heads.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/random.hpp"
#include "base/working.hpp"
#include "ops/ops.hpp"

namespace dino::eval {

namespace {

constexpr float kMomentum = 0.9F;

/// logits [batch, heads * classes] -> (softmax - one-hot) / batch by head, in place.
void cross_entropy_gradient(ops::Backend& backend, TensorView logits, const std::vector<int32_t>& labels,
                            int64_t classes, TensorView top) {
  const int64_t batch = logits.dim(0), heads = logits.dim(1) / classes;
  float* const values = logits.as<float>();
  HostStream stream;
  backend.exp_rows(stream, view_of(values, {batch * heads, classes}), 1, top);
  const auto share = static_cast<double>(batch);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < batch * heads; ++i) {
    float* row = values + i * classes;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < classes; ++c) sum += static_cast<double>(row[c]);
    const auto scale = static_cast<float>(1.0 / (sum * share));
#pragma omp simd
    for (int64_t c = 0; c < classes; ++c) row[c] *= scale;
    row[labels[static_cast<size_t>(i / heads)]] -= static_cast<float>(1 / share);
  }
}

/// w -= lr v, then v *= momentum: what the next gradient is added to. `stride` numbers for each class.
void momentum_step(TensorView w, TensorView v, int64_t classes, int64_t stride,
                   const std::vector<float>& rates) {
  const int64_t rows = static_cast<int64_t>(rates.size()) * classes;
  float *const weights = w.as<float>(), *const velocities = v.as<float>();
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const float rate = rates[static_cast<size_t>(r / classes)];
    float *to = weights + r * stride, *velocity = velocities + r * stride;
#pragma omp simd
    for (int64_t i = 0; i < stride; ++i) {
      to[i] -= rate * velocity[i];
      velocity[i] *= kMomentum;
    }
  }
}

/// The picked rows of x, one after the other.
void gather(const FeatureView& x, const int64_t* rows, int64_t count, TensorView to) {
  float* const out = to.as<float>();
#pragma omp parallel for schedule(static) if (count * x.width > 1 << 14)
  for (int64_t i = 0; i < count; ++i) std::copy_n(x.row(rows[i]), x.width, out + i * x.width);
}

}  // namespace

LinearHeads::LinearHeads(int64_t width, int64_t classes, std::vector<double> rates, uint64_t seed)
    : width_(width),
      classes_(classes),
      rates_(std::move(rates)),
      weight_({heads() * classes, width}),
      bias_({heads() * classes}) {
  Random random(seed, RandomStream::probe, ~uint64_t{0});
  const int64_t one = classes * width;
  float* const weights = weight_.as<float>();
  for (int64_t i = 0; i < one; ++i) weights[i] = static_cast<float>(0.01 * random.normal());
  for (int64_t h = 1; h < heads(); ++h) std::copy_n(weights, one, weights + h * one);
}

void LinearHeads::fit(const FeatureView& x, const std::vector<int32_t>& labels,
                      const std::vector<int64_t>& rows, const Training& training) {
  ops::Backend& backend = ops::backend_named("cpu");
  HostStream stream;
  const auto n = static_cast<int64_t>(rows.size());
  const int64_t batch = std::min(training.batch, n), per_epoch = n / batch,
                steps = per_epoch * training.epochs, outputs = heads() * classes_;
  Tensor input({batch, width_}), logits({batch, outputs}), top({batch * heads()});
  Tensor v_weight({outputs, width_}), v_bias({outputs});
  std::vector<int64_t> picked(static_cast<size_t>(batch));
  std::vector<int32_t> target(picked.size());
  std::vector<float> rates(rates_.size());
  for (int64_t epoch = 0, step = 0; epoch < training.epochs; ++epoch) {
    Random random(training.seed, RandomStream::probe, static_cast<uint64_t>(epoch));
    const std::vector<int64_t> order = permutation(random, n);
    for (int64_t b = 0; b < per_epoch; ++b, ++step) {
      work_point();
      for (size_t i = 0; i < picked.size(); ++i) {
        picked[i] = rows[static_cast<size_t>(order[static_cast<size_t>(b * batch) + i])];
        target[i] = labels[static_cast<size_t>(picked[i])];
      }
      gather(x, picked.data(), batch, input);
      backend.linear(stream, input, weight_, bias_, ops::Activation::none, logits, {});
      cross_entropy_gradient(backend, logits, target, classes_, top);
      backend.linear_backward_weight(stream, logits, input, v_weight, v_bias);
      const double cosine =
          0.5 * (1 + std::cos(std::numbers::pi * static_cast<double>(step) / static_cast<double>(steps)));
      for (size_t h = 0; h < rates.size(); ++h)
        rates[h] = static_cast<float>(rates_[h] * static_cast<double>(batch) / 256 * cosine);
      momentum_step(weight_, v_weight, classes_, width_, rates);
      momentum_step(bias_, v_bias, classes_, 1, rates);
    }
  }
}

std::vector<std::vector<int32_t>> LinearHeads::predict(const FeatureView& x,
                                                       const std::vector<int64_t>& rows) const {
  constexpr int64_t kChunk = 1024;
  ops::Backend& backend = ops::backend_named("cpu");
  HostStream stream;
  std::vector<std::vector<int32_t>> predicted(rates_.size(), std::vector<int32_t>(rows.size()));
  const auto total = static_cast<int64_t>(rows.size());
  Tensor input({kChunk, width_}), logits({kChunk, heads() * classes_});
  for (int64_t begin = 0; begin < total; begin += kChunk) {
    const int64_t count = std::min(kChunk, total - begin);
    const TensorView part = input.view().rows(0, count), scores = logits.view().rows(0, count);
    gather(x, rows.data() + begin, count, part);
    backend.linear(stream, part, weight_, bias_, ops::Activation::none, scores, {});
    for (int64_t i = 0; i < count; ++i)
      for (int64_t h = 0; h < heads(); ++h) {
        const float* row = scores.as<float>() + (i * heads() + h) * classes_;
        predicted[static_cast<size_t>(h)][static_cast<size_t>(begin + i)] =
            static_cast<int32_t>(std::max_element(row, row + classes_) - row);
      }
  }
  return predicted;
}

}  // namespace dino::eval
