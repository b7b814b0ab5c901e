// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstring>
#include <type_traits>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/host.hpp"

namespace dino::ops {
namespace {

constexpr int64_t kBlock = 4096;

const float* data_or_null(ConstTensorView v) {
  return v ? v.as<float>() : nullptr;
}

template <class From, class To>
void copy_row(const From* from, To* to, int64_t n) {
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(static_cast<void*>(to), from, static_cast<size_t>(n) * sizeof(To));
  } else if constexpr (std::is_same_v<From, float>) {
    act_kernels<To>().from_float(from, to, n);
  } else if constexpr (std::is_same_v<To, float>) {
    act_kernels<From>().to_float(from, to, n);
  } else {  // f32 holds both
    std::array<float, 256> wide;
    for (int64_t i = 0; i < n; i += std::ssize(wide)) {
      const int64_t count = std::min<int64_t>(std::ssize(wide), n - i);
      act_kernels<From>().to_float(from + i, wide.data(), count);
      act_kernels<To>().from_float(wide.data(), to + i, count);
    }
  }
}

}  // namespace

void CpuBackend::gelu_backward(Stream&, ConstTensorView dy, ConstTensorView pre, TensorView dx,
                               TensorView db) {
  check::gelu_backward(dy, pre, dx, db);
  with_act(dy.dtype, [&]<class T>(T) {
    const T* gradient = dy.as<T>();
    const T* in = pre.as<T>();
    T* out = dx.as<T>();
    if (db) {
      const int64_t d = dx.dim(1);
      chunked_column_sums(dx.dim(0), d, {db.as<float>()}, [&](int64_t first, int64_t rows, float* sums) {
        for (int64_t i = first * d; i < (first + rows) * d; i += d) {
          act_kernels<T>().gelu_backward(gradient + i, in + i, out + i, d);
          act_kernels<T>().add_scaled(sums, out + i, nullptr, 1.0f, d);
        }
      });
      return;
    }
    for_blocks(dy.numel(), kBlock, [&](int64_t i, int64_t n) {
      act_kernels<T>().gelu_backward(gradient + i, in + i, out + i, n);
    });
  });
}

void CpuBackend::quick_gelu_backward(Stream&, ConstTensorView dy, ConstTensorView pre, TensorView dx) {
  check::same_act({dy, pre, dx});
  with_act(dy.dtype, [&]<class T>(T) {
    const T* gradient = dy.as<T>();
    const T* in = pre.as<T>();
    T* out = dx.as<T>();
    for_blocks(dy.numel(), kBlock, [&](int64_t i, int64_t n) {
      act_kernels<T>().quick_gelu_backward(gradient + i, in + i, out + i, n);
    });
  });
}

void CpuBackend::swiglu(Stream&, ConstTensorView x, TensorView y) {
  check::swiglu(x, y);
  const int64_t h = y.dim(1);
  with_act(x.dtype, [&]<class T>(T) {
    const T* in = x.as<T>();
    T* out = y.as<T>();
    parallel_for(y.dim(0), h, [&](int64_t r) { act_kernels<T>().swiglu(in + r * 2 * h, out + r * h, h); });
  });
}

void CpuBackend::swiglu_backward(Stream&, ConstTensorView dy, ConstTensorView x, TensorView dx) {
  check::swiglu(x, dy);
  check::same_act({x, dx});
  const int64_t h = dy.dim(1);
  with_act(x.dtype, [&]<class T>(T) {
    const T* gradient = dy.as<T>();
    const T* in = x.as<T>();
    T* out = dx.as<T>();
    parallel_for(dy.dim(0), 2 * h, [&](int64_t r) {
      act_kernels<T>().swiglu_backward(gradient + r * h, in + r * 2 * h, out + r * 2 * h, h);
    });
  });
}

void CpuBackend::scaled_index_add(Stream&, TensorView out, ConstTensorView branch, ConstTensorView gamma,
                                  float scale, ConstTensorView rows) {
  check::indexed_rows(out, branch, rows, true);
  const HostRows at(rows, out.dim(0));
  check::vector(gamma, branch.dim(1), true);
  const int64_t d = branch.dim(1);
  float* to = out.as<float>();
  with_act(branch.dtype, [&]<class T>(T) {
    const T* in = branch.as<T>();
    parallel_for(branch.dim(0), d, [&](int64_t i) {
      act_kernels<T>().add_scaled(to + at[i] * d, in + i * d, data_or_null(gamma), scale, d);
    });
  });
}

