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
    float scale = 1;
  };
  bool all = true;
  int64_t count = 0;
  std::vector<int64_t> rows;    ///< packed rows, entry by entry; empty when all
  std::vector<int64_t> starts;  ///< sequence starts within the branch
  std::vector<Part> parts;
};
[[nodiscard]] std::shared_ptr<const BranchRows> all_rows(std::span<const TokenEntry> entries);

/// What follows from the shapes of the crops alone, made once and kept: steps repeat the same shapes.
struct TokenPlan {
  std::vector<TokenEntry> entries;
  std::shared_ptr<const BranchRows> everything;
  std::vector<int64_t> patch_rows;               ///< packed row of every patch, image by image
  std::vector<std::vector<int64_t>> table_rows;  ///< per entry [B T]: a token's row of the table [cls,
                                                 ///< patches, registers]
};
[[nodiscard]] std::shared_ptr<const TokenPlan> make_token_plan(const VitConfig& config,
                                                               std::vector<TokenEntry> entries);
/// A plan that keeps everything as it is gives all_rows. No row at all may be left.
[[nodiscard]] std::shared_ptr<const BranchRows> kept_rows(std::span<const TokenEntry> entries,
                                                          std::span<const KeptRows> kept);

/// The rows of `branch` that are among `read` (ascending packed rows). Stochastic depth keeps other images
/// every step: there, unread rows fill the list up to a multiple of kReadQuantum, so that shapes repeat.
[[nodiscard]] std::shared_ptr<const BranchRows> read_rows(const BranchRows& branch,
                                                          std::span<const int64_t> read);
constexpr int64_t kReadQuantum = 64;

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
/// Attention of a few queries over all keys (the last block, when few tokens are read).
struct QueryAttentionSaved {
  BranchSaved keys;     ///< without `out`
  BranchSaved queries;  ///< nq rows
  TensorView q;         ///< act [nq, D]
  TensorView kv;        ///< act [n, 2D]
  TensorView attended;  ///< act [nq, D]
  TensorView lse;       ///< f32 [heads, nq]
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
/// The same with the branch's output computed for the rows `queries` (a subset of `keys`) only; x changes
/// there.
void query_attention_forward(const VitContext& context, int64_t block, const ParameterStore& weights,
                             TensorView x, std::shared_ptr<const BranchRows> keys,
                             std::shared_ptr<const BranchRows> queries, Arena& arena,
                             QueryAttentionSaved& saved, bool keep);
void query_attention_backward(const VitContext& context, int64_t block, const ParameterStore& weights,
                              const QueryAttentionSaved& saved, TensorView dx, ParameterStore& gradients,
                              Arena& arena);
void ffn_forward(const VitContext& context, int64_t block, const ParameterStore& weights, TensorView x,
                 std::shared_ptr<const BranchRows> rows, Arena& arena, FfnSaved& saved, bool keep);
void ffn_backward(const VitContext& context, int64_t block, const ParameterStore& weights,
                  const FfnSaved& saved, TensorView dx, ParameterStore& gradients, Arena& arena);

/// Every patch is projected, whatever the masks, so that shapes repeat; under a mask the token takes its
/// place.
struct EmbedSaved {
  TensorView patches;                ///< act [P, C p p]: the patches of all entries
  std::vector<int64_t> masked;       ///< indices into `patches`
  std::vector<int64_t> masked_rows;  ///< their packed rows
};
/// Fills x f32 [rows, D].
void embed_forward(const VitContext& context, const ParameterStore& weights, std::span<const CropBatch> crops,
                   const TokenPlan& plan, TensorView x, Arena& arena, EmbedSaved& saved, bool keep);
void embed_backward(const VitContext& context, const ParameterStore& weights, const EmbedSaved& saved,
                    const TokenPlan& plan, ConstTensorView dx, ParameterStore& gradients, Arena& arena,
                    std::span<const TensorView> d_images);

}  // namespace dino
