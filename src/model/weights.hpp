// SPDX-License-Identifier: Apache-2.0
#pragma once
// Weights references: a checkpoint folder, a run folder (its newest valid checkpoint), a Hugging Face folder
// (config.json + model.safetensors or pytorch_model.bin, whole or in shards), a .safetensors file or a .pth
// file (of any PyTorch from 0.4 on, read without executing its pickle).

#include <map>
#include <memory>
#include <string>

#include "base/names.hpp"
#include "model/parameters.hpp"
#include "model/preparation.hpp"
#include "model/vit.hpp"

namespace dino {

/// A backbone ready for inference. The store points into the layout, so the bundle is kept on the heap and
/// moved as a pointer.
struct Backbone {
  VitConfig config;
  ParameterLayout layout;
  ParameterStore weights;
  std::string source;       ///< the reference as given
  std::string checkpoint;   ///< the folder of ours that it was read from, "" where it is another format
  std::string description;  ///< one line: format, step, sizes
  std::string
      sha256;  ///< of the lines "name sha256(bytes)" in name order (identifies the model in protocol cards)
};

/// The two networks of a self-distillation; names as those of a checkpoint's stores.
enum class Network : uint8_t { teacher, student };
constexpr auto names_of(Network) {
  return std::to_array<Named<Network>>({{"teacher", Network::teacher}, {"student", Network::student}});
}

/// Moves the weights to where the context computes; nothing where they are there.
void bring_to_device(Backbone& backbone, const Context& c);

struct LoadOptions {
  Network which = Network::teacher;  ///< where a file or checkpoint holds both
  int64_t heads = 0;                 ///< attention heads, where the file does not tell; 0 = not given
};

/// Throws MissingInputError, DataError (file, cause); UsageError where `heads` contradicts the file.
[[nodiscard]] std::unique_ptr<Backbone> load_backbone(const std::string& reference,
                                                      const LoadOptions& options = {});
/// A backbone with fresh random weights (the floor of evaluations).
[[nodiscard]] std::unique_ptr<Backbone> random_backbone(const VitConfig& config, uint64_t seed);
/// The backbone's configuration as JSON text, and back; used by checkpoints (DataError on unknown or missing
/// fields).
[[nodiscard]] std::string vit_config_to_json(const VitConfig& config);
[[nodiscard]] VitConfig vit_config_from_json(const std::string& json, const std::string& source);

/// Writes DIR/config.json, DIR/model.safetensors and DIR/preprocessor_config.json, which
/// transformers.AutoModel, AutoImageProcessor and pipeline load (Dinov2Model / Dinov2WithRegistersModel,
/// BitImageProcessor). What `pixels` does not tell of sizes is 224 px (less for a smaller table of positions)
/// from a shorter side of 256.
void export_hugging_face(const Backbone& backbone, const std::string& folder, const Preparation& pixels = {});
/// Writes DIR/timm.safetensors with timm's names and shapes, for its checkpoint_path. Returns the call of
/// timm.create_model that loads it.
std::string export_timm(const Backbone& backbone, const std::string& folder);
/// Writes DIR/model.safetensors with the hub's (reference's) names, and DIR/preprocessor_config.json, from
/// which the programs here know the pixels.
void export_hub(const Backbone& backbone, const std::string& folder, const Preparation& pixels = {});

/// A projection head ("dino_head", "ibot_head") that a training left beside the backbone, in the checkpoint
/// that load_backbone took or else in a file of tensors: values by their names in the module ("mlp.0.weight",
/// "last_layer.weight_v"). Empty where there is none, or a file has several and none of the wanted network.
[[nodiscard]] std::map<std::string, Tensor> load_head(const Backbone& backbone, Network which,
                                                      const std::string& module);

}  // namespace dino
