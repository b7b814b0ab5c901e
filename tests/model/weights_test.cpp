// SPDX-License-Identifier: Apache-2.0
// Weights references: every format there and back, and what is said about broken ones.
#include "model/weights.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <limits>

#include "model/temporary_folder.hpp"
#include "model/weights_writer.hpp"
#include "storage/array_file.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

VitConfig micro(FfnKind ffn = FfnKind::mlp, int64_t registers = 0) {
  VitConfig config = vit_preset("vit_micro");
  config.ffn = ffn;
  if (ffn == FfnKind::swiglu) config.hidden = swiglu_hidden(config.width);
  config.registers = registers;
  if (registers > 0) {
    config.position_kernel = PositionKernel::antialias;
    config.interpolate_offset = 0;
  }
  return config;
}

TEST(Weights, HubRoundTrip) {
  for (const auto& config : {micro(), micro(FfnKind::swiglu), micro(FfnKind::mlp, 4)}) {
    const TemporaryFolder folder;
    const auto backbone = random_backbone(config, 1);
    export_hub(*backbone, folder.path());
    for (const std::string& reference : {folder.path(), folder.path() + "/model.safetensors"}) {
      const auto again = load_backbone(reference);
      EXPECT_EQ(again->config, config);
      EXPECT_EQ(again->sha256, backbone->sha256);
      EXPECT_EQ(again->source, reference);
    }
    EXPECT_NE(random_backbone(config, 2)->sha256, backbone->sha256);
  }
}

TEST(Weights, HuggingFaceRoundTrip) {
  for (VitConfig config : {micro(), micro(FfnKind::swiglu), micro(FfnKind::mlp, 4)}) {
    const TemporaryFolder folder;
    const auto backbone = random_backbone(config, 1);
    export_hugging_face(*backbone, folder.path());
    if (config.registers == 0) {
      config.position_kernel = PositionKernel::target_size;
      config.interpolate_offset = 0;
    }
    for (const std::string& reference : {folder.path(), folder.path() + "/model.safetensors"}) {
      const auto again = load_backbone(reference);
      EXPECT_EQ(again->config, config);
      EXPECT_EQ(again->sha256, backbone->sha256);
    }
    // The file alone: heads of 64, and the initial LayerScale is not recorded in tensors.
    std::filesystem::remove(folder.path() + "/config.json");
    const auto inferred = load_backbone(folder.path() + "/model.safetensors");
    EXPECT_EQ(inferred->config, config);
    EXPECT_EQ(inferred->sha256, backbone->sha256);
  }
}

TEST(Weights, ExportsTellHowPixelsArePrepared) {
  Preparation pixels;
  pixels.size = 40;
  pixels.normalisation = {{0.1F, 0.2F, 0.3F}, {0.4F, 0.5F, 0.6F}};
  for (const bool hub : {false, true}) {
    const TemporaryFolder folder;
    const auto backbone = random_backbone(micro(), 1);
    hub ? export_hub(*backbone, folder.path(), pixels)
        : export_hugging_face(*backbone, folder.path(), pixels);
    const Preparation again = preparation_of(folder.path());
    EXPECT_EQ(again.size, 40);
    EXPECT_EQ(again.resize, 46);  // 40 * 256 / 224, rounded
    EXPECT_EQ(again.normalisation.mean, pixels.normalisation.mean);
    EXPECT_EQ(again.normalisation.std, pixels.normalisation.std);
    const std::string text = read_text(folder.path() + "/preprocessor_config.json");
    EXPECT_NE(text.find("BitImageProcessor"), std::string::npos);
    EXPECT_EQ(text.find("0.10000000"), std::string::npos) << text;
  }
  // Nothing told: 224 px of the usual 256, less where the table of positions is smaller; multiples of the
  // patch.
  for (const auto& [patch, grid, size, resize] :
       {std::array<int64_t, 4>{14, 37, 224, 256}, {8, 8, 64, 73}, {16, 32, 224, 256}}) {
    const TemporaryFolder folder;
    VitConfig config = micro();
    config.patch = patch;
    config.position_grid = grid;
    export_hugging_face(*random_backbone(config, 1), folder.path());
    EXPECT_EQ(preparation_of(folder.path()).size, size);
    EXPECT_EQ(preparation_of(folder.path()).resize, resize);
  }
}