void CpuBackend::scaled_index_add_backward(Stream&, ConstTensorView dout, ConstTensorView branch,
                                           ConstTensorView gamma, float scale, ConstTensorView rows,
                                           TensorView dbranch, TensorView dgamma) {
  check::indexed_rows(dout, branch, rows, true);
  const HostRows at(rows, dout.dim(0));
  check::same_act({branch, dbranch});
  check::vector(gamma, branch.dim(1), true);
  check::vector(dgamma, branch.dim(1), true);
  const int64_t d = branch.dim(1);
  const float* gradient = dout.as<float>();
  float* total = dgamma ? dgamma.as<float>() : nullptr;
  with_act(branch.dtype, [&]<class T>(T) {
    const T* in = branch.as<T>();
    T* to = dbranch.as<T>();
    chunked_column_sums(branch.dim(0), d, {total}, [&](int64_t first, int64_t count, float* sums) {
      for (int64_t i = first; i < first + count; ++i)
        act_kernels<T>().add_scaled_backward(gradient + at[i] * d, in + i * d, data_or_null(gamma), scale,
                                             to + i * d, total != nullptr ? sums : nullptr, d);
    });
  });
}

void CpuBackend::gather_rows(Stream&, ConstTensorView x, ConstTensorView rows, TensorView out) {
  check::indexed_rows(x, out, rows, false);
  const HostRows at(rows, x.dim(0));
  const int64_t d = x.dim(1);
  with_act(x.dtype, [&]<class From>(From) {
    with_act(out.dtype, [&]<class To>(To) {
      const From* in = x.as<From>();
      To* to = out.as<To>();
      parallel_for(out.dim(0), d, [&](int64_t i) { copy_row(in + at[i] * d, to + i * d, d); });
    });
  });
}

void CpuBackend::scatter_add_rows(Stream&, ConstTensorView x, ConstTensorView rows, TensorView out) {
  check::indexed_rows(out, x, rows, false);
  const HostRows at(rows, out.dim(0));
  const int64_t d = x.dim(1);
  float* to = out.as<float>();
  // Rows may repeat, so threads share the columns, and each adds all rows in order.
  constexpr int64_t kColumns = 128;
  with_act(x.dtype, [&]<class T>(T) {
    const T* in = x.as<T>();
    parallel_for((d + kColumns - 1) / kColumns, x.dim(0) * kColumns, [&](int64_t block) {
      const int64_t c = block * kColumns;
      for (int64_t i = 0; i < x.dim(0); ++i)
        act_kernels<T>().add_scaled(to + at[i] * d + c, in + i * d + c, nullptr, 1.0f,
                                    std::min(kColumns, d - c));
    });
  });
}

void CpuBackend::zero_rows(Stream&, TensorView x, ConstTensorView rows) {
  check::zero_rows(x, rows);
  const HostRows at(rows, x.dim(0));
  const int64_t d = x.dim(1);
  with_act(x.dtype, [&]<class T>(T) {
    T* data = x.as<T>();
    parallel_for(rows.numel(), d, [&](int64_t i) { std::fill_n(data + at[i] * d, d, T{}); });
  });
}

void CpuBackend::sparse_rows(Stream&, const SparseRows& matrix, ConstTensorView x, TensorView out,
                             bool accumulate) {
  check::sparse_rows(matrix, x, out);
  const HostSparse sparse(matrix, x.dim(0));
  const int64_t d = x.dim(1);
  const float* in = x.as<float>();
  float* to = out.as<float>();
  const int64_t entries = matrix.columns.numel() / std::max<int64_t>(out.dim(0), 1);
  parallel_for(out.dim(0), (entries + 1) * d, [&](int64_t i) {
    kernels().sparse_row(in, sparse.columns(i), sparse.weights(i), sparse.count(i), to + i * d, accumulate,
                         d);
  });
}

