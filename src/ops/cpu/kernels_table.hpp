// SPDX-License-Identifier: Apache-2.0
#pragma once
// The table of the kernels as the including file compiles them.

#include "ops/cpu/kernels_attention.hpp"
#include "ops/cpu/kernels_gemm.hpp"
#include "ops/cpu/kernels_rows.hpp"

namespace dino::ops {
namespace {

template <class T>
constexpr ActKernels<T> kActKernels = {
    .gelu = gelu_row<T>,
    .gelu_backward = gelu_backward_row<T>,
    .quick_gelu = quick_gelu_row<T>,
    .quick_gelu_backward = quick_gelu_backward_row<T>,
    .swiglu = swiglu_row<T>,
    .swiglu_backward = swiglu_backward_row<T>,
    .add_scaled = add_scaled_row<T>,
    .add_scaled_backward = add_scaled_backward_row<T>,
    .layer_norm = layer_norm_row<T>,
    .layer_norm_backward = layer_norm_backward_row<T>,
    .from_float = from_float_row<T>,
    .to_float = to_float_row<T>,
    .attention = attention_head<T>,
    .attention_backward = attention_backward_head<T>,
};

constexpr Kernels kKernels = {
    .f32 = kActKernels<float>,
    .of_bf16 = kActKernels<bf16>,
    .of_f16 = kActKernels<f16>,
    .dot = dot_row,
    .products = products_row,
    .scaled = scaled_row,
    .scaled_wide = scaled_wide_row,
    .add_combined = add_combined_row,
    .scale_columns = scale_columns_row,
    .subtract_scaled = subtract_scaled_row,
    .cross_entropy = cross_entropy_row,
    .exp_row = exp_row,
    .softmax = softmax_row,
    .adamw = adamw_row,
    .ema = ema_row,
    .largest = largest_of,
    .first_largest = first_largest_row,
    .sparse_row = sparse_row,
    .target_row = target_row,
    .distance_squares = distance_squares_row,
    .add_difference = add_difference_row,
    .gemm_nt = gemm_nt_kernel,
    .ordered_gemm = ordered_gemm_kernel,
    .ordered_dot = ordered_chain,
    .at_least = at_least_row,
    .attention_scratch = attention_scratch_floats,
};

}  // namespace
}  // namespace dino::ops
