// SPDX-License-Identifier: Apache-2.0
#include "model/vit.hpp"
#include "host_place.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/random.hpp"
#include "golden_support.hpp"
#include "model/head.hpp"
#include "model/vit_parts.hpp"

namespace dino {
namespace {

using golden::relative_error;

Tensor random_tensor(const Shape& shape, uint64_t index) {
  Tensor tensor(shape);
  Random random(11, RandomStream::test, index);
  for (float& x : tensor.f32()) x = static_cast<float>(random.normal());
  return tensor;
}

/// Every parameter random and far from zero, so that nothing hides behind a small LayerScale.
ParameterStore random_weights(const ParameterLayout& layout) {
  ParameterStore weights(layout);
  weights.initialize(3);
  for (const ParameterInfo& info : layout.parameters()) {
    Random random(4, RandomStream::test, static_cast<uint64_t>(info.unit * 1'000'003 + info.offset));
    for (float& x : weights.view(info).f32()) {
      x += static_cast<float>(0.1 * random.normal());
      if (info.name.ends_with("gamma")) x = static_cast<float>(0.3 + 0.05 * random.normal());
    }
  }
  return weights;
}

VitConfig small_config(FfnKind ffn, int64_t registers) {
  VitConfig config = vit_preset("vit_micro");
  config.ffn = ffn;
  config.hidden = ffn == FfnKind::swiglu ? swiglu_hidden(config.width) : 4 * config.width;
  config.registers = registers;
  return config;
}

std::vector<float> tokens_of(ConstTensorView matrix, const TokenEntry& entry) {
  const auto rows = matrix.rows(entry.first_row, entry.batch * entry.tokens).f32();
  return {rows.begin(), rows.end()};
}

Tensor random_mask(int64_t batch, int64_t patches) {
  Tensor mask(Shape{batch, patches}, DType::u8);
  Random random(5, RandomStream::test, 9);
  for (int64_t i = 0; i < mask.numel(); ++i) mask.as<uint8_t>()[i] = random.bernoulli(0.4) ? 1 : 0;
  return mask;
}

/// Packing must not couple crops: values and gradients are those of crop-by-crop runs.
TEST(Vit, PackedRunEqualsSeparateRuns) {
  for (const FfnKind ffn : {FfnKind::mlp, FfnKind::swiglu}) {
    const VitConfig config = small_config(ffn, ffn == FfnKind::mlp ? 0 : 2);
    ParameterLayout layout;
    append_vit_layout(layout, config);
    const ParameterStore weights = random_weights(layout);
    const Vit vit(config);
    const Tensor large = random_tensor({2, 3, 64, 64}, 1);
    const Tensor small = random_tensor({3, 3, 24, 40}, 2);
    const Tensor mask = random_mask(2, 64);
    const CropBatch crops[] = {{large, mask}, {small, {}}};
    HostPlace host;
    std::shared_ptr<VitSaved> saved;
    const VitOutput packed = vit.forward(host.c, weights, crops, {}, &saved);
    const Tensor cotangent = random_tensor(packed.norm.shape, 3);
    ParameterStore packed_gradients(layout);
    vit.backward(host.c, weights, *saved, cotangent, {}, packed_gradients);

    ParameterStore separate_gradients(layout);
    for (size_t e = 0; e < 2; ++e) {
      HostPlace other;
      const VitOutput inference = vit.forward(other.c, weights, {&crops[e], 1}, {});
      std::shared_ptr<VitSaved> one;
      const VitOutput output = vit.forward(other.c, weights, {&crops[e], 1}, {}, &one);
      const std::vector<float> unkept = tokens_of(inference.norm, inference.entries[0]);
      const std::vector<float> ours = tokens_of(packed.norm, packed.entries[e]);
      const std::vector<float> theirs = tokens_of(output.norm, output.entries[0]);
      EXPECT_LE(relative_error(std::span<const float>(ours), std::span<const float>(theirs)), 2e-6);
      EXPECT_LE(relative_error(std::span<const float>(unkept), std::span<const float>(theirs)), 2e-6);
      const int64_t rows = output.norm.dim(0);
      vit.backward(other.c, weights, *one, cotangent.view().rows(packed.entries[e].first_row, rows), {},
                   separate_gradients);
    }
    for (const ParameterInfo& info : layout.parameters()) {
      if (info.name.ends_with("qkv.bias")) continue;  // the K third is rounding noise around zero
      EXPECT_LE(relative_error(std::span<const float>(packed_gradients.view(info).f32()),
                               std::span<const float>(separate_gradients.view(info).f32())),
                2e-5)
          << info.name;
    }
  }
}

/// Computing only the rows that are read changes neither these nor, when the others have no gradient, any
/// parameter's gradient: with and without stochastic depth, in every precision.
TEST(Vit, ReadingFewRowsChangesNothing) {
  for (const Precision precision : {Precision::f32, Precision::bf16, Precision::f16}) {
    for (const double drop : {0.0, 0.4}) {
      VitConfig config = small_config(drop > 0 ? FfnKind::swiglu : FfnKind::mlp, drop > 0 ? 2 : 0);
      config.drop_path = drop;
      ParameterLayout layout;
      append_vit_layout(layout, config);
      const ParameterStore weights = random_weights(layout);
      const Vit vit(config);
      const Tensor large = random_tensor({5, 3, 40, 48}, 1), small = random_tensor({6, 3, 24, 16}, 2);
      const Tensor mask = random_mask(5, 30);
      const CropBatch crops[] = {{large, mask}, {small, {}}};
      const DropPathEntry batches[] = {{1, 5, 0, 5}, {1, 6, 0, 6}};
      const DropPathPlan plan = draw_drop_path(config, batches, 1, 2);
      const std::vector<TokenEntry> entries = token_entries(config, crops);
      std::vector<int64_t> read;
      for (const TokenEntry& entry : entries)
        for (int64_t image = 0; image < entry.batch; ++image) read.push_back(entry.cls_row(image));
      for (const int64_t patch : {3, 4, 29}) read.push_back(entries[0].patch_row(2, patch, config.registers));
      std::sort(read.begin(), read.end());
      VitForwardOptions all, few;
      if (drop > 0) all.drop_path = few.drop_path = &plan;
      few.read_rows = read;

      HostPlace host(precision);
      std::shared_ptr<VitSaved> whole, part;
      const VitOutput expected = vit.forward(host.c, weights, crops, all, &whole);
      const VitOutput actual = vit.forward(host.c, weights, crops, few, &part);
      const VitOutput inference = vit.forward(host.c, weights, crops, few);
      const double bound = precision == Precision::f32 ? 3e-6 : precision == Precision::bf16 ? 3e-2 : 8e-3;
      Tensor d_norm(expected.norm.shape);
      for (const int64_t row : read) {
        EXPECT_LE(relative_error(std::span<const float>(actual.norm.rows(row, 1).f32()),
                                 std::span<const float>(expected.norm.rows(row, 1).f32())),
                  bound);
        EXPECT_LE(relative_error(std::span<const float>(inference.norm.rows(row, 1).f32()),
                                 std::span<const float>(expected.norm.rows(row, 1).f32())),
                  bound);
        Random random(8, RandomStream::test, static_cast<uint64_t>(row));
        for (float& g : d_norm.view().rows(row, 1).f32()) g = static_cast<float>(random.normal());
      }
      ParameterStore expected_gradients(layout), gradients(layout);
      vit.backward(host.c, weights, *whole, d_norm, {}, expected_gradients);
      vit.backward(host.c, weights, *part, d_norm, {}, gradients);
      for (const ParameterInfo& info : layout.parameters()) {
        if (info.name.ends_with("qkv.bias")) continue;  // the K third is rounding noise around zero
        EXPECT_LE(relative_error(std::span<const float>(gradients.view(info).f32()),
                                 std::span<const float>(expected_gradients.view(info).f32())),
                  10 * bound)
            << info.name << ", drop path " << drop;
      }
    }
  }
}

/// Of a branch of which stochastic depth keeps no row nothing is added, and its parameters get no gradient;
/// the rows of another entry are as if they were alone.
TEST(Vit, BranchesWithoutRows) {
  for (const FfnKind ffn : {FfnKind::mlp, FfnKind::swiglu}) {
    const VitConfig config = small_config(ffn, 1);
    ParameterLayout layout;
    append_vit_layout(layout, config);
    const ParameterStore weights = random_weights(layout);
    const Vit vit(config);
    const Tensor large = random_tensor({2, 3, 40, 48}, 1), small = random_tensor({3, 3, 24, 16}, 2);
    const CropBatch crops[] = {{large, {}}, {small, {}}};
    const KeptRows nothing{{}, 2.0}, both{{0, 1}, 1.0};
    DropPathPlan none, first;
    for (int64_t block = 0; block < config.depth; ++block) {
      none.kept.push_back({std::vector{nothing, nothing}, std::vector{nothing, nothing}});
      first.kept.push_back({std::vector{both, nothing}, std::vector{both, nothing}});
    }
    const std::vector<TokenEntry> entries = token_entries(config, crops);
    const std::vector<int64_t> read{entries[0].cls_row(0), entries[0].cls_row(1), entries[1].cls_row(2)};
    HostPlace host;
    const VitOutput alone = vit.forward(host.c, weights, std::span(crops, 1), {});
    for (const bool few : {false, true}) {
      VitForwardOptions options;
      if (few) options.read_rows = read;
      std::shared_ptr<VitSaved> saved;
      options.drop_path = &first;
      const VitOutput mixed = vit.forward(host.c, weights, crops, options, &saved);
      options.drop_path = &none;
      const VitOutput output = vit.forward(host.c, weights, crops, options, &saved);
      for (const int64_t row : {read[0], read[1]})
        EXPECT_LE(relative_error(std::span<const float>(mixed.prenorm.rows(row, 1).f32()),
                                 std::span<const float>(alone.prenorm.rows(row, 1).f32())),
                  3e-6);
      EXPECT_EQ(relative_error(std::span<const float>(mixed.prenorm.rows(read[2], 1).f32()),
                               std::span<const float>(output.prenorm.rows(read[2], 1).f32())),
                0.0);
      Tensor d_norm(output.norm.shape);
      for (const int64_t row : read)
        for (float& g : d_norm.view().rows(row, 1).f32()) g = 0.5F + static_cast<float>(row % 3);
      ParameterStore gradients(layout);
      vit.backward(host.c, weights, *saved, d_norm, {}, gradients);
      for (const ParameterInfo& info : layout.parameters()) {
        double sum = 0;
        for (const float g : gradients.view(info).f32()) sum += static_cast<double>(std::abs(g));
        const bool in_block = info.name.find(".blocks.") != std::string::npos;
        if (in_block) {
          EXPECT_EQ(sum, 0.0) << info.name;
        }
        if (info.name.ends_with("cls_token") || info.name == "backbone.norm.weight") {
          EXPECT_GT(sum, 0.0) << info.name;
        }
      }
    }
  }
}

/// The directional derivative of sum(cotangent * norm) + sum(cotangent2 * prenorm) along a random direction
/// of all parameters and the images, against central differences, with masks, registers and stochastic depth.
TEST(Vit, GradientsMatchFiniteDifferences) {
  VitConfig config = small_config(FfnKind::swiglu, 2);
  config.drop_path = 0.5;
  ParameterLayout layout;
  append_vit_layout(layout, config);
  const ParameterStore weights = random_weights(layout);
  const Vit vit(config);
  const Tensor images = random_tensor({4, 3, 32, 24}, 1);
  const Tensor mask = random_mask(4, 12);
  const Tensor d_norm = random_tensor({4 * 15, 64}, 2);
  const Tensor d_prenorm = random_tensor({4 * 15, 64}, 3);
  const DropPathEntry batches[] = {{1, 4, 0, 4}};
  const DropPathPlan plan = draw_drop_path(config, batches, 1, 2);
  VitForwardOptions options;
  options.drop_path = &plan;
  HostPlace host;
  const auto value = [&](const ParameterStore& w, const Tensor& x) {
    const Arena::Scope scope(host.c.arena);
    const CropBatch crops[] = {{x, mask}};
    const VitOutput output = vit.forward(host.c, w, crops, options);
    double sum = 0;
    for (size_t i = 0; i < output.norm.f32().size(); ++i)
      sum += static_cast<double>(output.norm.f32()[i]) * static_cast<double>(d_norm.f32()[i]) +
             static_cast<double>(output.prenorm.f32()[i]) * static_cast<double>(d_prenorm.f32()[i]);
    return sum;
  };
  std::shared_ptr<VitSaved> saved;
  const CropBatch crops[] = {{images, mask}};
  (void)vit.forward(host.c, weights, crops, options, &saved);
  ParameterStore gradients(layout);
  Tensor d_image(images.shape());
  const TensorView d_images[] = {d_image};
  vit.backward(host.c, weights, *saved, d_norm, d_prenorm, gradients, d_images);

  constexpr double kStep = 2e-3;
  ParameterStore moved(layout);
  for (const ParameterInfo& info : layout.parameters()) {
    // Along the gradient itself the derivative is its squared norm, far above fp32 noise.
    const auto gradient = gradients.view(info).f32();
    double norm = 0;
    for (const float g : gradient) norm += static_cast<double>(g) * static_cast<double>(g);
    norm = std::sqrt(norm);
    ASSERT_GT(norm, 0) << info.name;
    double difference = 0;
    for (const double sign : {1.0, -1.0}) {
      moved.copy_from(host.c.stream, weights);
      for (size_t i = 0; i < gradient.size(); ++i)
        moved.view(info).f32()[i] +=
            static_cast<float>(sign * kStep * static_cast<double>(gradient[i]) / norm);
      difference += sign * value(moved, images);
    }
    EXPECT_NEAR(difference / (2 * kStep) / norm, 1.0, 1e-2) << info.name;
  }
  double norm = 0;
  for (const float g : d_image.f32()) norm += static_cast<double>(g) * static_cast<double>(g);
  norm = std::sqrt(norm);
  double difference = 0;
  for (const double sign : {1.0, -1.0}) {
    Tensor shifted = images.clone();
    for (size_t i = 0; i < shifted.f32().size(); ++i)
      shifted.f32()[i] += static_cast<float>(sign * kStep * static_cast<double>(d_image.f32()[i]) / norm);
    difference += sign * value(weights, shifted);
  }
  EXPECT_NEAR(difference / (2 * kStep) / norm, 1.0, 1e-2) << "images";
}

TEST(Vit, SecondStepAllocatesNothing) {
  const VitConfig config = small_config(FfnKind::mlp, 0);
  ParameterLayout layout;
  append_vit_layout(layout, config);
  const ParameterStore weights = random_weights(layout);
  ParameterStore gradients(layout);
  const Vit vit(config);
  const Tensor images = random_tensor({4, 3, 64, 64}, 1);
  const CropBatch crops[] = {{images, {}}};
  HostPlace host;
  const auto step = [&] {
    host.c.arena.reset();
    std::shared_ptr<VitSaved> saved;
    const VitOutput output = vit.forward(host.c, weights, crops, {}, &saved);
    vit.backward(host.c, weights, *saved, output.norm, {}, gradients);
    return std::pair(host.c.arena.reserved_bytes(), host.c.arena.used_bytes());
  };
  (void)step();
  const auto second = step();
  EXPECT_EQ(second, step());
  EXPECT_EQ(second, step());
  // Inference keeps the residual stream and one branch at a time, whatever the depth.
  VitConfig deep = config;
  deep.depth = 8;
  ParameterLayout deep_layout;
  append_vit_layout(deep_layout, deep);
  const ParameterStore deep_weights = random_weights(deep_layout);
  HostPlace shallow_place;
  HostPlace deep_place;
  (void)vit.forward(shallow_place.c, weights, crops, {});
  (void)Vit(deep).forward(deep_place.c, deep_weights, crops, {});
  EXPECT_EQ(deep_place.c.arena.peak_bytes(), shallow_place.c.arena.peak_bytes());
}

TEST(Vit, Bf16StaysNearFp32) {
  const VitConfig config = small_config(FfnKind::mlp, 0);
  ParameterLayout layout;
  append_vit_layout(layout, config);
  const ParameterStore weights = random_weights(layout);
  const Tensor images = random_tensor({3, 3, 32, 32}, 1);
  const Tensor cotangent = random_tensor({3 * 17, 64}, 2);
  const Tensor mask = random_mask(3, 16);
  const CropBatch crops[] = {{images, mask}};
  std::vector<std::vector<float>> outputs;
  std::vector<ParameterStore> gradients;
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    const Vit vit(config);
    HostPlace host(precision);
    std::shared_ptr<VitSaved> saved;
    const VitOutput output = vit.forward(host.c, weights, crops, {}, &saved);
    outputs.push_back(tokens_of(output.norm, output.entries[0]));
    gradients.emplace_back(layout);
    Tensor d_image(images.shape());
    const TensorView d_images[] = {d_image};
    vit.backward(host.c, weights, *saved, cotangent, {}, gradients.back(), d_images);
  }
  // bf16 has 8 bits: 2^-9 per rounding, a few dozen roundings in sequence.
  const double error = relative_error(std::span<const float>(outputs[1]), std::span<const float>(outputs[0]));
  EXPECT_LE(error, 0.05);
  EXPECT_GT(error, 1e-5) << "bf16 was not used";
  for (const char* name : {"backbone.patch_embed.proj.weight", "backbone.blocks.0.mlp.fc1.weight",
                           "backbone.blocks.1.ls2.gamma", "backbone.pos_embed", "backbone.mask_token"})
    EXPECT_LE(relative_error(std::span<const float>(gradients[1].view(name).f32()),
                             std::span<const float>(gradients[0].view(name).f32())),
              0.1)
        << name;
}

TEST(Vit, AllOrNoPatchesMasked) {
  const VitConfig config = small_config(FfnKind::mlp, 0);
  ParameterLayout layout;
  append_vit_layout(layout, config);
  const ParameterStore weights = random_weights(layout);
  const Vit vit(config);
  const Tensor images = random_tensor({2, 3, 32, 32}, 1);
  const Tensor other = random_tensor({2, 3, 32, 32}, 2);
  Tensor mask(Shape{2, 16}, DType::u8);
  HostPlace host;
  const CropBatch plain[] = {{images, {}}};
  const CropBatch unmasked[] = {{images, mask}};
  const VitOutput a = vit.forward(host.c, weights, plain, {});
  const VitOutput b = vit.forward(host.c, weights, unmasked, {});
  EXPECT_EQ(tokens_of(a.norm, a.entries[0]), tokens_of(b.norm, b.entries[0]));
  std::fill_n(mask.as<uint8_t>(), 32, uint8_t{1});
  const CropBatch hidden[] = {{images, mask}};
  const CropBatch hidden_other[] = {{other, mask}};
  std::shared_ptr<VitSaved> saved;
  std::shared_ptr<VitSaved> saved_other;
  const VitOutput c = vit.forward(host.c, weights, hidden, {}, &saved);
  const VitOutput d = vit.forward(host.c, weights, hidden_other, {}, &saved_other);
  EXPECT_EQ(tokens_of(c.norm, c.entries[0]), tokens_of(d.norm, d.entries[0])) << "a masked image is not seen";
  ParameterStore gradients(layout);
  Tensor d_image = random_tensor(images.shape(), 3);
  const TensorView d_images[] = {d_image};
  vit.backward(host.c, weights, *saved, random_tensor(c.norm.shape, 4), {}, gradients, d_images);
  for (const float g : d_image.f32()) ASSERT_EQ(g, 0.0F);
  for (const float g : gradients.view("backbone.patch_embed.proj.weight").f32()) ASSERT_EQ(g, 0.0F);
}

TEST(Vit, WrongCropsAreRefused) {
  const VitConfig config = small_config(FfnKind::mlp, 0);
  ParameterLayout layout;
  append_vit_layout(layout, config);
  const ParameterStore weights(layout);
  const Vit vit(config);
  HostPlace host;
  const Tensor odd = random_tensor({1, 3, 30, 32}, 1);
  const Tensor grey = random_tensor({1, 1, 32, 32}, 1);
  const Tensor good = random_tensor({1, 3, 32, 32}, 1);
  const Tensor mask(Shape{1, 15}, DType::u8);
  for (const CropBatch& crop : {CropBatch{odd, {}}, CropBatch{grey, {}}, CropBatch{good, mask}})
    EXPECT_THROW((void)vit.forward(host.c, weights, {&crop, 1}, {}), InternalError);
}

/// <A x, y> = <x, A^T y> for every kernel and grids of all kinds.
TEST(Positions, BackwardIsTheTranspose) {
  const int64_t grids[][2] = {{7, 7}, {3, 3}, {1, 49}, {14, 14}, {4, 8}, {9, 2}};
  for (const PositionKernel kernel :
       {PositionKernel::scale_offset, PositionKernel::antialias, PositionKernel::target_size}) {
    VitConfig config;
    config.width = 24;
    config.position_grid = 7;
    config.position_kernel = kernel;
    for (const auto& [h, w] : grids) {
      const Tensor x = random_tensor({1, 50, 24}, 1);
      const Tensor y = random_tensor({1 + h * w, 24}, 2);
      Tensor forward(Shape{1 + h * w, 24});
      Tensor backward(Shape{1, 50, 24});
      HostPlace host;
      const PositionMaps maps = position_maps(host.c, config, h, w);
      host.c.ops.sparse_rows(host.c.stream, maps.forward, x.view().reshaped({50, 24}), forward, false);
      host.c.ops.sparse_rows(host.c.stream, maps.backward, y, backward.view().reshaped({50, 24}), true);
      double left = 0;
      double right = 0;
      double scale = 0;
      for (size_t i = 0; i < forward.f32().size(); ++i) {
        left += static_cast<double>(forward.f32()[i]) * static_cast<double>(y.f32()[i]);
        scale += std::abs(static_cast<double>(forward.f32()[i]) * static_cast<double>(y.f32()[i]));
      }
      for (size_t i = 0; i < backward.f32().size(); ++i)
        right += static_cast<double>(backward.f32()[i]) * static_cast<double>(x.f32()[i]);
      EXPECT_NEAR(left, right, 1e-6 * scale) << h << "x" << w;
    }
  }
}

/// Weights of every output position sum to one: a constant table stays constant.
TEST(Positions, ConstantStaysConstant) {
  for (const PositionKernel kernel :
       {PositionKernel::scale_offset, PositionKernel::antialias, PositionKernel::target_size}) {
    VitConfig config;
    config.width = 8;
    config.position_grid = 5;
    config.position_kernel = kernel;
    Tensor table(Shape{1, 26, 8});
    std::fill(table.f32().begin(), table.f32().end(), 1.5F);
    Tensor out(Shape{1 + 11 * 3, 8});
    HostPlace host;
    host.c.ops.sparse_rows(host.c.stream, position_maps(host.c, config, 11, 3).forward,
                           table.view().reshaped({26, 8}), out, false);
    for (const float x : out.f32()) ASSERT_NEAR(x, 1.5F, 2e-6F);
  }
}

TEST(Head, OneLayerAndBf16) {
  const HeadConfig config{32, 0, 1, 16, 40};
  ParameterLayout layout;
  append_head_layout(layout, config, "head");
  EXPECT_NE(layout.find_if("head.mlp.weight"), nullptr);
  ParameterStore weights(layout);
  weights.initialize(1);
  const Tensor x = random_tensor({5, 32}, 1);
  std::vector<std::vector<float>> outputs;
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    const Head head(config, "head");
    HostPlace host(precision);
    HeadSaved saved;
    const UnitView w = weights.acquire(head.unit(layout));
    const TensorView unit = head.forward(host.c, w, x, &saved);
    for (int64_t r = 0; r < 5; ++r) {
      double norm = 0;
      for (const float v : unit.rows(r, 1).f32()) norm += static_cast<double>(v) * static_cast<double>(v);
      EXPECT_NEAR(norm, 1, 1e-5);
    }
    ParameterStore gradients(layout);
    const TensorView dx =
        head.backward(host.c, w, saved, random_tensor({5, 16}, 2), gradients.gradient(head.unit(layout)));
    EXPECT_EQ(dx.shape, (Shape{5, 32}));
    outputs.emplace_back(dx.f32().begin(), dx.f32().end());
  }
  EXPECT_LE(relative_error(std::span<const float>(outputs[1]), std::span<const float>(outputs[0])), 0.05);
}

}  // namespace
}  // namespace dino
