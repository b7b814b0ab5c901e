// SPDX-License-Identifier: Apache-2.0
#pragma once
// Layers on maps of features, from the operators: convolutions are products on gathered pixels. A map is f32
// [images * height * width, channels], pixels row by row. Each layer has its backward pass beside it, which
// adds to gradients of weights and returns that of the input.

#include "model/sparse_map.hpp"
#include "ops/context.hpp"

namespace dino {

struct Maps {
  TensorView values;
  int64_t images = 0;
  GridSize grid;
  [[nodiscard]] int64_t channels() const { return values.dim(1); }
};

/// Zeros or values of a map's shape in the arena.
[[nodiscard]] Maps new_maps(const Context& c, int64_t images, GridSize grid, int64_t channels);

/// Bilinear, as bilinear_map.
[[nodiscard]] Maps resample(const Context& c, const Maps& x, GridSize to, bool align_corners);
[[nodiscard]] Maps resample_backward(const Context& c, const Maps& dy, GridSize from, bool align_corners);

/// w [out, in], b [out] or empty: a convolution of 1 x 1.
[[nodiscard]] Maps pointwise(const Context& c, const Maps& x, ConstTensorView w, ConstTensorView b);
/// dw += ..., db += ... (may be empty).
[[nodiscard]] Maps pointwise_backward(const Context& c, const Maps& x, const Maps& dy, ConstTensorView w,
                                      TensorView dw, TensorView db);

/// A convolution of 3 x 3 with padding 1: w [out, 3, 3, in] (row, column, input channel), b [out] or empty;
/// every stride-th row and column.
[[nodiscard]] Maps convolve(const Context& c, const Maps& x, ConstTensorView w, ConstTensorView b,
                            int64_t stride = 1);
[[nodiscard]] Maps convolve_backward(const Context& c, const Maps& x, const Maps& dy, ConstTensorView w,
                                     TensorView dw, TensorView db, int64_t stride = 1);

/// The transposed convolution of k x k with stride k: each pixel becomes a square of k x k. w [k, k, out,
/// in], b [out].
[[nodiscard]] Maps enlarge(const Context& c, const Maps& x, ConstTensorView w, ConstTensorView b);
[[nodiscard]] Maps enlarge_backward(const Context& c, const Maps& x, const Maps& dy, ConstTensorView w,
                                    TensorView dw, TensorView db);

/// max(x, 0), in memory of its own.
[[nodiscard]] Maps rectified(const Context& c, const Maps& x);

}  // namespace dino