TEST(Weights, TimmRoundTrip) {
  for (const VitConfig& config : {micro(), micro(FfnKind::swiglu), micro(FfnKind::mlp, 3)}) {
    const TemporaryFolder folder;
    const auto backbone = random_backbone(config, 1);
    const std::string file = folder.path() + "/timm.safetensors",
                      call = export_timm(*backbone, folder.path());
    const std::string sizes = config.ffn == FfnKind::swiglu
                                  ? ", embed_dim=64, depth=2, num_heads=1, mlp_ratio=5.5"
                                  : ", embed_dim=64, depth=2, num_heads=1";
    const std::string model = config.ffn == FfnKind::swiglu ? "vit_giant_patch14_dinov2"
                              : config.registers > 0        ? "vit_small_patch14_reg4_dinov2"
                                                            : "vit_small_patch14_dinov2";
    EXPECT_EQ(call, "timm.create_model('" + model + "', patch_size=8, img_size=64" + sizes +
                        (config.registers > 0 ? ", reg_tokens=3" : "") + ", checkpoint_path='" + file + "')");
    const auto again = load_backbone(file);
    EXPECT_EQ(again->config, config);
    for (const ParameterInfo& info : backbone->layout.parameters()) {
      const auto a = backbone->weights.view(info).f32(), b = again->weights.view(info).f32();
      const bool moved =
          config.registers > 0 && (info.name == "backbone.cls_token" || info.name == "backbone.pos_embed");
      if (moved || info.name == "backbone.mask_token") continue;
      EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << info.name;
    }
    // The class token takes its position up; their sum is what the model adds.
    const auto sum = [](const Backbone& b) {
      return b.weights.view("backbone.cls_token").f32()[7] + b.weights.view("backbone.pos_embed").f32()[7];
    };
    EXPECT_EQ(sum(*again), sum(*backbone));
    std::string text = read_text(file);
    EXPECT_EQ(text.find("mask_token"), std::string::npos);
    EXPECT_EQ(text.find("register_tokens"), std::string::npos);
  }
}

TEST(Weights, HuggingFaceWithoutLayerScale) {
  const TemporaryFolder folder;
  VitConfig config = micro();
  config.layerscale = 0;
  export_hugging_face(*random_backbone(config, 1), folder.path());
  const auto again = load_backbone(folder.path());
  EXPECT_EQ(again->config.layerscale, 1.0);
  EXPECT_EQ(again->weights.view("backbone.blocks.1.ls2.gamma").f32()[5], 1.0F);
  config.hidden = 100;
  EXPECT_THROW(export_hugging_face(*random_backbone(config, 1), folder.path()), DataError);
}

/// All tensors of a backbone as torch.save writes them: one storage each, names under `prefix`.
std::string pth_of(const Backbone& backbone, const std::string& prefix, bool zip64) {
  ZipWriter zip;
  PickleWriter pickle;
  if (!prefix.empty()) pickle.raw("}(").string("iteration").integer(7).string(prefix);
  pickle.global("collections", "OrderedDict").raw(")Rq\x01(");
  int key = 0;
  std::vector<std::string> contents;
  for (const ParameterInfo& info : backbone.layout.parameters()) {
    std::vector<int64_t> shape;
    std::vector<int64_t> stride;
    for (int i = 0; i < info.shape.rank(); ++i) shape.push_back(info.shape[i]);
    int64_t step = 1;
    for (size_t i = shape.size(); i-- > 0; step *= shape[i]) stride.insert(stride.begin(), step);
    // Chunked names as in the reference's training checkpoints.
    std::string name = prefix.empty() ? info.name.substr(9) : info.name;
    if (const size_t at = name.find("blocks."); at != std::string::npos && !prefix.empty())
      name.insert(at + 7, "0.");
    pickle.string(name).tensor(std::to_string(key++), info.shape.numel() + 3, shape, stride, 3);
    const auto values = backbone.weights.view(info).f32();
    contents.push_back(std::string(12, '\x7f') +
                       std::string(reinterpret_cast<const char*>(values.data()), values.size_bytes()));
  }
  pickle.raw("u}").string("_metadata").raw("}sb");
  if (!prefix.empty()) pickle.raw("u");
  zip.add("archive/data.pkl", pickle.finish());
  zip.add("archive/byteorder", "little");
  for (size_t i = 0; i < contents.size(); ++i) zip.add("archive/data/" + std::to_string(i), contents[i]);
  zip.add("archive/version", "3\n");
  return zip.finish(zip64);
}

