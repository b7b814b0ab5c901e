// SPDX-License-Identifier: Apache-2.0
// Heads, losses and scores of dense tasks against PyTorch and scikit-learn (tests/peers/dense_oracle.py).
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "host_place.hpp"
#include "model/dense_heads.hpp"
#include "numeric/depth_errors.hpp"
#include "numeric/segmentation_scores.hpp"
#include "storage/hdf5.hpp"
#include "test_data.hpp"
#include "training/dense_losses.hpp"

namespace dino {
namespace {

class DenseOracle : public ::testing::Test {
 protected:
  [[nodiscard]] std::vector<float> floats(const std::string& name) const {
    const Tensor tensor = file_.read(name, DType::f32);
    return {tensor.f32().begin(), tensor.f32().end()};
  }
  [[nodiscard]] std::vector<double> doubles(const std::string& name) const {
    const Tensor tensor = file_.read(name, DType::f64);
    return {tensor.as<double>(), tensor.as<double>() + tensor.numel()};
  }
  [[nodiscard]] std::vector<int16_t> classes(const std::string& name) const {
    const auto values = floats(name);
    return {values.begin(), values.end()};
  }
  [[nodiscard]] Maps layer(const Context& c, int i) const {
    const auto values = floats("/layers/" + std::to_string(i));
    return {c.arena.upload(c.stream, std::span<const float>(values)).reshaped({24, 16}), 2, {3, 4}};
  }
  void expect_map(const DenseHead& head, std::span<const Maps> inputs, const std::string& name,
                  GridSize grid) const {
    ParameterStore weights(head.layout());
    for (const ParameterInfo& info : head.layout().parameters()) {
      const auto stored = floats("/weights/" + info.name);
      const auto values = weights.view(info).f32();
      ASSERT_EQ(stored.size(), values.size()) << info.name;
      std::copy(stored.begin(), stored.end(), values.begin());
    }
    const Maps made = head.forward(place_.c, weights.acquire(0), inputs, nullptr);
    EXPECT_EQ(made.grid, grid);
    const auto expected = doubles(name);
    ASSERT_EQ(expected.size(), static_cast<size_t>(made.values.numel()));
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_NEAR(made.values.f32()[i], expected[i], 2e-5 * (1 + std::abs(expected[i]))) << i;
  }
  const Hdf5File file_ = Hdf5File::open(test::data_folder() + "/golden/dense.h5");
  const HostPlace place_;
};

TEST_F(DenseOracle, Dpt) {
  std::vector<Maps> layers;
  for (int i = 0; i < 4; ++i) layers.push_back(layer(place_.c, i));
  expect_map(*make_dpt_depth_head({8, 6, 1e-3}), layers, "/dpt", {64, 64});
}

TEST_F(DenseOracle, BinnedDepth) {
  const std::array one = {layer(place_.c, 0)};
  expect_map(*make_binned_depth_head(16, floats("/centres")), one, "/binned", {12, 16});
}

TEST_F(DenseOracle, DepthLoss) {
  const auto predicted = floats("/predicted"), truth = floats("/truth");
  std::vector<float> gradient(truth.size());
  EXPECT_NEAR(depth_loss(predicted, truth, 2, {15, 14}, {}, gradient), doubles("/loss")[0], 1e-7);
  const auto expected = doubles("/gradient");
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(gradient[i], expected[i], 1e-7) << i;
}

TEST_F(DenseOracle, Scores) {
  std::vector<int64_t> confusion(49);
  add_confusion(classes("/labels"), classes("/classes"), 7, confusion);
  const SegmentationScores scores = segmentation_scores(class_areas(confusion, 7), 7);
  const auto expected = doubles("/segmentation");
  EXPECT_NEAR(scores.miou, expected[0], 1e-12);
  EXPECT_NEAR(scores.macc, expected[1], 1e-12);
  EXPECT_NEAR(scores.aacc, expected[2], 1e-12);
  const auto truth = floats("/truth");
  std::vector<uint8_t> valid;
  for (const float t : truth) valid.push_back(t > 0 ? 1 : 0);
  const DepthErrors errors = depth_errors(floats("/predicted"), truth, valid, 1e-3, 80);
  const auto depth = doubles("/depth");
  size_t i = 0;
  for (const NamedDepthError& error : depth_error_names())
    EXPECT_NEAR(errors.*error.member, depth[i++], 1e-9) << error.name;
}

}  // namespace
}  // namespace dino
