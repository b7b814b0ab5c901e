// SPDX-License-Identifier: Apache-2.0
// Imported transformers models against their own recorded outputs, at native and other sizes; and the same
// after an export and import.
#include <nlohmann/json.hpp>

#include "model/golden_model.hpp"
#include "model/temporary_folder.hpp"
#include "model/weights.hpp"
#include "storage/files.hpp"

namespace dino::golden {
namespace {

/// Folders of hf/ that hold a backbone of ours.
std::vector<std::string> backbone_folders() {
  std::vector<std::string> folders;
  for (const std::string& folder : golden_files("", "", "hf")) {
    if (!path_exists(folder + "/config.json") || !path_exists(folder + "/outputs.h5")) continue;
    const auto config = nlohmann::json::parse(read_text(folder + "/config.json"));
    const std::string type = config.value("model_type", "");
    if (type == "dinov2" || type == "dinov2_with_registers") folders.push_back(folder);
  }
  return folders;
}

void check_input(const Backbone& backbone, const Hdf5File& file, const std::string& name, Report& report) {
  const Vit vit(backbone.config, Precision::f32);
  const Tensor images = file.read("/" + name + "/pixel_values", DType::f32);
  const CropBatch crops[] = {{images, {}}};
  Arena arena;
  const VitOutput output = vit.forward(backbone.weights, crops, {}, arena);
  const TokenEntry& entry = output.entries.front();
  const std::vector<float> tokens = token_values(output.norm, entry, 0, entry.tokens);
  const std::vector<float> cls = token_values(output.norm, entry, 0, 1);
  for (const std::string& root : {"/" + name, "/fp64/" + name}) {
    if (!file.exists(root + "/last_hidden_state")) continue;
    report.check("last_hidden_state at " + name,
                 relative_error(std::span<const float>(tokens),
                                values_of(file.read(root + "/last_hidden_state", DType::f64))),
                 1e-5);
    report.check("pooler_output at " + name,
                 relative_error(std::span<const float>(cls),
                                values_of(file.read(root + "/pooler_output", DType::f64))),
                 1e-5);
  }
}

void check_model(const std::string& title, const Backbone& backbone, const std::string& outputs) {
  const Hdf5File file = Hdf5File::open(outputs);
  Report report(title);
  for (const std::string& name : file.list("/"))
    if (file.exists("/" + name + "/pixel_values")) check_input(backbone, file, name, report);
  EXPECT_GT(report.compared(), 0) << outputs;
}

TEST(HuggingFaceGolden, ImportedModels) {
  const std::vector<std::string> folders = backbone_folders();
  ASSERT_FALSE(folders.empty()) << golden_dir();
  for (const std::string& folder : folders)
    check_model(std::filesystem::path(folder).filename().string(), *load_backbone(folder),
                folder + "/outputs.h5");
}

TEST(HuggingFaceGolden, ExportedAndImportedAgain) {
  for (const std::string& folder : backbone_folders()) {
    const TemporaryFolder temporary;
    const auto backbone = load_backbone(folder);
    export_hugging_face(*backbone, temporary.path() + "/hf");
    const auto again = load_backbone(temporary.path() + "/hf");
    EXPECT_EQ(again->config, backbone->config) << folder;
    EXPECT_EQ(again->sha256, backbone->sha256) << folder;
    const auto theirs = nlohmann::json::parse(read_text(folder + "/config.json"));
    const auto ours = nlohmann::json::parse(read_text(temporary.path() + "/hf/config.json"));
    for (const auto& [key, value] : theirs.items()) {
      if (key == "transformers_version" || key == "dtype") continue;
      EXPECT_EQ(ours.value(key, nlohmann::json()), value) << key << " of " << folder;
    }
    check_model("exported " + std::filesystem::path(folder).filename().string(), *again,
                folder + "/outputs.h5");
  }
}

}  // namespace
}  // namespace dino::golden
