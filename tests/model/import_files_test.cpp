// SPDX-License-Identifier: Apache-2.0
// Folders and files as hubs have them: shards, .bin files, configurations, timm's and ViT's names, and files
// that hold no weights at all.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "base/half.hpp"
#include "model/temporary_folder.hpp"
#include "model/weights_writer.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

VitConfig with_registers() {
  VitConfig config = vit_preset("vit_micro");
  config.registers = 4;
  config.position_kernel = PositionKernel::antialias;
  config.interpolate_offset = 0;
  return config;
}

/// A Hugging Face folder in parts: its configuration and its tensors.
class HubFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    export_hugging_face(*backbone_, folder_.path() + "/made");
    config_ = Json::parse(read_text(folder_.path() + "/made/config.json"));
    const SafetensorsFile file = SafetensorsFile::open(folder_.path() + "/made/model.safetensors");
    for (const auto& [name, entry] : file.entries()) {
      const Tensor tensor = file.read_f32(name);
      named_[name] = {entry.shape, {tensor.f32().begin(), tensor.f32().end()}};
    }
    std::filesystem::create_directories(at_);
    write(at_ + "/config.json", config_.dump());
  }
  /// `shards` files and their index, whose map `change` may spoil.
  void save_shards(const std::string& ending, size_t shards, const std::function<void(Json&)>& change = {}) {
    std::vector<NamedValues> parts(shards);
    Json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", Json::object()}};
    size_t i = 0;
    const auto file_of = [&](size_t shard) { return "part-" + std::to_string(shard) + ending; };
    for (const auto& [name, values] : named_) {
      parts[i % shards].emplace(name, values);
      index["weight_map"][name] = file_of(i++ % shards);
    }
    for (size_t s = 0; s < shards; ++s) {
      if (ending == ".bin") {
        PthWriter file;
        write(at_ + "/" + file_of(s), file.dict(parts[s]).finish());
      } else {
        save_safetensors(at_ + "/" + file_of(s), parts[s]);
      }
    }
    if (change) change(index);
    write(index_of(ending), index.dump());
  }
  [[nodiscard]] std::string index_of(const std::string& ending) const {
    return at_ + (ending == ".bin" ? "/pytorch_model.bin.index.json" : "/model.safetensors.index.json");
  }
  /// The configuration with other values (null = without the key).
  void save_config(const Json& changes) {
    Json changed = config_;
    for (const auto& [key, value] : changes.items()) {
      if (value.is_null())
        changed.erase(key);
      else
        changed[key] = value;
    }
    write(at_ + "/config.json", changed.dump());
  }

  TemporaryFolder folder_;
  std::unique_ptr<Backbone> backbone_ = random_backbone(with_registers(), 1);
  const std::string at_ = folder_.path() + "/hub";
  Json config_;
  NamedValues named_;
};

TEST_F(HubFolder, ShardsOfEitherFormat) {
  for (const char* ending : {".safetensors", ".bin"}) {
    for (const size_t shards : {1, 3, 7}) {
      save_shards(ending, shards);
      EXPECT_EQ(load_backbone(at_)->sha256, backbone_->sha256) << shards << ending;
      EXPECT_EQ(load_backbone(index_of(ending))->config, backbone_->config);
    }
    std::filesystem::remove(at_ + "/part-2" + ending);
    expect_contains(refusal<MissingInputError>(at_),
                    std::string("part-2") + ending + " that it names is missing");
    std::filesystem::remove(index_of(ending));
  }
  PthWriter whole;
  write(at_ + "/pytorch_model.bin", whole.dict(named_).finish());
  EXPECT_EQ(load_backbone(at_)->sha256, backbone_->sha256);
  write(at_ + "/pytorch_model.bin", whole.finish_legacy());
  EXPECT_EQ(load_backbone(at_)->sha256, backbone_->sha256);
}

