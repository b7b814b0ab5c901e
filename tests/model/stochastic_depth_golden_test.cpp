// SPDX-License-Identifier: Apache-2.0
// Stochastic depth by batch subsets against recorded runs of the reference with the recorded subsets.
#include "host_place.hpp"
#include "model/golden_model.hpp"

namespace dino::golden {
namespace {

struct Inputs {
  std::vector<Tensor> images, cotangents;
  std::vector<CropBatch> crops;
};

Inputs read_inputs(const Hdf5File& file, const std::string& path) {
  Inputs inputs;
  for (int e = 0; file.exists(path + "/input" + std::to_string(e)); ++e) {
    inputs.images.push_back(file.read(path + "/input" + std::to_string(e), DType::f32));
    inputs.cotangents.push_back(file.read(path + "/cotangent" + std::to_string(e), DType::f32));
  }
  for (const Tensor& images : inputs.images) inputs.crops.push_back({images, {}});
  return inputs;
}

DropPathPlan read_plan(const Hdf5File& file, const std::string& path, int64_t depth,
                       std::span<const CropBatch> crops) {
  DropPathPlan plan;
  plan.kept.resize(static_cast<size_t>(depth));
  for (int64_t block = 0; block < depth; ++block) {
    for (size_t branch = 0; branch < 2; ++branch) {
      for (size_t e = 0; e < crops.size(); ++e) {
        const Tensor kept = file.read(path + "/indices/block" + std::to_string(block) +
                                          (branch == 0 ? "/attn" : "/ffn") + "/entry" + std::to_string(e),
                                      DType::i64);
        const int64_t* rows = kept.as<int64_t>();
        const auto batch = static_cast<double>(crops[e].images.dim(0));
        plan.kept[static_cast<size_t>(block)][branch].push_back(
            {{rows, rows + kept.numel()}, batch / static_cast<double>(kept.numel())});
      }
    }
  }
  return plan;
}

/// As many rows as a draw of ours keeps at the file's rate.
void check_counts(const Hdf5File& file, VitConfig config, const Inputs& inputs, const DropPathPlan& plan,
                  Report& report) {
  config.drop_path = file.attribute_number("/", "drop_rate");
  std::vector<DropPathEntry> batches;
  for (const CropBatch& crop : inputs.crops)
    batches.push_back({1, crop.images.dim(0), 0, crop.images.dim(0)});
  const DropPathPlan drawn = draw_drop_path(config, batches, 1, 2);
  ASSERT_EQ(drawn.kept.size(), plan.kept.size());
  size_t different = 0;
  for (size_t block = 0; block < plan.kept.size(); ++block)
    for (size_t branch = 0; branch < 2; ++branch)
      for (size_t e = 0; e < batches.size(); ++e)
        different += drawn.kept[block][branch][e].rows.size() != plan.kept[block][branch][e].rows.size() ||
                             drawn.kept[block][branch][e].scale != plan.kept[block][branch][e].scale
                         ? 1
                         : 0;
  report.check("numbers of kept rows", static_cast<double>(different), 0);
}

TEST(StochasticDepthGolden, EveryCase) {
  const Hdf5File file = open_golden("stochastic_depth.h5");
  const auto model = read_model(file);
  const Vit vit(model->config);
  const std::vector<std::string> cases = file.list("/cases");
  ASSERT_FALSE(cases.empty());
  for (const std::string& name : cases) {
    Report report("stochastic_depth.h5/" + name);
    const std::string path = "/cases/" + name;
    const Inputs inputs = read_inputs(file, path);
    const DropPathPlan plan = read_plan(file, path, model->config.depth, inputs.crops);
    check_counts(file, model->config, inputs, plan, report);
    VitForwardOptions options;
    options.drop_path = &plan;
    HostPlace host;
    std::shared_ptr<VitSaved> saved;
    const VitOutput output = vit.forward(host.c, model->weights, inputs.crops, options, &saved);
    const TensorView d_prenorm = host.c.arena.zeros(host.c.stream, output.prenorm.shape);
    for (size_t e = 0; e < output.entries.size(); ++e) {
      const TokenEntry& entry = output.entries[e];
      const std::vector<float> ours = token_values(output.prenorm, entry, 0, entry.tokens);
      report.check_record(file, "outputs", std::span<const float>(ours),
                          path + "/x_prenorm" + std::to_string(e), 1e-5);
      set_token_values(d_prenorm, entry, 0, entry.tokens, inputs.cotangents[e]);
    }
    ParameterStore gradients(model->layout);
    vit.backward(host.c, model->weights, *saved, {}, d_prenorm, gradients);
    EXPECT_FALSE(file.list("/grads/" + name).empty()) << "no gradients of " << name;
    for (const std::string& root : {std::string("/grads/"), std::string("/fp64/grads/")})
      for (const std::string& parameter : file.list(root + name))
        check_gradient(report, parameter, gradients.view("backbone." + parameter).f32(),
                       file.read(root + name + "/" + parameter, DType::f64), 2e-5);
  }
}

}  // namespace
}  // namespace dino::golden
