// SPDX-License-Identifier: Apache-2.0
#pragma once
// The vision transformer of DINOv2 (arXiv 2304.07193; registers: arXiv 2309.16588), forward and hand-written
// backward. All crops of all sizes go through in one packed token matrix with block-diagonal attention.

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/auto_setting.hpp"
#include "base/names.hpp"
#include "model/drop_path.hpp"
#include "model/parameters.hpp"
#include "ops/context.hpp"
#include "tensor/tensor.hpp"

namespace dino {

enum class FfnKind : uint8_t { mlp, swiglu };
/// How learned positions are resampled for another grid (both bicubic, fp32):
///  scale_offset: scale = (n + offset) / M is what enters the coordinates, a = -0.75, no antialias (DINOv2
///  training and hub models without registers, offset 0.1); antialias: the same scale, a = -0.5, support
///  widened when shrinking (register models, offset 0); target_size: scale = n / M, a = -0.75, no antialias
///  (Hugging Face's Dinov2Model).
enum class PositionKernel : uint8_t { scale_offset, antialias, target_size };

/// What a backward pass makes again instead of the forward pass keeping it (arXiv 1604.06174): nothing; all
/// of a block but its input; or the feed-forward's first product (selective: more than half of what is kept,
/// for a ninth of the products).
enum class Recompute : uint8_t { none, block, selective };
constexpr auto names_of(Recompute) {
  return std::to_array<Named<Recompute>>(
      {{"none", Recompute::none}, {"block", Recompute::block}, {"selective", Recompute::selective}});
}

struct VitConfig {
  int64_t patch = 14;
  int64_t width = 384;
  int64_t depth = 12;
  int64_t heads = 6;
  FfnKind ffn = FfnKind::mlp;
  int64_t hidden = 1536;  ///< of the MLP, or of SwiGLU after its 2/3 rule (w12 has 2*hidden rows)
  int64_t registers = 0;
  int64_t position_grid = 37;  ///< M: the learned table is M x M (518/14 = 37, 224/14 = 16)
  PositionKernel position_kernel = PositionKernel::scale_offset;
  double interpolate_offset = 0.1;
  double layerscale = 1e-5;       ///< initial gamma; 0 = no LayerScale parameters
  double drop_path = 0.0;         ///< uniform rate of the student in training
  bool drop_path_uniform = true;  ///< false: linspace(0, drop_path, depth)
  double norm_eps = 1e-6;
  int64_t channels = 3;
  // Of CLIP's image tower (arXiv 2103.00020, section 2.4), which is else the same transformer:
  bool quick_gelu = false;  ///< the MLP's activation is x sigmoid(1.702 x)
  bool input_norm = false;  ///< tokens are normalised before the first block (ln_pre)
  int64_t projection =
      0;  ///< width of the space shared with text that the class token is projected to; 0 = none
  bool operator==(const VitConfig&) const = default;
};

/// SwiGLU's hidden width: (int(4 D * 2/3) + 7) / 8 * 8.
[[nodiscard]] int64_t swiglu_hidden(int64_t width);
/// "vits14", "vitb14", "vitl14", "vitg14", each also with "_reg" (4 registers, antialias kernel);
/// "vitl14_scratch" (SwiGLU); "vitl16"; and small ones for demos and tests: "vit_tiny" (192, 12, 3 heads,
/// patch 16), "vit_demo" (128, 4, 2 heads, patch 8), "vit_micro" (64, 2, 1 head, patch 8). UsageError lists
/// the names.
[[nodiscard]] VitConfig vit_preset(const std::string& name);
[[nodiscard]] std::vector<std::string> vit_preset_names();
/// Appends the backbone's units ("backbone.embed", "backbone.blocks.<i>", "backbone.norm") with parameters
/// named "<module>.<reference name>".
void append_vit_layout(ParameterLayout& layout, const VitConfig& config,
                       const std::string& module = "backbone");
/// Exact count of backbone parameters.
[[nodiscard]] int64_t vit_parameter_count(const VitConfig& config);

/// One list entry: crops of one size.
struct CropBatch {
  ConstTensorView images;  ///< f32 [B, C, H, W] on the context's device; H, W multiples of the patch
  ConstTensorView masks;   ///< u8 [B, N] on the host, 1 = replaced by the mask token; empty = none
};

struct TokenEntry {
  int64_t first_row = 0;  ///< in the packed matrix
  int64_t batch = 0, tokens = 0, grid_h = 0, grid_w = 0;
  [[nodiscard]] int64_t cls_row(int64_t image) const { return first_row + image * tokens; }
  [[nodiscard]] int64_t patch_row(int64_t image, int64_t patch, int64_t registers) const {
    return first_row + image * tokens + 1 + registers + patch;
  }
};

/// Where the crops' tokens lie in the packed matrix.
[[nodiscard]] std::vector<TokenEntry> token_entries(const VitConfig& config,
                                                    std::span<const CropBatch> crops);

struct VitOutput {
  TensorView norm;     ///< f32 [rows, D]: all tokens after the final norm
  TensorView prenorm;  ///< f32 [rows, D]
  std::vector<TokenEntry> entries;
  std::vector<TensorView>
      intermediate;           ///< as asked: per requested block, f32 [rows, D] after the final norm
  TensorView projected;       ///< f32 [images, projection]: the class tokens of all entries, after the
                              ///< final norm, in the space shared with text; not of unit length
  TensorView last_attention;  ///< when asked: f32 [B, heads, T] probabilities of the class token in the last
                              ///< block (single entry only)
};

struct VitForwardOptions {
  const DropPathPlan* drop_path = nullptr;
  std::vector<int64_t> intermediate_blocks;  ///< block indices whose outputs are wanted (final norm applied)
  bool attention_of_class_token = false;
  int64_t attention_query = 0;  ///< the token whose attention is wanted instead: 1 + r is register r
  /// The only rows of the output that will be read, ascending packed rows; empty = all. The last block then
  /// computes queries, projection and feed-forward for these alone (its keys and values need every token),
  /// and the other rows of `norm` and `prenorm` hold nothing of use. Their gradients must be zero in
  /// backward.
  std::span<const int64_t> read_rows;
  /// Of a pass that keeps what backward needs. Values and gradients are the same, bit for bit.
  Recompute recompute = Recompute::none;
};

/// What backward needs; made by a training forward, valid until the arena scope of that forward ends.
struct VitSaved;

class Vit {
 public:
  explicit Vit(VitConfig config, std::string module = "backbone");
  ~Vit();
  Vit(Vit&&) noexcept;
  [[nodiscard]] const VitConfig& config() const { return config_; }
  /// `saved` non-null: keeps what backward needs (in the object of an earlier pass, if it holds one that
  /// nobody shares). All tensors are made in the context's arena; `weights` are of its device. One Vit serves
  /// one device.
  [[nodiscard]] VitOutput forward(const Context& c, const UnitWeights& weights,
                                  std::span<const CropBatch> crops, const VitForwardOptions& options,
                                  std::shared_ptr<VitSaved>* saved = nullptr) const;
  /// d_norm f32 [rows, D]: gradient of `norm`; d_prenorm of `prenorm`; either may be empty (zero); the
  /// projection has none. Adds to
  /// `gradients`, and finishes every unit in turn, the final norm first, whether or not a token went through
  /// it. d_images (optional, one per entry, f32 [B,C,H,W]) receive the inputs' gradients.
  void backward(const Context& c, const UnitWeights& weights, const VitSaved& saved, ConstTensorView d_norm,
                ConstTensorView d_prenorm, UnitGradients& gradients,
                std::span<const TensorView> d_images = {}) const;

 private:
  struct Impl;
  VitConfig config_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dino
