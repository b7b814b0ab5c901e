// SPDX-License-Identifier: Apache-2.0
#pragma once
// The vector kernels behind the CPU backend: serial functions on rows or chunks, one table of them per
// instruction set. The operators (pointwise.cpp, ...) check shapes, split the work over threads in a fixed
// way and call these.

#include <cstdint>
#include <type_traits>

#include "base/half.hpp"

namespace dino::ops {

/// Rows of a partial column sum: a fixed partition, so that results do not depend on the number of threads.
constexpr int64_t kChunkRows = 64;
/// Elements of one partial sum over a flat array.
constexpr int64_t kChunkElements = 1 << 14;

/// One head of one sequence. Strides are in elements.
template <class T>
struct AttentionHead {
  const T* q;
  const T* k;
  const T* v;
  int64_t q_stride;   ///< between queries, also of q_gradient
  int64_t kv_stride;  ///< between keys, also of k_gradient and v_gradient
  const T* out_gradient;
  T* out;              ///< read only in backward
  int64_t out_stride;  ///< also of out_gradient
  float* lse;          ///< may be null in forward
  T* q_gradient;
  T* k_gradient;
  T* v_gradient;
  int64_t queries, keys, width;
  float scale;
  bool causal;     ///< query i attends to keys [0, i]
  float* scratch;  ///< attention_scratch() floats, 64-byte aligned
};

/// Kernels that touch activations of type T (float, bf16 or f16).
template <class T>
struct ActKernels {
  void (*gelu)(const T* pre, T* y, int64_t n);
  void (*gelu_backward)(const T* dy, const T* pre, T* dx, int64_t n);
  void (*quick_gelu)(const T* pre, T* y, int64_t n);
  void (*quick_gelu_backward)(const T* dy, const T* pre, T* dx, int64_t n);
  void (*swiglu)(const T* x, T* y, int64_t h);
  void (*swiglu_backward)(const T* dy, const T* x, T* dx, int64_t h);
  /// out += scale gamma x; gamma may be null (= 1)
  void (*add_scaled)(float* out, const T* x, const float* gamma, float scale, int64_t n);
  /// branch_gradient = scale gamma out_gradient; gamma_sums += scale out_gradient branch (may be null)
  void (*add_scaled_backward)(const float* out_gradient, const T* branch, const float* gamma, float scale,
                              T* branch_gradient, float* gamma_sums, int64_t n);
  void (*layer_norm)(const float* x, const float* gamma, const float* beta, float eps, T* y, float* mean,
                     float* rstd, int64_t n);
  /// One row: dx +=, gamma_sums += dy xhat, beta_sums += dy
  void (*layer_norm_backward)(const T* dy, const float* x, const float* gamma, float mean, float rstd,
                              float* dx, float* gamma_sums, float* beta_sums, int64_t n);
  void (*from_float)(const float* x, T* y, int64_t n);
  void (*to_float)(const T* x, float* y, int64_t n);
  void (*attention)(const AttentionHead<T>& head);
  void (*attention_backward)(const AttentionHead<T>& head);
};

struct AdamWFactors {
  float decay, beta1, beta2, eps, gradient_scale, step_size, second_correction;
};

struct Kernels {
  ActKernels<float> f32;
  ActKernels<bf16> of_bf16;
  ActKernels<f16> of_f16;
  float (*dot)(const float* x, const float* y, int64_t n);
  /// sum of x y in f64, the same at every level; y may be null (= 1)
  double (*products)(const float* x, const float* y, int64_t n);
  /// y = scale x
  void (*scaled)(const float* x, float scale, float* y, int64_t n);
  /// The same in f64, rounded once
  void (*scaled_wide)(const float* x, double scale, float* y, int64_t n);
  /// y += a x + b z, the sum in f64
  void (*add_combined)(double a, const float* x, double b, const float* z, float* y, int64_t n);
  /// x <- x scale u
  void (*scale_columns)(float* x, float scale, const float* u, int64_t n);
  /// y = (dy - x along) scale
  void (*subtract_scaled)(const float* dy, const float* x, float along, float scale, float* y, int64_t n);
  /// One row; factor = weight / temperature; returns the loss. No gradient if `gradient` is false.
  float (*cross_entropy)(float* logits, const float* targets, float inverse_temperature, bool gradient,
                         float factor, int64_t n);
  /// x <- exp((x - top) inverse_temperature); returns top, the largest element
  float (*exp_row)(float* x, float inverse_temperature, int64_t n);
  void (*softmax)(float* x, const float* centre, float inverse_temperature, int64_t n);
  void (*adamw)(float* w, const float* gradient, float* m, float* v, const AdamWFactors& factors, int64_t n);
  void (*ema)(float* average, const float* value, float momentum, int64_t n);
  /// NaN is passed over; -inf of nothing
  float (*largest)(const float* x, int64_t n);
  /// Index of the first among the largest, -1 where no element compares; *value = largest(x)
  int64_t (*first_largest)(const float* x, int64_t n, float* value);
  /// out (+)= sum over e < count of weights[e] x[columns[e], :], x [*, n]
  void (*sparse_row)(const float* x, const int64_t* columns, const float* weights, int64_t count, float* out,
                     bool accumulate, int64_t n);
  /// sums += t; returns the sum of -t log t over t > 0
  double (*target_row)(const float* t, float* sums, int64_t n);
  /// With d = x - y + eps: sum of d^2 in f64, and out += scale d
  double (*distance_squares)(const float* x, const float* y, float eps, int64_t n);
  void (*add_difference)(const float* x, const float* y, float eps, double scale, float* out, int64_t n);
  /// c[m,n] = a b^T, each element one chain over k: fused where the instruction set fuses
  void (*gemm_nt)(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                  float* c, int64_t ldc);
  /// c[m,n] = a b^T, each element one chain of fused multiply-adds over k, whatever the level
  void (*ordered_gemm)(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                       int64_t ldb, float* c, int64_t ldc);
  float (*ordered_dot)(const float* a, const float* b, int64_t k);
  /// Bit i is set where x[i] >= limit, i < n <= 64
  uint64_t (*at_least)(const float* x, int64_t n, float limit);
  int64_t (*attention_scratch)(int64_t length, int64_t width, bool backward);
};

const Kernels& kernels_baseline();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512bf16();
/// Those of cpu_level().
const Kernels& kernels();

template <class T>
const ActKernels<T>& act_kernels() {
  if constexpr (std::is_same_v<T, bf16>)
    return kernels().of_bf16;
  else if constexpr (std::is_same_v<T, f16>)
    return kernels().of_f16;
  else
    return kernels().f32;
}

}  // namespace dino::ops
