// SPDX-License-Identifier: Apache-2.0
#include "model/head.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace dino {
namespace {

/// torch.nn.functional.normalize in fp32.
constexpr float kNormEps = 1e-12F;

/// The reference's module names: an nn.Sequential of linear layers and GELUs, or one bare linear layer.
std::string layer_name(const HeadConfig& config, const std::string& module, int64_t layer) {
  return config.layers == 1 ? module + ".mlp" : fmt::format("{}.mlp.{}", module, 2 * layer);
}

int64_t layer_input(const HeadConfig& config, int64_t layer) {
  return layer == 0 ? config.input : config.hidden;
}

int64_t layer_output(const HeadConfig& config, int64_t layer) {
  return layer == config.layers - 1 ? config.bottleneck : config.hidden;
}

/// One row of the weight-normalised layer: |v| in double, so that the row's direction is exact to f32.
double row_norm(const float* v, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(v[i]) * static_cast<double>(v[i]);
  return std::sqrt(sum);
}

}  // namespace

void append_head_layout(ParameterLayout& layout, const HeadConfig& config, const std::string& module) {
  DINO_CHECK(config.layers >= 1, "a head has at least one layer");
  layout.begin_unit(module, module);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string name = layer_name(config, module, layer);
    layout.add(name + ".weight", {layer_output(config, layer), layer_input(config, layer)},
               {Init::Kind::normal, 0.02F});
    layout.add(name + ".bias", {layer_output(config, layer)}, {});
  }
  // torch's default for Linear: +-1/sqrt(fan_in); the gains start at 1 and are trained.
  const auto half_width = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.bottleneck)));
  layout.add(module + ".last_layer.weight_g", {config.prototypes, 1}, {Init::Kind::constant, 1.0F});
  layout.add(module + ".last_layer.weight_v", {config.prototypes, config.bottleneck},
             {Init::Kind::uniform, half_width});
}

int64_t head_parameter_count(const HeadConfig& config) {
  ParameterLayout layout;
  append_head_layout(layout, config, "head");
  return layout.count();
}

Head::Head(HeadConfig config, Precision precision, std::string module)
    : config_(config), precision_(precision), module_(std::move(module)) {}

TensorView Head::forward(const ParameterStore& weights, ConstTensorView x, Arena& arena, HeadSaved* saved,
                         TensorView* before_norm) const {
  const DType act = precision_ == Precision::bf16 ? DType::bf16 : DType::f32;
  ops::Backend& ops = ops::backend();
  const int64_t rows = x.dim(0);
  const TensorView unit = arena.make({rows, config_.bottleneck});
  const TensorView norm = arena.make({rows});
  const TensorView bottleneck = arena.make({rows, config_.bottleneck});
  std::optional<Arena::Scope> scope;  // in inference only the bottleneck outlives the call
  if (saved == nullptr) scope.emplace(arena);
  std::vector<TensorView> inputs;
  std::vector<TensorView> pre;
  TensorView input = arena.make({rows, config_.input}, act);
  ops.convert(x, input);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    const bool last = layer == config_.layers - 1;
    const std::string name = layer_name(config_, module_, layer);
    const Shape shape{rows, layer_output(config_, layer)};
    const TensorView output = last && act == DType::f32 ? bottleneck : arena.make(shape, act);
    inputs.push_back(input);
    if (!last) pre.push_back(saved == nullptr ? TensorView{} : arena.make(shape, act));
    ops.linear(input, weights.view(name + ".weight"), weights.view(name + ".bias"),
               last ? ops::Activation::none : ops::Activation::gelu, output,
               last ? TensorView{} : pre.back());
    input = output;
  }
  if (act != DType::f32) ops.convert(input, bottleneck);
  ops.l2_normalize(bottleneck, kNormEps, unit, norm);
  if (saved != nullptr) *saved = {std::move(inputs), std::move(pre), unit, norm};
  if (before_norm != nullptr) *before_norm = bottleneck;
  return unit;
}

TensorView Head::backward(const ParameterStore& weights, const HeadSaved& saved, ConstTensorView d_unit,
                          ParameterStore& gradients, Arena& arena) const {
  const DType act = precision_ == Precision::bf16 ? DType::bf16 : DType::f32;
  ops::Backend& ops = ops::backend();
  const int64_t rows = d_unit.dim(0);
  const TensorView dx = arena.make({rows, config_.input});
  const Arena::Scope scope(arena);
  const TensorView d_bottleneck = arena.make({rows, config_.bottleneck});
  ops.l2_normalize_backward(d_unit, saved.normalized, saved.norm, kNormEps, d_bottleneck);
  TensorView dy = d_bottleneck;
  if (act != DType::f32) {
    dy = arena.make(d_bottleneck.shape, act);
    ops.convert(d_bottleneck, dy);
  }
  for (int64_t layer = config_.layers - 1; layer >= 0; --layer) {
    const auto i = static_cast<size_t>(layer);
    const std::string name = layer_name(config_, module_, layer);
    if (layer < config_.layers - 1) ops.gelu_backward(dy, saved.pre[i], dy);
    ops.linear_backward_weight(dy, saved.inputs[i], gradients.view(name + ".weight"),
                               gradients.view(name + ".bias"));
    const TensorView d_input = arena.make(saved.inputs[i].shape, act);
    ops.linear_backward_input(dy, weights.view(name + ".weight"), d_input, false);
    dy = d_input;
  }
  ops.convert(dy, dx);
  return dx;
}

TensorView Head::prototypes(const ParameterStore& weights, Arena& arena) const {
  const int64_t width = config_.bottleneck;
  const TensorView effective = arena.make({config_.prototypes, width});
  const float* g = weights.view(module_ + ".last_layer.weight_g").as<float>();
  const float* v = weights.view(module_ + ".last_layer.weight_v").as<float>();
  float* w = effective.as<float>();
#pragma omp parallel for
  for (int64_t k = 0; k < config_.prototypes; ++k) {
    const double scale = static_cast<double>(g[k]) / row_norm(v + k * width, width);
    for (int64_t i = k * width; i < (k + 1) * width; ++i)
      w[i] = static_cast<float>(scale * static_cast<double>(v[i]));
  }
  return effective;
}

void Head::prototypes_backward(const ParameterStore& weights, ConstTensorView d_prototypes,
                               ParameterStore& gradients) const {
  const int64_t width = config_.bottleneck;
  DINO_CHECK(d_prototypes.numel() == config_.prototypes * width, "prototypes " + d_prototypes.shape.str());
  const float* g = weights.view(module_ + ".last_layer.weight_g").as<float>();
  const float* v = weights.view(module_ + ".last_layer.weight_v").as<float>();
  const float* dw = d_prototypes.as<float>();
  float* dg = gradients.view(module_ + ".last_layer.weight_g").as<float>();
  float* dv = gradients.view(module_ + ".last_layer.weight_v").as<float>();
  // With u = v / |v|: dg = dW . u, dv = g / |v| (dW - u (dW . u)).
#pragma omp parallel for
  for (int64_t k = 0; k < config_.prototypes; ++k) {
    const double norm = row_norm(v + k * width, width);
    double along = 0;
    for (int64_t i = k * width; i < (k + 1) * width; ++i)
      along += static_cast<double>(dw[i]) * static_cast<double>(v[i]);
    along /= norm;
    dg[k] += static_cast<float>(along);
    const double scale = static_cast<double>(g[k]) / norm;
    for (int64_t i = k * width; i < (k + 1) * width; ++i)
      dv[i] +=
          static_cast<float>(scale * (static_cast<double>(dw[i]) - along * static_cast<double>(v[i]) / norm));
  }
}

}  // namespace dino
