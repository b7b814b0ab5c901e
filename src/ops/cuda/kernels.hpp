// SPDX-License-Identifier: Apache-2.0
#pragma once
// What operators of several families are made of: host functions that enqueue kernels. Addresses are the
// device's.

#include <limits>
#include <string>

#include "base/error.hpp"
#include "ops/ops.hpp"
#include "tensor/cuda/device.hpp"

namespace dino::cuda {

/// Columns of a matrix, as kernels count them.
[[nodiscard]] inline int columns_of(ConstTensorView x) {
  DINO_CHECK(x.dim(1) <= std::numeric_limits<int>::max() / 2, x.shape.str() + " is too wide");
  return static_cast<int>(x.dim(1));
}

/// y = x elementwise, rounded to nearest even; act tensors, which may be of two dtypes (pointwise.cu).
void convert_elements(CudaStream& stream, ConstTensorView x, TensorView y);

/// y = activation(pre) elementwise; act tensors, which may be of two dtypes; y may be pre (pointwise.cu).
void activate(CudaStream& stream, ops::Activation activation, ConstTensorView pre, TensorView y);

/// out[N] (+)= column sums of rows [M,N], act, in f32 and a fixed order (reductions.cu). It asks for scratch:
/// what the caller has there is lost.
void column_sums(CudaStream& stream, ConstTensorView rows, float* out, bool accumulate);

/// The second half of column sums over chunks of rows: of partials f32 [chunks, columns], factor times the
/// sums over chunks, in a fixed order, go to (or are added to) `out` for the first `split` columns, `second`
/// for the next and `third` for those behind; a null one's are left out (reductions.cu).
struct Partials {
  const float* data = nullptr;
  int64_t chunks = 0, columns = 0;
  int64_t split = 0;
  float factor = 1;
  bool accumulate = true;
};
void add_partials(CudaStream& stream, const Partials& partials, float* out, float* second = nullptr,
                  float* third = nullptr);

/// *out += factor times the sum of `count` partials, in a fixed order (reductions.cu).
void add_sum(CudaStream& stream, const double* partials, int64_t count, double factor, double* out);

}  // namespace dino::cuda
