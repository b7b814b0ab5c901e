// SPDX-License-Identifier: Apache-2.0
#pragma once
// Files of named tensors from elsewhere, seen alike. Internal to src/model.

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "model/weights.hpp"
#include "tensor/tensor.hpp"

namespace dino {

struct TensorInfo {
  std::vector<int64_t> shape;
  std::string dtype;  ///< as safetensors calls it: "F32", "BF16", "I64", ...
  [[nodiscard]] bool is_floating() const { return dtype.starts_with("F") || dtype == "BF16"; }
};

struct TensorSource {
  std::string path;
  int64_t bytes = 0;  ///< of all its files: no tensor asks for more values
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> facts;   ///< beside them: metadata, arguments of the training
  std::map<std::string, std::string> opaque;  ///< name -> class of what a pickle holds and is not read
  std::set<std::string> classes;
  std::string held;                                     ///< what the file holds, for messages
  std::function<Tensor(const std::string&)> read = {};  ///< a name of `tensors` -> f32
  [[nodiscard]] bool has(const std::string& name) const { return tensors.contains(name); }
};

/// A name from outside in a one-line message: escaped, and cut after 100 bytes.
[[nodiscard]] std::string shown_name(const std::string& name);
/// "bad weights: PATH: WHY; it holds ...".
[[noreturn]] void fail_weights(const TensorSource& source, const std::string& why);
[[noreturn]] void fail_weights(const std::string& path, const std::string& why);  ///< the same without that

// ---- files
[[nodiscard]] TensorSource open_safetensors(const std::string& path);
/// A file that torch.save wrote, read as data; strides are honoured.
[[nodiscard]] TensorSource open_pth(const std::string& path);
/// The shards that a *.index.json names, as one.
[[nodiscard]] TensorSource open_index(const std::string& path);
/// Any of them by content; DataError says what a file is that is none (a Git LFS pointer, a web page, ...).
[[nodiscard]] TensorSource open_tensors(const std::string& path);
/// DataError when the text is what Git LFS leaves in place of a file.
void refuse_lfs_pointer(const std::string& path, std::string_view text);

// ---- names
/// The name without what wrappers of PyTorch's modules put into it.
[[nodiscard]] std::string without_wrappers(const std::string& name);
/// The tensors of one backbone under its own names: those below the stem that the patch embedding has,
/// without the names that wrappers add. `which` decides between several.
[[nodiscard]] TensorSource backbone_tensors(TensorSource source, Network which);
[[nodiscard]] bool has_hugging_face_names(const TensorSource& source);
/// Presents tensors of Hugging Face's names (query, key and value apart) under the reference's names.
[[nodiscard]] TensorSource from_hugging_face_names(TensorSource source);
/// query, key and value joined as the rows of one matrix or vector.
[[nodiscard]] Tensor joined(const std::function<Tensor(const std::string&)>& read,
                            const std::array<std::string, 3>& parts, const std::string& path);
/// timm's names and shapes where they differ from the reference's: reg_token, packed SwiGLU, positions
/// without the class token's or with the registers'.
[[nodiscard]] TensorSource from_timm_names(TensorSource source);
/// Reference names to Hugging Face's, "blocks.0.norm1.weight" -> "encoder.layer.0.norm1.weight"; not for
/// attn.qkv, which is split.
[[nodiscard]] std::string hugging_face_name(const std::string& name);

// ---- exports
/// DataError where the model is a CLIP's image tower, for which `format` has no place.
void refuse_clip(const VitConfig& config, const std::string& folder, const char* format);

// ---- folders
/// Names of weights in folders of Hugging Face's hub, in the order of choice.
constexpr const char* kWeightsFiles[] = {"/model.safetensors",           "/model.safetensors.index.json",
                                         "/pytorch_model.bin",           "/pytorch_model.bin.index.json",
                                         "/open_clip_model.safetensors", "/open_clip_pytorch_model.bin"};
/// Two models have one digest when all their parameters are equal, whatever the format or layout: SHA-256 of
/// the lines "name sha256(bytes)" in name order.
[[nodiscard]] std::string weights_digest(const ParameterLayout& layout, const ParameterStore& weights);

// ---- configurations
/// config.json of transformers (DINOv2, with registers, ViT); nullopt for one of timm's, whose facts are
/// added to the source; DataError for another model or an option that the backbone does not have.
[[nodiscard]] std::optional<VitConfig> read_hugging_face_config(const std::string& path,
                                                                TensorSource& source);
/// Among the facts of our own files: the whole configuration, as vit_config_to_json writes it.
constexpr const char* kConfigFact = "dinohpc.vit";
/// What the file tells; UsageError where the user says otherwise (0 = nothing).
[[nodiscard]] int64_t settled_heads(const std::string& path, int64_t told, int64_t asked);
/// The configuration that shapes and facts tell (reference names). `heads` as given by the user, 0 = not.
[[nodiscard]] VitConfig infer_config(const TensorSource& source, int64_t heads);

/// Number of blocks; all from the first one on are there, so that a name cannot ask for a million.
[[nodiscard]] int64_t depth_of(const TensorSource& source);
/// Every parameter of the layout, all of one module, from the source's tensors (reference names), on the
/// host. DataError as for a backbone. The store points to the layout.
[[nodiscard]] ParameterStore take_parameters(const ParameterLayout& layout, const TensorSource& source);
/// A bundle of this configuration with every parameter taken from the source (reference names). A tensor that
/// the model has no use for is DataError unless it is known to be no part of a backbone.
[[nodiscard]] std::unique_ptr<Backbone> backbone_of(const VitConfig& config, const TensorSource& source);

}  // namespace dino
