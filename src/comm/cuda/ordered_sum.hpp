// SPDX-License-Identifier: Apache-2.0
#pragma once
// Sums over ranks on a GPU. The kernel stands among the others, in ops/cuda/ordered_sum.cu.

#include "tensor/cuda/device.hpp"

namespace dino::cuda {

/// Of `n` numbers of a float dtype from each of `ranks` ranks.
struct OrderedSum {
  const void* parts = nullptr;  ///< those of rank r from element r * stride on
  int64_t stride = 0;
  const void* own = nullptr;  ///< those of rank `rank`; may be `out`
  int rank = 0, ranks = 1;
  int64_t n = 0;
  void* out = nullptr;
};
/// out <- the sum in rank order, in f64, then rounded (16-bit floats by way of f32): the same bits as
/// sum_in_rank_order of comm/ordered_sum.hpp on the host.
void enqueue(CudaStream& stream, DType dtype, const OrderedSum& sum);

}  // namespace dino::cuda
