// SPDX-License-Identifier: Apache-2.0
#pragma once
// The operator set of the fixed graph: every operator is declared once here and implemented by each backend.
// Conventions:
//  - tensors are row-major; a token matrix is [rows, width]; weights are stored as torch.nn.Linear stores
//  them, [out, in];
//  - parameters, their gradients and statistics are f32; activations are f32 or bf16 ("act" below), and
//  products accumulate in f32;
//  - a gradient named d<param> is accumulated (+=), a gradient of an activation is written (=) unless
//  `accumulate` says otherwise;
//  - shapes are checked with DINO_CHECK: a mismatch is a programmer's error.
// Each backend is tested by one body (tests/ops) against fp64 arithmetic and finite differences.

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.hpp"

namespace dino::ops {

/// What is fused behind a matrix product.
enum class Activation : uint8_t { none, gelu };  ///< gelu: exact, x/2 (1 + erf(x/sqrt 2))

/// Packed sequences of different lengths: sequence s owns rows [starts[s], starts[s+1]). starts[0] = 0.
struct Sequences {
  std::span<const int64_t> starts;
  [[nodiscard]] int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }
  [[nodiscard]] int64_t length(int64_t s) const {
    return starts[static_cast<size_t>(s) + 1] - starts[static_cast<size_t>(s)];
  }
  [[nodiscard]] int64_t rows() const { return starts.back(); }
};

class Backend {
 public:
  virtual ~Backend() = default;
  [[nodiscard]] virtual const char* name() const = 0;

  // ---- matrix products
  // --------------------------------------------------------------------------------------------------------
  /// y[M,N] = act(x[M,K] w[N,K]^T + b[N]). x: act; w, b: f32 (b may be empty); y: act. `pre` (optional, act,
  /// [M,N]) receives the value before the activation, for the backward pass. With x in bf16 the weight is
  /// rounded to bf16 too.
  virtual void linear(ConstTensorView x, ConstTensorView w, ConstTensorView b, Activation activation,
                      TensorView y, TensorView pre) = 0;
  /// dx[M,K] (+)= dy[M,N] w[N,K].
  virtual void linear_backward_input(ConstTensorView dy, ConstTensorView w, TensorView dx,
                                     bool accumulate) = 0;
  /// dw[N,K] += dy[M,N]^T x[M,K];  db[N] += column sums of dy (db may be empty).
  virtual void linear_backward_weight(ConstTensorView dy, ConstTensorView x, TensorView dw,
                                      TensorView db) = 0;

  // ---- pointwise
  // --------------------------------------------------------------------------------------------------------------
  /// dx = dy * gelu'(pre), elementwise; dx may be dy.
  virtual void gelu_backward(ConstTensorView dy, ConstTensorView pre, TensorView dx) = 0;
  /// y[M,H] = silu(x[:, :H]) * x[:, H:], x[M,2H].
  virtual void swiglu(ConstTensorView x, TensorView y) = 0;
  /// dx[M,2H] from dy[M,H] and the forward input x[M,2H].
  virtual void swiglu_backward(ConstTensorView dy, ConstTensorView x, TensorView dx) = 0;
  /// out[rows[i], :] += scale * gamma[:] * branch[i, :]; out: f32, branch: act, gamma may be empty (= 1).
  /// Rows are distinct; an empty `rows` span means row i -> i (LayerScale and the residual of stochastic
  /// depth).
  virtual void scaled_index_add(TensorView out, ConstTensorView branch, ConstTensorView gamma, float scale,
                                std::span<const int64_t> rows) = 0;
  /// Backward of it: dbranch[i,:] = scale * gamma * dout[rows[i],:];  dgamma[:] += scale * sum_i
  /// dout[rows[i],:] * branch[i,:] (dgamma may be empty).
  virtual void scaled_index_add_backward(ConstTensorView dout, ConstTensorView branch, ConstTensorView gamma,
                                         float scale, std::span<const int64_t> rows, TensorView dbranch,
                                         TensorView dgamma) = 0;
  /// out[i,:] = x[rows[i],:]; converts between f32 and bf16.
  virtual void gather_rows(ConstTensorView x, std::span<const int64_t> rows, TensorView out) = 0;
  /// out[rows[i],:] += x[i,:]; out: f32. Rows may repeat; the order of additions is that of i.
  virtual void scatter_add_rows(ConstTensorView x, std::span<const int64_t> rows, TensorView out) = 0;
  /// Elementwise conversion between f32 and bf16.
  virtual void convert(ConstTensorView x, TensorView y) = 0;
  /// y += a * x, both f32, same number of elements.
  virtual void axpy(float a, ConstTensorView x, TensorView y) = 0;

  // ---- normalisation
  // ----------------------------------------------------------------------------------------------------------
  /// y = (x - mean) / sqrt(var + eps) * gamma + beta per row (biased variance). x: f32, y: act; mean, rstd:
  /// f32 [M], may be empty (inference).
  virtual void layer_norm(ConstTensorView x, ConstTensorView gamma, ConstTensorView beta, float eps,
                          TensorView y, TensorView mean, TensorView rstd) = 0;
  /// dx[M,D] += ...; dgamma += ...; dbeta += .... dy: act; x, dx: f32.
  virtual void layer_norm_backward(ConstTensorView dy, ConstTensorView x, ConstTensorView gamma,
                                   ConstTensorView mean, ConstTensorView rstd, TensorView dx,
                                   TensorView dgamma, TensorView dbeta) = 0;
  /// y = x / max(|x|, eps) per row; norm[M] receives max(|x|, eps). All f32 (torch.nn.functional.normalize).
  virtual void l2_normalize(ConstTensorView x, float eps, TensorView y, TensorView norm) = 0;
  /// dx = (dy - y (y.dy)) / norm (rows clamped at eps: dy / norm).
  virtual void l2_normalize_backward(ConstTensorView dy, ConstTensorView y, ConstTensorView norm, float eps,
                                     TensorView dx) = 0;

