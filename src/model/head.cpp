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

/// [K] of the parameter's [K, 1].
template <class View>
View gains(View weight_g) {
  return weight_g.reshaped({weight_g.dim(0)});
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

Head::Head(HeadConfig config, std::string module) : config_(config), module_(std::move(module)) {
  ParameterLayout layout;
  append_head_layout(layout, config_, module_);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    const std::string name = layer_name(config_, module_, layer);
    mlp_.push_back({place_of(layout, name + ".weight"), place_of(layout, name + ".bias")});
  }
  gain_ = place_of(layout, module_ + ".last_layer.weight_g");
  direction_ = place_of(layout, module_ + ".last_layer.weight_v");
}

int64_t Head::unit(const ParameterLayout& layout) const {
  return layout.find(module_ + ".last_layer.weight_g").unit;
}

TensorView Head::forward(const Context& c, const UnitView& w, ConstTensorView x, HeadSaved* saved,
                         TensorView* before_norm) const {
  const DType act = c.act();
  const int64_t rows = x.dim(0);
  const TensorView unit = c.arena.make({rows, config_.bottleneck});
  const TensorView norm = c.arena.make({rows});
  const TensorView bottleneck = c.arena.make({rows, config_.bottleneck});
  std::optional<Arena::Scope> scope;  // in inference only the bottleneck outlives the call
  if (saved == nullptr) scope.emplace(c.arena);
  std::vector<TensorView> inputs;
  std::vector<TensorView> pre;
  TensorView input = c.arena.make({rows, config_.input}, act);
  c.ops.convert(c.stream, x, input);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    const bool last = layer == config_.layers - 1;
    const auto i = static_cast<size_t>(layer);
    const Shape shape{rows, layer_output(config_, layer)};
    const TensorView output = last && act == DType::f32 ? bottleneck : c.arena.make(shape, act);
    inputs.push_back(input);
    if (!last) pre.push_back(saved == nullptr ? TensorView{} : c.arena.make(shape, act));
    c.ops.linear(c.stream, input, w(mlp_[i].weight), w(mlp_[i].bias),
                 last ? ops::Activation::none : ops::Activation::gelu, output,
                 last ? TensorView{} : pre.back());
    input = output;
  }
  if (act != DType::f32) c.ops.convert(c.stream, input, bottleneck);
  c.ops.l2_normalize(c.stream, bottleneck, kNormEps, unit, norm);
  if (saved != nullptr) *saved = {std::move(inputs), std::move(pre), unit, norm};
  if (before_norm != nullptr) *before_norm = bottleneck;
  return unit;
}

TensorView Head::backward(const Context& c, const UnitView& w, const HeadSaved& saved, ConstTensorView d_unit,
                          const UnitGradient& d) const {
  const DType act = c.act();
  const int64_t rows = d_unit.dim(0);
  const TensorView dx = c.arena.make({rows, config_.input});
  const Arena::Scope scope(c.arena);
  const TensorView d_bottleneck = c.arena.make({rows, config_.bottleneck});
  c.ops.l2_normalize_backward(c.stream, d_unit, saved.normalized, saved.norm, kNormEps, d_bottleneck);
  TensorView dy = d_bottleneck;
  if (act != DType::f32) {
    dy = c.arena.make(d_bottleneck.shape, act);
    c.ops.convert(c.stream, d_bottleneck, dy);
  }
  for (int64_t layer = config_.layers - 1; layer >= 0; --layer) {
    const auto i = static_cast<size_t>(layer);
    const bool last = layer == config_.layers - 1;
    if (!last) c.ops.gelu_backward(c.stream, dy, saved.pre[i], dy, d(mlp_[i].bias));
    c.ops.linear_backward_weight(c.stream, dy, saved.inputs[i], d(mlp_[i].weight),
                                 last ? d(mlp_[i].bias) : TensorView{});
    const TensorView d_input = c.arena.make(saved.inputs[i].shape, act);
    c.ops.linear_backward_input(c.stream, dy, w(mlp_[i].weight), d_input, false);
    dy = d_input;
  }
  c.ops.convert(c.stream, dy, dx);
  return dx;
}

TensorView Head::prototypes(const Context& c, const UnitView& w) const {
  const TensorView effective = c.arena.make({config_.prototypes, config_.bottleneck}, c.act());
  c.ops.weight_norm(c.stream, gains(w(gain_)), w(direction_), effective);
  return effective;
}

void Head::prototypes_backward(const Context& c, const UnitView& w, ConstTensorView d_prototypes,
                               const UnitGradient& d) const {
  c.ops.weight_norm_backward(c.stream, gains(w(gain_)), w(direction_), d_prototypes, gains(d(gain_)),
                             d(direction_));
}

}  // namespace dino
