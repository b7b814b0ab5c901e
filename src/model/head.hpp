// SPDX-License-Identifier: Apache-2.0
#pragma once
// The projection head of DINO and iBOT: MLP with GELU -> L2 normalisation -> weight-normalised linear layer
// onto the prototypes. The last product is left to the losses, which run it in chunks of rows so that no full
// logits matrix of the student is kept.

#include "model/parameters.hpp"
#include "model/vit.hpp"

namespace dino {

struct HeadConfig {
  int64_t input = 384;  ///< backbone width
  int64_t hidden = 2048;
  int64_t layers = 3;  ///< linear layers of the MLP (>= 1)
  int64_t bottleneck = 256;
  int64_t prototypes = 65536;  ///< K
  bool operator==(const HeadConfig&) const = default;
};

/// Unit "<module>" with mlp.0.weight, mlp.0.bias, mlp.2..., last_layer.weight_g [K,1], last_layer.weight_v
/// [K,bottleneck].
void append_head_layout(ParameterLayout& layout, const HeadConfig& config, const std::string& module);
[[nodiscard]] int64_t head_parameter_count(const HeadConfig& config);

/// Activations of one head call.
struct HeadSaved {
  std::vector<TensorView> inputs;  ///< of each linear layer
  std::vector<TensorView> pre;     ///< before each GELU
  TensorView normalized, norm;     ///< bottleneck after / the norm of before L2 normalisation
};

class Head {
 public:
  Head(HeadConfig config, std::string module);
  [[nodiscard]] const HeadConfig& config() const { return config_; }
  [[nodiscard]] const std::string& module() const { return module_; }
  /// A layout's unit of this head, which the calls below are given.
  [[nodiscard]] int64_t unit(const ParameterLayout& layout) const;
  /// x f32 [R, input] -> unit vectors f32 [R, bottleneck]. `before_norm` (optional out) is the bottleneck
  /// before normalisation.
  [[nodiscard]] TensorView forward(const Context& c, const UnitView& w, ConstTensorView x,
                                   HeadSaved* saved = nullptr, TensorView* before_norm = nullptr) const;
  /// d_unit f32 [R, bottleneck] -> returns dx f32 [R, input]; adds to gradients.
  [[nodiscard]] TensorView backward(const Context& c, const UnitView& w, const HeadSaved& saved,
                                    ConstTensorView d_unit, const UnitGradient& d) const;

  /// The last layer's effective weight W[k,:] = g[k] v[k,:] / |v[k,:]|, act [K, bottleneck]; computed once
  /// per step.
  [[nodiscard]] TensorView prototypes(const Context& c, const UnitView& w) const;
  /// Adds the gradients of g and v from that of W.
  void prototypes_backward(const Context& c, const UnitView& w, ConstTensorView d_prototypes,
                           const UnitGradient& d) const;

 private:
  struct Linear {
    ParameterPlace weight, bias;
  };
  HeadConfig config_;
  std::string module_;
  std::vector<Linear> mlp_;
  ParameterPlace gain_, direction_;  ///< of the last layer: weight_g, weight_v
};

}  // namespace dino
