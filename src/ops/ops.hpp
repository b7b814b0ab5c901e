// SPDX-License-Identifier: Apache-2.0
#pragma once
// The operator set of the fixed graph: every operator is declared once here and implemented by each backend.
// Conventions:
//  - tensors are row-major; a token matrix is [rows, width]; weights are stored as torch.nn.Linear stores
//  them, [out, in];
//  - parameters, their gradients and statistics are f32; activations are f32, bf16 or f16 ("act" below), and
//  products accumulate in f32;
//  - a gradient named d<param> is accumulated (+=), a gradient of an activation is written (=) unless
//  `accumulate` says otherwise;
//  - every tensor, row lists, sequence starts and scalars among them, is of the backend's device; an operator
//  is enqueued on the stream that it is given and reads and writes in that stream's order;
//  - row lists are i64; a row list, weight or bias that may be absent is an empty view;
//  - a scalar result is a one-element tensor: sums that reach beyond one tensor are f64 and accumulated (+=);
//  - shapes are checked with DINO_CHECK: a mismatch is a programmer's error.
// Each backend is tested by one body (tests/ops) against fp64 arithmetic and finite differences.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "comm/collective.hpp"
#include "imaging/image.hpp"
#include "tensor/tensor.hpp"

namespace dino::ops {

/// What is fused behind a matrix product.
enum class Activation : uint8_t {
  none,
  gelu,       ///< exact, x/2 (1 + erf(x/sqrt 2))
  quick_gelu  ///< x sigmoid(1.702 x), of the first CLIP models (arXiv 1606.08415, section 2)
};

/// Packed sequences of different lengths: sequence s owns rows [starts[s], starts[s+1]). starts[0] = 0.
struct Sequences {
  ConstTensorView starts;  ///< i64 [count + 1]
  int64_t rows = 0;        ///< starts[count]
  int64_t longest = 0;     ///< rows of the longest
  bool causal = false;     ///< a row attends to itself and to the rows before it (attention() alone)
  [[nodiscard]] int64_t count() const { return starts.numel() - 1; }
};

/// A sparse matrix by rows, [n, m]: row i holds weights[e] in column columns[e] for e in [starts[i],
/// starts[i+1]).
struct SparseRows {
  ConstTensorView starts;   ///< i64 [n + 1]
  ConstTensorView columns;  ///< i64 [entries]
  ConstTensorView weights;  ///< f32 [entries]
};

/// How much of a large matrix is worked on at a time. Sums are added up in these blocks, so that a result
/// depends on them in its last bits.
struct BlockSizes {
  int64_t reread_bytes;           ///< what operators read one after the other should still be in a cache
  int64_t product_bytes;          ///< a product's result that is used up at once
  int64_t least_rows, most_rows;  ///< of such a product: fewer would read the other operand too often
};

class Backend {
 public:
  virtual ~Backend() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  /// Of the device that the operators run on.
  [[nodiscard]] virtual Memory& memory() = 0;
  [[nodiscard]] virtual std::unique_ptr<Stream> new_stream() = 0;
  /// Those of a CPU unless a backend says otherwise.
  [[nodiscard]] virtual BlockSizes block_sizes() const {
    return {int64_t{4} << 20, int64_t{64} << 20, 64, 256};
  }
  /// Of tensors in this backend's memory. Collective.
  [[nodiscard]] virtual std::unique_ptr<Collective> new_collective(const Communicator& comm);

  // ---- matrix products
  // --------------------------------------------------------------------------------------------------------
  /// y[M,N] = act(x[M,K] w[N,K]^T + b[N]). x: act; w: f32, or of x's dtype already; b: f32 (may be empty); y:
  /// act. `pre` (optional, act, [M,N]) receives the value before the activation, for the backward pass. With
  /// x in bf16 or f16 an f32 weight is rounded to it.
  virtual void linear(Stream& stream, ConstTensorView x, ConstTensorView w, ConstTensorView b,
                      Activation activation, TensorView y, TensorView pre) = 0;
  /// dx[M,K] (+)= dy[M,N] w[N,K]; w as above.
  virtual void linear_backward_input(Stream& stream, ConstTensorView dy, ConstTensorView w, TensorView dx,
                                     bool accumulate) = 0;
  /// dw[N,K] += dy[M,N]^T x[M,K];  db[N] += column sums of dy (db may be empty).
  virtual void linear_backward_weight(Stream& stream, ConstTensorView dy, ConstTensorView x, TensorView dw,
                                      TensorView db) = 0;

