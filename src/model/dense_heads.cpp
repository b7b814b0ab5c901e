// SPDX-License-Identifier: Apache-2.0
#include "model/dense_heads.hpp"

#include <array>
#include <cmath>
#include <optional>

#include "base/error.hpp"

namespace dino {

ParameterPlace DenseHead::add(const std::string& name, Shape shape, Init init) {
  layout_.add(name, shape, init);
  return place_of(layout_, name);
}

ParameterPlace DenseHead::add_weight(const std::string& name, Shape shape, int64_t reads) {
  return add(name, shape,
             {Init::Kind::uniform, static_cast<float>(1 / std::sqrt(static_cast<double>(reads)))});
}

ParameterPlace DenseHead::add_bias(const std::string& name, int64_t outputs, int64_t reads) {
  return add_weight(name, {outputs}, reads);
}

namespace {

const Maps& only(std::span<const Maps> inputs) {
  DINO_CHECK(inputs.size() == 1, "this head reads its layers side by side, in one map");
  return inputs[0];
}

/// logits = (x gain + shift) w^T + b. Gain and shift are folded into the product: w' = w gain by columns,
/// b' = b + w shift.
class LinearSegmentation final : public DenseHead {
 public:
  LinearSegmentation(int64_t width, int64_t classes)
      : DenseHead("segment"), width_(width), classes_(classes) {
    gain_ = add("segment.bn.weight", {width}, {Init::Kind::constant, 1.0F});
    shift_ = add("segment.bn.bias", {width}, {});
    weight_ = add("segment.conv_seg.weight", {classes, width}, {Init::Kind::normal, 0.01F});
    bias_ = add("segment.conv_seg.bias", {classes}, {});
  }

  Maps forward(const Context& c, const UnitView& w, std::span<const Maps> inputs, Kept*) const override {
    const Maps& x = only(inputs);
    const Maps y = new_maps(c, x.images, x.grid, classes_);
    const Arena::Scope scope(c.arena);
    const TensorView folded = c.arena.zeros(c.stream, {classes_, width_}), bias = c.arena.make({1, classes_});
    c.ops.scaled_index_add(c.stream, folded, w(weight_), w(gain_), 1, {});
    c.ops.linear(c.stream, w(shift_).reshaped({1, width_}), w(weight_), w(bias_), ops::Activation::none, bias,
                 {});
    c.ops.linear(c.stream, x.values, folded, bias.reshaped({classes_}), ops::Activation::none, y.values, {});
    return y;
  }

  /// With G = dy^T x and s the column sums of dy: dw = G gain + s shift^T, dgain = sum over classes of w G,
  /// dshift = w^T s, db = s.
  void backward(const Context& c, const UnitView& w, std::span<const Maps> inputs, Kept&, const Maps& dy,
                const UnitGradient& d) const override {
    const Maps& x = only(inputs);
    const Arena::Scope scope(c.arena);
    const TensorView product = c.arena.zeros(c.stream, {classes_, width_}),
                     sums = c.arena.zeros(c.stream, {classes_}), part = c.arena.make({classes_, width_});
    c.ops.linear_backward_weight(c.stream, dy.values, x.values, product, sums);
    c.ops.scaled_index_add_backward(c.stream, product, w(weight_), w(gain_), 1, {}, part, d(gain_));
    c.ops.axpy(c.stream, 1, part, d(weight_));
    const TensorView row = sums.reshaped({1, classes_});
    c.ops.linear_backward_weight(c.stream, row, w(shift_).reshaped({1, width_}), d(weight_), {});
    c.ops.linear_backward_input(c.stream, row, w(weight_), d(shift_).reshaped({1, width_}), true);
    c.ops.axpy(c.stream, 1, sums, d(bias_));
  }

 private:
  int64_t width_, classes_;
  ParameterPlace gain_, shift_, weight_, bias_;
};

/// depth = sum_k a_k centre_k / sum_k a_k, a = relu(z) + 0.1, from two products with relu(z).
class BinnedDepth final : public DenseHead {
 public:
  BinnedDepth(int64_t width, std::vector<float> centres)
      : DenseHead("depth"), centres_(std::move(centres)), bins_(static_cast<int64_t>(centres_.size())) {
    weight_ = add_weight("depth.conv_depth.weight", {bins_, width}, width);
    bias_ = add_bias("depth.conv_depth.bias", bins_, width);
  }