TEST(Weights, PyTorchArchive) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/w.pth";
  const auto backbone = random_backbone(micro(FfnKind::mlp, 4), 1);
  write(path, pth_of(*backbone, "", false));
  EXPECT_EQ(load_backbone(path)->sha256, backbone->sha256);
  write(path, pth_of(*backbone, "teacher", true));
  const auto nested = load_backbone(path);
  EXPECT_EQ(nested->config, backbone->config);
  EXPECT_EQ(nested->sha256, backbone->sha256);
  expect_contains(refusal<DataError>(path, LoadOptions{Network::student, 0}),
                  "it holds a teacher but no student");
  // Every cut of the file is refused or, where only the version member's tail is lost, cannot be reached.
  const std::string whole = pth_of(*backbone, "", true);
  for (size_t size = 0; size < whole.size(); size += whole.size() / 37) {
    write(path, whole.substr(0, size));
    (void)refusal<DataError>(path);
  }
}

TEST(Weights, HostilePickles) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/w.pth";
  const auto save = [&](const std::string& pickle, const std::string& data = std::string(64, '\0'),
                        uint16_t method = 0) {
    ZipWriter zip;
    zip.add("a/data.pkl", pickle, method);
    zip.add("a/data/0", data);
    write(path, zip.finish(false));
  };
  // A call is an object of that name and nothing more.
  save(PickleWriter().global("builtins", "eval").raw("(").string("1").raw("tR").finish());
  expect_contains(refusal<DataError>(path), "it holds 0 tensors");
  save(PickleWriter().raw("\x8c\x02os\x8c\x06system\x93").finish());
  expect_contains(refusal<DataError>(path), "it holds 0 tensors");
  save(PickleWriter().raw("}").string("x").finish().substr(0, 6));
  expect_contains(refusal<DataError>(path), "cut off");
  save(PickleWriter().raw("\x82").finish());
  expect_contains(refusal<DataError>(path), "opcode 0x82");
  save(PickleWriter().raw("tt").finish());
  expect_contains(refusal<DataError>(path), "no mark");
  save(PickleWriter().raw("h\x05").finish());
  expect_contains(refusal<DataError>(path), "recalls a value");
  save(PickleWriter().integer(3).finish());
  expect_contains(refusal<DataError>(path), "it holds 0 tensors");
  // A dict that holds itself.
  save(PickleWriter().raw("}q\x01").string("x").raw("h\x01s").finish());
  expect_contains(refusal<DataError>(path), "it holds 0 tensors");
  save(PickleWriter().raw("}").finish(), "", 8);
  expect_contains(refusal<DataError>(path), "compressed");
}

