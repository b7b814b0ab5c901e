// SPDX-License-Identifier: Apache-2.0
// Heads on frozen features: layers against plain loops, gradients against finite differences.
#include "model/dense_heads.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/random.hpp"
#include "host_place.hpp"

namespace dino {
namespace {

std::vector<float> random_values(int64_t count, uint64_t index, double scale = 1) {
  Random random(3, RandomStream::test, index);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(random.normal() * scale);
  return values;
}

TensorView uploaded_values(const Context& c, const std::vector<float>& values, Shape shape) {
  return c.arena.upload(c.stream, std::span<const float>(values)).reshaped(shape);
}

Maps random_maps(const Context& c, int64_t images, GridSize grid, int64_t channels, uint64_t index) {
  const int64_t rows = images * grid.pixels();
  return {uploaded_values(c, random_values(rows * channels, index), {rows, channels}), images, grid};
}

double at(const Maps& maps, int64_t image, int64_t y, int64_t x, int64_t channel) {
  if (y < 0 || x < 0 || y >= maps.grid.height || x >= maps.grid.width) return 0;
  return static_cast<double>(maps.values.f32()[static_cast<size_t>(
      ((image * maps.grid.height + y) * maps.grid.width + x) * maps.channels() + channel)]);
}

double dot(ConstTensorView a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < b.size(); ++i) sum += static_cast<double>(a.f32()[i]) * static_cast<double>(b[i]);
  return sum;
}

/// The derivative of `loss` along `direction` at `values`, by central differences.
double slope(std::span<float> values, const std::vector<float>& direction, double step,
             const std::function<double()>& loss) {
  const std::vector<float> start(values.begin(), values.end());
  const auto move = [&](double by) {
    for (size_t i = 0; i < start.size(); ++i)
      values[i] = static_cast<float>(static_cast<double>(start[i]) + by * static_cast<double>(direction[i]));
    return loss();
  };
  const double difference = (move(step) - move(-step)) / (2 * step);
  std::copy(start.begin(), start.end(), values.begin());
  return difference;
}

TEST(MapLayers, ConvolutionIsThatOfPlainLoops) {
  const HostPlace place;
  const Context& c = place.c;
  for (const int64_t stride : {1, 2}) {
    const Maps x = random_maps(c, 2, {5, 4}, 3, 1);
    const TensorView w = uploaded_values(c, random_values(2 * 27, 2), {2, 3, 3, 3}),
                     b = uploaded_values(c, random_values(2, 3), {2});
    const Maps y = convolve(c, x, w, b, stride);
    EXPECT_EQ(y.grid, (GridSize{stride == 1 ? 5 : 3, stride == 1 ? 4 : 2}));
    for (int64_t i = 0; i < 2; ++i)
      for (int64_t row = 0; row < y.grid.height; ++row)
        for (int64_t column = 0; column < y.grid.width; ++column)
          for (int64_t o = 0; o < 2; ++o) {
            double sum = static_cast<double>(b.f32()[static_cast<size_t>(o)]);
            for (int64_t ky = 0; ky < 3; ++ky)
              for (int64_t kx = 0; kx < 3; ++kx)
                for (int64_t k = 0; k < 3; ++k)
                  sum += at(x, i, row * stride + ky - 1, column * stride + kx - 1, k) *
                         static_cast<double>(w.f32()[static_cast<size_t>(((o * 3 + ky) * 3 + kx) * 3 + k)]);
            EXPECT_NEAR(at(y, i, row, column, o), sum, 1e-5);
          }
  }
}

TEST(MapLayers, EnlargementPutsASquareForEachPixel) {
  const HostPlace place;
  const Context& c = place.c;
  const Maps x = random_maps(c, 2, {2, 3}, 3, 4);
  const TensorView w = uploaded_values(c, random_values(4 * 2 * 3, 5), {2, 2, 2, 3}),
                   b = uploaded_values(c, random_values(2, 6), {2});
  const Maps y = enlarge(c, x, w, b);
  EXPECT_EQ(y.grid, (GridSize{4, 6}));
  for (int64_t i = 0; i < 2; ++i)
    for (int64_t row = 0; row < 4; ++row)
      for (int64_t column = 0; column < 6; ++column)
        for (int64_t o = 0; o < 2; ++o) {
          double sum = static_cast<double>(b.f32()[static_cast<size_t>(o)]);
          for (int64_t k = 0; k < 3; ++k)
            sum += at(x, i, row / 2, column / 2, k) *
                   static_cast<double>(
                       w.f32()[static_cast<size_t>((((row % 2) * 2 + column % 2) * 2 + o) * 3 + k)]);
          EXPECT_NEAR(at(y, i, row, column, o), sum, 1e-5);
        }
}

TEST(MapLayers, BilinearAsTorchDefinesIt) {
  const HostPlace place;
  const Context& c = place.c;
  // torch.nn.functional.interpolate of 0 1 2 to five: areas or corners coincide.
  const Maps x{uploaded_values(c, {0, 1, 2}, {3, 1}), 1, {1, 3}};
  const auto values = [](const Maps& maps) {
    return std::vector<float>(maps.values.f32().begin(), maps.values.f32().end());
  };
  const auto areas = values(resample(c, x, {1, 5}, false)), corners = values(resample(c, x, {1, 5}, true));
  const std::vector<float> of_areas = {0, 0.4F, 1, 1.6F, 2}, of_corners = {0, 0.5F, 1, 1.5F, 2};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_NEAR(areas[i], of_areas[i], 1e-6);
    EXPECT_NEAR(corners[i], of_corners[i], 1e-6);
  }
  // A ramp stays one in both directions, away from the border.
  Maps plane = random_maps(c, 1, {4, 4}, 1, 0);
  for (int64_t y = 0; y < 4; ++y)
    for (int64_t column = 0; column < 4; ++column)
      plane.values.f32()[static_cast<size_t>(4 * y + column)] = static_cast<float>(10 * y + column);
  const Maps fine = resample(c, plane, {8, 8}, false);
  EXPECT_NEAR(at(fine, 0, 3, 4, 0), 10 * 1.25 + 1.75, 1e-5);
}

