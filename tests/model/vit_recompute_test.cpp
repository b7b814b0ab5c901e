// SPDX-License-Identifier: Apache-2.0
// What a backward pass makes again has the bits that it would have kept.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/random.hpp"
#include "host_place.hpp"
#include "model/vit.hpp"

namespace dino {
namespace {

Tensor noise(const Shape& shape, uint64_t id) {
  Tensor tensor(shape);
  Random random(2, RandomStream::test, id);
  for (float& value : tensor.f32()) value = static_cast<float>(random.normal());
  return tensor;
}

struct Case {
  std::string name;
  FfnKind ffn = FfnKind::mlp;
  Precision precision = Precision::f32;
  double drop = 0;
  bool few = false;  ///< rows that are read
};

class Recomputation : public ::testing::TestWithParam<Case> {
 protected:
  Recomputation() {
    config_ = vit_preset("vit_micro");
    config_.depth = 4;
    config_.layerscale = 0.5;
    config_.drop_path = GetParam().drop;
    config_.registers = 2;
    config_.ffn = GetParam().ffn;
    if (config_.ffn == FfnKind::swiglu) config_.hidden = swiglu_hidden(config_.width);
    append_vit_layout(layout_, config_);
  }
  VitConfig config_;
  ParameterLayout layout_;
};

TEST_P(Recomputation, ChangesNoBitOfAnyGradient) {
  ParameterStore weights(layout_);
  weights.initialize(3);
  const Tensor large = noise({5, 3, 40, 48}, 1), small = noise({6, 3, 24, 16}, 2);
  const CropBatch crops[] = {{large, {}}, {small, {}}};
  const DropPathEntry batches[] = {{1, 5, 0, 5}, {1, 6, 0, 6}};
  const DropPathPlan plan = draw_drop_path(config_, batches, 1, 2);
  std::vector<int64_t> read;
  for (const TokenEntry& entry : token_entries(config_, crops))
    for (int64_t image = 0; image < entry.batch; ++image) read.push_back(entry.cls_row(image));
  VitForwardOptions options;
  if (!plan.empty()) options.drop_path = &plan;
  if (GetParam().few) options.read_rows = read;

  const Vit vit(config_);
  std::vector<std::vector<float>> values;
  std::vector<int64_t> bytes;
  for (const Recompute recompute : {Recompute::none, Recompute::selective, Recompute::block}) {
    HostPlace host(GetParam().precision);
    options.recompute = recompute;
    std::shared_ptr<VitSaved> saved;
    const VitOutput output = vit.forward(host.c, weights, crops, options, &saved);
    bytes.push_back(host.c.arena.used_bytes());
    Tensor d_norm(output.norm.shape);
    for (const int64_t row : read) {
      const Tensor part = noise({config_.width}, static_cast<uint64_t>(100 + row));
      std::copy(part.f32().begin(), part.f32().end(), d_norm.view().rows(row, 1).f32().begin());
    }
    ParameterStore gradients(layout_);
    vit.backward(host.c, weights, *saved, d_norm, {}, gradients);
    std::vector<float>& all = values.emplace_back();
    for (const int64_t row : read) {
      const std::span<const float> token = output.norm.rows(row, 1).f32();
      all.insert(all.end(), token.begin(), token.end());
    }
    for (size_t unit = 0; unit < layout_.units().size(); ++unit) {
      const std::span<const float> part = gradients.unit(static_cast<int64_t>(unit)).f32();
      all.insert(all.end(), part.begin(), part.end());
    }
  }
  EXPECT_TRUE(values[1] == values[0]) << "selective";
  EXPECT_TRUE(values[2] == values[0]) << "block";
  EXPECT_LT(bytes[1], bytes[0]);
  EXPECT_LT(bytes[2], bytes[1]);
}

INSTANTIATE_TEST_SUITE_P(Cases, Recomputation,
                         ::testing::Values(Case{"mlp"}, Case{"swiglu", FfnKind::swiglu},
                                           Case{"bf16", FfnKind::mlp, Precision::bf16, 0.4, true},
                                           Case{"fp16", FfnKind::mlp, Precision::f16, 0.4, true},
                                           Case{"swiglu_bf16", FfnKind::swiglu, Precision::bf16, 0.4, true},
                                           Case{"few_rows", FfnKind::mlp, Precision::f32, 0, true}),
                         [](const auto& given) { return given.param.name; });

}  // namespace
}  // namespace dino
