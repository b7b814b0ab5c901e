// SPDX-License-Identifier: Apache-2.0
// Damaged weights of every format.
#include "mutation.hpp"

#include <gtest/gtest.h>

#include "base/json.hpp"
#include "model/byte_pairs.hpp"
#include "model/checkpoint_reader.hpp"
#include "model/clip.hpp"
#include "model/import_clip.hpp"
#include "model/temporary_folder.hpp"
#include "model/tensor_source.hpp"
#include "model/weights_writer.hpp"
#include "storage/files.hpp"
#include "test_data.hpp"

namespace dino {
namespace {

using testing::MutationPlan;
using testing::run_file_mutations;

std::string small_pth(bool zip64) {
  PickleWriter pickle;
  pickle.raw("}(").string("iteration").integer(7).string("model");
  pickle.global("collections", "OrderedDict").raw(")Rq\x01(");
  pickle.string("a.weight").tensor("0", 15, {3, 4}, {4, 1}, 3);
  pickle.string("a.bias").tensor("1", 4, {4}, {1}, 0, "HalfStorage");
  pickle.raw("uu");
  ZipWriter zip;
  zip.add("archive/data.pkl", pickle.finish());
  zip.add("archive/byteorder", "little");
  zip.add("archive/data/0", std::string(60, 'x'));
  zip.add("archive/data/1", std::string(8, 'y'));
  return zip.finish(zip64);
}

TEST(WeightsMutation, Pth) {
  const TemporaryFolder folder;
  run_file_mutations({{small_pth(true), small_pth(false)}, 41, {}, 0.1}, folder.path() + "/x.pth",
                     [](const std::string& path) {
                       const TensorSource source = open_pth(path);
                       for (const auto& [name, info] : source.tensors) (void)source.read(name);
                     });
}

/// A checkpoint with all that trainings put beside the tensors.
PthWriter small_checkpoint() {
  PthWriter file;
  file.pickle.raw("}(").string("args").global("argparse", "Namespace").raw(")\x81}(").string("num_heads");
  file.pickle.integer(4).string("lr").raw("G" + std::string(8, '\x3f') + "ub").string("size");
  file.pickle.global("torch", "Size").raw("](").integer(2).raw("e\x85R").string("bytes").raw("C\x03xyz");
  file.pickle.string("optimizer").raw("}").integer(0).raw("(").integer(1).raw("\x8a\x02\xff\x7fts");
  file.pickle.string("set").raw("\x8f(").integer(5).raw("\x90").string("model");
  file.dict({{"module.a.weight", filled({3, 4}, 1)}, {"module.a.bias", filled({4}, 2)}}).pickle.raw("u");
  return file;
}

TEST(WeightsMutation, CheckpointsOfBothFormats) {
  const TemporaryFolder folder;
  const PthWriter file = small_checkpoint();
  run_file_mutations({{file.finish(), file.finish_legacy()}, 48, {}, 0.1}, folder.path() + "/x.pth",
                     [](const std::string& path) {
                       const TensorSource source = open_tensors(path);
                       for (const auto& [name, info] : source.tensors) (void)source.read(name);
                     });
}

/// Names, shapes and metadata of a whole backbone, up to the last check.
TEST(WeightsMutation, NamesOfABackbone) {
  const TemporaryFolder folder;
  VitConfig config = vit_preset("vit_micro");
  config.width = 16;
  config.hidden = 16;
  config.depth = 1;
  config.position_grid = 2;
  config.patch = 2;
  const NamedValues named = tensors_of(*random_backbone(config, 1));
  MutationPlan plan;
  for (const char* prefix : {"", "teacher.backbone."}) {
    save_safetensors(folder.path() + "/good", prefixed(named, prefix), {{"heads", "2"}});
    plan.good.push_back(read_text(folder.path() + "/good"));
  }
  plan.stream = 49;
  run_file_mutations(plan, folder.path() + "/x.safetensors",
                     [](const std::string& path) { (void)load_backbone(path); });
}

TEST(WeightsMutation, IndexOfShards) {
  const TemporaryFolder folder;
  nlohmann::json map;
  for (const char* shard : {"a", "b"}) {
    const std::string file = std::string(shard) + ".safetensors";
    save_safetensors(folder.path() + "/" + file, {{std::string(shard) + ".w", filled({2}, 1)}});
    map[std::string(shard) + ".w"] = file;
  }
  const nlohmann::json index = {{"metadata", {{"total_size", 16}}}, {"weight_map", map}};
  run_file_mutations({{index.dump(), index.dump(1)}, 50, {}, 0.1}, folder.path() + "/x.index.json",
                     [](const std::string& path) {
                       const TensorSource source = open_tensors(path);
                       for (const auto& [name, info] : source.tensors) (void)source.read(name);
                     });
}

TEST(WeightsMutation, HuggingFaceConfig) {
  const TemporaryFolder folder;
  MutationPlan plan;
  for (const char* name : {"dinov2", "dinov2_swiglu", "dinov2_with_registers"})
    plan.good.push_back(read_text(dino::test::data_folder() + "/golden/hf/" + name + "/config.json"));
  plan.stream = 42;
  run_file_mutations(plan, folder.path() + "/config.json", [](const std::string& path) {
    TensorSource source;
    (void)read_hugging_face_config(path, source);
  });
}

/// A CLIP of one block a tower, four wide, in Hugging Face's names.
NamedValues smallest_clip() {
  NamedValues named = {{"logit_scale", filled({}, 2)},
                       {"visual_projection.weight", filled({3, 4}, .1F)},
                       {"text_projection.weight", filled({3, 4}, .1F)},
                       {"vision_model.embeddings.class_embedding", filled({4}, 1)},
                       {"vision_model.embeddings.patch_embedding.weight", filled({4, 3, 2, 2}, 1)},
                       {"vision_model.embeddings.position_embedding.weight", filled({2, 4}, 1)},
                       {"text_model.embeddings.token_embedding.weight", filled({9, 4}, 1)},
                       {"text_model.embeddings.position_embedding.weight", filled({5, 4}, 1)}};
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    named.emplace(name + ".bias", filled({shape.front()}, .1F));
    named.emplace(name + ".weight", filled(std::move(shape), .1F));
  };
  for (const char* norm :
       {"vision_model.pre_layrnorm", "vision_model.post_layernorm", "text_model.final_layer_norm"})
    add(norm, {4});
  for (const std::string tower : {"vision_model", "text_model"}) {
    const std::string block = tower + ".encoder.layers.0.";
    for (const char* norm : {"layer_norm1", "layer_norm2"}) add(block + norm, {4});
    for (const char* part : {"q_proj", "k_proj", "v_proj", "out_proj"})
      add(block + "self_attn." + part, {4, 4});
    add(block + "mlp.fc1", {6, 4});
    add(block + "mlp.fc2", {4, 6});
  }
  return named;
}

/// Names and shapes of both towers, up to the last check, and their configuration.
TEST(WeightsMutation, Clip) {
  const TemporaryFolder folder;
  const nlohmann::json config = {{"model_type", "clip"},
                                 {"vision_config", {{"num_attention_heads", 2}, {"hidden_act", "gelu"}}},
                                 {"text_config", {{"num_attention_heads", 1}, {"layer_norm_eps", 1e-5}}}};
  const auto load = [&](const std::string&) {
    (void)load_backbone(folder.path());
    (void)load_text_model(folder.path());
  };
  const std::string weights = folder.path() + "/model.safetensors";
  save_safetensors(weights, smallest_clip());
  run_file_mutations({{config.dump()}, 56, {}, 0.1}, folder.path() + "/config.json", load);
  write(folder.path() + "/config.json", config.dump());
  run_file_mutations({{read_text(weights)}, 57, {}, 0.1}, weights, load);
}

/// That of OpenCLIP alone.
TEST(WeightsMutation, OpenClipConfig) {
  const TemporaryFolder folder;
  const std::string from = dino::test::data_folder() + "/golden/clip/open_clip/";
  std::filesystem::copy_file(from + "open_clip_model.safetensors",
                             folder.path() + "/open_clip_model.safetensors");
  const TensorSource source = open_tensors(folder.path() + "/open_clip_model.safetensors");
  run_file_mutations({{read_text(from + "open_clip_config.json")}, 60, {}, 0.1},
                     folder.path() + "/open_clip_config.json",
                     [&](const std::string&) { (void)clip_backbone(source, 0); });
}

TEST(WeightsMutation, Vocabulary) {
  const TemporaryFolder folder;
  const std::string from = dino::test::data_folder() + "/golden/clip/transformers/", to = folder.path() + "/";
  write(to + "vocab.json", read_text(from + "vocab.json"));
  const auto load = [&](const std::string&) { (void)BytePairs::load(folder.path(), 574); };
  run_file_mutations({{read_text(from + "merges.txt")}, 58, {}, 0.1}, to + "merges.txt", load);
  write(to + "merges.txt", read_text(from + "merges.txt"));
  run_file_mutations({{read_text(from + "vocab.json")}, 59, {}, 0.1}, to + "vocab.json", load);
}

TEST(WeightsMutation, ModelJson) {
  testing::run_mutations(
      {{vit_config_to_json(vit_preset("vits14")), vit_config_to_json(vit_preset("vitg14"))}, 43, {}, 0.1},
      [](const std::string& bytes, int i) {
        try {
          (void)vit_config_from_json(bytes, "bad.json");
          return true;
        } catch (const DataError& error) {
          EXPECT_NE(std::string(error.what()).find("bad.json"), std::string::npos)
              << i << ": " << error.what();
          return false;
        }
      });
}

TEST(WeightsMutation, CheckpointManifest) {
  const TemporaryFolder folder;
  const auto manifest = [](int64_t padded) {
    const nlohmann::ordered_json model = {
        {"vit", nlohmann::ordered_json::parse(vit_config_to_json(vit_preset("vit_micro")))}};
    return nlohmann::ordered_json{
        {"schema", 1},
        {"step", 40},
        {"samples", 2560},
        {"ranks", 1},
        {"model", model},
        {"stores", {"teacher"}},
        {"units",
         {{{"name", "u"},
           {"module", "m"},
           {"padded", padded},
           {"parameters", {{{"name", "p"}, {"shape", {3, 4}}, {"offset", 0}}}}}}},
        {"shards", {{{"file", "rank_0000.h5"}, {"bytes", 10}, {"crc32c", "00"}, {"ranges", {{0, padded}}}}}}}
        .dump(1);
  };
  run_file_mutations({{manifest(16), manifest(32)}, 44, {}, 0.1}, folder.path() + "/manifest.json",
                     [&](const std::string&) {
                       const CheckpointManifest read = read_checkpoint_manifest(folder.path());
                       (void)find_shard_fault(read);
                     });
}

}  // namespace
}  // namespace dino
