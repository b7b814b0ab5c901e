// SPDX-License-Identifier: Apache-2.0
#include "training/contrastive.hpp"

#include <algorithm>
#include <cmath>

#include "training/optimizer.hpp"

namespace dino {
namespace {

constexpr float kNormEps = 1e-12F;
constexpr double kLargestScale = 100;  ///< CLIP's

/// The rows of all ranks, in rank order.
TensorView gathered(const Context& c, ConstTensorView own) {
  const int64_t rows = own.dim(0);
  const TensorView all = c.arena.make({rows * c.collective.size(), own.dim(1)});
  copy(c.stream, all.rows(c.collective.rank() * rows, rows), own);
  c.stream.wait(c.collective.all_gather(c.stream, all));
  return all;
}

double read_back(const Context& c, ConstTensorView scalar) {
  Tensor buffer;
  return host_view(c, scalar, buffer).as<double>()[0];
}

ConstTensorView identity(const Context& c, int64_t n, Tensor& buffer) {
  buffer = Tensor({n, n});
  std::fill(buffer.f32().begin(), buffer.f32().end(), 0.0F);
  for (int64_t i = 0; i < n; ++i) buffer.as<float>()[i * n + i] = 1;
  return device_view(c, buffer);
}

}  // namespace

ContrastiveLoss contrastive_loss(const Context& c, ConstTensorView u, ConstTensorView v, double scale,
                                 TensorView du) {
  DINO_CHECK(u.shape == v.shape && du.shape == u.shape, "pairs of texts and images");
  const Arena::Scope scope(c.arena);
  const TensorView texts = gathered(c, u), images = gathered(c, v);
  const int64_t n = texts.dim(0), own = u.dim(0);
  Tensor buffer;
  const ConstTensorView targets = identity(c, n, buffer);
  const TensorView weight = c.arena.make({n}), losses = c.arena.make({n});
  fill(c.stream, weight, static_cast<float>(0.5 / static_cast<double>(n)));
  const TensorView sums = c.arena.zeros(c.stream, {2}, DType::f64);
  const TensorView cosines = c.arena.make({n, n}), gradient = c.arena.make({n, n});
  const TensorView d_texts = c.arena.zeros(c.stream, texts.shape);
  for (const bool of_texts : {true, false}) {
    c.ops.linear(c.stream, of_texts ? texts : images, of_texts ? images : texts, {}, ops::Activation::none,
                 cosines, {});
    copy(c.stream, gradient, cosines);
    c.ops.cross_entropy(c.stream, gradient, targets, static_cast<float>(1 / scale), weight, losses);
    c.ops.weighted_sum(c.stream, losses, {}, 0.5 / static_cast<double>(n), sums.rows(0, 1));
    // d L / d ln(scale) = sum of gradient times cosine, as scale times cosine is what the loss reads.
    c.ops.weighted_sum(c.stream, gradient.reshaped({n * n}), cosines.reshaped({n * n}), 1, sums.rows(1, 1));
    if (of_texts)
      c.ops.linear_backward_input(c.stream, gradient, images, d_texts, true);
    else
      c.ops.linear_backward_weight(c.stream, gradient, images, d_texts, {});
  }
  copy(c.stream, du, d_texts.rows(c.collective.rank() * own, own));
  return {read_back(c, sums.rows(0, 1)), read_back(c, sums.rows(1, 1))};
}

TextTraining::TextTraining(const Context& c, TextModel& model)
    : c_(c),
      model_(model),
      tower_(model.config),
      gradients_(model.layout, c.ops.memory()),
      first_(model.layout, c.ops.memory()),
      second_(model.layout, c.ops.memory()) {}

double TextTraining::scale() {
  Tensor buffer;
  const ConstTensorView log_scale = host_view(c_, model_.weights.view("text.logit_scale"), buffer);
  return std::exp(static_cast<double>(log_scale.as<float>()[0]));
}

TextTrainingStep TextTraining::step(std::span<const std::vector<int32_t>> texts, ConstTensorView images,
                                    const TextTrainingRates& rates) {
  const Arena::Scope scope(c_.arena);
  gradients_.zero(c_.stream);
  TextTrainingStep result;
  const double free_scale = scale();
  result.scale = std::min(free_scale, kLargestScale);
  std::shared_ptr<TextSaved> saved;
  const TensorView out = tower_.forward(c_, model_.weights, texts, &saved);
  const int64_t n = out.dim(0);
  const TensorView u = c_.arena.make(out.shape), v = c_.arena.make(out.shape), du = c_.arena.make(out.shape),
                   d_out = c_.arena.make(out.shape), norms = c_.arena.make({n}), unused = c_.arena.make({n});
  c_.ops.l2_normalize(c_.stream, out, kNormEps, u, norms);
  c_.ops.l2_normalize(c_.stream, device_view(c_, images), kNormEps, v, unused);
  const ContrastiveLoss loss = contrastive_loss(c_, u, v, result.scale, du);
  result.loss = loss.loss;
  c_.ops.l2_normalize_backward(c_.stream, du, u, norms, kNormEps, d_out);
  // Of all pairs already: one rank adds it. At its bound the scale may only fall.
  if (c_.collective.rank() == 0 && (free_scale <= kLargestScale || loss.scale_gradient > 0))
    fill(c_.stream, gradients_.view("text.logit_scale"), static_cast<float>(loss.scale_gradient));
  tower_.backward(c_, model_.weights, *saved, d_out, gradients_);
  const TensorView squares = c_.arena.zeros(c_.stream, {1}, DType::f64);
  for (size_t unit = 0; unit < model_.layout.units().size(); ++unit) {
    const TensorView values = gradients_.unit(static_cast<int64_t>(unit));
    c_.stream.wait(c_.collective.all_reduce(c_.stream, values));
    c_.ops.sum_of_squares(c_.stream, values, squares);
  }
  update(rates, squares);
  result.gradient_norm = std::sqrt(read_back(c_, squares));
  return result;
}

void TextTraining::update(const TextTrainingRates& rates, ConstTensorView squares) {
  const TensorView factor = c_.arena.make({1}), finite = c_.arena.make({1});
  c_.ops.clip_factors(c_.stream, squares, 1, rates.clip, factor);
  c_.ops.all_finite(c_.stream, squares, finite);
  ++steps_;
  for (const ParameterInfo& info : model_.layout.parameters()) {
    const bool scale = info.name == "text.logit_scale";
    const ParameterGroup group = parameter_group(info.name, model_.config.depth, 1, 1);
    ops::Backend::AdamW settings{};
    settings.learning_rate = static_cast<float>(rates.learning_rate);
    settings.beta1 = static_cast<float>(rates.beta1);
    settings.beta2 = static_cast<float>(rates.beta2);
    settings.eps = static_cast<float>(rates.eps);
    settings.weight_decay = scale ? 0 : static_cast<float>(rates.weight_decay * group.wd_multiplier);
    settings.step = steps_;
    c_.ops.adamw(c_.stream, model_.weights.view(info), gradients_.view(info), first_.view(info),
                 second_.view(info), settings, factor, finite, {});
  }
}

}  // namespace dino
