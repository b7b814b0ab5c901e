// SPDX-License-Identifier: Apache-2.0
#pragma once
// A backbone with the weights and configuration that a golden file records.

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "golden_support.hpp"
#include "model/vit.hpp"
#include "storage/hdf5.hpp"

namespace dino::golden {

struct Model {
  VitConfig config;
  ParameterLayout layout;
  ParameterStore weights;
};

/// Sizes from the attributes; what they leave out from the names and shapes of /weights.
inline VitConfig read_config(const Hdf5File& file) {
  const auto number = [&](const char* name) {
    return static_cast<int64_t>(file.attribute_number("/", name));
  };
  VitConfig config;
  config.channels = file.info("/weights/patch_embed.proj.weight").dims[1];
  config.patch = number("patch_size");
  config.width = number("embed_dim");
  config.depth = number("depth");
  config.heads = number("num_heads");
  config.position_grid = number("img_size") / config.patch;
  config.ffn = file.attribute_string("/", "ffn").starts_with("swiglu") ? FfnKind::swiglu : FfnKind::mlp;
  config.hidden = config.ffn == FfnKind::swiglu ? file.info("/weights/blocks.0.mlp.w3.weight").dims[1]
                                                : file.info("/weights/blocks.0.mlp.fc2.weight").dims[1];
  if (file.has_attribute("/", "num_register_tokens")) config.registers = number("num_register_tokens");
  config.position_kernel =
      number("interpolate_antialias") != 0 ? PositionKernel::antialias : PositionKernel::scale_offset;
  config.interpolate_offset = file.attribute_number("/", "interpolate_offset");
  config.layerscale = file.exists("/weights/blocks.0.ls1.gamma") ? 1.0 : 0.0;
  if (file.has_attribute("/", "layernorm_eps")) config.norm_eps = file.attribute_number("/", "layernorm_eps");
  return config;
}

inline std::unique_ptr<Model> read_model(const Hdf5File& file) {
  auto model = std::make_unique<Model>();
  model->config = read_config(file);
  append_vit_layout(model->layout, model->config);
  model->weights = ParameterStore(model->layout);
  size_t filled = 0;
  for (const std::string& name : file.list("/weights")) {
    const ParameterInfo* info = model->layout.find_if("backbone." + name);
    EXPECT_NE(info, nullptr) << "the model has no parameter " << name;
    if (info == nullptr) continue;
    const Tensor value = file.read("/weights/" + name, DType::f32);
    EXPECT_EQ(value.numel(), info->shape.numel()) << name;
    std::copy(value.f32().begin(), value.f32().end(), model->weights.view(*info).f32().begin());
    ++filled;
  }
  EXPECT_EQ(filled, model->layout.parameters().size()) << "the file leaves parameters out";
  return model;
}

/// Rows [first, first + count) of every image, as one list of values.
inline std::vector<float> token_values(ConstTensorView tokens, const TokenEntry& entry, int64_t first,
                                       int64_t count) {
  std::vector<float> values;
  for (int64_t image = 0; image < entry.batch; ++image) {
    const auto rows = tokens.rows(entry.cls_row(image) + first, count).f32();
    values.insert(values.end(), rows.begin(), rows.end());
  }
  return values;
}

inline void set_token_values(TensorView tokens, const TokenEntry& entry, int64_t first, int64_t count,
                             ConstTensorView values) {
  const int64_t width = tokens.dim(1);
  for (int64_t image = 0; image < entry.batch; ++image)
    std::copy_n(values.as<float>() + image * count * width, count * width,
                tokens.rows(entry.cls_row(image) + first, count).as<float>());
}

/// The fp64 record where there is one.
inline Tensor read_best(const Hdf5File& file, const std::string& name) {
  return file.read(file.exists("/fp64" + name) ? "/fp64" + name : name, DType::f64);
}

inline std::span<const double> values_of(const Tensor& tensor) {
  return {tensor.as<double>(), static_cast<size_t>(tensor.numel())};
}

/// Gradients of one parameter: the K third of qkv.bias is exactly zero in theory and noise in fp32, so it is
/// compared absolutely and the rest relatively.
inline void check_gradient(Report& report, const std::string& name, std::span<const float> ours,
                           const Tensor& wanted, double tolerance, double key_tolerance = 5e-5) {
  const std::span<const double> theirs = values_of(wanted);
  ASSERT_EQ(ours.size(), theirs.size()) << name;
  if (!name.ends_with("attn.qkv.bias")) {
    report.check("parameter gradients", relative_error(ours, theirs), tolerance, name);
    return;
  }
  const size_t width = ours.size() / 3;
  report.check("gradient of key biases, absolute",
               absolute_error(ours.subspan(width, width), theirs.subspan(width, width)), key_tolerance, name);
  for (const size_t begin : {size_t{0}, 2 * width})
    report.check("parameter gradients",
                 relative_error(ours.subspan(begin, width), theirs.subspan(begin, width)), tolerance, name);
}

}  // namespace dino::golden