TEST(Weights, BadTensorsInArchives) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/w.pth";
  const auto backbone = random_backbone(micro(), 1);
  // One tensor replaced by a broken description of itself.
  const auto save = [&](const std::function<void(PickleWriter&)>& broken, size_t cut = 0) {
    ZipWriter zip;
    PickleWriter pickle;
    pickle.raw("}(");
    std::vector<std::string> contents;
    for (const ParameterInfo& info : backbone->layout.parameters()) {
      const auto values = backbone->weights.view(info).f32();
      std::vector<int64_t> shape;
      std::vector<int64_t> stride;
      for (int i = 0; i < info.shape.rank(); ++i) shape.push_back(info.shape[i]);
      int64_t step = 1;
      for (size_t i = shape.size(); i-- > 0; step *= shape[i]) stride.insert(stride.begin(), step);
      pickle.string(info.name.substr(9));
      if (info.name == "backbone.norm.bias")
        broken(pickle);
      else
        pickle.tensor(std::to_string(contents.size()), info.shape.numel(), shape, stride);
      contents.emplace_back(reinterpret_cast<const char*>(values.data()), values.size_bytes());
    }
    pickle.raw("u");
    zip.add("a/data.pkl", pickle.finish());
    for (size_t i = 0; i < contents.size(); ++i)
      zip.add("a/data/" + std::to_string(i), contents[i].substr(0, contents[i].size() - cut));
    write(path, zip.finish(false));
  };
  save([](PickleWriter& p) { p.tensor("none", 64, {64}, {1}); });
  expect_contains(refusal<DataError>(path), "the data of norm.bias are missing");
  save([](PickleWriter& p) { p.tensor("1", 64, {64}, {65}); });
  EXPECT_EQ(load_backbone(path)->weights.view("backbone.norm.bias").f32()[1],
            backbone->weights.view("backbone.pos_embed").f32()[65]);
  for (const int64_t stride : {-1, 67, 1 << 30}) {
    save([&](PickleWriter& p) { p.tensor("1", 64, {64}, {stride}, stride < 0 ? 64 : 0); });
    expect_contains(refusal<DataError>(path), "needs more values");
  }
  save([](PickleWriter& p) { p.tensor("0", 64, {64}, {1}, 1); });
  expect_contains(refusal<DataError>(path), "needs more values");
  save([](PickleWriter& p) { p.tensor("0", 64, {64}, {1}, -4); });
  expect_contains(refusal<DataError>(path), "impossible sizes");
  save([](PickleWriter& p) { p.tensor("0", 64, {65}, {1}); });
  expect_contains(refusal<DataError>(path), "norm.bias has the shape [65], another shape");
  save([](PickleWriter& p) { p.tensor("0", 64, {64}, {1}, 0, "LongStorage"); });
  expect_contains(refusal<DataError>(path), "norm.bias is of I64");
  save([](PickleWriter& p) { p.tensor("0", 64, {64}, {1}); }, 4);
  expect_contains(refusal<DataError>(path), "needs more values");
  save([](PickleWriter& p) { p.integer(3); });
  expect_contains(refusal<DataError>(path), "no tensor norm.bias");
}

TEST(Weights, BrokenReferences) {
  const TemporaryFolder folder;
  (void)refusal<MissingInputError>(folder.path() + "/nothing.pth");
  (void)refusal<MissingInputError>(folder.path() + "/");
  write(folder.path() + "/weights.bin", "x");
  expect_contains(refusal<DataError>(folder.path() + "/weights.bin"), "not a .safetensors or .pth file");
  write(folder.path() + "/old.pth", std::string(1000, 'x'));
  expect_contains(refusal<DataError>(folder.path() + "/old.pth"), "neither a zip archive nor");
  std::filesystem::create_directories(folder.path() + "/run/checkpoints/step_00000010");
  expect_contains(refusal<MissingInputError>(folder.path() + "/run"), "no complete checkpoint");
}