TEST(MapLayers, BackwardIsTheTransposeOfForward) {
  const HostPlace place;
  const Context& c = place.c;
  // <forward(x), dy> is linear in x and in the weights: its derivative along any direction is exact.
  const Maps x = random_maps(c, 2, {5, 3}, 4, 7);
  const auto check = [&](const char* what, const std::function<Maps(const Maps&, ConstTensorView)>& forward,
                         const std::function<Maps(const Maps&, const Maps&, ConstTensorView, TensorView,
                                                  TensorView)>& backward,
                         Shape weights, int64_t outputs) {
    const TensorView w = uploaded_values(c, random_values(weights.numel(), 8), weights);
    const Maps y = forward(x, w);
    const std::vector<float> dy = random_values(y.values.numel(), 9);
    const Maps given{uploaded_values(c, dy, y.values.shape), y.images, y.grid};
    const TensorView dw = c.arena.zeros(c.stream, weights), db = c.arena.zeros(c.stream, {outputs});
    const Maps dx = backward(x, given, w, dw, db);
    const auto loss = [&] {
      const Arena::Scope scope(c.arena);
      return dot(forward(x, w).values, dy);
    };
    const auto along_x = random_values(x.values.numel(), 10), along_w = random_values(weights.numel(), 11);
    const double by_x = slope(x.values.f32(), along_x, 1, loss), by_w = slope(w.f32(), along_w, 1, loss);
    EXPECT_NEAR(dot(dx.values, along_x), by_x, 1e-3 * (1 + std::abs(by_x))) << what;
    EXPECT_NEAR(dot(dw, along_w), by_w, 1e-3 * (1 + std::abs(by_w))) << what;
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = 0;
      for (size_t i = static_cast<size_t>(o); i < dy.size(); i += static_cast<size_t>(outputs))
        sum += static_cast<double>(dy[i]);
      EXPECT_NEAR(db.f32()[static_cast<size_t>(o)], sum, 1e-4) << what;
    }
  };
  for (const int64_t stride : {1, 2})
    check(
        "convolution", [&](const Maps& in, ConstTensorView w) { return convolve(c, in, w, {}, stride); },
        [&](const Maps& in, const Maps& dy, ConstTensorView w, TensorView dw, TensorView db) {
          return convolve_backward(c, in, dy, w, dw, db, stride);
        },
        {3, 3, 3, 4}, 3);
  const TensorView none = c.arena.zeros(c.stream, {3});
  check(
      "enlargement", [&](const Maps& in, ConstTensorView w) { return enlarge(c, in, w, none); },
      [&](const Maps& in, const Maps& dy, ConstTensorView w, TensorView dw, TensorView db) {
        return enlarge_backward(c, in, dy, w, dw, db);
      },
      {2, 2, 3, 4}, 3);
  for (const bool corners : {false, true}) {
    const Maps y = resample(c, x, {7, 8}, corners);
    const std::vector<float> dy = random_values(y.values.numel(), 12);
    const Maps dx =
        resample_backward(c, {uploaded_values(c, dy, y.values.shape), 2, y.grid}, x.grid, corners);
    EXPECT_NEAR(dot(dx.values, std::vector<float>(x.values.f32().begin(), x.values.f32().end())),
                dot(y.values, dy), 1e-3);
  }
}

