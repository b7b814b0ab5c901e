// SPDX-License-Identifier: Apache-2.0
#pragma once
// CLIP's tensors under the names of ours. Internal to src/model.

#include <memory>
#include <string>

#include "model/tensor_source.hpp"

namespace dino {

/// Whether tensors have CLIP's names, OpenCLIP's or Hugging Face's.
[[nodiscard]] bool has_clip_names(const TensorSource& source);
/// The image tower of a file of tensors with its configuration beside it, without `source` and digest.
[[nodiscard]] std::unique_ptr<Backbone> clip_backbone(const TensorSource& source, int64_t heads);

}  // namespace dino