TEST(Weights, BrokenTensorFiles) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/model.safetensors";
  auto backbone = random_backbone(micro(), 1);
  const auto save = [&](const std::function<bool(std::string&, Tensor&)>& change) {
    std::vector<std::pair<std::string, Tensor>> owned;
    for (const ParameterInfo& info : backbone->layout.parameters()) {
      std::string name = info.name.substr(9);
      Tensor value(info.shape);
      std::copy(backbone->weights.view(info).f32().begin(), backbone->weights.view(info).f32().end(),
                value.f32().begin());
      if (change(name, value)) owned.emplace_back(name, std::move(value));
    }
    std::vector<std::pair<std::string, ConstTensorView>> views;
    for (const auto& [name, value] : owned) views.emplace_back(name, value);
    write_safetensors(path, views);
  };
  save([](std::string& name, Tensor&) { return name != "blocks.1.attn.proj.bias"; });
  expect_contains(refusal<DataError>(path), "no tensor blocks.1.attn.proj.bias");
  save([](std::string& name, Tensor&) { return name != "pos_embed"; });
  expect_contains(refusal<DataError>(path), "not a DINOv2 or ViT backbone");
  save([](std::string& name, Tensor& value) {
    if (name == "norm.weight") value = Tensor(Shape{63});
    return true;
  });
  expect_contains(refusal<DataError>(path), "norm.weight has the shape [63], another shape");
  save([](std::string& name, Tensor& value) {
    if (name == "blocks.0.norm1.bias") value.f32()[3] = std::numeric_limits<float>::quiet_NaN();
    return true;
  });
  expect_contains(refusal<DataError>(path), "blocks.0.norm1.bias holds a value that is not finite");
  save([](std::string& name, Tensor& value) {
    if (name == "pos_embed") value = Tensor(Shape{1, 7, 64});
    return true;
  });
  expect_contains(refusal<DataError>(path), "no square table");
  // Left out by models that were trained without masks.
  save([](std::string& name, Tensor&) { return name != "mask_token"; });
  EXPECT_EQ(load_backbone(path)->weights.view("backbone.mask_token").f32()[0], 0.0F);
}

TEST(Weights, BrokenHuggingFaceConfig) {
  const TemporaryFolder folder;
  export_hugging_face(*random_backbone(micro(), 1), folder.path());
  const std::string path = folder.path() + "/config.json";
  const std::string good = read_text(path);
  const auto message = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    write(path, text.replace(at, from.size(), to));
    return refusal<DataError>(folder.path());
  };
  expect_contains(message("\"dinov2\"", "\"clip\""), "model_type is \"clip\"");
  expect_contains(message("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
                  "2 blocks where the configuration says 3");
  expect_contains(message("\"num_hidden_layers\": 2", "\"num_hidden_layers\": \"2\""), "num_hidden_layers");
  expect_contains(message("\"hidden_size\": 64", "\"hidden_size\": 128"), "another shape");
  expect_contains(message("\"hidden_size\"", "\"hidden\""), "no field \"hidden_size\"");
  expect_contains(message("\"image_size\": 64", "\"image_size\": 63"), "image_size");
  expect_contains(message("\"hidden_act\": \"gelu\"", "\"hidden_act\": \"relu\""), "hidden_act");
  expect_contains(message("{", "["), "not a JSON object");
}

TEST(VitConfigJson, RoundTripAndFaults) {
  for (const std::string& name : vit_preset_names()) {
    const VitConfig config = vit_preset(name);
    EXPECT_EQ(vit_config_from_json(vit_config_to_json(config), "x"), config) << name;
  }
  const std::string good = vit_config_to_json(vit_preset("vit_micro"));
  const auto broken = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    try {
      (void)vit_config_from_json(text, "here.json");
    } catch (const DataError& error) {
      expect_contains(error.what(), "here.json");
      return std::string(error.what());
    }
    ADD_FAILURE() << text << " was accepted";
    return std::string();
  };
  expect_contains(broken("\"patch\"", "\"ptch\""), "no field \"patch\"");
  expect_contains(broken("{", "{\"extra\":1,"), "unknown field \"extra\"");
  expect_contains(broken("\"mlp\"", "\"moe\""), "moe");
  expect_contains(broken("\"width\":64", "\"width\":-64"), "width");
  expect_contains(broken("\"heads\":1", "\"heads\":3"), "multiple");
  expect_contains(broken("{", ""), "not a JSON object");
}

}  // namespace
}  // namespace dino