  // ---- pointwise
  // --------------------------------------------------------------------------------------------------------------
  /// dx[M,N] = dy * gelu'(pre), elementwise; dx may be dy. db[N] += column sums of dx, the gradient of the
  /// bias that `pre` was given (db may be empty; without it any shape will do).
  virtual void gelu_backward(Stream& stream, ConstTensorView dy, ConstTensorView pre, TensorView dx,
                             TensorView db) = 0;
  /// dx = dy * quick_gelu'(pre), elementwise; dx may be dy.
  virtual void quick_gelu_backward(Stream& stream, ConstTensorView dy, ConstTensorView pre,
                                   TensorView dx) = 0;
  /// y[M,H] = silu(x[:, :H]) * x[:, H:], x[M,2H].
  virtual void swiglu(Stream& stream, ConstTensorView x, TensorView y) = 0;
  /// dx[M,2H] from dy[M,H] and the forward input x[M,2H].
  virtual void swiglu_backward(Stream& stream, ConstTensorView dy, ConstTensorView x, TensorView dx) = 0;
  /// out[rows[i], :] += scale * gamma[:] * branch[i, :]; out: f32, branch: act, gamma may be empty (= 1).
  /// Rows are distinct; without `rows`, row i -> i (LayerScale and the residual of stochastic
  /// depth).
  virtual void scaled_index_add(Stream& stream, TensorView out, ConstTensorView branch, ConstTensorView gamma,
                                float scale, ConstTensorView rows) = 0;
  /// Backward of it: dbranch[i,:] = scale * gamma * dout[rows[i],:];  dgamma[:] += scale * sum_i
  /// dout[rows[i],:] * branch[i,:] (dgamma may be empty).
  virtual void scaled_index_add_backward(Stream& stream, ConstTensorView dout, ConstTensorView branch,
                                         ConstTensorView gamma, float scale, ConstTensorView rows,
                                         TensorView dbranch, TensorView dgamma) = 0;
  /// out[i,:] = x[rows[i],:]; x, out: act, which may be of two dtypes.
  virtual void gather_rows(Stream& stream, ConstTensorView x, ConstTensorView rows, TensorView out) = 0;
  /// out[rows[i],:] += x[i,:]; out: f32. Rows may repeat; the order of additions is that of i.
  virtual void scatter_add_rows(Stream& stream, ConstTensorView x, ConstTensorView rows, TensorView out) = 0;
  /// x[rows[i],:] <- 0; x: act.
  virtual void zero_rows(Stream& stream, TensorView x, ConstTensorView rows) = 0;
  /// out[i,:] (+)= sum over row i's entries of weight * x[column,:], in their order; all f32.
  virtual void sparse_rows(Stream& stream, const SparseRows& matrix, ConstTensorView x, TensorView out,
                           bool accumulate) = 0;
  /// y = x elementwise, rounded to nearest even; x, y: act, which may be of two dtypes.
  virtual void convert(Stream& stream, ConstTensorView x, TensorView y) = 0;
  /// y += a * x, both f32, same number of elements.
  virtual void axpy(Stream& stream, float a, ConstTensorView x, TensorView y) = 0;

  /// y = a * x, both f32, same number of elements; y may be x.
  virtual void scale(Stream& stream, float a, ConstTensorView x, TensorView y) = 0;
  /// y = 1 / x, both f32; where x is 0, `of_zero`. y may be x.
  virtual void reciprocal(Stream& stream, ConstTensorView x, float of_zero, TensorView y) = 0;
  /// y = max(x, 0), both f32; NaN stays. y may be x.
  virtual void relu(Stream& stream, ConstTensorView x, TensorView y) = 0;
  /// dx = dy where y > 0, else 0; all f32; y is relu's result (or its input). dx may be dy.
  virtual void relu_backward(Stream& stream, ConstTensorView dy, ConstTensorView y, TensorView dx) = 0;

  // ---- reductions
  // -----------------------------------------------------------------------------------------------------------
  /// out f64 [1] += factor * sum_i x[i] weight[i] in f64, the same for any number of threads; x, weight f32;
  /// weight may be empty (= 1).
  virtual void weighted_sum(Stream& stream, ConstTensorView x, ConstTensorView weight, double factor,
                            TensorView out) = 0;
  /// out f64 [1] += sum of squares of x (f32) in f64, the same for any number of threads.
  virtual void sum_of_squares(Stream& stream, ConstTensorView x, TensorView out) = 0;
  /// out f32 [1] = the largest element of x (f32); -infinity of none. NaN may be passed over.
  virtual void maximum(Stream& stream, ConstTensorView x, TensorView out) = 0;
  /// flag f32 [1] = 1 if every element of x (f64) is finite, else 0.
  virtual void all_finite(Stream& stream, ConstTensorView x, TensorView flag) = 0;

