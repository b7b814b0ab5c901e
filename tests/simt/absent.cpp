// SPDX-License-Identifier: Apache-2.0
// Until every operator has its kernel: the others say so where they are called.
#include "base/error.hpp"
#include "comm/cuda/nccl_collective.hpp"
#include "ops/cuda/cuda_backend.hpp"

#define ABSENT(operation) throw InternalError(std::string(operation) + " has no kernel yet")

namespace dino::ops {

__attribute__((weak)) void CudaBackend::linear(Stream&, ConstTensorView, ConstTensorView, ConstTensorView,
                                               Activation, TensorView, TensorView) {
  ABSENT("linear");
}
__attribute__((weak)) void CudaBackend::linear_backward_input(Stream&, ConstTensorView, ConstTensorView,
                                                              TensorView, bool) {
  ABSENT("linear_backward_input");
}
__attribute__((weak)) void CudaBackend::linear_backward_weight(Stream&, ConstTensorView, ConstTensorView,
                                                               TensorView, TensorView) {
  ABSENT("linear_backward_weight");
}
__attribute__((weak)) void CudaBackend::gelu_backward(Stream&, ConstTensorView, ConstTensorView, TensorView) {
  ABSENT("gelu_backward");
}
__attribute__((weak)) void CudaBackend::swiglu(Stream&, ConstTensorView, TensorView) {
  ABSENT("swiglu");
}
__attribute__((weak)) void CudaBackend::swiglu_backward(Stream&, ConstTensorView, ConstTensorView,
                                                        TensorView) {
  ABSENT("swiglu_backward");
}
__attribute__((weak)) void CudaBackend::scaled_index_add(Stream&, TensorView, ConstTensorView,
                                                         ConstTensorView, float, ConstTensorView) {
  ABSENT("scaled_index_add");
}
__attribute__((weak)) void CudaBackend::scaled_index_add_backward(Stream&, ConstTensorView, ConstTensorView,
                                                                  ConstTensorView, float, ConstTensorView,
                                                                  TensorView, TensorView) {
  ABSENT("scaled_index_add_backward");
}
__attribute__((weak)) void CudaBackend::gather_rows(Stream&, ConstTensorView, ConstTensorView, TensorView) {
  ABSENT("gather_rows");
}
__attribute__((weak)) void CudaBackend::scatter_add_rows(Stream&, ConstTensorView, ConstTensorView,
                                                         TensorView) {
  ABSENT("scatter_add_rows");
}
__attribute__((weak)) void CudaBackend::zero_rows(Stream&, TensorView, ConstTensorView) {
  ABSENT("zero_rows");
}
__attribute__((weak)) void CudaBackend::sparse_rows(Stream&, const SparseRows&, ConstTensorView, TensorView,
                                                    bool) {
  ABSENT("sparse_rows");
}
__attribute__((weak)) void CudaBackend::convert(Stream&, ConstTensorView, TensorView) {
  ABSENT("convert");
}
__attribute__((weak)) void CudaBackend::axpy(Stream&, float, ConstTensorView, TensorView) {
  ABSENT("axpy");
}
__attribute__((weak)) void CudaBackend::scale(Stream&, float, ConstTensorView, TensorView) {
  ABSENT("scale");
}
__attribute__((weak)) void CudaBackend::reciprocal(Stream&, ConstTensorView, float, TensorView) {
  ABSENT("reciprocal");
}
__attribute__((weak)) void CudaBackend::weighted_sum(Stream&, ConstTensorView, ConstTensorView, double,
                                                     TensorView) {
  ABSENT("weighted_sum");
}
__attribute__((weak)) void CudaBackend::sum_of_squares(Stream&, ConstTensorView, TensorView) {
  ABSENT("sum_of_squares");
}
__attribute__((weak)) void CudaBackend::maximum(Stream&, ConstTensorView, TensorView) {
  ABSENT("maximum");
}
__attribute__((weak)) void CudaBackend::all_finite(Stream&, ConstTensorView, TensorView) {
  ABSENT("all_finite");
}
__attribute__((weak)) void CudaBackend::layer_norm(Stream&, ConstTensorView, ConstTensorView, ConstTensorView,
                                                   float, TensorView, TensorView, TensorView) {
  ABSENT("layer_norm");
}
__attribute__((weak)) void CudaBackend::layer_norm_backward(Stream&, ConstTensorView, ConstTensorView,
                                                            ConstTensorView, ConstTensorView, ConstTensorView,
                                                            TensorView, TensorView, TensorView) {
  ABSENT("layer_norm_backward");
}
__attribute__((weak)) void CudaBackend::l2_normalize(Stream&, ConstTensorView, float, TensorView,
                                                     TensorView) {
  ABSENT("l2_normalize");
}
__attribute__((weak)) void CudaBackend::l2_normalize_backward(Stream&, ConstTensorView, ConstTensorView,
                                                              ConstTensorView, float, TensorView) {
  ABSENT("l2_normalize_backward");
}
__attribute__((weak)) void CudaBackend::weight_norm(Stream&, ConstTensorView, ConstTensorView, TensorView) {
  ABSENT("weight_norm");
}
__attribute__((weak)) void CudaBackend::weight_norm_backward(Stream&, ConstTensorView, ConstTensorView,
                                                             ConstTensorView, TensorView, TensorView) {
  ABSENT("weight_norm_backward");
}
__attribute__((weak)) void CudaBackend::attention(Stream&, ConstTensorView, const Sequences&, int64_t, float,
                                                  TensorView, TensorView) {
  ABSENT("attention");
}
__attribute__((weak)) void CudaBackend::attention_backward(Stream&, ConstTensorView, ConstTensorView,
                                                           ConstTensorView, ConstTensorView, const Sequences&,
                                                           int64_t, float, TensorView) {
  ABSENT("attention_backward");
}
__attribute__((weak)) void CudaBackend::query_attention(Stream&, ConstTensorView, ConstTensorView,
                                                        const Sequences&, const Sequences&, int64_t, float,
                                                        TensorView, TensorView) {
  ABSENT("query_attention");
}
__attribute__((weak)) void CudaBackend::query_attention_backward(Stream&, ConstTensorView, ConstTensorView,
                                                                 ConstTensorView, ConstTensorView,
                                                                 ConstTensorView, const Sequences&,
                                                                 const Sequences&, int64_t, float, TensorView,
                                                                 TensorView) {
  ABSENT("query_attention_backward");
}
__attribute__((weak)) void CudaBackend::attention_probabilities(Stream&, ConstTensorView, const Sequences&,
                                                                int64_t, float, int64_t, TensorView) {
  ABSENT("attention_probabilities");
}
__attribute__((weak)) void CudaBackend::patchify(Stream&, ConstTensorView, int64_t, TensorView) {
  ABSENT("patchify");
}
__attribute__((weak)) void CudaBackend::patchify_backward(Stream&, ConstTensorView, int64_t, TensorView) {
  ABSENT("patchify_backward");
}
__attribute__((weak)) void CudaBackend::cross_entropy(Stream&, TensorView, ConstTensorView, float,
                                                      ConstTensorView, TensorView) {
  ABSENT("cross_entropy");
}
__attribute__((weak)) void CudaBackend::exp_rows(Stream&, TensorView, float, TensorView) {
  ABSENT("exp_rows");
}
__attribute__((weak)) void CudaBackend::exp_relative(Stream&, TensorView, ConstTensorView, float) {
  ABSENT("exp_relative");
}
__attribute__((weak)) void CudaBackend::weighted_column_sums(Stream&, ConstTensorView, ConstTensorView,
                                                             TensorView) {
  ABSENT("weighted_column_sums");
}
__attribute__((weak)) void CudaBackend::matrix_vector(Stream&, ConstTensorView, ConstTensorView, TensorView) {
  ABSENT("matrix_vector");
}
__attribute__((weak)) void CudaBackend::scale_rows_columns(Stream&, TensorView, ConstTensorView,
                                                           ConstTensorView) {
  ABSENT("scale_rows_columns");
}
__attribute__((weak)) void CudaBackend::softmax_centred(Stream&, TensorView, ConstTensorView, float) {
  ABSENT("softmax_centred");
}
__attribute__((weak)) void CudaBackend::nearest_other(Stream&, ConstTensorView, int64_t, TensorView) {
  ABSENT("nearest_other");
}
__attribute__((weak)) void CudaBackend::koleo(Stream&, ConstTensorView, ConstTensorView, int64_t, double,
                                              TensorView, TensorView) {
  ABSENT("koleo");
}
__attribute__((weak)) void CudaBackend::target_statistics(Stream&, ConstTensorView, TensorView, TensorView) {
  ABSENT("target_statistics");
}
__attribute__((weak)) void CudaBackend::mean_target_statistics(Stream&, ConstTensorView, double, TensorView) {
  ABSENT("mean_target_statistics");
}
__attribute__((weak)) void CudaBackend::mean_column_std(Stream&, ConstTensorView, TensorView) {
  ABSENT("mean_column_std");
}
__attribute__((weak)) void CudaBackend::clip_factors(Stream&, ConstTensorView, double, double, TensorView) {
  ABSENT("clip_factors");
}
__attribute__((weak)) void CudaBackend::adamw(Stream&, TensorView, ConstTensorView, TensorView, TensorView,
                                              const AdamW&, ConstTensorView, ConstTensorView) {
  ABSENT("adamw");
}
__attribute__((weak)) void CudaBackend::ema(Stream&, TensorView, ConstTensorView, float, ConstTensorView) {
  ABSENT("ema");
}

}  // namespace dino::ops
