// SPDX-License-Identifier: Apache-2.0
// Imported transformers models against their own recorded outputs, at native and other sizes; and the same
// after an export and import.

#include "base/error.hpp"
#include "base/json.hpp"
#include "host_place.hpp"
#include "model/golden_model.hpp"
#include "model/temporary_folder.hpp"
#include "model/weights.hpp"
#include "storage/files.hpp"

namespace dino::golden {
namespace {

bool is_backbone(const std::string& type) {
  return type == "dinov2" || type == "dinov2_with_registers";
}

/// Folders of hf/ that hold a backbone of ours. What hf/ holds besides is named in the output; a model of
/// another type must be refused by name, too.
std::vector<std::string> backbone_folders() {
  std::vector<std::string> folders;
  for (const std::string& entry : golden_files("", "", "hf")) {
    const std::string name = "hf/" + file_name(entry);
    if (!std::filesystem::is_directory(entry)) {
      std::printf("golden  %s  not compared: dinohpc has no such tokens\n", name.c_str());
      continue;
    }
    const auto config = nlohmann::json::parse(read_text(entry + "/config.json"));
    const std::string type = config.value("model_type", "");
    if (is_backbone(type)) {
      folders.push_back(entry);
      continue;
    }
    if (type == "vit" || type == "vit_msn" || type == "vit_mae") {
      std::printf("golden  %s  not compared: a ViT has no export under its own type\n", name.c_str());
      continue;
    }
    std::printf("golden  %s  not compared: dinohpc does not read models of type \"%s\"\n", name.c_str(),
                type.c_str());
    try {
      (void)load_backbone(entry);
      ADD_FAILURE() << entry << " was read as if it were a backbone";
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(type), std::string::npos) << error.what();
    }
  }
  return folders;
}

void check_input(const Backbone& backbone, const Hdf5File& file, const std::string& name, Report& report) {
  const Vit vit(backbone.config);
  const Tensor images = file.read("/" + name + "/pixel_values", DType::f32);
  const CropBatch crops[] = {{images, {}}};
  HostPlace host;
  const VitOutput output = vit.forward(host.c, backbone.weights, crops, {});
  const TokenEntry& entry = output.entries.front();
  const std::vector<float> tokens = token_values(output.norm, entry, 0, entry.tokens);
  const std::vector<float> cls = token_values(output.norm, entry, 0, 1);
  report.check_record(file, name + "/last_hidden_state", std::span<const float>(tokens),
                      "/" + name + "/last_hidden_state", 1e-5);
  report.check_record(file, name + "/pooler_output", std::span<const float>(cls),
                      "/" + name + "/pooler_output", 1e-5);
}

void check_model(const std::string& title, const Backbone& backbone, const std::string& outputs) {
  const Hdf5File file = Hdf5File::open(outputs);
  Report report(title);
  for (const std::string& name : file.list("/"))
    if (file.exists("/" + name + "/pixel_values")) check_input(backbone, file, name, report);
}

TEST(HuggingFaceGolden, ImportedModels) {
  const std::vector<std::string> folders = backbone_folders();
  ASSERT_FALSE(folders.empty()) << "no DINOv2 model in " << golden_dir() << "/hf";
  for (const std::string& folder : folders)
    check_model("hf/" + file_name(folder), *load_backbone(folder), folder + "/outputs.h5");
}

/// What decides a model's outputs; the rest of config.json is about training and versions.
constexpr const char* kConfigKeys[] = {
    "architectures",       "hidden_act", "hidden_size",   "image_size",          "layer_norm_eps",
    "mlp_ratio",           "model_type", "num_channels",  "num_attention_heads", "num_hidden_layers",
    "num_register_tokens", "patch_size", "use_swiglu_ffn"};

TEST(HuggingFaceGolden, ExportedAndImportedAgain) {
  const std::vector<std::string> folders = backbone_folders();
  ASSERT_FALSE(folders.empty()) << "no DINOv2 model in " << golden_dir() << "/hf";
  for (const std::string& folder : folders) {
    const TemporaryFolder temporary;
    const auto backbone = load_backbone(folder);
    export_hugging_face(*backbone, temporary.path() + "/hf");
    const auto again = load_backbone(temporary.path() + "/hf");
    EXPECT_EQ(again->config, backbone->config) << folder;
    EXPECT_EQ(again->sha256, backbone->sha256) << folder;
    const auto theirs = nlohmann::json::parse(read_text(folder + "/config.json"));
    const auto ours = nlohmann::json::parse(read_text(temporary.path() + "/hf/config.json"));
    for (const char* key : kConfigKeys) {
      if (!theirs.contains(key)) continue;
      EXPECT_EQ(ours.value(key, nlohmann::json()), theirs[key]) << key << " of " << folder;
    }
    check_model("exported hf/" + file_name(folder), *again, folder + "/outputs.h5");
  }
}

}  // namespace
}  // namespace dino::golden
