// SPDX-License-Identifier: Apache-2.0
#include "model/residual.hpp"

#include "base/error.hpp"

namespace dino {

Residual Residual::keeping_inputs(TensorView tokens) {
  Residual residual(tokens);
  residual.keeps_ = residual.defers_ = true;
  return residual;
}

Residual Residual::deferring(TensorView tokens, TensorView out) {
  Residual residual(tokens);
  residual.out_ = out;
  residual.defers_ = true;
  return residual;
}

TensorView Residual::next(const Context& c) const {
  return held_ ? c.arena.make(x_.shape) : x_;
}

TensorView Residual::settled(const Context& c) {
  if (!branch_) return x_;
  const TensorView sum = next(c);
  if (held_) c.ops.convert(c.stream, x_, sum);
  c.ops.scaled_index_add(c.stream, sum, branch_, layer_scale_, 1.0F, {});
  branch_ = layer_scale_ = {};
  held_ = false;
  return x_ = sum;
}

void Residual::enter(const Context& c, ConstTensorView gamma, ConstTensorView beta, float eps, TensorView to,
                     TensorView y, TensorView mean, TensorView rstd) {
  if (branch_)
    c.ops.residual_layer_norm(c.stream, x_, branch_, layer_scale_, gamma, beta, eps, to, y, mean, rstd);
  else
    c.ops.layer_norm(c.stream, x_, gamma, beta, eps, y, mean, rstd);
  branch_ = layer_scale_ = {};
  x_ = to;
  held_ = keeps_;
}

void Residual::add(const Context& c, ConstTensorView out, ConstTensorView layer_scale) {
  DINO_CHECK(!branch_, "a branch ends before another begins");
  branch_ = out;
  layer_scale_ = layer_scale;
  if (!defers_) (void)settled(c);
}

void Residual::detach(const Context& c, TensorView to) {
  if (!layer_scale_) return;
  c.ops.convert(c.stream, layer_scale_, to);
  layer_scale_ = to;
}

}  // namespace dino