  // ---- normalisation
  // ----------------------------------------------------------------------------------------------------------
  /// y = (x - mean) / sqrt(var + eps) * gamma + beta per row (biased variance). x: f32, y: act; mean, rstd:
  /// f32 [M], may be empty (inference).
  virtual void layer_norm(Stream& stream, ConstTensorView x, ConstTensorView gamma, ConstTensorView beta,
                          float eps, TensorView y, TensorView mean, TensorView rstd) = 0;
  /// dx[rows[i],:] += ...; dgamma += ...; dbeta += .... dy: act; x[M,D], dx: f32. Rows are distinct; without
  /// `rows`, row i -> i.
  virtual void layer_norm_backward(Stream& stream, ConstTensorView dy, ConstTensorView x,
                                   ConstTensorView gamma, ConstTensorView mean, ConstTensorView rstd,
                                   ConstTensorView rows, TensorView dx, TensorView dgamma,
                                   TensorView dbeta) = 0;
  /// gathered[i,:] = x[rows[i],:] (may be empty) and the norm of that, as above: x f32 [R,D], gathered f32
  /// [n,D], y act [n,D]. The same bits as gather_rows and layer_norm.
  virtual void gather_layer_norm(Stream& stream, ConstTensorView x, ConstTensorView rows,
                                 ConstTensorView gamma, ConstTensorView beta, float eps, TensorView gathered,
                                 TensorView y, TensorView mean, TensorView rstd) = 0;
  /// sum = x + layer_scale[:] * branch (layer_scale may be empty, = 1) and the norm of that: one branch of a
  /// block ends where the next begins. x, sum f32 [M,D], branch, y act [M,D]; sum may be x. The same bits as
  /// scaled_index_add and layer_norm.
  virtual void residual_layer_norm(Stream& stream, ConstTensorView x, ConstTensorView branch,
                                   ConstTensorView layer_scale, ConstTensorView gamma, ConstTensorView beta,
                                   float eps, TensorView sum, TensorView y, TensorView mean,
                                   TensorView rstd) = 0;
  /// Backward of it: layer_norm_backward of `sum` to dx (which has what reaches x by other ways), and of what
  /// dx becomes dbranch = layer_scale * dx, d_layer_scale += sum over rows of dx * branch (both may be
  /// empty).
  virtual void residual_layer_norm_backward(Stream& stream, ConstTensorView dy, ConstTensorView sum,
                                            ConstTensorView branch, ConstTensorView layer_scale,
                                            ConstTensorView gamma, ConstTensorView mean, ConstTensorView rstd,
                                            TensorView dx, TensorView dbranch, TensorView d_layer_scale,
                                            TensorView dgamma, TensorView dbeta) = 0;
  /// y = x / max(|x|, eps) per row; norm[M] receives max(|x|, eps). All f32 (torch.nn.functional.normalize).
  virtual void l2_normalize(Stream& stream, ConstTensorView x, float eps, TensorView y, TensorView norm) = 0;
  /// dx = (dy - y (y.dy)) / norm (rows clamped at eps: dy / norm).
  virtual void l2_normalize_backward(Stream& stream, ConstTensorView dy, ConstTensorView y,
                                     ConstTensorView norm, float eps, TensorView dx) = 0;

  /// Weight normalisation by rows (torch.nn.utils.weight_norm): w[k,:] = g[k] v[k,:] / |v[k,:]|, the norm in
  /// f64. g f32 [K], v f32 [K,D], w act [K,D].
  virtual void weight_norm(Stream& stream, ConstTensorView g, ConstTensorView v, TensorView w) = 0;
  /// With u = v / |v|: dg += dw . u,  dv += g / |v| (dw - u (dw . u)), by rows.
  virtual void weight_norm_backward(Stream& stream, ConstTensorView g, ConstTensorView v, ConstTensorView dw,
                                    TensorView dg, TensorView dv) = 0;

