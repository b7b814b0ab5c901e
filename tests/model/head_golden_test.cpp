// SPDX-License-Identifier: Apache-2.0
// The projection head against a recorded run of the reference. The product with the prototypes belongs to the
// losses; here it is a plain sum.
#include "golden_support.hpp"
#include "host_place.hpp"
#include "model/head.hpp"
#include "storage/hdf5.hpp"

namespace dino::golden {
namespace {

HeadConfig read_head_config(const Hdf5File& file) {
  const auto number = [&](const char* name) {
    return static_cast<int64_t>(file.attribute_number("/", name));
  };
  HeadConfig config;
  config.input = number("in_dim");
  config.hidden = number("hidden_dim");
  config.layers = number("nlayers");
  config.bottleneck = number("bottleneck_dim");
  config.prototypes = number("out_dim");
  return config;
}

TEST(HeadGolden, ForwardAndBackward) {
  const Hdf5File file = open_golden("heads.h5");
  const HeadConfig config = read_head_config(file);
  ParameterLayout layout;
  append_head_layout(layout, config, "dino_head");
  ParameterStore weights(layout);
  ASSERT_EQ(file.list("/weights").size(), layout.parameters().size());
  for (const std::string& name : file.list("/weights")) {
    const Tensor value = file.read("/weights/" + name, DType::f32);
    std::copy(value.f32().begin(), value.f32().end(), weights.view("dino_head." + name).f32().begin());
  }
  const Head head(config, "dino_head");
  const Tensor input = file.read("/input", DType::f32);
  const Tensor cotangent = file.read("/cotangent", DType::f32);
  const int64_t rows = input.shape()[0];
  HostPlace host;
  HeadSaved saved;
  TensorView before_norm;
  const UnitView w = weights.acquire(head.unit(layout));
  const TensorView unit = head.forward(host.c, w, input, &saved, &before_norm);
  const TensorView prototypes = head.prototypes(host.c, w);
  const TensorView output = host.c.arena.make({rows, config.prototypes});
  host.c.ops.linear(host.c.stream, unit, prototypes, {}, ops::Activation::none, output, {});

  Report report("heads.h5");
  const auto compare = [&](const char* quantity, std::span<const float> ours, const std::string& path) {
    report.check_record(file, quantity, ours, path, 1e-5);
  };
  compare("bottleneck", before_norm.f32(), "/bottleneck_before_norm");
  compare("outputs", output.f32(), "/output");

  ParameterStore gradients(layout);
  const UnitGradient d = gradients.gradient(head.unit(layout));
  const TensorView d_unit = host.c.arena.make(unit.shape);
  const TensorView d_prototypes = host.c.arena.zeros(host.c.stream, prototypes.shape);
  host.c.ops.linear_backward_input(host.c.stream, cotangent, prototypes, d_unit, false);
  host.c.ops.linear_backward_weight(host.c.stream, cotangent, unit, d_prototypes, {});
  head.prototypes_backward(host.c, w, d_prototypes, d);
  const TensorView dx = head.backward(host.c, w, saved, d_unit, d);
  compare("input gradient", dx.f32(), "/grad_input");
  const std::vector<std::string> recorded = file.list("/grads");
  EXPECT_EQ(recorded.size(), layout.parameters().size());
  for (const std::string& name : recorded)
    compare("parameter gradients", gradients.view("dino_head." + name).f32(), "/grads/" + name);
}

}  // namespace
}  // namespace dino::golden