  Maps forward(const Context& c, const UnitView& w, std::span<const Maps> inputs, Kept* kept) const override {
    const Maps& x = only(inputs);
    const GridSize fine{x.grid.height * kFiner, x.grid.width * kFiner};
    const Maps depth = new_maps(c, x.images, fine, 1);
    std::optional<Arena::Scope> scope;
    if (kept == nullptr) scope.emplace(c.arena);
    const Maps logits = resample(c, pointwise(c, x, w(weight_), w(bias_)), fine, false);
    c.ops.relu(c.stream, logits.values, logits.values);
    const int64_t rows = logits.values.dim(0);
    const TensorView sum = c.arena.make({rows}), one_over = c.arena.make({rows});
    totals(c, logits, sum, one_over);
    copy(c.stream, depth.values.reshaped({rows}), sum);
    c.ops.scale_rows_columns(c.stream, depth.values, one_over, ones(c, 1));
    if (kept != nullptr) {
      kept->keep(logits);
      kept->keep({one_over.reshaped({rows, 1}), x.images, fine});
      kept->keep(depth);
    }
    return depth;
  }

  /// d z_k = [z_k > 0] d_depth (centre_k - depth) / sum a: two outer products.
  void backward(const Context& c, const UnitView&, std::span<const Maps> inputs, Kept& kept, const Maps& dy,
                const UnitGradient& d) const override {
    const Maps depth = kept.take(), one_over = kept.take(), active = kept.take();
    const int64_t rows = depth.values.dim(0);
    const Arena::Scope scope(c.arena);
    const TensorView scaled = c.arena.make({rows, 1}), negative = c.arena.make({rows, 1});
    copy(c.stream, scaled, dy.values);
    c.ops.scale_rows_columns(c.stream, scaled, one_over.values.reshaped({rows}), ones(c, 1));
    copy(c.stream, negative, scaled);
    c.ops.scale_rows_columns(c.stream, negative, depth.values.reshaped({rows}), ones(c, 1));
    const Maps d_logits = new_maps(c, depth.images, depth.grid, bins_);
    const TensorView minus = c.arena.make({1, bins_});
    fill(c.stream, minus, -1);
    c.ops.linear_backward_input(c.stream, scaled, centres(c).reshaped({1, bins_}), d_logits.values, false);
    c.ops.linear_backward_input(c.stream, negative, minus, d_logits.values, true);
    c.ops.relu_backward(c.stream, d_logits.values, active.values, d_logits.values);
    const Maps& x = only(inputs);
    const Maps coarse = resample_backward(c, d_logits, x.grid, false);
    c.ops.linear_backward_weight(c.stream, coarse.values, x.values, d(weight_), d(bias_));
  }

 private:
  static constexpr int64_t kFiner = 4;
  static constexpr float kFloor = 0.1F;

  TensorView centres(const Context& c) const {
    return c.arena.upload(c.stream, std::span<const float>(centres_));
  }
  static TensorView ones(const Context& c, int64_t count) {
    const TensorView out = c.arena.make({count});
    fill(c.stream, out, 1);
    return out;
  }
  /// sum_k a_k centre_k, and 1 / sum_k a_k, of active = relu(z).
  void totals(const Context& c, const Maps& active, TensorView sum, TensorView one_over) const {
    double of_centres = 0;
    for (const float centre : centres_) of_centres += static_cast<double>(centre);
    // Constants come as a bias: sums of the floor over the bins.
    const std::array<float, 2> floors = {static_cast<float>(of_centres) * kFloor,
                                         static_cast<float>(bins_) * kFloor};
    const TensorView constants = c.arena.upload(c.stream, std::span<const float>(floors));
    const int64_t rows = active.values.dim(0);
    c.ops.linear(c.stream, active.values, centres(c).reshaped({1, bins_}), constants.rows(0, 1),
                 ops::Activation::none, sum.reshaped({rows, 1}), {});
    c.ops.linear(c.stream, active.values, ones(c, bins_).reshaped({1, bins_}), constants.rows(1, 1),
                 ops::Activation::none, one_over.reshaped({rows, 1}), {});
    c.ops.reciprocal(c.stream, one_over, 0, one_over);
  }

  std::vector<float> centres_;
  int64_t bins_;
  ParameterPlace weight_, bias_;
};

}  // namespace

std::unique_ptr<DenseHead> make_linear_segmentation_head(int64_t width, int64_t classes) {
  return std::make_unique<LinearSegmentation>(width, classes);
}

std::unique_ptr<DenseHead> make_binned_depth_head(int64_t width, std::vector<float> centres) {
  return std::make_unique<BinnedDepth>(width, std::move(centres));
}

std::vector<float> bin_centres(BinSpread spread, int64_t bins, double least, double most) {
  DINO_CHECK(bins > 1 && least > 0 && least < most, "no range of depths");
  std::vector<float> centres;
  const auto last = static_cast<double>(bins - 1);
  for (int64_t k = 0; k < bins; ++k) {
    const auto at = static_cast<double>(k);
    double centre = least + (most - least) * at / last;
    if (spread == BinSpread::log) centre = least * std::pow(most / least, at / last);
    if (spread == BinSpread::linear) centre = least + (most - least) * at * (at + 1) / (last * (last + 1));
    centres.push_back(static_cast<float>(centre));
  }
  return centres;
}

}  // namespace dino
