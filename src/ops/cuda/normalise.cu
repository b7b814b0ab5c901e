// SPDX-License-Identifier: Apache-2.0
// Normalisation of rows. A thread keeps its first group of columns in registers, so that rows of up to 2,048
// columns (in groups of 8) are read once; what lies beyond is read again, from the cache.

#include "ops/checks.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/elements.hpp"
#include "ops/cuda/kernels.hpp"

namespace dino::cuda {
namespace {

/// function(values, column) for the thread's groups of a row, whose first it has in `kept`.
template <int N, class Team, class T, class Function>
__device__ __forceinline__ void for_columns(const Team& team, const T* row, const float (&kept)[N], int64_t d,
                                            Function&& function) {
  if (team.column < d) function(kept, team.column);
  if constexpr (!Team::kOneGroup) {
    for (int64_t column = team.column + team.stride; column < d; column += team.stride) {
      float values[N];
      load(row + column, values);
      function(values, column);
    }
  }
}

/// Row i is x[list[i]] (list may be null: x[i]) + layer_scale branch[i] (both may be null), and is written to
/// entered[i], which may be null where there is no branch, and x where there is no list.
template <class T, int N, bool kWarpRows>
__global__ void layer_norm_kernel(const float* x, const int64_t* list, const T* branch,
                                  const float* layer_scale, float* entered, const float* gamma,
                                  const float* beta, float eps, T* y, float* mean, float* rstd, int64_t rows,
                                  int64_t d) {
  const RowTeam<N, kWarpRows> team;
  if (team.row >= rows) return;
  const float* const from = x + (list != nullptr ? list[team.row] : team.row) * d;
  float* const to = entered != nullptr ? entered + team.row * d : nullptr;
  const float* const in = entered != nullptr ? to : from;  // for what no register keeps
  float sum = 0;
  const auto enter = [&](int64_t column, float(&values)[N]) {
    load(from + column, values);
    if (branch != nullptr) {
      float factors[N], added[N];
      load_factors(layer_scale, 1.0f, column, factors);
      load(branch + team.row * d + column, added);
      for (int i = 0; i < N; ++i) values[i] = fmaf(factors[i], added[i], values[i]);
    }
    if (to != nullptr) store(to + column, values);
    for (const float value : values) sum += value;
  };
  float kept[N] = {};
  if (team.column < d) enter(team.column, kept);
  if constexpr (!kWarpRows) {
    for (int64_t column = team.column + team.stride; column < d; column += team.stride) {
      float values[N];
      enter(column, values);
    }
  }
  const float centre = team.sum(sum) / static_cast<float>(d);
  float squares = 0;
  for_columns(team, in, kept, d, [&](const float(&values)[N], int64_t) {
    for (const float value : values) squares = fmaf(value - centre, value - centre, squares);
  });
  const float scale = 1.0f / sqrtf(team.sum(squares) / static_cast<float>(d) + eps);
  for_columns(team, in, kept, d, [&](const float(&values)[N], int64_t column) {
    float factors[N], out[N];
    load(gamma + column, factors);
    load(beta + column, out);
    for (int i = 0; i < N; ++i) out[i] = fmaf((values[i] - centre) * scale, factors[i], out[i]);
    store(y + team.row * d + column, out);
  });
  if (team.column != 0) return;
  if (mean != nullptr) mean[team.row] = centre;
  if (rstd != nullptr) rstd[team.row] = scale;
}

/// A block has the rows [first, first + rows_per_block); row i goes to dx[list[i]] (list may be null: dx[i]).
/// partials f32 [blocks, 2 d]: of dgamma | dbeta, which grow in dynamic shared memory, each column by its own
/// thread. kBranch: dbranch = layer_scale dx too (layer_scale may be null), and a third partial sum, of dx
/// branch.
template <class T, int N, bool kBranch>
__global__ void layer_norm_backward_kernel(const T* dy, const float* x, const float* gamma, const float* mean,
                                           const float* rstd, const int64_t* list, float* dx, const T* branch,
                                           const float* layer_scale, T* dbranch, float* partials,
                                           int64_t rows, int64_t rows_per_block, int64_t d) {
  constexpr int kSums = kBranch ? 3 : 2;
  float* const gamma_sums = dynamic_shared<float>();
  float* const beta_sums = gamma_sums + d;
  float* const scale_sums = beta_sums + d;
  const int64_t first_column = int64_t{threadIdx.x} * N, stride = int64_t{blockDim.x} * N;
  constexpr float kZeros[N] = {};
  for (int64_t column = first_column; column < d; column += stride)
    for (int s = 0; s < kSums; ++s) store(gamma_sums + s * d + column, kZeros);
  const int64_t first = blockIdx.x * rows_per_block;
  const int64_t end = first + rows_per_block < rows ? first + rows_per_block : rows;
  for (int64_t row = first; row < end; ++row) {
    const float centre = mean[row], scale = rstd[row];
    // With g = dy gamma and xhat = (x - mean) rstd: dx += rstd (g - (sum of g + xhat (sum of g xhat)) / d).
    const auto terms = [&](int64_t column, float(&g)[N], float(&xhat)[N], auto&& look) {
      float factors[N];
      load(dy + row * d + column, g);
      load(x + row * d + column, xhat);
      load(gamma + column, factors);
      for (int i = 0; i < N; ++i) xhat[i] = (xhat[i] - centre) * scale;
      look(g, xhat);
      for (int i = 0; i < N; ++i) g[i] *= factors[i];
    };
    float kept_g[N] = {}, kept_xhat[N] = {};
    float sum = 0, along = 0;
    const auto collect = [&](int64_t column, float(&g)[N], float(&xhat)[N]) {
      terms(column, g, xhat, [&](const float(&gradient)[N], const float(&hat)[N]) {
        float to_gamma[N], to_beta[N];
        load(gamma_sums + column, to_gamma);
        load(beta_sums + column, to_beta);
        for (int i = 0; i < N; ++i) {
          to_gamma[i] = fmaf(gradient[i], hat[i], to_gamma[i]);
          to_beta[i] += gradient[i];
        }
        store(gamma_sums + column, to_gamma);
        store(beta_sums + column, to_beta);
      });
      for (int i = 0; i < N; ++i) {
        sum += g[i];
        along = fmaf(g[i], xhat[i], along);
      }
    };
    if (first_column < d) collect(first_column, kept_g, kept_xhat);
    for (int64_t column = first_column + stride; column < d; column += stride) {
      float g[N], xhat[N];
      collect(column, g, xhat);
    }
    sum = block_sum(sum) / static_cast<float>(d);
    along = block_sum(along) / static_cast<float>(d);
    float* const to = dx + (list != nullptr ? list[row] : row) * d;
    const auto finish = [&](int64_t column, const float(&g)[N], const float(&xhat)[N]) {
      float out[N];
      load(to + column, out);
      for (int i = 0; i < N; ++i) out[i] = fmaf(scale, g[i] - fmaf(xhat[i], along, sum), out[i]);
      store(to + column, out);
      if constexpr (kBranch) {
        float added[N], sums[N];
        load(branch + row * d + column, added);
        load(scale_sums + column, sums);
        for (int i = 0; i < N; ++i) sums[i] = fmaf(out[i], added[i], sums[i]);
        store(scale_sums + column, sums);
        load_factors(layer_scale, 1.0f, column, added);
        for (int i = 0; i < N; ++i) out[i] *= added[i];
        store(dbranch + row * d + column, out);
      }
    };
    if (first_column < d) finish(first_column, kept_g, kept_xhat);
    for (int64_t column = first_column + stride; column < d; column += stride) {
      float g[N], xhat[N];
      terms(column, g, xhat, [](const float(&)[N], const float(&)[N]) {});
      finish(column, g, xhat);
    }
  }
  float* const to = partials + int64_t{blockIdx.x} * kSums * d;
  for (int64_t column = first_column; column < d; column += stride)
    for (int s = 0; s < kSums; ++s)
      store_group<N>(to + s * d + column, load_group<N>(gamma_sums + s * d + column));
}

template <int N, bool kWarpRows>
__global__ void l2_normalize_kernel(const float* x, float eps, float* y, float* norm, int64_t rows,
                                    int64_t d) {
  const RowTeam<N, kWarpRows> team;
  if (team.row >= rows) return;
  const float* const in = x + team.row * d;
  float kept[N] = {};
  if (team.column < d) load(in + team.column, kept);
  float squares = 0;
  for_columns(team, in, kept, d, [&](const float(&values)[N], int64_t) {
    for (const float value : values) squares = fmaf(value, value, squares);
  });
  const float length = fmaxf(sqrtf(team.sum(squares)), eps);
  for_columns(team, in, kept, d, [&](const float(&values)[N], int64_t column) {
    float out[N];
    for (int i = 0; i < N; ++i) out[i] = values[i] / length;
    store(y + team.row * d + column, out);
  });
  if (team.column == 0) norm[team.row] = length;
}

template <int N, bool kWarpRows>
__global__ void l2_normalize_backward_kernel(const float* dy, const float* y, const float* norm, float eps,
                                             float* dx, int64_t rows, int64_t d) {
  const RowTeam<N, kWarpRows> team;
  if (team.row >= rows) return;
  const float* const gradient = dy + team.row * d;
  const float* const unit = y + team.row * d;
  float kept[N] = {};
  if (team.column < d) load(gradient + team.column, kept);
  float along = 0;
  for_columns(team, gradient, kept, d, [&](const float(&values)[N], int64_t column) {
    float units[N];
    load(unit + column, units);
    for (int i = 0; i < N; ++i) along = fmaf(values[i], units[i], along);
  });
  along = team.sum(along);
  const float length = norm[team.row];
  if (length <= eps) along = 0;  // the clamp is a constant: it passes no gradient to the norm
  for_columns(team, gradient, kept, d, [&](const float(&values)[N], int64_t column) {
    float out[N];
    load(unit + column, out);
    for (int i = 0; i < N; ++i) out[i] = (values[i] - out[i] * along) / length;
    store(dx + team.row * d + column, out);
  });
}

template <class T, int N, bool kWarpRows>
__global__ void weight_norm_kernel(const float* g, const float* v, T* w, int64_t rows, int64_t d) {
  const RowTeam<N, kWarpRows> team;
  if (team.row >= rows) return;
  const float* const in = v + team.row * d;
  float kept[N] = {};
  if (team.column < d) load(in + team.column, kept);
  double squares = 0;
  for_columns(team, in, kept, d, [&](const float(&values)[N], int64_t) {
    for (const float value : values) squares = fma(double{value}, double{value}, squares);
  });
  const double scale = double{g[team.row]} / sqrt(team.sum(squares));
  for_columns(team, in, kept, d, [&](const float(&values)[N], int64_t column) {
    float out[N];
    for (int i = 0; i < N; ++i) out[i] = static_cast<float>(scale * double{values[i]});
    store(w + team.row * d + column, out);
  });
}

template <int N, bool kWarpRows>
__global__ void weight_norm_backward_kernel(const float* g, const float* v, const float* dw, float* dg,
                                            float* dv, int64_t rows, int64_t d) {
  const RowTeam<N, kWarpRows> team;
  if (team.row >= rows) return;
  const float* const in = v + team.row * d;
  const float* const gradient = dw + team.row * d;
  float kept[N] = {};
  if (team.column < d) load(in + team.column, kept);
  double squares = 0, along = 0;
  for_columns(team, in, kept, d, [&](const float(&values)[N], int64_t column) {
    float gradients[N];
    load(gradient + column, gradients);
    for (int i = 0; i < N; ++i) {
      squares = fma(double{values[i]}, double{values[i]}, squares);
      along = fma(double{gradients[i]}, double{values[i]}, along);
    }
  });
  const double norm = sqrt(team.sum(squares));
  along = team.sum(along) / norm;
  const double scale = double{g[team.row]} / norm;
  const double back = -scale * along / norm;
  for_columns(team, in, kept, d, [&](const float(&values)[N], int64_t column) {
    float gradients[N], out[N];
    load(gradient + column, gradients);
    load(dv + team.row * d + column, out);
    for (int i = 0; i < N; ++i)
      out[i] += static_cast<float>(fma(scale, double{gradients[i]}, back * double{values[i]}));
    store(dv + team.row * d + column, out);
  });
  if (team.column == 0) dg[team.row] += static_cast<float>(along);
}

/// Rows that a block of layer_norm_backward has: 1,024 blocks fill a GPU, and fewer than 4 rows are not worth
/// a row of partial sums.
int64_t rows_per_block(int64_t rows) {
  return std::max<int64_t>(4, (rows + 1023) / 1024);
}

}  // namespace
}  // namespace dino::cuda

