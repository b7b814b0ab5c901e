// SPDX-License-Identifier: Apache-2.0
#pragma once
// CLIP (arXiv 2103.00020): its image tower is a Backbone like any other (load_backbone reads it, with the
// projection to the space shared with text); this is its text tower. Both come from one weights reference: a
// Hugging Face folder (model_type clip), an OpenCLIP folder (open_clip_config.json beside
// open_clip_model.safetensors or open_clip_pytorch_model.bin), one of their files, or OpenAI's state dict.
// ResNets, timm's towers, text towers of transformers and other poolings are refused by name.

#include <map>
#include <memory>
#include <string>

#include "model/text_tower.hpp"
#include "model/weights.hpp"

namespace dino {

/// Throws MissingInputError, DataError (file, cause). Of a folder with text.safetensors (write_text_model)
/// that is read, whatever the weights beside it are.
[[nodiscard]] std::unique_ptr<TextModel> load_text_model(const std::string& reference);
/// Writes FOLDER/text.safetensors; of weights on the host.
void write_text_model(const TextModel& model, const std::string& folder);

}  // namespace dino