  // ---- attention
  // --------------------------------------------------------------------------------------------------------------
  /// Block-diagonal multi-head attention over packed sequences, softmax(q k^T * scale) v within each
  /// sequence. qkv[T,3D] holds q | k | v, each split in `heads` of D/heads columns. out[T,D]: act; lse: f32
  /// [heads,T], may be empty (inference). Never keeps a T x T matrix.
  virtual void attention(ConstTensorView qkv, const Sequences& sequences, int64_t heads, float scale,
                         TensorView out, TensorView lse) = 0;
  /// dqkv[T,3D] from dout[T,D] and the forward's qkv, out, lse.
  virtual void attention_backward(ConstTensorView dout, ConstTensorView qkv, ConstTensorView out,
                                  ConstTensorView lse, const Sequences& sequences, int64_t heads, float scale,
                                  TensorView dqkv) = 0;
  /// The same with queries of their own: sequence s has queries q[Tq,D] and keys and values kv[Tk,2D] (k |
  /// v). out[Tq,D], lse [heads,Tq]. A sequence may have no query.
  virtual void query_attention(ConstTensorView q, ConstTensorView kv, const Sequences& queries,
                               const Sequences& keys, int64_t heads, float scale, TensorView out,
                               TensorView lse) = 0;
  /// dq[Tq,D] and dkv[Tk,2D] (both =) from dout[Tq,D].
  virtual void query_attention_backward(ConstTensorView dout, ConstTensorView q, ConstTensorView kv,
                                        ConstTensorView out, ConstTensorView lse, const Sequences& queries,
                                        const Sequences& keys, int64_t heads, float scale, TensorView dq,
                                        TensorView dkv) = 0;
  /// Softmax probabilities of query row `query` (within each sequence) for pictures and tests: probs f32
  /// [count, heads, length]; all sequences have the same length.
  virtual void attention_probabilities(ConstTensorView qkv, const Sequences& sequences, int64_t heads,
                                       float scale, int64_t query, TensorView probs) = 0;

  // ---- patch embedding
  // --------------------------------------------------------------------------------------------------------
  /// images f32 [B,C,H,W] -> patches act [B*(H/p)*(W/p), C*p*p], patches row-major, columns in (c, y, x)
  /// order (the layout of a Conv2d weight).
  virtual void patchify(ConstTensorView images, int64_t patch, TensorView patches) = 0;
  /// The transpose: dimages f32 [B,C,H,W] = scattered dpatches.
  virtual void patchify_backward(ConstTensorView dpatches, int64_t patch, TensorView dimages) = 0;

  // ---- losses (all f32)
  // -------------------------------------------------------------------------------------------------------
  /// Cross-entropy of rows against soft targets, in place: with s = logits / temperature, loss[r] = -sum_k
  /// target[r,k] log_softmax(s)[r,k], and logits becomes its gradient times weight[r]: weight[r] /
  /// temperature * (softmax(s) * sum_k target[r,k] - target[r,k]). weight may be empty (no gradient).
  virtual void cross_entropy(TensorView logits, ConstTensorView targets, float temperature,
                             ConstTensorView weight, TensorView loss) = 0;
  /// x <- exp((x - shift) / temperature).
  virtual void exp_scaled(TensorView x, float shift, float temperature) = 0;
  /// out[k] += sum_r x[r,k] weight[r]; weight may be empty (= 1). Rows are added in order.
  virtual void weighted_column_sums(ConstTensorView x, ConstTensorView weight, TensorView out) = 0;
  /// out[r] = sum_k x[r,k] u[k].
  virtual void matrix_vector(ConstTensorView x, ConstTensorView u, TensorView out) = 0;
  /// x[r,k] <- x[r,k] * v[r] * u[k].
  virtual void scale_rows_columns(TensorView x, ConstTensorView v, ConstTensorView u) = 0;
  /// x <- softmax((x - centre) / temperature) per row; centre [K] may be empty.
  virtual void softmax_centred(TensorView x, ConstTensorView centre, float temperature) = 0;

  // ---- optimizer (f32, flat)
  // --------------------------------------------------------------------------------------------------
  struct AdamW {
    float learning_rate, beta1, beta2, eps, weight_decay;
    int64_t step;          ///< 1 for the first update (bias correction)
    float gradient_scale;  ///< clip factor, multiplied onto the gradient first
  };
  /// Decoupled weight decay, as torch.optim.AdamW: w -= lr wd w; m, v updated; w -= lr mhat / (sqrt(vhat) +
  /// eps).
  virtual void adamw(std::span<float> w, std::span<const float> gradient, std::span<float> m,
                     std::span<float> v, const AdamW& settings) = 0;
  /// average = momentum * average + (1 - momentum) * value.
  virtual void ema(std::span<float> average, std::span<const float> value, float momentum) = 0;
  /// Sum of squares in f64, the same for any number of threads.
  virtual double sum_of_squares(std::span<const float> x) = 0;
};

/// The optimised backend of a device.
Backend& backend(Device device = Device::cpu);
/// The naive one, for tests: plain loops, sums in f64.
Backend& reference_backend();

/// One line for --version: "oneDNN 2.6.3, avx512bf16 kernels".
[[nodiscard]] std::string describe_backend();
/// Threads that the operators use from now on (OpenMP).
void set_threads(int threads);

}  // namespace dino::ops