namespace dino::ops {

using namespace cuda;

namespace {

/// What a norm's rows are made of, as layer_norm_kernel takes it.
struct NormRows {
  ConstTensorView x, list, branch, layer_scale;
  TensorView entered;  ///< may be empty
};

void norm_rows(const char* name, Stream& stream, const NormRows& in, ConstTensorView gamma,
               ConstTensorView beta, float eps, TensorView y, TensorView mean, TensorView rstd) {
  const int64_t rows = y.dim(0), d = y.dim(1);
  const bool wide = d % 8 == 0 && aligned({in.x.data, in.branch.data, in.layer_scale.data, in.entered.data,
                                           gamma.data, beta.data, y.data});
  with_cuda_act(y.dtype, [&]<class T>(T) {
    with_team<8>(wide, rows, d,
                 [&]<int N, bool kWarpRows>(Width<N>, std::bool_constant<kWarpRows>, LaunchShape shape) {
                   launch(name, layer_norm_kernel<T, N, kWarpRows>, shape, stream, pointer<float>(in.x),
                          pointer<int64_t>(in.list), pointer<T>(in.branch), pointer<float>(in.layer_scale),
                          pointer<float>(in.entered), pointer<float>(gamma), pointer<float>(beta), eps,
                          pointer<T>(y), pointer<float>(mean), pointer<float>(rstd), rows, d);
                 });
  });
}

/// What layer_norm_backward_kernel does besides.
struct NormBranch {
  ConstTensorView branch, layer_scale;
  TensorView dbranch;
};

/// Leaves the partial sums of `sums` vectors [d] in the stream's scratch.
template <bool kBranch>
Partials norm_rows_backward(const char* name, CudaStream& stream, ConstTensorView dy, ConstTensorView x,
                            ConstTensorView gamma, ConstTensorView mean, ConstTensorView rstd,
                            ConstTensorView list, TensorView dx, const NormBranch& more) {
  const int64_t rows = x.dim(0), d = x.dim(1), sums = kBranch ? 3 : 2;
  const int64_t per_block = rows_per_block(rows);
  const unsigned blocks = blocks_for(rows, per_block);
  const size_t sums_bytes = static_cast<size_t>(sums * d) * sizeof(float);
  auto* const partials = static_cast<float*>(stream.scratch(blocks * sums_bytes));
  const bool wide = d % 8 == 0 && aligned({dy.data, x.data, gamma.data, dx.data, more.branch.data,
                                           more.layer_scale.data, more.dbranch.data});
  with_cuda_act(dy.dtype, [&]<class T>(T) {
    with_width<8>(wide, [&]<int N>(Width<N>) {
      launch(name, layer_norm_backward_kernel<T, N, kBranch>, {{blocks}, {row_threads<N>(d)}, sums_bytes},
             stream, pointer<T>(dy), pointer<float>(x), pointer<float>(gamma), pointer<float>(mean),
             pointer<float>(rstd), pointer<int64_t>(list), pointer<float>(dx), pointer<T>(more.branch),
             pointer<float>(more.layer_scale), pointer<T>(more.dbranch), partials, rows, per_block, d);
    });
  });
  return {.data = partials, .chunks = blocks, .columns = sums * d, .split = d};
}

}  // namespace

void CudaBackend::layer_norm(Stream& stream, ConstTensorView x, ConstTensorView gamma, ConstTensorView beta,
                             float eps, TensorView y, TensorView mean, TensorView rstd) {
  check::same_f32({x});
  check::same_act({x, y});
  check::layer_norm(gamma, beta, y, mean, rstd);
  norm_rows("layer_norm", stream, {x, {}, {}, {}, {}}, gamma, beta, eps, y, mean, rstd);
}

void CudaBackend::gather_layer_norm(Stream& stream, ConstTensorView x, ConstTensorView rows,
                                    ConstTensorView gamma, ConstTensorView beta, float eps,
                                    TensorView gathered, TensorView y, TensorView mean, TensorView rstd) {
  check::gathered(x, rows, gathered, y);
  check::layer_norm(gamma, beta, y, mean, rstd);
  norm_rows("gather_layer_norm", stream, {x, rows, {}, {}, gathered}, gamma, beta, eps, y, mean, rstd);
}

void CudaBackend::residual_layer_norm(Stream& stream, ConstTensorView x, ConstTensorView branch,
                                      ConstTensorView layer_scale, ConstTensorView gamma,
                                      ConstTensorView beta, float eps, TensorView sum, TensorView y,
                                      TensorView mean, TensorView rstd) {
  check::residual(x, branch, layer_scale, sum, y);
  check::layer_norm(gamma, beta, y, mean, rstd);
  norm_rows("residual_layer_norm", stream, {x, {}, branch, layer_scale, sum}, gamma, beta, eps, y, mean,
            rstd);
}

void CudaBackend::layer_norm_backward(Stream& stream, ConstTensorView dy, ConstTensorView x,
                                      ConstTensorView gamma, ConstTensorView mean, ConstTensorView rstd,
                                      ConstTensorView rows, TensorView dx, TensorView dgamma,
                                      TensorView dbeta) {
  check::layer_norm_backward(dy, x, gamma, mean, rstd, rows, dx, dgamma, dbeta);
  CudaStream& queue = cuda_stream(stream);
  add_partials(
      queue, norm_rows_backward<false>("layer_norm_backward", queue, dy, x, gamma, mean, rstd, rows, dx, {}),
      pointer<float>(dgamma), pointer<float>(dbeta));
}

void CudaBackend::residual_layer_norm_backward(Stream& stream, ConstTensorView dy, ConstTensorView sum,
                                               ConstTensorView branch, ConstTensorView layer_scale,
                                               ConstTensorView gamma, ConstTensorView mean,
                                               ConstTensorView rstd, TensorView dx, TensorView dbranch,
                                               TensorView d_layer_scale, TensorView dgamma,
                                               TensorView dbeta) {
  check::layer_norm_backward(dy, sum, gamma, mean, rstd, {}, dx, dgamma, dbeta);
  check::residual(dx, branch, layer_scale, sum, dy);
  check::same_act({branch, dbranch});
  const int64_t d = sum.dim(1);
  check::vector(d_layer_scale, d, true);
  CudaStream& queue = cuda_stream(stream);
  const Partials partials = norm_rows_backward<true>("residual_layer_norm_backward", queue, dy, sum, gamma,
                                                     mean, rstd, {}, dx, {branch, layer_scale, dbranch});
  add_partials(queue, partials, pointer<float>(dgamma), pointer<float>(dbeta), pointer<float>(d_layer_scale));
}

void CudaBackend::l2_normalize(Stream& stream, ConstTensorView x, float eps, TensorView y, TensorView norm) {
  check::same_f32({x, y});
  check::vector(norm, x.dim(0), false);
  const int64_t rows = x.dim(0), d = x.dim(1);
  with_team<4>(d % 4 == 0 && aligned({x.data, y.data}), rows, d,
               [&]<int N, bool kWarpRows>(Width<N>, std::bool_constant<kWarpRows>, LaunchShape shape) {
                 launch("l2_normalize", l2_normalize_kernel<N, kWarpRows>, shape, stream, pointer<float>(x),
                        eps, pointer<float>(y), pointer<float>(norm), rows, d);
               });
}

void CudaBackend::l2_normalize_backward(Stream& stream, ConstTensorView dy, ConstTensorView y,
                                        ConstTensorView norm, float eps, TensorView dx) {
  check::same_f32({dy, y, dx});
  check::vector(norm, dy.dim(0), false);
  const int64_t rows = dy.dim(0), d = dy.dim(1);
  with_team<4>(d % 4 == 0 && aligned({dy.data, y.data, dx.data}), rows, d,
               [&]<int N, bool kWarpRows>(Width<N>, std::bool_constant<kWarpRows>, LaunchShape shape) {
                 launch("l2_normalize_backward", l2_normalize_backward_kernel<N, kWarpRows>, shape, stream,
                        pointer<float>(dy), pointer<float>(y), pointer<float>(norm), eps, pointer<float>(dx),
                        rows, d);
               });
}

void CudaBackend::weight_norm(Stream& stream, ConstTensorView g, ConstTensorView v, TensorView w) {
  check::weight_norm(g, v, w);
  const int64_t rows = v.dim(0), d = v.dim(1);
  with_cuda_act(w.dtype, [&]<class T>(T) {
    with_team<8>(d % 8 == 0 && aligned({v.data, w.data}), rows, d,
                 [&]<int N, bool kWarpRows>(Width<N>, std::bool_constant<kWarpRows>, LaunchShape shape) {
                   launch("weight_norm", weight_norm_kernel<T, N, kWarpRows>, shape, stream,
                          pointer<float>(g), pointer<float>(v), pointer<T>(w), rows, d);
                 });
  });
}

void CudaBackend::weight_norm_backward(Stream& stream, ConstTensorView g, ConstTensorView v,
                                       ConstTensorView dw, TensorView dg, TensorView dv) {
  check::weight_norm_backward(g, v, dw, dg, dv);
  const int64_t rows = v.dim(0), d = v.dim(1);
  with_team<8>(d % 8 == 0 && aligned({v.data, dw.data, dv.data}), rows, d,
               [&]<int N, bool kWarpRows>(Width<N>, std::bool_constant<kWarpRows>, LaunchShape shape) {
                 launch("weight_norm_backward", weight_norm_backward_kernel<N, kWarpRows>, shape, stream,
                        pointer<float>(g), pointer<float>(v), pointer<float>(dw), pointer<float>(dg),
                        pointer<float>(dv), rows, d);
               });
}

}  // namespace dino::ops
