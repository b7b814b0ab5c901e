// SPDX-License-Identifier: Apache-2.0
#include "model/parameters.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/cpu.hpp"
#include "base/error.hpp"
#include "model/head.hpp"
#include "model/vit.hpp"
#include "ops/precision.hpp"

namespace dino {
namespace {

VitConfig at_grid(const std::string& preset, int64_t grid) {
  VitConfig config = vit_preset(preset);
  config.position_grid = grid;
  return config;
}

/// Counts of the published models (their tables for 518 px), to the unit.
TEST(ParameterCounts, PublishedBackbones) {
  EXPECT_EQ(vit_parameter_count(vit_preset("vits14")), 22'056'576);
  EXPECT_EQ(vit_parameter_count(vit_preset("vitb14")), 86'580'480);
  EXPECT_EQ(vit_parameter_count(vit_preset("vitl14")), 304'368'640);
  EXPECT_EQ(vit_parameter_count(vit_preset("vitg14")), 1'136'480'768);
  EXPECT_EQ(vit_parameter_count(at_grid("vitl14_scratch", 37)), 304'794'880);
  EXPECT_EQ(vit_parameter_count(vit_preset("vits14_reg")), 22'056'576 + 4 * 384);
  EXPECT_EQ(vit_parameter_count(vit_preset("vitg14_reg")), 1'136'480'768 + 4 * 1536);
  // A table for 224 px has 16^2 instead of 37^2 positions.
  EXPECT_EQ(vit_parameter_count(at_grid("vits14", 16)), 22'056'576 - (1369 - 256) * 384);
}

TEST(ParameterCounts, Heads) {
  HeadConfig config;
  config.input = 1024;
  EXPECT_EQ(head_parameter_count(config),
            1024 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256 + 65536 * 257);
  config.prototypes = 131072;
  config.bottleneck = 384;
  EXPECT_EQ(head_parameter_count(config), 57'545'088);
  config.layers = 1;
  EXPECT_EQ(head_parameter_count(config), 1024 * 384 + 384 + 131072 * 385);
}

TEST(VitPresets, AllAreConsistent) {
  for (const std::string& name : vit_preset_names()) {
    const VitConfig config = vit_preset(name);
    EXPECT_EQ(config.width % config.heads, 0) << name;
    EXPECT_EQ(config.width / config.heads, 64) << name;
    EXPECT_EQ(config.registers > 0, config.position_kernel == PositionKernel::antialias) << name;
  }
  EXPECT_EQ(swiglu_hidden(1024), 2736);
  EXPECT_EQ(swiglu_hidden(1536), 4096);
  try {
    (void)vit_preset("vitx");
    FAIL() << "an unknown preset was accepted";
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("vits14, vitb14"), std::string::npos) << error.what();
  }
  EXPECT_EQ(precision_here(Precision::f32, Device::Kind::cpu), Precision::f32);
  EXPECT_EQ(precision_here(Precision::bf16, Device::Kind::cpu), Precision::bf16);
  EXPECT_EQ(precision_here({}, Device::Kind::cuda), Precision::bf16);
  EXPECT_EQ(precision_here(Precision::tf32, Device::Kind::cuda), Precision::tf32);
  EXPECT_EQ(dtype_of(Precision::tf32), DType::f32);
  EXPECT_THROW(static_cast<void>(precision_here(Precision::tf32, Device::Kind::cpu)), UsageError);
  EXPECT_EQ(precision_here({}, Device::Kind::cpu), cpu_has_bf16() ? Precision::bf16 : Precision::f32);
  EXPECT_STREQ(name_of(Precision::f32), "fp32");
}

ParameterLayout micro_layout() {
  ParameterLayout layout;
  append_vit_layout(layout, vit_preset("vit_micro"));
  HeadConfig head{64, 96, 2, 32, 100};
  append_head_layout(layout, head, "dino_head");
  return layout;
}

TEST(ParameterLayout, UnitsHoldTheirParametersWithoutOverlap) {
  const ParameterLayout layout = micro_layout();
  ASSERT_EQ(layout.units().size(), 5U);
  EXPECT_EQ(layout.units()[0].name, "backbone.embed");
  EXPECT_EQ(layout.units()[2].name, "backbone.blocks.1");
  EXPECT_EQ(layout.units()[3].name, "backbone.norm");
  EXPECT_EQ(layout.units()[4].module, "dino_head");
  std::vector<int64_t> end(layout.units().size(), 0);
  int64_t total = 0;
  for (const ParameterInfo& info : layout.parameters()) {
    int64_t& filled = end[static_cast<size_t>(info.unit)];
    EXPECT_GE(info.offset, filled) << info.name;
    EXPECT_EQ(info.offset % 16, 0) << info.name;
    filled = info.offset + info.shape.numel();
    total += info.shape.numel();
  }
  for (size_t u = 0; u < end.size(); ++u) {
    EXPECT_LE(end[u], layout.units()[u].numel);
    EXPECT_EQ(layout.units()[u].padded % kUnitAlignment, 0);
    EXPECT_LT(layout.units()[u].padded - layout.units()[u].numel, kUnitAlignment);
  }
  EXPECT_EQ(layout.count(), total);
  EXPECT_EQ(layout.count("backbone") + layout.count("dino_head"), total);
  EXPECT_EQ(layout.find_if("backbone.blocks.7.norm1.weight"), nullptr);
  EXPECT_THROW((void)layout.find("nonsense"), InternalError);
}

struct Moments {
  double mean = 0, deviation = 0, largest = 0;
};

Moments moments_of(std::span<const float> values) {
  Moments m;
  for (const float x : values) m.mean += static_cast<double>(x) / static_cast<double>(values.size());
  for (const float x : values) {
    m.deviation += (static_cast<double>(x) - m.mean) * (static_cast<double>(x) - m.mean);
    m.largest = std::max(m.largest, std::abs(static_cast<double>(x)));
  }
  m.deviation = std::sqrt(m.deviation / static_cast<double>(values.size()));
  return m;
}

TEST(ParameterStore, StartsLikeTheReference) {
  const ParameterLayout layout = micro_layout();
  ParameterStore store(layout);
  store.initialize(5);
  const auto moments = [&](const char* name) { return moments_of(store.view(std::string_view(name)).f32()); };
  // Standard errors: 0.02 / sqrt(12288) = 1.8e-4 for the mean.
  const Moments qkv = moments("backbone.blocks.0.attn.qkv.weight");
  EXPECT_NEAR(qkv.mean, 0, 1e-3);
  EXPECT_NEAR(qkv.deviation, 0.02, 1e-3);
  EXPECT_GT(qkv.largest, 0.06) << "a normal, not a uniform";
  const double half = 1.0 / std::sqrt(3.0 * 8 * 8);
  const Moments patch = moments("backbone.patch_embed.proj.weight");
  EXPECT_NEAR(patch.deviation, half / std::sqrt(3.0), 1e-3);
  EXPECT_LE(patch.largest, half);
  EXPECT_GT(patch.largest, 0.99 * half);
  EXPECT_GT(moments("backbone.patch_embed.proj.bias").deviation, 0.1 * half);
  const Moments cls = moments("backbone.cls_token");
  EXPECT_GT(cls.deviation, 3e-7);
  EXPECT_LT(cls.largest, 1e-5);
  EXPECT_EQ(moments("backbone.mask_token").largest, 0);
  EXPECT_EQ(moments("backbone.blocks.0.attn.qkv.bias").largest, 0);
  EXPECT_FLOAT_EQ(store.view("backbone.blocks.1.ls2.gamma").f32()[3], 1e-5F);
  EXPECT_EQ(store.view("backbone.norm.weight").f32()[0], 1.0F);
  EXPECT_EQ(store.view("dino_head.last_layer.weight_g").f32()[99], 1.0F);
  const Moments prototypes = moments("dino_head.last_layer.weight_v");
  EXPECT_LE(prototypes.largest, 1 / std::sqrt(32.0));
  EXPECT_GT(prototypes.largest, 0.95 / std::sqrt(32.0));
}

TEST(ParameterStore, DrawsDependOnSeedAndNameOnly) {
  const ParameterLayout layout = micro_layout();
  ParameterLayout other;
  append_head_layout(other, {64, 96, 2, 32, 100}, "dino_head");
  ParameterStore a(layout);
  ParameterStore b(other);
  a.initialize(5);
  b.initialize(5);
  for (const ParameterInfo& info : other.parameters()) {
    const auto x = a.view(info.name).f32();
    const auto y = b.view(info.name).f32();
    EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end())) << info.name;
  }
  b.initialize(6);
  EXPECT_NE(a.view("dino_head.mlp.0.weight").f32()[0], b.view("dino_head.mlp.0.weight").f32()[0]);
  EXPECT_NE(a.view("backbone.blocks.0.mlp.fc1.weight").f32()[0],
            a.view("backbone.blocks.1.mlp.fc1.weight").f32()[0]);
  ParameterStore copy(layout);
  HostStream stream;
  copy.copy_from(stream, a);
  for (int64_t u = 0; u < 5; ++u) EXPECT_TRUE(std::ranges::equal(a.unit(u).f32(), copy.unit(u).f32()));
  copy.zero(stream);
  EXPECT_EQ(moments_of(copy.unit(0).f32()).largest, 0);
}

}  // namespace
}  // namespace dino