void convert_elements(ConstTensorView x, TensorView y) {
  with_act(x.dtype, [&]<class From>(From) {
    with_act(y.dtype, [&]<class To>(To) {
      const From* in = x.as<From>();
      To* to = y.as<To>();
      for_blocks(x.numel(), kBlock, [&](int64_t i, int64_t n) { copy_row(in + i, to + i, n); });
    });
  });
}

void CpuBackend::convert(Stream&, ConstTensorView x, TensorView y) {
  check::same_act({x, y});
  convert_elements(x, y);
}

void CpuBackend::axpy(Stream&, float a, ConstTensorView x, TensorView y) {
  check::same_f32({x, y});
  const float* in = x.as<float>();
  float* to = y.as<float>();
  for_blocks(x.numel(), kBlock,
             [&](int64_t i, int64_t n) { kernels().f32.add_scaled(to + i, in + i, nullptr, a, n); });
}

void CpuBackend::scale(Stream&, float a, ConstTensorView x, TensorView y) {
  check::same_f32({x, y});
  const float* in = x.as<float>();
  float* to = y.as<float>();
  for_blocks(x.numel(), kBlock, [&](int64_t i, int64_t n) { kernels().scaled(in + i, a, to + i, n); });
}

void CpuBackend::reciprocal(Stream&, ConstTensorView x, float of_zero, TensorView y) {
  check::same_f32({x, y});
  const float* in = x.as<float>();
  float* to = y.as<float>();
  for_blocks(x.numel(), kBlock, [&](int64_t first, int64_t n) {
    for (int64_t i = first; i < first + n; ++i) to[i] = in[i] == 0.0f ? of_zero : 1.0f / in[i];
  });
}

void CpuBackend::relu(Stream&, ConstTensorView x, TensorView y) {
  check::same_f32({x, y});
  const float* in = x.as<float>();
  float* to = y.as<float>();
  for_blocks(x.numel(), kBlock, [&](int64_t first, int64_t n) {
    for (int64_t i = first; i < first + n; ++i) to[i] = in[i] < 0.0f ? 0.0f : in[i];
  });
}

void CpuBackend::relu_backward(Stream&, ConstTensorView dy, ConstTensorView y, TensorView dx) {
  check::same_f32({dy, y, dx});
  const float *gradient = dy.as<float>(), *out = y.as<float>();
  float* to = dx.as<float>();
  for_blocks(dy.numel(), kBlock, [&](int64_t first, int64_t n) {
    for (int64_t i = first; i < first + n; ++i) to[i] = out[i] > 0.0f ? gradient[i] : 0.0f;
  });
}

namespace {

/// function(patch row, image element, length) for each run of `patch` pixels that a patch row holds.
template <class Function>
void for_patch_runs(const Shape& images, int64_t patch, Function&& function) {
  const int64_t channels = images[1];
  const int64_t height = images[2];
  const int64_t width = images[3];
  const int64_t across = width / patch;
  const int64_t per_image = height / patch * across;
  const int64_t columns = channels * patch * patch;
  parallel_for(images[0] * per_image, columns, [&](int64_t row) {
    const int64_t b = row / per_image;
    const int64_t py = row % per_image / across;
    const int64_t px = row % across;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t y = 0; y < patch; ++y)
        function(row * columns + (c * patch + y) * patch,
                 ((b * channels + c) * height + py * patch + y) * width + px * patch);
  });
}

}  // namespace

void CpuBackend::patchify(Stream&, ConstTensorView images, int64_t patch, TensorView patches) {
  check::patchify(images, patch, patches);
  const float* in = images.as<float>();
  with_act(patches.dtype, [&]<class T>(T) {
    T* out = patches.as<T>();
    for_patch_runs(images.shape, patch,
                   [&](int64_t to, int64_t from) { copy_row(in + from, out + to, patch); });
  });
}

void CpuBackend::patchify_backward(Stream&, ConstTensorView dpatches, int64_t patch, TensorView dimages) {
  check::patchify(dimages, patch, dpatches);
  float* out = dimages.as<float>();
  with_act(dpatches.dtype, [&]<class T>(T) {
    const T* in = dpatches.as<T>();
    for_patch_runs(dimages.shape, patch,
                   [&](int64_t from, int64_t to) { copy_row(in + from, out + to, patch); });
  });
}

}  // namespace dino::ops
