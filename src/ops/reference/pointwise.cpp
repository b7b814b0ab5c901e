// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "ops/checks.hpp"
#include "ops/host.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {
namespace {

double at_or_one(ConstTensorView v, int64_t i) {
  return v ? static_cast<double>(v.as<float>()[i]) : 1.0;
}

}  // namespace

void ReferenceBackend::gelu_backward(Stream&, ConstTensorView dy, ConstTensorView pre, TensorView dx,
                                     TensorView db) {
  check::gelu_backward(dy, pre, dx, db);
  const Reader gradient(dy);
  const Reader in(pre);
  for (int64_t i = 0; i < dy.numel(); ++i) Writer(dx).set(i, gradient[i] * gelu_derivative(in[i]));
  if (!db) return;
  const int64_t n = dx.dim(1);
  for (int64_t c = 0; c < n; ++c) {
    double sum = 0;
    for (int64_t r = 0; r < dx.dim(0); ++r) sum += Reader(dx)[r * n + c];
    Writer(db).add(c, sum);
  }
}

void ReferenceBackend::quick_gelu_backward(Stream&, ConstTensorView dy, ConstTensorView pre, TensorView dx) {
  check::same_act({dy, pre, dx});
  const Reader gradient(dy), in(pre);
  for (int64_t i = 0; i < dy.numel(); ++i) Writer(dx).set(i, gradient[i] * quick_gelu_derivative(in[i]));
}

void ReferenceBackend::swiglu(Stream&, ConstTensorView x, TensorView y) {
  check::swiglu(x, y);
  const int64_t h = y.dim(1);
  const Reader in(x);
  for (int64_t r = 0; r < y.dim(0); ++r) {
    for (int64_t c = 0; c < h; ++c) {
      const double a = in[r * 2 * h + c];
      Writer(y).set(r * h + c, a / (1 + std::exp(-a)) * in[r * 2 * h + h + c]);
    }
  }
}

void ReferenceBackend::swiglu_backward(Stream&, ConstTensorView dy, ConstTensorView x, TensorView dx) {
  check::swiglu(x, dy);
  check::same_act({x, dx});
  const int64_t h = dy.dim(1);
  const Reader gradient(dy);
  const Reader in(x);
  const Writer out(dx);
  for (int64_t r = 0; r < dy.dim(0); ++r) {
    for (int64_t c = 0; c < h; ++c) {
      const double a = in[r * 2 * h + c];
      const double b = in[r * 2 * h + h + c];
      const double g = gradient[r * h + c];
      const double sigmoid = 1 / (1 + std::exp(-a));
      out.set(r * 2 * h + c, g * b * sigmoid * (1 + a * (1 - sigmoid)));
      out.set(r * 2 * h + h + c, g * a * sigmoid);
    }
  }
}

void ReferenceBackend::scaled_index_add(Stream&, TensorView out, ConstTensorView branch,
                                        ConstTensorView gamma, float scale, ConstTensorView rows) {
  check::indexed_rows(out, branch, rows, true);
  const HostRows at(rows, out.dim(0));
  check::vector(gamma, branch.dim(1), true);
  const int64_t d = branch.dim(1);
  const Reader in(branch);
  for (int64_t i = 0; i < branch.dim(0); ++i)
    for (int64_t c = 0; c < d; ++c)
      Writer(out).add(at[i] * d + c, static_cast<double>(scale) * at_or_one(gamma, c) * in[i * d + c]);
}

void ReferenceBackend::scaled_index_add_backward(Stream&, ConstTensorView dout, ConstTensorView branch,
                                                 ConstTensorView gamma, float scale, ConstTensorView rows,
                                                 TensorView dbranch, TensorView dgamma) {
  check::indexed_rows(dout, branch, rows, true);
  const HostRows at(rows, dout.dim(0));
  check::same_act({branch, dbranch});
  check::vector(gamma, branch.dim(1), true);
  check::vector(dgamma, branch.dim(1), true);
  const int64_t d = branch.dim(1);
  const Reader in(branch);
  const Reader gradient(dout);
  for (int64_t c = 0; c < d; ++c) {
    double sum = 0;
    for (int64_t i = 0; i < branch.dim(0); ++i) {
      const double g = gradient[at[i] * d + c];
      sum += g * in[i * d + c];
      Writer(dbranch).set(i * d + c, static_cast<double>(scale) * at_or_one(gamma, c) * g);
    }
    if (dgamma) Writer(dgamma).add(c, static_cast<double>(scale) * sum);
  }
}

void ReferenceBackend::gather_rows(Stream&, ConstTensorView x, ConstTensorView rows, TensorView out) {
  check::indexed_rows(x, out, rows, false);
  const HostRows at(rows, x.dim(0));
  const int64_t d = x.dim(1);
  for (int64_t i = 0; i < out.dim(0); ++i)
    for (int64_t c = 0; c < d; ++c) Writer(out).set(i * d + c, Reader(x)[at[i] * d + c]);
}

