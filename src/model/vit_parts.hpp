// SPDX-License-Identifier: Apache-2.0
#pragma once
// The parts of the vision transformer: embedding, attention branch, feed-forward branch, each with its
// backward pass. Internal to src/model; users include model/vit.hpp.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/vit.hpp"

namespace dino {

/// What all parts of one model share.
struct VitContext {
  VitConfig config;
  DType act = DType::f32;  ///< of activations and products
  std::string module;
  [[nodiscard]] std::string name(const char* suffix) const { return module + suffix; }
};

/// The token rows that a residual branch reads. A branch on all rows has no row list.
struct BranchRows {
  struct Part {  ///< one list entry's kept rows [begin, begin + count) of the branch
    int64_t begin = 0, count = 0;
    float scale = 1;  ///< B / keep
  };
  bool all = true;
  int64_t count = 0;
  std::vector<int64_t> rows;    ///< packed rows, by entry in the order drawn; empty when all
  std::vector<int64_t> starts;  ///< sequence starts within the branch
  std::vector<Part> parts;
};
[[nodiscard]] std::shared_ptr<const BranchRows> all_rows(std::span<const TokenEntry> entries);
/// `kept[entry]` = images; a plan that keeps everything gives all_rows.
[[nodiscard]] std::shared_ptr<const BranchRows> kept_rows(std::span<const TokenEntry> entries,
                                                          std::span<const std::vector<int64_t>> kept);

/// n rows enter a branch. In inference `mean`, `rstd`, `lse` and `pre` stay empty.
struct BranchSaved {
  std::shared_ptr<const BranchRows> rows;
  TensorView input;       ///< f32 [n, D] before the norm
  TensorView mean, rstd;  ///< f32 [n]
  TensorView out;         ///< act [n, D] before LayerScale
};
struct AttentionSaved : BranchSaved {
  TensorView qkv;       ///< act [n, 3D]
  TensorView attended;  ///< act [n, D]
  TensorView lse;       ///< f32 [heads, n]
};
struct FfnSaved : BranchSaved {
  TensorView pre;     ///< act: fc1 before GELU [n, hidden], or the output of w12 [n, 2 hidden]
  TensorView hidden;  ///< act [n, hidden]; for SwiGLU made again in the backward pass
};

/// x f32 [rows, D] += LayerScale(attention(norm1(x))) on `rows`. Tensors that `saved` names are made in the
/// arena; keep = false leaves out what only backward needs.
void attention_forward(const VitContext& context, int64_t block, const ParameterStore& weights, TensorView x,
                       std::shared_ptr<const BranchRows> rows, Arena& arena, AttentionSaved& saved,
                       bool keep);
/// dx f32 [rows, D]: gradient of the branch's output in, of its input out.
void attention_backward(const VitContext& context, int64_t block, const ParameterStore& weights,
                        const AttentionSaved& saved, TensorView dx, ParameterStore& gradients, Arena& arena);
void ffn_forward(const VitContext& context, int64_t block, const ParameterStore& weights, TensorView x,
                 std::shared_ptr<const BranchRows> rows, Arena& arena, FfnSaved& saved, bool keep);
void ffn_backward(const VitContext& context, int64_t block, const ParameterStore& weights,
                  const FfnSaved& saved, TensorView dx, ParameterStore& gradients, Arena& arena);

/// Patches under a mask are never embedded: the mask token takes their place.
struct EmbedSaved {
  TensorView patches;                 ///< act [U, C p p]: the visible patches of all entries
  std::vector<int64_t> visible_rows;  ///< [U] their packed rows
  std::vector<int64_t> masked_rows;
  struct Entry {
    int64_t begin = 0, count = 0;          ///< of its visible patches in `patches`
    std::vector<int64_t> visible_patches;  ///< image * N + patch; empty when all are visible
    std::vector<int64_t> table_rows;  ///< [B T]: row of the table [cls, patches, registers] that a token gets
  };
  std::vector<Entry> entries;
};
[[nodiscard]] std::vector<TokenEntry> token_entries(const VitConfig& config,
                                                    std::span<const CropBatch> crops);
/// Fills x f32 [rows, D].
void embed_forward(const VitContext& context, const ParameterStore& weights, std::span<const CropBatch> crops,
                   std::span<const TokenEntry> entries, TensorView x, Arena& arena, EmbedSaved& saved,
                   bool keep);
void embed_backward(const VitContext& context, const ParameterStore& weights, const EmbedSaved& saved,
                    std::span<const TokenEntry> entries, ConstTensorView dx, ParameterStore& gradients,
                    Arena& arena, std::span<const TensorView> d_images);

}  // namespace dino