TEST_F(HubFolder, WrongIndices) {
  const std::string ending = ".safetensors", some = "layernorm.weight";
  const auto message = [&](const std::function<void(Json&)>& change) {
    save_shards(ending, 2, change);
    const std::string said = refusal<DataError>(at_);
    expect_contains(said, index_of(ending));
    return said;
  };
  for (const char* outside : {"../part-0.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "..\\x"})
    expect_contains(message([&](Json& j) { j["weight_map"][some] = outside; }), "not a name in its folder");
  expect_contains(message([&](Json& j) { j["weight_map"][some] = 3; }), "not a name in its folder");
  expect_contains(message([&](Json& j) {
                    j["weight_map"][some] = j["weight_map"][some] == "part-0.safetensors"
                                                ? "part-1.safetensors"
                                                : "part-0.safetensors";
                  }),
                  "which has none of that name");
  expect_contains(message([&](Json& j) { j["weight_map"]["more"] = "part-0.safetensors"; }),
                  "none of that name");
  expect_contains(message([&](Json& j) { j["weight_map"].erase(some); }), "that it does not list");
  expect_contains(message([&](Json& j) { j.erase("weight_map"); }), "no object \"weight_map\"");
  expect_contains(message([&](Json& j) { j["weight_map"] = Json::array({1}); }), "no object \"weight_map\"");
  write(index_of(ending), "{\"weight_map\":{\"a\":\"part-0.safetensors\",\"a\":\"part-1.safetensors\"}}");
  expect_contains(refusal<DataError>(at_), "a is listed twice");
  // One tensor in two shards.
  save_shards(ending, 2);
  NamedValues more = {{some, named_.at(some)}};
  save_safetensors(at_ + "/part-9.safetensors", {{"x", filled({1}, 0)}, {some, named_.at(some)}});
  Json index = Json::parse(read_text(index_of(ending)));
  index["weight_map"]["x"] = "part-9.safetensors";
  write(index_of(ending), index.dump());
  expect_contains(refusal<DataError>(at_), some + " is in ");
}

TEST_F(HubFolder, LfsPointersEverywhere) {
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, 'a') + "\nsize 346345912\n";
  for (const char* name : {"/w.safetensors", "/w.pth", "/w.pt", "/w.bin", "/w"}) {
    write(folder_.path() + name, pointer);
    expect_contains(refusal<DataError>(folder_.path() + name), "git lfs pull");
  }
  for (const char* name : {"/config.json", "/model.safetensors"}) {
    save_safetensors(at_ + "/model.safetensors", named_);
    write(at_ + "/config.json", config_.dump());
    EXPECT_EQ(load_backbone(at_)->sha256, backbone_->sha256);
    write(at_ + name, pointer);
    expect_contains(refusal<DataError>(at_), at_ + name + ": a Git LFS pointer");
  }
  std::filesystem::remove(at_ + "/model.safetensors");
  write(at_ + "/config.json", config_.dump());
  save_shards(".safetensors", 2);
  write(at_ + "/part-1.safetensors", pointer);
  expect_contains(refusal<DataError>(at_), "part-1.safetensors: a Git LFS pointer");
  write(index_of(".safetensors"), pointer);
  expect_contains(refusal<DataError>(at_), "index.json: a Git LFS pointer");
}

TEST_F(HubFolder, ConfigurationsAreHonouredOrRefused) {
  save_safetensors(at_ + "/model.safetensors", named_);
  for (const Json& good : {Json{{"image_size", {64, 64}}}, Json{{"image_size", {64}}, {"patch_size", {8, 8}}},
                           Json{{"hidden_act", "gelu_python"}}, Json{{"num_channels", nullptr}},
                           Json{{"architectures", nullptr}}}) {
    save_config(good);
    EXPECT_EQ(load_backbone(at_)->config, backbone_->config) << good;
  }
  save_config({{"layer_norm_eps", 1e-5}});
  EXPECT_EQ(load_backbone(at_)->config.norm_eps, 1e-5);
  struct Case {
    Json changes;
    const char* says;
  };
  for (const Case& c : {Case{{{"image_size", {64, 56}}}, "only squares"},
                        Case{{{"image_size", Json::array()}}, "only squares"},
                        Case{{{"image_size", {64, 64, 64}}}, "only squares"},
                        Case{{{"patch_size", {8, 16}}}, "only squares"},
                        Case{{{"image_size", {"64", 64}}}, "image_size"},
                        Case{{{"hidden_act", "gelu_new"}}, "gelu_new"},
                        Case{{{"hidden_act", "quick_gelu"}}, "quick_gelu"},
                        Case{{{"hidden_act", "silu"}}, "silu"},
                        Case{{{"model_type", "dinov3_vit"}}, "dinov3_vit, which is not read yet"},
                        Case{{{"model_type", "clip_vision_model"}}, "clip_vision_model"},
                        Case{{{"model_type", "siglip"}}, "siglip"},
                        Case{{{"model_type", "beit"}}, "beit"},
                        Case{{{"model_type", nullptr}}, "model_type"},
                        Case{{{"patch_size", 16}}, "another shape"},
                        Case{{{"num_attention_heads", 0}}, "num_attention_heads"},
                        Case{{{"num_channels", 4}}, "4 channels"},
                        Case{{{"num_register_tokens", 5}}, "another shape"},
                        Case{{{"use_swiglu_ffn", true}}, "mlp"},
                        Case{{{"mlp_ratio", 1e300}}, ""},
                        Case{{{"hidden_size", 18446744073709551615u}}, "hidden_size"},
                        Case{{{"image_size", 999999}, {"patch_size", 1}}, "implausible"}}) {
    save_config(c.changes);
    expect_contains(refusal<DataError>(at_), c.says);
  }
  // Heads are in the configuration; who says otherwise is told.
  save_config({{"num_attention_heads", 4}});
  EXPECT_EQ(load_backbone(at_)->config.heads, 4);
  EXPECT_EQ(load_backbone(at_ + "/model.safetensors")->config.heads, 4);
  expect_contains(refusal<UsageError>(at_, LoadOptions{Network::teacher, 2}), "says that it has 4 heads");
  // Biases of query, key and value.
  std::erase_if(named_, [](const auto& entry) {
    return entry.first.find("attention.attention.") != std::string::npos && entry.first.ends_with(".bias");
  });
  save_safetensors(at_ + "/model.safetensors", named_);
  save_config({{"qkv_bias", false}});
  EXPECT_EQ(load_backbone(at_)->weights.view("backbone.blocks.0.attn.qkv.bias").f32()[3], 0.0F);
  save_config({{"qkv_bias", true}});
  expect_contains(refusal<DataError>(at_), "no tensor blocks.0.attn.qkv.bias");
}

TEST_F(HubFolder, TensorsOfHuggingFaceThatWouldBeIgnored) {
  for (const char* name :
       {"embeddings.distillation_token", "encoder.layer.1.attention.attention.query_norm.weight",
        "encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table",
        "layernorm_pre.weight", "encoder.layer.0.attention.attention.query.lora_A"}) {
    NamedValues more = named_;
    more.emplace(name, filled({64}, 1));
    save_safetensors(at_ + "/model.safetensors", prefixed(more, "dinov2_with_registers."));
    expect_contains(refusal<DataError>(at_), "[64] is a part that this model does not have");
  }
  NamedValues more = prefixed(named_, "dinov2_with_registers.");
  more.emplace("classifier.weight", filled({5, 128}, 1));
  save_safetensors(at_ + "/model.safetensors", more);
  EXPECT_EQ(load_backbone(at_)->sha256, backbone_->sha256);
  named_.erase("encoder.layer.1.attention.attention.key.bias");
  save_safetensors(at_ + "/model.safetensors", named_);
  expect_contains(refusal<DataError>(at_), "no encoder.layer.1.attention.attention.key.bias beside");
}

TEST(ImportFiles, VitOfTransformers) {
  const TemporaryFolder folder;
  VitConfig config = vit_preset("vit_micro");
  config.layerscale = 0;
  config.heads = 2;
  config.hidden = 96;
  config.norm_eps = 1e-12;
  config.position_kernel = PositionKernel::target_size;
  config.interpolate_offset = 0;
  const auto made = random_backbone(config, 4);
  NamedValues theirs;
  for (const auto& [name, values] : tensors_of(*made)) {
    if (name == "mask_token") continue;
    std::string vit = with(name, "blocks.", "encoder.layer.");
    for (const auto& [ours, called] :
         {std::pair("norm1.", "layernorm_before."), std::pair("norm2.", "layernorm_after."),
          std::pair("attn.proj.", "attention.output.dense."), std::pair("mlp.fc1.", "intermediate.dense."),
          std::pair("mlp.fc2.", "output.dense."), std::pair("cls_token", "embeddings.cls_token"),
          std::pair("pos_embed", "embeddings.position_embeddings"),
          std::pair("patch_embed.proj.", "embeddings.patch_embeddings.projection.")})
      vit = with(vit, ours, called);
    if (vit.starts_with("norm.")) vit = "layernorm." + vit.substr(5);
    if (const size_t at = vit.find("attn.qkv."); at != std::string::npos) {
      const auto rows = static_cast<std::ptrdiff_t>(values.data.size() / 3);
      int third = 0;
      for (const char* part : {"query.", "key.", "value."}) {
        Values piece = values;
        piece.shape[0] /= 3;
        piece.data = {values.data.begin() + third * rows, values.data.begin() + (third + 1) * rows};
        theirs.emplace("vit." + vit.substr(0, at) + "attention.attention." + part + vit.substr(at + 9),
                       piece);
        ++third;
      }
      continue;
    }
    theirs.emplace("vit." + vit, values);
  }
  theirs.emplace("classifier.bias", filled({10}, 0));
  theirs.emplace("decoder.decoder_pos_embed", filled({1, 65, 32}, 0));
  save_safetensors(folder.path() + "/model.safetensors", theirs);
  Json json = {{"model_type", "vit"},     {"hidden_size", 64},        {"num_hidden_layers", 2},
               {"intermediate_size", 96}, {"num_attention_heads", 2}, {"image_size", 64},
               {"patch_size", 8},         {"layer_norm_eps", 1e-12},  {"hidden_act", "gelu"}};
  for (const char* type : {"vit", "vit_mae", "vit_msn"}) {
    json["model_type"] = type;
    write(folder.path() + "/config.json", json.dump());
    const auto read = load_backbone(folder.path());
    EXPECT_EQ(read->config, config) << type;
    EXPECT_EQ(read->sha256, made->sha256) << type;
  }
  json.erase("intermediate_size");
  write(folder.path() + "/config.json", json.dump());
  expect_contains(refusal<DataError>(folder.path()), "intermediate_size");
  std::filesystem::remove(folder.path() + "/config.json");
  EXPECT_EQ(load_backbone(folder.path(), LoadOptions{Network::teacher, 2})->config, config);
}

TEST(ImportFiles, TimmNamesAndShapes) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/model.safetensors";
  const auto made = random_backbone(with_registers(), 6);
  const NamedValues plain = tensors_of(*made);
  const int64_t width = 64, cells = 64;
  const auto with_positions = [&](int64_t skip, bool registers) {
    NamedValues timm = plain;
    timm.erase("mask_token");
    Values& table = timm.at("pos_embed");
    table.data.erase(table.data.begin(), table.data.begin() + skip * width);
    if (registers) table.data.insert(table.data.begin() + width, 4 * width, 0.5F);
    table.shape[1] = static_cast<int64_t>(table.data.size()) / width;
    timm.emplace("reg_token", timm.at("register_tokens"));
    timm.erase("register_tokens");
    return timm;
  };
  const auto row = [](const Backbone& b, const char* name, int64_t at) {
    return b.weights.view(name).f32()[at];
  };
  // no_embed_class: positions of the patches alone, the class token's is part of the token.
  save_safetensors(path, with_positions(1, false));
  const auto alone = load_backbone(path);
  EXPECT_EQ(alone->config, made->config);
  EXPECT_EQ(row(*alone, "backbone.pos_embed", 5), 0.0F);
  EXPECT_EQ(row(*alone, "backbone.pos_embed", width + 5), row(*made, "backbone.pos_embed", width + 5));
  EXPECT_EQ(row(*alone, "backbone.pos_embed", cells * width),
            row(*made, "backbone.pos_embed", cells * width));
  EXPECT_EQ(row(*alone, "backbone.register_tokens", 9), row(*made, "backbone.register_tokens", 9));
  // Positions for the registers as well.
  save_safetensors(path, with_positions(0, true));
  const auto all = load_backbone(path);
  EXPECT_EQ(all->config, made->config);
  EXPECT_EQ(row(*all, "backbone.pos_embed", 5), row(*made, "backbone.pos_embed", 5));
  EXPECT_EQ(row(*all, "backbone.pos_embed", cells * width), row(*made, "backbone.pos_embed", cells * width));
  EXPECT_EQ(row(*all, "backbone.register_tokens", 9), row(*made, "backbone.register_tokens", 9) + 0.5F);
  // DeiT III: no registers and no position of the class token; LayerScale under another name.
  NamedValues deit = with_positions(1, false);
  deit.erase("reg_token");
  deit = renamed(deit, [](const std::string& n) {
    return with(with(n, ".ls1.gamma", ".gamma_1"), ".ls2.gamma", ".gamma_2");
  });
  save_safetensors(path, deit);
  const auto third = load_backbone(path);
  EXPECT_EQ(third->config.registers, 0);
  EXPECT_EQ(row(*third, "backbone.blocks.1.ls2.gamma", 3), row(*made, "backbone.blocks.1.ls2.gamma", 3));
  // SwiGLUPacked.
  VitConfig swiglu = with_registers();
  swiglu.ffn = FfnKind::swiglu;
  swiglu.hidden = 88;
  const auto gated = random_backbone(swiglu, 7);
  save_safetensors(path, renamed(tensors_of(*gated), [](const std::string& n) {
                     return with(with(n, ".mlp.w12.", ".mlp.fc1."), ".mlp.w3.", ".mlp.fc2.");
                   }));
  EXPECT_EQ(load_backbone(path)->sha256, gated->sha256);
  // timm's own config.json.
  save_safetensors(path, with_positions(1, false));
  const auto timm_config = [&](const Json& arguments, const char* name = "vit_small_patch14_reg4_dinov2") {
    write(folder.path() + "/config.json",
          Json{{"architecture", name}, {"num_classes", 0}, {"model_args", arguments}}.dump());
  };
  timm_config({{"img_size", 64}});
  EXPECT_EQ(load_backbone(folder.path())->sha256, alone->sha256);
  timm_config({{"num_heads", 2}});
  EXPECT_EQ(load_backbone(folder.path())->config.heads, 2);
  timm_config({{"act_layer", "quick_gelu"}});
  expect_contains(refusal<DataError>(folder.path()), "quick_gelu");
  timm_config(Json::object(), "vit_base_patch16_clip_quickgelu_224");
  expect_contains(refusal<DataError>(folder.path()), "QuickGELU");
}