/// The loss is a sum of the output with fixed weights.
class HeadGradient {
 public:
  HeadGradient(const Context& c, const DenseHead& head, std::vector<Maps> inputs)
      : c_(c), head_(head), inputs_(std::move(inputs)), weights_(head.layout()), gradients_(head.layout()) {
    weights_.initialize(5);
    // Away from what is symmetric at the start.
    for (const ParameterInfo& info : head.layout().parameters()) {
      const auto noise = random_values(info.shape.numel(), 20 + static_cast<uint64_t>(info.offset), 0.1);
      const auto values = weights_.view(info).f32();
      for (size_t i = 0; i < noise.size(); ++i) values[i] += noise[i];
    }
    Kept kept;
    const Maps y = head_.forward(c_, weights_.acquire(0), inputs_, &kept);
    // Of one sign, so that the few pixels at a kink of a ReLU are few in the sum too.
    output_ = random_values(y.values.numel(), 30);
    for (float& weight : output_) weight = std::abs(weight);
    head_.backward(c_, weights_.acquire(0), inputs_, kept,
                   {uploaded_values(c_, output_, y.values.shape), y.images, y.grid}, gradients_.gradient(0));
    EXPECT_TRUE(kept.empty());
  }
  [[nodiscard]] double loss() const {
    const Arena::Scope scope(c_.arena);
    return dot(head_.forward(c_, weights_.acquire(0), inputs_, nullptr).values, output_);
  }
  /// Of each parameter, along a direction that is half its gradient's and half random.
  void check(double step, double tolerance) {
    for (const ParameterInfo& info : head_.layout().parameters()) {
      const ConstTensorView gradient = gradients_.view(info);
      const auto length_of = [](std::span<const float> values) {
        double sum = 0;
        for (const float v : values) sum += static_cast<double>(v) * static_cast<double>(v);
        return std::sqrt(sum);
      };
      const double norm = length_of(gradient.f32());
      EXPECT_GT(norm, 1e-6) << info.name << " has no gradient";
      auto along = random_values(info.shape.numel(), 40);
      const double noise = length_of(along);
      for (size_t i = 0; i < along.size(); ++i)
        along[i] = static_cast<float>(static_cast<double>(gradient.f32()[i]) / norm +
                                      static_cast<double>(along[i]) / noise);
      const double expected = dot(gradient, along);
      EXPECT_NEAR(slope(weights_.view(info).f32(), along, step, [&] { return loss(); }), expected,
                  tolerance * norm)
          << info.name;
    }
  }

 private:
  const Context& c_;
  const DenseHead& head_;
  std::vector<Maps> inputs_;
  ParameterStore weights_, gradients_;
  std::vector<float> output_;
};

TEST(DenseHeads, LinearSegmentationIsItsFormula) {
  const HostPlace place;
  const Context& c = place.c;
  const auto head = make_linear_segmentation_head(5, 3);
  ParameterStore weights(head->layout());
  weights.initialize(1);
  for (size_t i = 0; i < 5; ++i) {
    weights.view("segment.bn.weight").f32()[i] = 0.5F + static_cast<float>(i);
    weights.view("segment.bn.bias").f32()[i] = 1 - static_cast<float>(i);
  }
  weights.view("segment.conv_seg.bias").f32()[2] = 7;
  const Maps x = random_maps(c, 1, {2, 2}, 5, 50);
  const Maps y = head->forward(c, weights.acquire(0), std::array{x}, nullptr);
  for (int64_t p = 0; p < 4; ++p)
    for (int64_t k = 0; k < 3; ++k) {
      double sum = k == 2 ? 7 : 0;
      for (int64_t i = 0; i < 5; ++i)
        sum += (at(x, 0, p / 2, p % 2, i) * (0.5 + static_cast<double>(i)) + 1 - static_cast<double>(i)) *
               static_cast<double>(
                   weights.view("segment.conv_seg.weight").f32()[static_cast<size_t>(k * 5 + i)]);
      EXPECT_NEAR(at(y, 0, p / 2, p % 2, k), sum, 1e-5);
    }
  HeadGradient(c, *head, {random_maps(c, 2, {3, 2}, 5, 51)}).check(1e-2, 1e-3);
}

