// SPDX-License-Identifier: Apache-2.0
// Gradients of CLIP's towers against central differences, and files that are not read.
#include "model/clip.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/random.hpp"
#include "host_place.hpp"
#include "model/temporary_folder.hpp"
#include "model/weights_writer.hpp"
#include "storage/files.hpp"
#include "test_data.hpp"

namespace dino {
namespace {

Tensor random_values(const Shape& shape, uint64_t index) {
  Tensor tensor(shape);
  Random random(21, RandomStream::test, index);
  for (float& x : tensor.f32()) x = static_cast<float>(random.normal());
  return tensor;
}

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

void shake(ParameterStore& weights) {
  for (const ParameterInfo& info : weights.layout().parameters()) {
    Random random(22, RandomStream::test, static_cast<uint64_t>(info.unit * 1'000'003 + info.offset));
    for (float& x : weights.view(info).f32()) x += static_cast<float>(0.2 * random.normal());
  }
}

/// Along the gradient itself the derivative is the gradient's norm, far above fp32 noise.
void expect_derivative(ParameterStore& weights, const ParameterStore& gradients, const std::string& skip,
                       const std::function<double()>& loss) {
  constexpr double step = 2e-3;
  for (const ParameterInfo& info : weights.layout().parameters()) {
    if (info.name == skip) continue;
    const auto values = weights.view(info).f32();
    const auto gradient = gradients.view(info).f32();
    const std::vector<float> kept(values.begin(), values.end());
    const double norm = std::sqrt(dot(gradient, gradient));
    ASSERT_GT(norm, 0) << info.name;
    const auto at = [&](double sign) {
      for (size_t i = 0; i < kept.size(); ++i)
        values[i] = kept[i] + static_cast<float>(sign * step * static_cast<double>(gradient[i]) / norm);
      return loss();
    };
    const double change = at(1) - at(-1);
    std::copy(kept.begin(), kept.end(), values.begin());
    EXPECT_NEAR(change / (2 * step) / norm, 1.0, 1e-2) << info.name;
  }
}

TEST(TextTower, BackwardIsTheDerivative) {
  for (const bool quick : {true, false}) {
    TextConfig config{.vocabulary = 11, .context = 7, .width = 16, .depth = 3, .heads = 2, .hidden = 24};
    config.projection = 5;
    config.quick_gelu = quick;
    config.layerscale = quick ? 0 : 0.5;
    const auto model = random_text_model(config, 3);
    shake(model->weights);
    const std::vector<std::vector<int32_t>> texts = {{1, 4, 4, 2}, {1, 2}, {10, 3, 5, 7, 0, 6, 2}, {2}};
    const TextTower tower(config);
    HostPlace host;
    const Tensor cotangent = random_values({4, config.projection}, 1);
    const auto loss = [&] {
      const Arena::Scope scope(host.c.arena);
      return dot(tower.forward(host.c, model->weights, texts).f32(), cotangent.f32());
    };
    std::shared_ptr<TextSaved> saved;
    (void)tower.forward(host.c, model->weights, texts, &saved);
    ParameterStore gradients(model->layout);
    tower.backward(host.c, model->weights, *saved, cotangent, gradients);
    expect_derivative(model->weights, gradients, "text.logit_scale", loss);
  }
}

/// What stands behind a token does not reach it, and texts do not see each other.
TEST(TextTower, TextsAreApart) {
  TextConfig config{.vocabulary = 11, .context = 9, .width = 16, .depth = 2, .heads = 2, .hidden = 24};
  const auto model = random_text_model(config, 4);
  const TextTower tower(config);
  HostPlace host;
  const std::vector<std::vector<int32_t>> texts = {{1, 4, 4, 2}, {3, 9}, {10, 3, 5, 7, 0, 6, 2}};
  const TensorView together = tower.forward(host.c, model->weights, texts);
  for (size_t i = 0; i < texts.size(); ++i) {
    const TensorView alone = tower.forward(host.c, model->weights, std::span(texts).subspan(i, 1));
    for (int64_t e = 0; e < config.projection; ++e)
      EXPECT_NEAR(alone.f32()[static_cast<size_t>(e)],
                  together.f32()[i * static_cast<size_t>(config.projection) + static_cast<size_t>(e)], 1e-5);
  }
}

TEST(ClipImages, BackwardIsTheDerivative) {
  VitConfig config = vit_preset("vit_micro");
  config.width = 16;
  config.hidden = 24;
  config.heads = 2;
  config.patch = 4;
  config.position_grid = 2;
  config.layerscale = 0;
  config.quick_gelu = true;
  config.input_norm = true;
  const auto backbone = random_backbone(config, 5);
  shake(backbone->weights);
  const Vit vit(config);
  HostPlace host;
  const Tensor images = random_values({2, 3, 8, 8}, 2), cotangent = random_values({10, 16}, 3);
  const CropBatch crops[] = {{images, {}}};
  const auto loss = [&] {
    const Arena::Scope scope(host.c.arena);
    return dot(vit.forward(host.c, backbone->weights, crops, {}).norm.f32(), cotangent.f32());
  };
  std::shared_ptr<VitSaved> saved;
  (void)vit.forward(host.c, backbone->weights, crops, {}, &saved);
  ParameterStore gradients(backbone->layout);
  vit.backward(host.c, backbone->weights, *saved, cotangent, {}, gradients);
  expect_derivative(backbone->weights, gradients, "backbone.mask_token", loss);
}

std::string golden_clip(const char* name) {
  return dino::test::data_folder() + "/golden/clip/" + name;
}

/// A folder of the set with its configuration changed.
class ClipFolder {
 public:
  ClipFolder(const char* set, const char* weights, const char* config) : config_(config) {
    std::filesystem::copy_file(golden_clip(set) + "/" + weights, folder_.path() + "/" + weights);
    json_ = nlohmann::json::parse(read_text(golden_clip(set) + "/" + config));
  }
  [[nodiscard]] const std::string& path() const { return folder_.path(); }
  [[nodiscard]] nlohmann::json& json() { return json_; }
  const std::string& written() {
    write(folder_.path() + "/" + config_, json_.dump());
    return path();
  }