TEST(ImportFiles, HalfPrecisionAndDouble) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/w.pth";
  auto made = random_backbone(vit_preset("vit_micro"), 8);
  for (int64_t u = 0; u < static_cast<int64_t>(made->layout.units().size()); ++u)
    for (float& x : made->weights.unit(u).f32())
      x = half_to_float(float_to_half(static_cast<float>(bf16(x))));
  for (const std::string type : {"HalfStorage", "BFloat16Storage", "DoubleStorage"}) {
    ZipWriter zip;
    PickleWriter pickle;
    pickle.raw("}(");
    int key = 0;
    for (const auto& [name, values] : tensors_of(*made)) {
      const std::string k = std::to_string(key++);
      pickle.string(name).tensor(k, 0, values.shape, row_major(values.shape), 0, type);
      std::string data;
      for (const float x : values.data)
        data += type == "HalfStorage"       ? bytes_of(float_to_half(x))
                : type == "BFloat16Storage" ? bytes_of(bf16(x).bits)
                                            : bytes_of(static_cast<double>(x));
      zip.add("a/data/" + k, data);
    }
    pickle.raw("u");
    zip.add("a/data.pkl", pickle.finish());
    write(path, zip.finish(true));
    EXPECT_EQ(load_backbone(path)->weights.view("backbone.patch_embed.proj.weight").f32()[11],
              made->weights.view("backbone.patch_embed.proj.weight").f32()[11])
        << type;
  }
}

