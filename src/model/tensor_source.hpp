// SPDX-License-Identifier: Apache-2.0
#pragma once
// Files of named tensors from elsewhere, seen alike. Internal to src/model.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/weights.hpp"
#include "tensor/tensor.hpp"

namespace dino {

struct TensorSource {
  std::string path;
  std::map<std::string, std::vector<int64_t>> shapes;
  std::function<Tensor(const std::string&)> read;  ///< a name of `shapes` -> f32
  [[nodiscard]] bool has(const std::string& name) const { return shapes.contains(name); }
};
[[nodiscard]] TensorSource open_safetensors(const std::string& path);
/// A PyTorch zip archive of a dict (nested ones are joined by dots) whose leaves are tensors. The pickle is
/// read as data: only the few names that rebuild tensors are known, and anything else is DataError.
[[nodiscard]] TensorSource open_pth(const std::string& path);

/// The source under the reference's backbone names: outer names ("model.", `which`, "module.", "backbone.",
/// "dinov2.") are taken off, what does not belong to the backbone is left out, and chunked block names
/// ("blocks.2.13.") lose their chunk.
[[nodiscard]] TensorSource backbone_tensors(TensorSource source, const std::string& which);

[[nodiscard]] bool has_hugging_face_names(const TensorSource& source);
/// config.json of Dinov2Model or Dinov2WithRegistersModel; DataError for another model or an option that the
/// backbone does not have.
[[nodiscard]] VitConfig read_hugging_face_config(const std::string& path);
/// The configuration that shapes alone tell, for either naming.
[[nodiscard]] VitConfig infer_config(const TensorSource& source);
/// Presents tensors of Hugging Face's names (query, key and value apart) under the reference's names.
[[nodiscard]] TensorSource with_reference_names(TensorSource source);
/// Reference names to Hugging Face's, "blocks.0.norm1.weight" -> "encoder.layer.0.norm1.weight"; not for
/// attn.qkv, which is split.
[[nodiscard]] std::string hugging_face_name(const std::string& name);

/// A bundle of this configuration with every parameter taken from the source (reference names).
[[nodiscard]] std::unique_ptr<Backbone> backbone_of(const VitConfig& config, const TensorSource& source);

}  // namespace dino
