// SPDX-License-Identifier: Apache-2.0
#pragma once
// CLIP's text tower (arXiv 2103.00020, section 2.4): a causal transformer of the vision transformer's blocks
// over byte-pair tokens; a text is the last token's output (the end of the text), normalised and projected to
// the space shared with images. Texts are packed without padding: nothing behind the end of a text can reach
// it.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/parameters.hpp"
#include "ops/context.hpp"
#include "tensor/tensor.hpp"

namespace dino {

struct TextConfig {
  int64_t vocabulary = 49408;
  int64_t context = 77;  ///< most tokens of a text, with those around it
  int64_t width = 512;
  int64_t depth = 12;
  int64_t heads = 8;
  int64_t hidden = 2048;
  int64_t projection = 512;  ///< width of the space shared with images
  bool quick_gelu = false;   ///< see VitConfig
  double layerscale = 0;     ///< initial gamma; 0 = none
  double norm_eps = 1e-5;
  bool operator==(const TextConfig&) const = default;
};

/// Units "text.embed" (token_embedding [V, D], positions [context, D]), "text.blocks.<i>" as the ViT's, and
/// "text.norm" (norm, projection [E, D], logit_scale [1]: ln of the factor on cosines, begun at ln(1/0.07)).
/// Tables and matrices begin as in the paper's code or as the ViT's.
void append_text_layout(ParameterLayout& layout, const TextConfig& config);

/// What backward needs; made by a training forward, valid until the arena scope of that forward ends.
struct TextSaved;

class TextTower {
 public:
  explicit TextTower(const TextConfig& config);
  ~TextTower();
  TextTower(TextTower&&) noexcept;
  [[nodiscard]] const TextConfig& config() const { return config_; }
  /// texts: each of 1 to `context` token numbers below `vocabulary`, the last of which stands for the text.
  /// Returns f32 [texts, projection], not of unit length, in the context's arena. `saved` non-null: keeps
  /// what backward needs.
  [[nodiscard]] TensorView forward(const Context& c, const UnitWeights& weights,
                                   std::span<const std::vector<int32_t>> texts,
                                   std::shared_ptr<TextSaved>* saved = nullptr) const;
  /// d_out f32 [texts, projection]: gradient of the result. Adds to `gradients`, and finishes every unit in
  /// turn. The gradient of logit_scale is the loss's to add, before.
  void backward(const Context& c, const UnitWeights& weights, const TextSaved& saved, ConstTensorView d_out,
                UnitGradients& gradients) const;
  /// Where logit_scale lies in the layout's last unit.
  [[nodiscard]] ParameterPlace logit_scale() const;

 private:
  struct Impl;
  TextConfig config_;
  std::unique_ptr<Impl> impl_;
};

/// A text tower with its weights; kept on the heap, as a Backbone.
struct TextModel {
  TextConfig config;
  ParameterLayout layout;
  ParameterStore weights;
  std::string source;       ///< the reference as given
  std::string description;  ///< one line
  std::string sha256;       ///< as a Backbone's
};
/// Moves the weights to where the context computes.
void bring_to_device(TextModel& model, const Context& c);
[[nodiscard]] std::unique_ptr<TextModel> random_text_model(const TextConfig& config, uint64_t seed);

}  // namespace dino