TEST(DenseHeads, BinCentres) {
  const auto uniform = bin_centres(BinSpread::uniform, 256, 1e-3, 10);
  EXPECT_FLOAT_EQ(uniform.front(), 1e-3F);
  EXPECT_FLOAT_EQ(uniform.back(), 10);
  EXPECT_NEAR(uniform[1] - uniform[0], (10 - 1e-3) / 255, 1e-6);
  const auto logs = bin_centres(BinSpread::log, 5, 1, 16);
  const auto linear = bin_centres(BinSpread::linear, 4, 1, 13);
  const std::vector<float> by_doubling = {1, 2, 4, 8, 16}, by_growing = {1, 3, 7, 13};  // steps of 2, 4, 6
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(logs[i], by_doubling[i], 1e-5);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(linear[i], by_growing[i], 1e-5);
  EXPECT_THROW((void)bin_centres(BinSpread::uniform, 1, 1, 2), InternalError);
}

TEST(DenseHeads, BinnedDepthIsItsFormula) {
  const HostPlace place;
  const Context& c = place.c;
  const auto centres = bin_centres(BinSpread::uniform, 6, 0.5, 8);
  const auto head = make_binned_depth_head(5, centres);
  ParameterStore weights(head->layout());
  weights.initialize(1);
  const Maps x = random_maps(c, 2, {2, 3}, 5, 52);
  const Maps y = head->forward(c, weights.acquire(0), std::array{x}, nullptr);
  EXPECT_EQ(y.grid, (GridSize{8, 12}));
  // The published order: the features are enlarged, then convolved.
  const Maps fine = resample(c, x, {8, 12}, false);
  for (int64_t p = 0; p < 96; ++p) {
    double sum = 0, weighted = 0;
    for (int64_t k = 0; k < 6; ++k) {
      double z = static_cast<double>(weights.view("depth.conv_depth.bias").f32()[static_cast<size_t>(k)]);
      for (int64_t i = 0; i < 5; ++i)
        z += at(fine, 1, p / 12, p % 12, i) *
             static_cast<double>(
                 weights.view("depth.conv_depth.weight").f32()[static_cast<size_t>(k * 5 + i)]);
      const double a = std::max(z, 0.0) + static_cast<double>(0.1F);
      sum += a;
      weighted += a * static_cast<double>(centres[static_cast<size_t>(k)]);
    }
    EXPECT_NEAR(at(y, 1, p / 12, p % 12, 0), weighted / sum, 1e-5);
  }
  HeadGradient(c, *head, {x}).check(1e-3, 1e-2);
}

TEST(DenseHeads, DptGradients) {
  const HostPlace place;
  const Context& c = place.c;
  for (const GridSize grid : {GridSize{2, 4}, GridSize{3, 2}}) {
    const auto head = make_dpt_depth_head({8, 6, 1e-3});
    std::vector<Maps> inputs;
    for (uint64_t i = 0; i < 4; ++i) inputs.push_back(random_maps(c, 2, grid, 16, 60 + i));
    HeadGradient gradient(c, *head, inputs);
    gradient.check(3e-4, 3e-2);
  }
}

TEST(DenseHeads, DptIsEverywhereAtLeastTheLeastDepth) {
  const HostPlace place;
  const Context& c = place.c;
  const auto head = make_dpt_depth_head({8, 4, 0.25});
  ParameterStore weights(head->layout());
  weights.initialize(2);
  std::vector<Maps> inputs;
  for (uint64_t i = 0; i < 4; ++i) inputs.push_back(random_maps(c, 1, {2, 2}, 16, 70 + i));
  const Maps y = head->forward(c, weights.acquire(0), inputs, nullptr);
  EXPECT_EQ(y.grid, (GridSize{32, 32}));
  for (const float z : y.values.f32()) EXPECT_GE(z, 0.25F);
}

}  // namespace
}  // namespace dino
