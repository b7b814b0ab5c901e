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

template <class T, int N, bool kWarpRows>
__global__ void layer_norm_kernel(const float* x, const float* gamma, const float* beta, float eps, T* y,
                                  float* mean, float* rstd, int64_t rows, int64_t d) {
  const RowTeam<N, kWarpRows> team;
  if (team.row >= rows) return;
  const float* const in = x + team.row * d;
  float kept[N] = {};
  if (team.column < d) load(in + team.column, kept);
  float sum = 0;
  for_columns(team, in, kept, d, [&](const float(&values)[N], int64_t) {
    for (const float value : values) sum += value;
  });
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

/// A block has the rows [first, first + rows_per_block). partials f32 [blocks, 2 d]: of dgamma | dbeta, which
/// grow in dynamic shared memory, each column by its own thread.
template <class T, int N>
__global__ void layer_norm_backward_kernel(const T* dy, const float* x, const float* gamma, const float* mean,
                                           const float* rstd, float* dx, float* partials, int64_t rows,
                                           int64_t rows_per_block, int64_t d) {
  float* const gamma_sums = dynamic_shared<float>();
  float* const beta_sums = gamma_sums + d;
  const int64_t first_column = int64_t{threadIdx.x} * N, stride = int64_t{blockDim.x} * N;
  constexpr float kZeros[N] = {};
  for (int64_t column = first_column; column < d; column += stride) {
    store(gamma_sums + column, kZeros);
    store(beta_sums + column, kZeros);
  }
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
    const auto finish = [&](int64_t column, const float(&g)[N], const float(&xhat)[N]) {
      float out[N];
      load(dx + row * d + column, out);
      for (int i = 0; i < N; ++i) out[i] = fmaf(scale, g[i] - fmaf(xhat[i], along, sum), out[i]);
      store(dx + row * d + column, out);
    };
    if (first_column < d) finish(first_column, kept_g, kept_xhat);
    for (int64_t column = first_column + stride; column < d; column += stride) {
      float g[N], xhat[N];
      terms(column, g, xhat, [](const float(&)[N], const float(&)[N]) {});
      finish(column, g, xhat);
    }
  }
  float* const to = partials + int64_t{blockIdx.x} * 2 * d;
  for (int64_t column = first_column; column < d; column += stride) {
    store_group<N>(to + column, load_group<N>(gamma_sums + column));
    store_group<N>(to + d + column, load_group<N>(beta_sums + column));
  }
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

void CudaBackend::layer_norm(Stream& stream, ConstTensorView x, ConstTensorView gamma, ConstTensorView beta,
                             float eps, TensorView y, TensorView mean, TensorView rstd) {
  check::same_act({x, y});
  const int64_t rows = x.dim(0), d = x.dim(1);
  check::vector(gamma, d, false);
  check::vector(beta, d, false);
  check::vector(mean, rows, true);
  check::vector(rstd, rows, true);
  with_cuda_act(y.dtype, [&]<class T>(T) {
    with_team<8>(d % 8 == 0 && aligned({x.data, gamma.data, beta.data, y.data}), rows, d,
                 [&]<int N, bool kWarpRows>(Width<N>, std::bool_constant<kWarpRows>, LaunchShape shape) {
                   launch("layer_norm", layer_norm_kernel<T, N, kWarpRows>, shape, stream, pointer<float>(x),
                          pointer<float>(gamma), pointer<float>(beta), eps, pointer<T>(y),
                          pointer<float>(mean), pointer<float>(rstd), rows, d);
                 });
  });
}

void CudaBackend::layer_norm_backward(Stream& stream, ConstTensorView dy, ConstTensorView x,
                                      ConstTensorView gamma, ConstTensorView mean, ConstTensorView rstd,
                                      TensorView dx, TensorView dgamma, TensorView dbeta) {
  check::same_act({x, dy});
  check::same_f32({x, dx});
  const int64_t rows = x.dim(0), d = x.dim(1);
  for (const ConstTensorView& v : {gamma, ConstTensorView(dgamma), ConstTensorView(dbeta)})
    check::vector(v, d, false);
  check::vector(mean, rows, false);
  check::vector(rstd, rows, false);
  const int64_t per_block = rows_per_block(rows);
  const unsigned blocks = blocks_for(rows, per_block);
  const size_t sums_bytes = static_cast<size_t>(2 * d) * sizeof(float);
  CudaStream& queue = cuda_stream(stream);
  auto* const partials = static_cast<float*>(queue.scratch(blocks * sums_bytes));
  with_cuda_act(dy.dtype, [&]<class T>(T) {
    with_width<8>(d % 8 == 0 && aligned({dy.data, x.data, gamma.data, dx.data}), [&]<int N>(Width<N>) {
      launch("layer_norm_backward", layer_norm_backward_kernel<T, N>,
             {{blocks}, {row_threads<N>(d)}, sums_bytes}, stream, pointer<T>(dy), pointer<float>(x),
             pointer<float>(gamma), pointer<float>(mean), pointer<float>(rstd), pointer<float>(dx), partials,
             rows, per_block, d);
    });
  });
  add_partials(queue, {.data = partials, .chunks = blocks, .columns = 2 * d, .split = d},
               pointer<float>(dgamma), pointer<float>(dbeta));
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