 private:
  TemporaryFolder folder_;
  std::string config_;
  nlohmann::json json_;
};

template <class Load>
std::string refused(Load&& load) {
  try {
    load();
  } catch (const DataError& error) {
    return error.what();
  }
  ADD_FAILURE() << "was accepted";
  return "";
}

TEST(ClipImport, OtherOptionsOfTransformersAreRefused) {
  ClipFolder folder("transformers", "model.safetensors", "config.json");
  expect_contains(refused([&] { (void)load_backbone(folder.path()); }), "put its config.json beside it");
  const nlohmann::json good = folder.json();
  folder.json()["vision_config"]["hidden_act"] = "relu";
  expect_contains(refused([&] { (void)load_backbone(folder.written()); }), "hidden_act is relu");
  folder.json() = good;
  folder.json()["vision_config"]["num_attention_heads"] = 5;
  expect_contains(refused([&] { (void)load_backbone(folder.written()); }), "5 heads");
  folder.json() = good;
  folder.json()["model_type"] = "siglip";
  expect_contains(refused([&] { (void)load_text_model(folder.written()); }), "siglip");
  folder.json() = good;
  folder.json().erase("text_config");
  expect_contains(refused([&] { (void)load_text_model(folder.written()); }), "text_config");
  folder.json() = good;
  EXPECT_THROW((void)load_backbone(folder.written(), LoadOptions{Network::teacher, 4}), UsageError);
  EXPECT_EQ(load_backbone(folder.written())->config.heads, 2);
}

TEST(ClipImport, OtherOptionsOfOpenClipAreRefused) {
  ClipFolder folder("open_clip", "open_clip_model.safetensors", "open_clip_config.json");
  expect_contains(refused([&] { (void)load_backbone(folder.path()); }), "open_clip_config.json");
  const nlohmann::json good = folder.json();
  for (const auto& [part, key, value] : std::vector<std::tuple<const char*, const char*, nlohmann::json>>{
           {"vision_cfg", "pool_type", "avg"},
           {"vision_cfg", "timm_model_name", "vit_base"},
           {"vision_cfg", "layers", nlohmann::json::array({3, 4})},
           {"vision_cfg", "act_kwargs", {{"approximate", "tanh"}}}}) {
    folder.json() = good;
    folder.json()["model_cfg"][part][key] = value;
    const std::string why = refused([&] { (void)load_backbone(folder.written()); });
    expect_contains(why, std::string(key) == "layers" ? "ResNet" : key);
    expect_contains(why, folder.path());
  }
  folder.json() = good;
  folder.json()["model_cfg"]["text_cfg"]["hf_model_name"] = "roberta-base";
  expect_contains(refused([&] { (void)load_text_model(folder.written()); }), "hf_model_name");
}

/// As training scripts save it: within wrappers, with a newer text tower's prefix, in a .pth file.
TEST(ClipImport, WrappersAndFormatsGiveTheSameTowers) {
  const auto images = load_backbone(golden_clip("open_clip"));
  const auto texts = load_text_model(golden_clip("open_clip"));
  const SafetensorsFile file =
      SafetensorsFile::open(golden_clip("open_clip") + "/open_clip_model.safetensors");
  NamedValues named;
  for (const auto& [name, entry] : file.entries()) {
    const Tensor value = file.read_f32(name);
    const bool text = !name.starts_with("visual.") && name != "logit_scale";
    named[std::string("module.") + (text ? "text." : "") + name] = {entry.shape,
                                                                    {value.f32().begin(), value.f32().end()}};
  }
  const TemporaryFolder folder;
  std::filesystem::copy_file(golden_clip("open_clip") + "/open_clip_config.json",
                             folder.path() + "/open_clip_config.json");
  PthWriter pth;
  write(folder.path() + "/open_clip_pytorch_model.bin", pth.dict(named).finish());
  EXPECT_EQ(load_backbone(folder.path())->sha256, images->sha256);
  EXPECT_EQ(load_text_model(folder.path())->sha256, texts->sha256);
  named.erase("module.text.ln_final.weight");
  save_safetensors(folder.path() + "/x.safetensors", named);
  expect_contains(refused([&] { (void)load_text_model(folder.path() + "/x.safetensors"); }), "norm.weight");
  named.erase("module.visual.ln_post.bias");
  save_safetensors(folder.path() + "/x.safetensors", named);
  expect_contains(refused([&] { (void)load_backbone(folder.path() + "/x.safetensors"); }), "norm.bias");
}

}  // namespace
}  // namespace dino