  // ---- attention
  // --------------------------------------------------------------------------------------------------------------
  /// Block-diagonal multi-head attention over packed sequences, softmax(q k^T * scale) v within each
  /// sequence, of all its rows or (causal) of those up to the query's. qkv[T,3D] holds q | k | v, each split
  /// in `heads` of D/heads columns. out[T,D]: act; lse: f32 [heads,T], may be empty (inference). Never keeps
  /// a T x T matrix.
  virtual void attention(Stream& stream, ConstTensorView qkv, const Sequences& sequences, int64_t heads,
                         float scale, TensorView out, TensorView lse) = 0;
  /// dqkv[T,3D] from dout[T,D] and the forward's qkv, out, lse.
  virtual void attention_backward(Stream& stream, ConstTensorView dout, ConstTensorView qkv,
                                  ConstTensorView out, ConstTensorView lse, const Sequences& sequences,
                                  int64_t heads, float scale, TensorView dqkv) = 0;
  /// The same with queries of their own: sequence s has queries q[Tq,D] and keys and values kv[Tk,2D] (k |
  /// v). out[Tq,D], lse [heads,Tq]. A sequence may have no query.
  virtual void query_attention(Stream& stream, ConstTensorView q, ConstTensorView kv,
                               const Sequences& queries, const Sequences& keys, int64_t heads, float scale,
                               TensorView out, TensorView lse) = 0;
  /// dq[Tq,D] and dkv[Tk,2D] (both =) from dout[Tq,D].
  virtual void query_attention_backward(Stream& stream, ConstTensorView dout, ConstTensorView q,
                                        ConstTensorView kv, ConstTensorView out, ConstTensorView lse,
                                        const Sequences& queries, const Sequences& keys, int64_t heads,
                                        float scale, TensorView dq, TensorView dkv) = 0;
  /// Softmax probabilities of query row `query` (within each sequence) for pictures and tests: probs f32
  /// [count, heads, length]; all sequences have the same length.
  virtual void attention_probabilities(Stream& stream, ConstTensorView qkv, const Sequences& sequences,
                                       int64_t heads, float scale, int64_t query, TensorView probs) = 0;

  // ---- patch embedding
  // --------------------------------------------------------------------------------------------------------
  /// images f32 [B,C,H,W] -> patches act [B*(H/p)*(W/p), C*p*p], patches row-major, columns in (c, y, x)
  /// order (the layout of a Conv2d weight).
  virtual void patchify(Stream& stream, ConstTensorView images, int64_t patch, TensorView patches) = 0;
  /// The transpose: dimages f32 [B,C,H,W] = scattered dpatches.
  virtual void patchify_backward(Stream& stream, ConstTensorView dpatches, int64_t patch,
                                 TensorView dimages) = 0;

  // ---- crops
  // ----------------------------------------------------------------------------------------------------------------
  /// Crops of decoded pictures, normalised: to the bit what make_crop and normalize_to (imaging/augment.hpp)
  /// make. pixels u8: pictures of interleaved RGB; pictures i64 [N,3]: the first byte of each in `pixels`,
  /// its height and width; crops u8 [C, sizeof(CropSteps)] (imaging/crop_steps.hpp): a CropSteps each;
  /// out f32 [C,3,S,S]. A box is at most kMostReduction times as high and as wide as a crop.
  virtual void augment_crops(Stream& stream, ConstTensorView pixels, ConstTensorView pictures,
                             ConstTensorView crops, Resampling filter, const Normalisation& normalisation,
                             TensorView out) = 0;
  static constexpr int64_t kMostReduction = 32;

  // ---- losses (all f32)
  // -------------------------------------------------------------------------------------------------------
  /// Cross-entropy of rows against soft targets, in place: with s = logits / temperature, loss[r] = -sum_k
  /// target[r,k] log_softmax(s)[r,k], and logits becomes its gradient times weight[r]: weight[r] /
  /// temperature * (softmax(s) * sum_k target[r,k] - target[r,k]). weight may be empty (no gradient).
  virtual void cross_entropy(Stream& stream, TensorView logits, ConstTensorView targets, float temperature,
                             ConstTensorView weight, TensorView loss) = 0;
  /// Row by row: maxima[r] = max_k x[r,k];  x[r,k] <- exp((x[r,k] - maxima[r]) / temperature).
  virtual void exp_rows(Stream& stream, TensorView x, float temperature, TensorView maxima) = 0;
  /// x <- exp((x - reference) / temperature) in f64, reference f32 [1].
  virtual void exp_relative(Stream& stream, TensorView x, ConstTensorView reference, float temperature) = 0;
  /// out[k] += sum_r x[r,k] weight[r]; weight may be empty (= 1). Rows are added in order.
  virtual void weighted_column_sums(Stream& stream, ConstTensorView x, ConstTensorView weight,
                                    TensorView out) = 0;
  /// out[r] = sum_k x[r,k] u[k].
  virtual void matrix_vector(Stream& stream, ConstTensorView x, ConstTensorView u, TensorView out) = 0;
  /// x[r,k] <- x[r,k] * v[r] * u[k].
  virtual void scale_rows_columns(Stream& stream, TensorView x, ConstTensorView v, ConstTensorView u) = 0;
  /// x <- softmax((x - centre) / temperature) per row; centre [K] may be empty.
  virtual void softmax_centred(Stream& stream, TensorView x, ConstTensorView centre, float temperature) = 0;