TEST(ImportFiles, NamesDoNotDecide) {
  const TemporaryFolder folder;
  const auto made = random_backbone(vit_preset("vit_micro"), 9);
  const std::string safe = folder.path() + "/good.safetensors";
  save_safetensors(safe, tensors_of(*made));
  const std::string safetensors = read_text(safe);
  PthWriter file;
  const std::string pth = file.dict(tensors_of(*made)).finish();
  for (const char* name : {"/a.ckpt", "/b.pt", "/c", "/d.safetensors", "/e.bin", "/f.pth.tar"}) {
    for (const std::string& content : {safetensors, pth}) {
      write(folder.path() + name, content);
      EXPECT_EQ(load_backbone(folder.path() + name)->sha256, made->sha256) << name;
    }
  }
  struct Stranger {
    std::string content, says;
  };
  for (const Stranger& s :
       {Stranger{"", "the file is empty"}, Stranger{"<!DOCTYPE html><html>", "a web page"},
        Stranger{"\n <html lang=en>", "a web page"},
        Stranger{"\x89HDF\r\n\x1a\n" + std::string(64, '\0'), "HDF5"},
        Stranger{"\x1f\x8b\x08" + std::string(64, '\x01'), "gzip"},
        Stranger{"\x93NUMPY" + std::string(64, '\x01'), "NumPy"}}) {
    for (const char* name : {"/x.pth", "/x.safetensors", "/x.bin"}) {
      write(folder.path() + name, s.content);
      expect_contains(refusal<DataError>(folder.path() + name), s.says);
    }
  }
  std::filesystem::create_directories(folder.path() + "/dcp");
  write(folder.path() + "/dcp/.metadata", "x");
  expect_contains(refusal<DataError>(folder.path() + "/dcp"), "distributed checkpoint");
  // A header within the file that is all brackets.
  const std::string header = "{\"a\":[" + [] {
    std::string all;
    for (int i = 0; i < 2'000'000; ++i) all += "[],";
    return all;
  }() + "0]}";
  write(safe, bytes_of(static_cast<uint64_t>(header.size())) + header);
  expect_contains(refusal<DataError>(safe), "implausibly many values");
}

}  // namespace
}  // namespace dino