void ReferenceBackend::scatter_add_rows(Stream&, ConstTensorView x, ConstTensorView rows, TensorView out) {
  check::indexed_rows(out, x, rows, false);
  const HostRows at(rows, out.dim(0));
  const int64_t d = x.dim(1);
  for (int64_t i = 0; i < x.dim(0); ++i)
    for (int64_t c = 0; c < d; ++c) Writer(out).add(at[i] * d + c, Reader(x)[i * d + c]);
}

void ReferenceBackend::zero_rows(Stream&, TensorView x, ConstTensorView rows) {
  check::zero_rows(x, rows);
  const HostRows at(rows, x.dim(0));
  for (int64_t i = 0; i < rows.numel(); ++i)
    for (int64_t c = 0; c < x.dim(1); ++c) Writer(x).set(at[i] * x.dim(1) + c, 0);
}

void ReferenceBackend::sparse_rows(Stream&, const SparseRows& matrix, ConstTensorView x, TensorView out,
                                   bool accumulate) {
  check::sparse_rows(matrix, x, out);
  const HostSparse sparse(matrix, x.dim(0));
  const int64_t d = x.dim(1);
  for (int64_t i = 0; i < out.dim(0); ++i) {
    for (int64_t c = 0; c < d; ++c) {
      double sum = accumulate ? Reader(out)[i * d + c] : 0.0;
      for (int64_t e = 0; e < sparse.count(i); ++e)
        sum += static_cast<double>(sparse.weights(i)[e]) * Reader(x)[sparse.columns(i)[e] * d + c];
      Writer(out).set(i * d + c, sum);
    }
  }
}

void ReferenceBackend::convert(Stream&, ConstTensorView x, TensorView y) {
  check::same_act({x, y});
  for (int64_t i = 0; i < x.numel(); ++i) Writer(y).set(i, Reader(x)[i]);
}

void ReferenceBackend::axpy(Stream&, float a, ConstTensorView x, TensorView y) {
  check::same_f32({x, y});
  for (int64_t i = 0; i < x.numel(); ++i) Writer(y).add(i, static_cast<double>(a) * Reader(x)[i]);
}

void ReferenceBackend::scale(Stream&, float a, ConstTensorView x, TensorView y) {
  check::same_f32({x, y});
  for (int64_t i = 0; i < x.numel(); ++i) Writer(y).set(i, static_cast<double>(a) * Reader(x)[i]);
}

void ReferenceBackend::reciprocal(Stream&, ConstTensorView x, float of_zero, TensorView y) {
  check::same_f32({x, y});
  for (int64_t i = 0; i < x.numel(); ++i)
    Writer(y).set(i, Reader(x)[i] == 0 ? static_cast<double>(of_zero) : 1 / Reader(x)[i]);
}

void ReferenceBackend::relu(Stream&, ConstTensorView x, TensorView y) {
  check::same_f32({x, y});
  for (int64_t i = 0; i < x.numel(); ++i) Writer(y).set(i, Reader(x)[i] < 0 ? 0 : Reader(x)[i]);
}

void ReferenceBackend::relu_backward(Stream&, ConstTensorView dy, ConstTensorView y, TensorView dx) {
  check::same_f32({dy, y, dx});
  for (int64_t i = 0; i < dy.numel(); ++i) Writer(dx).set(i, Reader(y)[i] > 0 ? Reader(dy)[i] : 0);
}

void ReferenceBackend::patchify(Stream&, ConstTensorView images, int64_t patch, TensorView patches) {
  check::patchify(images, patch, patches);
  const int64_t channels = images.dim(1);
  const int64_t height = images.dim(2);
  const int64_t width = images.dim(3);
  int64_t out = 0;
  for (int64_t b = 0; b < images.dim(0); ++b)
    for (int64_t py = 0; py < height / patch; ++py)
      for (int64_t px = 0; px < width / patch; ++px)
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t y = 0; y < patch; ++y)
            for (int64_t x = 0; x < patch; ++x)
              Writer(patches).set(
                  out++,
                  Reader(images)[((b * channels + c) * height + py * patch + y) * width + px * patch + x]);
}

void ReferenceBackend::patchify_backward(Stream&, ConstTensorView dpatches, int64_t patch,
                                         TensorView dimages) {
  check::patchify(dimages, patch, dpatches);
  const int64_t channels = dimages.dim(1);
  const int64_t height = dimages.dim(2);
  const int64_t width = dimages.dim(3);
  int64_t in = 0;
  for (int64_t b = 0; b < dimages.dim(0); ++b)
    for (int64_t py = 0; py < height / patch; ++py)
      for (int64_t px = 0; px < width / patch; ++px)
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t y = 0; y < patch; ++y)
            for (int64_t x = 0; x < patch; ++x)
              Writer(dimages).set(((b * channels + c) * height + py * patch + y) * width + px * patch + x,
                                  Reader(dpatches)[in++]);
}

}  // namespace dino::ops
