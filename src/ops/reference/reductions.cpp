// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "ops/checks.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {

void ReferenceBackend::weighted_sum(Stream&, ConstTensorView x, ConstTensorView weight, double factor,
                                    TensorView out) {
  check::same_f32({x});
  check::vector(weight, x.numel(), true);
  check::scalar(out, DType::f64);
  double sum = 0;
  for (int64_t i = 0; i < x.numel(); ++i) sum += Reader(x)[i] * (weight ? Reader(weight)[i] : 1.0);
  *out.as<double>() += factor * sum;
}

void ReferenceBackend::sum_of_squares(Stream&, ConstTensorView x, TensorView out) {
  check::same_f32({x});
  check::scalar(out, DType::f64);
  double sum = 0;
  for (int64_t i = 0; i < x.numel(); ++i) sum += Reader(x)[i] * Reader(x)[i];
  *out.as<double>() += sum;
}

void ReferenceBackend::maximum(Stream&, ConstTensorView x, TensorView out) {
  check::same_f32({x});
  check::scalar(out, DType::f32);
  double best = -HUGE_VAL;
  for (int64_t i = 0; i < x.numel(); ++i) best = std::max(best, Reader(x)[i]);
  Writer(out).set(0, best);
}

void ReferenceBackend::all_finite(Stream&, ConstTensorView x, TensorView flag) {
  DINO_CHECK(x.dtype == DType::f64, std::string("f64, not ") + name_of(x.dtype));
  check::scalar(flag, DType::f32);
  bool finite = true;
  for (int64_t i = 0; i < x.numel(); ++i) finite = finite && std::isfinite(x.as<double>()[i]);
  Writer(flag).set(0, finite ? 1 : 0);
}

}  // namespace dino::ops