  /// index[r] (i64) = the column of the largest of dots[r,:] (f32 [R,C]) but for column first + r, the first
  /// among equals: the nearest other row of a batch whose rows [first, first + R) are these. C >= 2. A row
  /// without any comparable number gets the first other column.
  virtual void nearest_other(Stream& stream, ConstTensorView dots, int64_t first, TensorView index) = 0;
  /// KoLeo (arXiv 1806.03198) of rows [first, first + n) of x f32 [N,D], each with its neighbour i64 [N]:
  /// with d_a = |x_a - x_nn(a) + 1e-8|,
  ///   loss f64 [1] += sum over own anchors a of -log(max(d_a, 1e-6) + 1e-8) / N,
  ///   dx f32 [n,D] = weight times the gradient of the sum over *all* anchors: an own row collects the terms
  ///   of
  /// its own anchor and of those whose neighbour it is, in the order of the anchors. Pairs nearer than 1e-6
  /// are equal but for rounding, and push each other nowhere.
  virtual void koleo(Stream& stream, ConstTensorView x, ConstTensorView neighbours, int64_t first,
                     double weight, TensorView loss, TensorView dx) = 0;

  // ---- health
  // ----------------------------------------------------------------------------------------------------------------
  /// Of targets f32 [R,K]: sums f32 [2K] += column sums, and (from K on) how many rows have their first
  /// largest element there; entropy f64 [1] += sum over rows of -sum_k t log t.
  virtual void target_statistics(Stream& stream, ConstTensorView targets, TensorView sums,
                                 TensorView entropy) = 0;
  /// Of such sums over `rows` rows: out f64 [2] = entropy of the mean target; share of the K columns that are
  /// some row's largest.
  virtual void mean_target_statistics(Stream& stream, ConstTensorView sums, double rows, TensorView out) = 0;
  /// out f64 [1] = the mean over columns of the standard deviation (biased) of x f32 [R,D].
  virtual void mean_column_std(Stream& stream, ConstTensorView x, TensorView out) = 0;

  // ---- optimizer (f32, flat)
  // --------------------------------------------------------------------------------------------------
  struct AdamW {
    float learning_rate, beta1, beta2, eps, weight_decay;
    int64_t step;        ///< 1 for the first update (bias correction)
    float momentum = 1;  ///< of the average
  };
  /// Of gradients times `scale` > 0, whose squared norms are squares f64: factors[i] f32 = min(1, limit /
  /// (sqrt(squares[i]) / scale + 1e-6)) / scale, which clips (torch.nn.utils.clip_grad_norm_; limit 0: not)
  /// and takes the scale back.
  virtual void clip_factors(Stream& stream, ConstTensorView squares, double scale, double limit,
                            TensorView factors) = 0;
  /// Decoupled weight decay, as torch.optim.AdamW: w -= lr wd w; m, v updated; w -= lr mhat / (sqrt(vhat) +
  /// eps). The gradient is multiplied by `factor` f32 [1] first. `average` (may be empty) follows the new w
  /// as by ema(). Where `apply` f32 [1] is 0 nothing changes.
  virtual void adamw(Stream& stream, TensorView w, ConstTensorView gradient, TensorView m, TensorView v,
                     const AdamW& settings, ConstTensorView factor, ConstTensorView apply,
                     TensorView average) = 0;
  /// average = momentum * average + (1 - momentum) * value; nothing where `apply` f32 [1] is given and 0.
  virtual void ema(Stream& stream, TensorView average, ConstTensorView value, float momentum,
                   ConstTensorView apply) = 0;
};

/// All backends of this process: cpu, cuda where there is a GPU (ops/accelerator.hpp), reference (naive, for
/// tests: plain loops, sums in f64).
[[nodiscard]] std::span<Backend* const> backends();
/// Of that list, by name; DINO_CHECK when absent.
[[nodiscard]] Backend& backend_named(std::string_view name);

/// One line for --version: "oneDNN 2.6.3, avx512bf16 kernels".
[[nodiscard]] std::string describe_backend();
/// Threads that the operators use from now on (OpenMP).
void set_threads(int threads);

}  // namespace dino::ops
