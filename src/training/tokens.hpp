// SPDX-License-Identifier: Apache-2.0
#pragma once
// The tokens of a batch that an objective reads, wherever and in however many pieces they are computed.

#include <cstdint>
#include <span>
#include <vector>

#include "model/vit.hpp"
#include "training/step.hpp"

namespace dino {

/// The masked patches of this rank, view by view, then unmasked ones that fill up the shape.
struct MaskedPatches {
  std::vector<int64_t> view, patch;
  std::vector<float> weight;  ///< 1 / masked patches of the view; 0 where not masked
  int64_t masked = 0;
  [[nodiscard]] int64_t count() const { return static_cast<int64_t>(view.size()); }
  void add(int64_t of_view, int64_t of_patch, float of_weight) {
    view.push_back(of_view);
    patch.push_back(of_patch);
    weight.push_back(of_weight);
  }
};
[[nodiscard]] MaskedPatches masked_patches(const StepBatch& batch);

/// f32 [rows, D] after the final norm, of B images of this rank: the class tokens of L local crops
/// (crop-major) and of both global views, then M masked patches. A teacher has no local crops.
struct BatchTokens {
  int64_t images = 0, local_crops = 0;
  TensorView all;
  [[nodiscard]] int64_t local_rows() const { return local_crops * images; }
  [[nodiscard]] TensorView local_class() const { return all.rows(0, local_rows()); }
  [[nodiscard]] TensorView global_class() const { return all.rows(local_rows(), 2 * images); }
  [[nodiscard]] TensorView patches() const {
    const int64_t first = local_rows() + 2 * images;
    return all.rows(first, all.dim(0) - first);
  }
};

/// Some of a rank's images, as crops of their own.
struct MicroBatch {
  Range images;                  ///< of this rank's
  std::vector<uint8_t> masks;    ///< [2n, N] of these; empty: none
  std::vector<CropBatch> crops;  ///< globals, then locals
};
/// Crops are on the context's device, copied there into its arena unless they lie there in one piece.
[[nodiscard]] MicroBatch micro_batch(const Context& c, const StepBatch& batch, Range images, bool local,
                                     bool masked);

/// Which rows of a micro-batch's packed token matrix are which rows of the batch's tokens.
class TokenRows {
 public:
  /// Uploads into the context's arena.
  TokenRows(const Context& c, const VitConfig& config, const MicroBatch& micro, int64_t images,
            int64_t local_crops, const MaskedPatches& masked);
  /// For VitForwardOptions: ascending.
  [[nodiscard]] std::span<const int64_t> read() const { return read_; }
  /// tokens <- the rows of `packed`.
  void take(const Context& c, ConstTensorView packed, const BatchTokens& tokens) const;
  /// packed += the rows of `tokens`.
  void put(const Context& c, const BatchTokens& tokens, TensorView packed) const;

 private:
  void add(int64_t token, int64_t packed);
  struct Run {  ///< tokens that follow one another
    int64_t token = 0, first = 0, count = 0;
  };
  std::vector<Run> runs_;
  std::vector<int64_t> packed_, read_;
  TensorView device_rows_;
};

}  // namespace dino
