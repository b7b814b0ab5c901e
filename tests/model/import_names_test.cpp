// SPDX-License-Identifier: Apache-2.0
// Whose tensors a file holds: wrappers, containers, several networks, tensors that no backbone of ours has,
// and the number of heads.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "model/temporary_folder.hpp"
#include "model/weights_writer.hpp"

namespace dino {
namespace {

VitConfig narrow(int64_t width = 64, int64_t heads = 1) {
  VitConfig config = vit_preset("vit_micro");
  config.width = width;
  config.heads = heads;
  config.hidden = 2 * width;
  return config;
}

/// A folder with one network in it.
class ImportNames : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
  std::unique_ptr<Backbone> backbone_ = random_backbone(narrow(), 1);
  NamedValues named_ = tensors_of(*backbone_);
  const std::string safe_ = folder_.path() + "/x.safetensors", pth_ = folder_.path() + "/x.pth";
};

TEST_F(ImportNames, WrappersAnywhere) {
  using Rename = std::function<std::string(const std::string&)>;
  const auto prefix = [](const char* p) -> Rename {
    return [p](const std::string& name) { return p + name; };
  };
  const std::vector<Rename> wraps = {
      prefix(""),
      prefix("module."),
      prefix("module.module._orig_mod."),
      prefix("_forward_module.model.backbone."),
      prefix("visual.trunk."),
      prefix("encoder.net.0."),
      prefix("teacher._fsdp_wrapped_module._checkpoint_wrapped_module.backbone."),
      prefix("image_encoder.vit_model."),
      [](const std::string& n) { return with(n, "blocks.1.", "blocks.1._checkpoint_wrapped_module."); },
      [](const std::string& n) { return "a.b." + with(n, "blocks.", "blocks._orig_mod."); },
      [](const std::string& n) { return with(n, ".attn.", ".attn._fsdp_wrapped_module._orig_mod."); },
      [](const std::string& n) { return with(n, ".weight", "._fsdp_wrapped_module.weight"); },
      [](const std::string& n) { return "net." + with(n, "blocks.", "blocks.0."); },
      // A module that was pickled whole.
      [](const std::string& n) { return "_modules." + with(n, "blocks.", "blocks._modules."); },
  };
  for (size_t i = 0; i < wraps.size(); ++i) {
    save_safetensors(safe_, renamed(named_, wraps[i]));
    EXPECT_EQ(load_backbone(safe_)->sha256, backbone_->sha256) << "wrapper " << i;
    PthWriter file;
    file.pickle.raw("}(").string("epoch").integer(3).string("whatever");
    file.dict(renamed(named_, wraps[i])).pickle.raw("u");
    write(pth_, file.finish());
    EXPECT_EQ(load_backbone(pth_)->sha256, backbone_->sha256) << "wrapper " << i << " in a container";
  }
}

TEST_F(ImportNames, ContainersOfAnyKind) {
  // Dicts in dicts, a list and a tuple of them, and beside optimizer states that mention the same names.
  const auto expect_read = [&](PthWriter& file, const char* what) {
    write(pth_, file.finish());
    EXPECT_EQ(load_backbone(pth_)->sha256, backbone_->sha256) << what;
  };
  PthWriter deep;
  deep.pickle.raw("}").string("a").raw("}").string("b");
  deep.dict(named_).pickle.raw("ss");
  expect_read(deep, "nested");
  PthWriter list;
  list.pickle.raw("](").integer(1);
  list.dict(named_).pickle.raw("e");
  expect_read(list, "list");
  PthWriter optimizer;
  optimizer.pickle.raw("}(").string("optimizer").raw("}").string("state").raw("}(");
  for (const auto& [name, values] : named_) {
    optimizer.pickle.string(name).raw("}").string("exp_avg");
    optimizer.tensor(values).pickle.raw("s");
  }
  optimizer.pickle.raw("us").string("model");
  optimizer.dict(named_).pickle.raw("u");
  expect_read(optimizer, "optimizer states");
}

TEST_F(ImportNames, OneOfSeveralNetworks) {
  const auto other = random_backbone(narrow(), 2);
  struct Pair {
    const char *student, *teacher;
  };
  for (const Pair& p :
       {Pair{"student.backbone.", "teacher.backbone."}, Pair{"module.student.", "module.teacher."},
        Pair{"model.", "model_ema."}, Pair{"base_encoder.", "momentum_encoder."},
        Pair{"encoder_q.", "encoder_k."}, Pair{"encoder.", "target_encoder."},
        Pair{"online_network.net.", "target_network.net."}, Pair{"", "ema_model."}}) {
    NamedValues both = prefixed(named_, p.student);
    both.merge(prefixed(tensors_of(*other), p.teacher));
    save_safetensors(safe_, both);
    EXPECT_EQ(load_backbone(safe_)->sha256, other->sha256) << p.teacher;
    EXPECT_EQ(load_backbone(safe_, LoadOptions{Network::student, 0})->sha256, backbone_->sha256) << p.student;
  }
  NamedValues both = prefixed(named_, "first.");
  both.merge(prefixed(named_, "second.net."));
  save_safetensors(safe_, both);
  const std::string message = refusal<DataError>(safe_);
  expect_contains(message, "first., second.net.");
  expect_contains(message, "first.* (");
  save_safetensors(safe_, prefixed(named_, "student.backbone."));
  expect_contains(refusal<DataError>(safe_), "it holds a student but no teacher");
  // A predictor or decoder of its own patches is never the backbone.
  both = prefixed(named_, "encoder.");
  both.merge(prefixed(tensors_of(*other), "decoder."));
  save_safetensors(safe_, both);
  EXPECT_EQ(load_backbone(safe_)->sha256, backbone_->sha256);
  // Two tensors of one name.
  both = named_;
  both.emplace("module.norm.bias", named_.at("norm.bias"));
  save_safetensors(safe_, both);
  expect_contains(refusal<DataError>(safe_), "are both norm.bias");
}

TEST_F(ImportNames, TensorsThatWouldBeIgnored) {
  for (const char* name :
       {"norm_pre.weight", "fc_norm.weight", "blocks.0.attn.q_norm.weight", "blocks.1.attn.k_norm.bias",
        "blocks.1.attn.relative_position_bias_table", "rel_pos_bias.weight", "pos_embed_x", "dist_token",
        "blocks.0.mlp.norm.weight", "blocks.0.attn.q_bias", "patch_embed.norm.weight", "norm.scale",
        "blocks.0.norm3.weight", "blocks.0.adapter.down.weight", "blocks.0.attn.proj.lora_A",
        "temporal_embed", "embeddings.distillation_token", "blocks.0.attn.qkv.weight_scale",
        "patch_embed.proj.weight_g"}) {
    for (const char* prefix : {"", "teacher.backbone."}) {
      NamedValues more = named_;
      more.emplace(name, filled({64}, 2));
      save_safetensors(safe_, prefixed(more, prefix));
      expect_contains(refusal<DataError>(safe_),
                      std::string(name) + " [64] is a part that this model does not have");
    }
  }
  for (const char* name :
       {"head.weight", "heads.0.bias", "fc.weight", "classifier.weight", "dino_head.mlp.0.weight",
        "ibot_head.last_layer.weight_g", "decoder_pos_embed", "decoder_blocks.0.norm1.weight",
        "decoder.blocks.0.norm1.weight", "pooler.dense.bias", "predictor.0.weight", "dino_loss.center",
        "head_dist.weight", "projection_head.weight"}) {
    NamedValues more = named_;
    more.emplace(name, filled({3, 64}, 2));
    save_safetensors(safe_, more);
    EXPECT_EQ(load_backbone(safe_)->sha256, backbone_->sha256) << name;
  }
  // Below another stem than the backbone's it is somebody else's.
  NamedValues more = prefixed(named_, "backbone.");
  more.emplace("norm_pre.weight", filled({64}, 2));
  save_safetensors(safe_, more);
  EXPECT_EQ(load_backbone(safe_)->sha256, backbone_->sha256);
}

TEST_F(ImportNames, IntegerBuffers) {
  PthWriter file;
  file.dict(named_).pickle.raw("(").string("position_ids").tensor("0", 5, {5}, {1}, 0, "LongStorage");
  file.pickle.string("blocks.0.bn.num_batches_tracked").tensor("0", 1, {}, {}, 0, "LongStorage").raw("u");
  write(pth_, file.finish());
  EXPECT_EQ(load_backbone(pth_)->sha256, backbone_->sha256);
  PthWriter quantised;
  NamedValues rest = named_;
  rest.erase("blocks.1.attn.proj.weight");
  quantised.dict(rest).pickle.raw("(").string("blocks.1.attn.proj.weight");
  quantised.pickle.tensor("0", 64, {64, 64}, {64, 1}, 0, "CharStorage").raw("u");
  write(pth_, quantised.finish());
  expect_contains(refusal<DataError>(pth_), "blocks.1.attn.proj.weight is of I8: quantised");
}

TEST_F(ImportNames, BiasesAndGapsOfBlocks) {
  const auto without = [&](const std::string& end, const std::string& start = "") {
    NamedValues rest = named_;
    std::erase_if(rest, [&](const auto& entry) {
      return entry.first.ends_with(end) && entry.first.starts_with(start);
    });
    save_safetensors(safe_, rest);
  };
  without(".attn.qkv.bias");  // a model without them is one with zeros
  EXPECT_EQ(load_backbone(safe_)->weights.view("backbone.blocks.1.attn.qkv.bias").f32()[7], 0.0F);
  without(".attn.qkv.bias", "blocks.1.");
  expect_contains(refusal<DataError>(safe_), "no tensor blocks.1.attn.qkv.bias");
  without("", "blocks.0.");
  expect_contains(refusal<DataError>(safe_), "no tensors of block 0 but of block 1");
  without(".gamma", "blocks.1.");
  expect_contains(refusal<DataError>(safe_), "no tensor blocks.1.ls1.gamma");
  without(".gamma");  // no LayerScale at all
  EXPECT_EQ(load_backbone(safe_)->config.layerscale, 0.0);
  NamedValues far = named_;
  far.emplace("blocks.999999.norm1.weight", filled({64}, 1));
  save_safetensors(safe_, far);
  expect_contains(refusal<DataError>(safe_), "no tensors of block 2 but of block 999999");
}

TEST_F(ImportNames, Heads) {
  struct Case {
    int64_t width, heads;
    std::map<std::string, std::string> metadata;
    int64_t asked, expected;  // 0: DataError, -1: UsageError
  };
  using Facts = std::map<std::string, std::string>;
  for (const Case& c : std::vector<Case>{{64, 1, Facts{}, 0, 1},
                                         {64, 4, Facts{}, 4, 4},
                                         {64, 4, Facts{{"heads", "4"}}, 0, 4},
                                         {64, 4, Facts{{"heads", "4"}}, 4, 4},
                                         {64, 4, Facts{{"heads", "4"}}, 2, -1},
                                         {64, 4, Facts{{"args.num_heads", "4"}}, 0, 4},
                                         {64, 4, Facts{{"num_heads", "4"}, {"heads", "8"}}, 0, 0},
                                         {64, 4, Facts{{"decoder_num_heads", "8"}}, 0, 1},
                                         {96, 3, Facts{}, 0, 0},
                                         {96, 3, Facts{}, 3, 3},
                                         {96, 3, Facts{}, 5, -1},
                                         {128, 2, Facts{}, 0, 0},
                                         {192, 3, Facts{}, 0, 3},
                                         {192, 6, Facts{}, 6, 6},
                                         {192, 6, Facts{{"args.num_heads", "6"}}, 0, 0},
                                         {192, 6, Facts{{"args.num_heads", "6"}}, 6, 6},
                                         {192, 3, Facts{{"args.num_heads", "3"}}, 0, 3},
                                         {192, 6, Facts{{"blocks.0.attn.num_heads", "6"}}, 0, 6},
                                         {320, 5, Facts{{"model", "vit_little_patch16_reg4_gap_256"}}, 0, 5},
                                         {256, 4, Facts{{"heads", "three"}}, 0, 0}}) {
    const auto made = random_backbone(narrow(c.width, c.heads), 3);
    save_safetensors(safe_, tensors_of(*made), c.metadata);
    const LoadOptions options{Network::teacher, c.asked};
    const std::string what = std::to_string(c.width) + " asked " + std::to_string(c.asked);
    if (c.expected > 0) {
      EXPECT_EQ(load_backbone(safe_, options)->config.heads, c.expected) << what;
    } else if (c.expected == 0) {
      expect_contains(refusal<DataError>(safe_, options), "give it with --heads");
    } else {
      expect_contains(refusal<UsageError>(safe_, options), "--heads");
    }
  }
  // MoCo v3's ViT-S has the width of others and twice their heads.
  const auto small = random_backbone(narrow(384, 12), 3);
  save_safetensors(safe_, prefixed(tensors_of(*small), "module.momentum_encoder."));
  expect_contains(refusal<DataError>(safe_), "give it with --heads");
}

TEST_F(ImportNames, OwnExportsTellTheirHeads) {
  VitConfig config = narrow(96, 3);
  config.norm_eps = 1e-5;
  config.position_kernel = PositionKernel::target_size;
  config.interpolate_offset = 0;
  const auto odd = random_backbone(config, 5);
  for (const bool hub : {true, false}) {
    const TemporaryFolder folder;
    hub ? export_hub(*odd, folder.path()) : export_hugging_face(*odd, folder.path());
    EXPECT_EQ(SafetensorsFile::open(folder.path() + "/model.safetensors").metadata().at("heads"), "3");
    EXPECT_EQ(load_backbone(folder.path())->config.heads, 3);
    std::filesystem::rename(folder.path() + "/model.safetensors", folder.path() + "/moved.safetensors");
    std::filesystem::remove(folder.path() + "/config.json");
    const auto again = load_backbone(folder.path() + "/moved.safetensors");
    EXPECT_EQ(again->config.heads, 3);
    EXPECT_EQ(again->sha256, odd->sha256);
    if (hub) {
      EXPECT_EQ(again->config, config);
    }
    (void)refusal<UsageError>(folder.path() + "/moved.safetensors", LoadOptions{Network::teacher, 6});
  }
}

TEST_F(ImportNames, StrangersAreNamed) {
  const auto message = [&](const std::string& name, const std::string& more = "") {
    NamedValues others = {{name, filled({9}, 0)}};
    if (!more.empty()) others.emplace(more, filled({9}, 0));
    save_safetensors(safe_, others);
    return refusal<DataError>(safe_);
  };
  for (const char* name : {"teacher.backbone._fsdp_wrapped_module._flat_param", "_flat_param",
                           "model.flat_param_0", "backbone.blocks.0._fsdp_wrapped_module._flat_param"})
    expect_contains(message(name), "_flat_param");
  NamedValues part = named_;
  part.emplace("blocks.3._fsdp_wrapped_module._flat_param", filled({9}, 0));
  save_safetensors(safe_, part);
  expect_contains(refusal<DataError>(safe_), "save a full state dict");
  expect_contains(message("visual.conv1.weight", "text_projection"), "CLIP");
  expect_contains(message("vision_model.embeddings.patch_embedding.weight"), "CLIP");
  expect_contains(message("embeddings.patch_embeddings.weight", "layer.0.attention.q_proj.weight"), "DINOv3");
  expect_contains(message("patch_embed.proj.weight", "rope_embed.periods"), "DINOv3");
  expect_contains(message("conv1.weight", "layer1.0.conv1.weight"),
                  "it holds 2 tensors: conv1.weight [9], layer1.0.conv1.weight [9]");
  // Names from outside stay on one line.
  expect_contains(message("a\nb\x1b[31m"), "a\\nb\\u001b[31m [9]");
  EXPECT_LT(message(std::string(5000, 'n')).size(), 600u);
}

}  // namespace
}  // namespace dino
