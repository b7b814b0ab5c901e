// SPDX-License-Identifier: Apache-2.0
#pragma once
// The parts of the vision transformer: embedding, attention branch, feed-forward branch, each with its
// backward pass. Internal to src/model; users include model/vit.hpp.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/residual.hpp"
#include "model/vit.hpp"

namespace dino {

struct EmbedPlaces {
  ParameterPlace cls_token, pos_embed, register_tokens, mask_token, proj_weight, proj_bias;
};
struct NormPlaces {
  ParameterPlace weight, bias;
};
/// A block's parameters as a unit "<module>.blocks.<index>".
void append_block_layout(ParameterLayout& layout, const VitConfig& config, const std::string& module,
                         int64_t index);
struct BlockPlaces {
  NormPlaces norm1, norm2;
  ParameterPlace qkv_weight, qkv_bias, proj_weight, proj_bias, gamma1;
  ParameterPlace in_weight, in_bias;    ///< of the feed-forward: fc1, or w12
  ParameterPlace out_weight, out_bias;  ///< fc2, or w3
  ParameterPlace gamma2;
};

/// What all parts of one model share.
struct VitContext {
  explicit VitContext(const VitConfig& config, std::string module);
  VitConfig config;
  std::string module;
  // Places in a unit; all blocks are alike.
  EmbedPlaces embed;
  BlockPlaces block;
  NormPlaces norm;
  NormPlaces input_norm;      ///< in the embedding's unit
  ParameterPlace projection;  ///< in the final norm's
  // A layout's units of this model.
  [[nodiscard]] int64_t embed_unit(const ParameterLayout& layout) const;
  [[nodiscard]] int64_t block_unit(const ParameterLayout& layout, int64_t index) const {
    return embed_unit(layout) + 1 + index;
  }
  [[nodiscard]] int64_t norm_unit(const ParameterLayout& layout) const {
    return block_unit(layout, config.depth);
  }
};

/// The token rows that a residual branch reads. A branch on all rows has no row list.
struct BranchRows {
  struct Part {  ///< one list entry's kept rows [begin, begin + count) of the branch
    int64_t begin = 0, count = 0;
    float scale = 1;
  };
  bool all = true;
  bool causal = false;  ///< a row attends to the rows up to itself
  int64_t count = 0;
  int64_t longest = 0;          ///< of its sequences
  std::vector<int64_t> rows;    ///< packed rows, entry by entry; empty when all
  std::vector<int64_t> starts;  ///< sequence starts within the branch
  std::vector<Part> parts;
  TensorView device_rows, device_starts;  ///< the same for the operators
  [[nodiscard]] ops::Sequences sequences() const;
};
/// The lists are uploaded into the context's arena, and live as long as its scope.
[[nodiscard]] std::shared_ptr<const BranchRows> all_rows(const Context& c,
                                                         std::span<const TokenEntry> entries,
                                                         bool causal = false);
/// A plan that keeps everything as it is gives all_rows. No row at all may be left.
[[nodiscard]] std::shared_ptr<const BranchRows> kept_rows(const Context& c,
                                                          std::span<const TokenEntry> entries,
                                                          std::span<const KeptRows> kept);
/// The rows of `branch` that are among `read` (ascending packed rows). Stochastic depth keeps other images
/// every step: there, unread rows fill the list up to a multiple of kReadQuantum, so that shapes repeat.
[[nodiscard]] std::shared_ptr<const BranchRows> read_rows(const Context& c, const BranchRows& branch,
                                                          std::span<const int64_t> read);
constexpr int64_t kReadQuantum = 64;

/// The position table on the grid of an entry, as the sparse matrix [1 + h*w, 1 + M*M] and its transpose, in
/// the context's arena.
struct PositionMaps {
  ops::SparseRows forward, backward;
};
[[nodiscard]] PositionMaps position_maps(const Context& c, const VitConfig& config, int64_t grid_h,
                                         int64_t grid_w);

/// What follows from the shapes of the crops alone, made once and kept: steps repeat the same shapes.
struct TokenPlan {
  explicit TokenPlan(Memory& memory) : arena(memory) {}
  Arena arena;  ///< of the lists below
  std::vector<TokenEntry> entries;
  std::shared_ptr<const BranchRows> everything;
  std::vector<int64_t> patch_rows;     ///< packed row of every patch, image by image
  TensorView device_patch_rows;        ///< the same, i64 [P]
  TensorView class_rows;               ///< i64 [images]: packed row of every class token
  std::vector<TensorView> table_rows;  ///< per entry i64 [B T]: a token's row of the table [cls, patches,
                                       ///< registers]
  std::vector<PositionMaps> position_maps;  ///< per entry
};
[[nodiscard]] std::shared_ptr<const TokenPlan> make_token_plan(const Context& c, const VitConfig& config,
                                                               std::vector<TokenEntry> entries);

/// n rows enter a branch. In inference `mean`, `rstd`, `lse` and `pre` stay empty, and `input` of a subset of
/// the rows.
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

/// x += LayerScale(attention(norm1(x))) on `rows`. Tensors that `saved` names are made in the
/// arena; keep = false leaves out what only backward needs.
void attention_forward(const VitContext& vit, const Context& c, const UnitView& w, Residual& x,
                       std::shared_ptr<const BranchRows> rows, AttentionSaved& saved, bool keep);
/// dx f32 [rows, D]: gradient of the branch's output in, of its input out. `d_made`: what ffn_backward has
/// made of it already, if it has.
void attention_backward(const VitContext& vit, const Context& c, const UnitView& w,
                        const AttentionSaved& saved, TensorView dx, const UnitGradient& d, TensorView d_made);
/// The same with the branch's output computed for the rows `queries` (a subset of `keys`) only; x changes
/// there.
void query_attention_forward(const VitContext& vit, const Context& c, const UnitView& w, Residual& x,
                             std::shared_ptr<const BranchRows> keys,
                             std::shared_ptr<const BranchRows> queries, QueryAttentionSaved& saved,
                             bool keep);
void query_attention_backward(const VitContext& vit, const Context& c, const UnitView& w,
                              const QueryAttentionSaved& saved, TensorView dx, const UnitGradient& d);
/// keep_products = false leaves out `pre` and `hidden`, which the backward pass then makes again.
void ffn_forward(const VitContext& vit, const Context& c, const UnitView& w, Residual& x,
                 std::shared_ptr<const BranchRows> rows, FfnSaved& saved, bool keep, bool keep_products);
/// An attention branch over all rows before a feed-forward over all rows: one pass goes back through the norm
/// between them and through the sum before it. d_out act [rows, D] is the feed-forward's gradient of its own
/// output first, and attention's in the end.
struct JoinedBranch {
  const AttentionSaved* saved = nullptr;  ///< null: they are not joined
  TensorView d_out;
};
void ffn_backward(const VitContext& vit, const Context& c, const UnitView& w, const FfnSaved& saved,
                  TensorView dx, const UnitGradient& d, const JoinedBranch& before);

/// Every patch is projected, whatever the masks, so that shapes repeat; under a mask the token takes its
/// place.
struct EmbedSaved {
  TensorView patches;      ///< act [P, C p p]: the patches of all entries
  TensorView masked;       ///< i64: indices into `patches`; empty without masks
  TensorView masked_rows;  ///< i64: their packed rows
  // Of a model that normalises its tokens:
  TensorView tokens;      ///< f32 [rows, D] before the norm
  TensorView mean, rstd;  ///< f32 [rows]
};
/// Fills x f32 [rows, D].
void embed_forward(const VitContext& vit, const Context& c, const UnitView& w,
                   std::span<const CropBatch> crops, const TokenPlan& plan, TensorView x, EmbedSaved& saved,
                   bool keep);
void embed_backward(const VitContext& vit, const Context& c, const UnitView& w, const EmbedSaved& saved,
                    const TokenPlan& plan, ConstTensorView d_tokens, const UnitGradient& d,
                    std::span<const TensorView> d_images);

}  // namespace dino
