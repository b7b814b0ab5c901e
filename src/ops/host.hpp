// SPDX-License-Identifier: Apache-2.0
#pragma once
// How the host's backends read the integers that operators take as tensors; what they hold is checked here.

#include "imaging/crop_steps.hpp"
#include "ops/ops.hpp"

namespace dino::ops {

/// A row list; the identity where the view is empty.
class HostRows {
 public:
  /// Every row is in [0, limit).
  HostRows(ConstTensorView rows, int64_t limit);
  int64_t operator[](int64_t i) const { return rows_ == nullptr ? i : rows_[i]; }

 private:
  const int64_t* rows_;
};

/// Packed sequences.
class HostSequences {
 public:
  HostSequences() = default;
  /// The starts ascend from 0 to `rows`.
  explicit HostSequences(const Sequences& sequences);
  [[nodiscard]] int64_t count() const { return count_; }
  [[nodiscard]] int64_t rows() const { return starts_[count_]; }
  [[nodiscard]] int64_t longest() const { return longest_; }
  [[nodiscard]] bool causal() const { return causal_; }
  [[nodiscard]] int64_t begin(int64_t s) const { return starts_[s]; }
  [[nodiscard]] int64_t length(int64_t s) const { return starts_[s + 1] - starts_[s]; }

 private:
  const int64_t* starts_ = nullptr;
  int64_t count_ = 0;
  int64_t longest_ = 0;
  bool causal_ = false;
};

/// What augment_crops reads.
class HostCrops {
 public:
  /// Every picture lies in `pixels`, every box in its picture and is not too large.
  HostCrops(ConstTensorView pixels, ConstTensorView pictures, ConstTensorView crops, int64_t size);
  /// Makes crop i, f32 [3,size,size].
  void make(int64_t i, Resampling filter, const Normalisation& normalisation, float* out) const;

 private:
  [[nodiscard]] ImageView picture_of(int64_t crop) const;
  const uint8_t* pixels_;
  const int64_t* pictures_;
  const CropSteps* crops_;
  int64_t size_;
};

/// No sequence has queries, but no keys.
void check_keys(const HostSequences& queries, const HostSequences& keys);

/// A sparse matrix by rows.
class HostSparse {
 public:
  /// The starts ascend from 0 to the number of entries; every column is in [0, columns).
  HostSparse(const SparseRows& matrix, int64_t columns);
  [[nodiscard]] int64_t count(int64_t row) const { return starts_[row + 1] - starts_[row]; }
  [[nodiscard]] const int64_t* columns(int64_t row) const { return columns_ + starts_[row]; }
  [[nodiscard]] const float* weights(int64_t row) const { return weights_ + starts_[row]; }

 private:
  const int64_t* starts_;
  const int64_t* columns_ = nullptr;
  const float* weights_ = nullptr;
};

}  // namespace dino::ops
