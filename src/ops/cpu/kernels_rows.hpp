// SPDX-License-Identifier: Apache-2.0
#pragma once
// Kernels over rows of elements. Internal linkage: see vector.hpp.

#include <cmath>

#include "ops/cpu/kernels.hpp"
#include "ops/cpu/vector.hpp"

namespace dino::ops {
namespace {

/// body(i, n): n = kLanes for whole vectors, then the rest of the row.
template <class Whole, class Part>
DINO_INLINE void for_vectors(int64_t n, Whole&& whole, Part&& part) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) whole(i);
  if (i < n) part(i, n - i);
}

/// y[i] = function(x[i]...) over any mix of float, bf16 and f16 arrays.
template <class Function, class Out, class... In>
DINO_INLINE void map(int64_t n, Out* y, Function&& function, const In*... x) {
  for_vectors(
      n, [&](int64_t i) { store(y + i, function(load(x + i)...)); },
      [&](int64_t i, int64_t left) { store_part(y + i, function(load_part(x + i, left)...), left); });
}

/// sum over i of function(x[i]...), where function(0...) must be 0; four chains.
template <class Function, class... In>
DINO_INLINE float reduce(int64_t n, Function&& function, const In*... x) {
  Floats total[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int c = 0; c < 4; ++c) total[c] += function(load(x + i + c * kLanes)...);
  for (; i + kLanes <= n; i += kLanes) total[0] += function(load(x + i)...);
  if (i < n) total[1] += function(load_part(x + i, n - i)...);
  return sum((total[0] + total[1]) + (total[2] + total[3]));
}

template <class T>
void gelu_row(const T* pre, T* y, int64_t n) {
  map(
      n, y, [](Floats x) { return x * normal_of(x).below; }, pre);
}

template <class T>
void gelu_backward_row(const T* dy, const T* pre, T* dx, int64_t n) {
  map(
      n, dx,
      [](Floats g, Floats x) {
        const Normal p = normal_of(x);
        return g * fma(x, p.density, p.below);
      },
      dy, pre);
}

template <class T>
void quick_gelu_row(const T* pre, T* y, int64_t n) {
  map(
      n, y, [](Floats x) { return x * sigmoid_of(1.702f * x); }, pre);
}

template <class T>
void quick_gelu_backward_row(const T* dy, const T* pre, T* dx, int64_t n) {
  map(
      n, dx,
      [](Floats g, Floats x) {
        const Floats s = sigmoid_of(1.702f * x);
        return g * s * fma(1.702f * x, 1.0f - s, splat(1.0f));
      },
      dy, pre);
}

template <class T>
void swiglu_row(const T* x, T* y, int64_t h) {
  map(
      h, y, [](Floats a, Floats b) { return a * sigmoid_of(a) * b; }, x, x + h);
}

template <class T>
void swiglu_backward_row(const T* dy, const T* x, T* dx, int64_t h) {
  const auto gate = [](Floats g, Floats a, Floats b) {
    const Floats s = sigmoid_of(a);
    return g * b * s * fma(a, 1.0f - s, splat(1.0f));
  };
  map(h, dx, gate, dy, x, x + h);
  map(
      h, dx + h, [](Floats g, Floats a) { return g * a * sigmoid_of(a); }, dy, x);
}

template <class T>
void add_scaled_row(float* out, const T* x, const float* gamma, float scale, int64_t n) {
  const Floats s = splat(scale);
  if (gamma != nullptr)
    map(
        n, out, [s](Floats o, Floats a, Floats g) { return fma(s * g, a, o); }, out, x, gamma);
  else
    map(
        n, out, [s](Floats o, Floats a) { return fma(s, a, o); }, out, x);
}

template <class T>
void add_scaled_backward_row(const float* out_gradient, const T* branch, const float* gamma, float scale,
                             T* branch_gradient, float* gamma_sums, int64_t n) {
  const Floats s = splat(scale);
  if (gamma_sums != nullptr)
    map(
        n, gamma_sums, [s](Floats total, Floats g, Floats b) { return fma(s * g, b, total); }, gamma_sums,
        out_gradient, branch);
  if (gamma != nullptr)
    map(
        n, branch_gradient, [s](Floats g, Floats a) { return s * a * g; }, out_gradient, gamma);
  else
    map(
        n, branch_gradient, [s](Floats g) { return s * g; }, out_gradient);
}

template <class T>
void layer_norm_row(const float* x, const float* gamma, const float* beta, float eps, T* y, float* mean,
                    float* rstd, int64_t n) {
  const auto count = static_cast<float>(n);
  const float centre = reduce(
                           n, [](Floats a) { return a; }, x) /
                       count;
  const Floats c = splat(centre);
  const int64_t whole = n - n % kLanes;  // padding is not centred, so the rest of the row is summed apart
  float squares = reduce(
      whole, [c](Floats a) { return (a - c) * (a - c); }, x);
  for (int64_t i = whole; i < n; ++i) squares += (x[i] - centre) * (x[i] - centre);
  const float scale = 1.0f / std::sqrt(squares / count + eps);
  const Floats s = splat(scale);
  map(
      n, y, [c, s](Floats a, Floats g, Floats b) { return fma((a - c) * s, g, b); }, x, gamma, beta);
  if (mean != nullptr) *mean = centre;
  if (rstd != nullptr) *rstd = scale;
}

template <class T>
void layer_norm_backward_row(const T* dy, const float* x, const float* gamma, float mean, float rstd,
                             float* dx, float* gamma_sums, float* beta_sums, int64_t n) {
  const Floats c = splat(mean);
  const Floats s = splat(rstd);
  Floats total{};  // of g = dy gamma
  Floats along{};  // of g xhat
  const auto accumulate = [&](Floats d, Floats a, Floats g, Floats& gamma_sum, Floats& beta_sum) {
    const Floats xhat = (a - c) * s;
    total = fma(d, g, total);
    along = fma(d * g, xhat, along);
    gamma_sum = fma(d, xhat, gamma_sum);
    beta_sum += d;
  };
  for_vectors(
      n,
      [&](int64_t i) {
        Floats gamma_sum = load(gamma_sums + i);
        Floats beta_sum = load(beta_sums + i);
        accumulate(load(dy + i), load(x + i), load(gamma + i), gamma_sum, beta_sum);
        store(gamma_sums + i, gamma_sum);
        store(beta_sums + i, beta_sum);
      },
      [&](int64_t i, int64_t left) {
        Floats gamma_sum = load_part(gamma_sums + i, left);
        Floats beta_sum = load_part(beta_sums + i, left);
        accumulate(load_part(dy + i, left), load_part(x + i, left), load_part(gamma + i, left), gamma_sum,
                   beta_sum);
        store_part(gamma_sums + i, gamma_sum, left);
        store_part(beta_sums + i, beta_sum, left);
      });
  const Floats mean_g = splat(sum(total) / static_cast<float>(n));
  const Floats mean_along = splat(sum(along) / static_cast<float>(n));
  map(
      n, dx,
      [=](Floats o, Floats d, Floats a, Floats g) {
        const Floats xhat = (a - c) * s;
        return fma(s, d * g - fma(xhat, mean_along, mean_g), o);
      },
      dx, dy, x, gamma);
}

template <class T>
void from_float_row(const float* x, T* y, int64_t n) {
  map(
      n, y, [](Floats a) { return a; }, x);
}

template <class T>
void to_float_row(const T* x, float* y, int64_t n) {
  map(
      n, y, [](Floats a) { return a; }, x);
}

inline float dot_row(const float* x, const float* y, int64_t n) {
  return reduce(
      n, [](Floats a, Floats b) { return a * b; }, x, y);
}

// ---- sums and products in f64

/// sum over i of function(x[i]...) in f64, where the arguments are f64 vectors: sixteen chains, whatever the
/// vectors' width, so that the result is the same at every level.
template <class Function, class... In>
DINO_INLINE double reduce_wide(int64_t n, Function&& function, const In*... x) {
  constexpr int kChains = 16, kVectors = kChains / kWide;
  Doubles chains[kVectors] = {};
  int64_t i = 0;
  for (; i + kChains <= n; i += kChains) {
#pragma GCC unroll 8
    for (int c = 0; c < kVectors; ++c) chains[c] += function(load_wide(x + i + c * kWide)...);
  }
  double total[kChains];
  __builtin_memcpy(total, chains, sizeof total);
  for (int c = 0; i < n; ++i, ++c) total[c] += function((Doubles{} + static_cast<double>(x[i]))...)[0];
  for (int width = kChains / 2; width > 0; width /= 2)
    for (int c = 0; c < width; ++c) total[c] += total[c + width];
  return total[0];
}

/// y[i] = function(x[i]...) where the arguments and the result are f64 vectors.
template <class Function, class... In>
DINO_INLINE void map_wide(int64_t n, float* y, Function&& function, const In*... x) {
  int64_t i = 0;
  for (; i + kWide <= n; i += kWide) store_wide(y + i, function(load_wide(x + i)...));
  for (; i < n; ++i) y[i] = static_cast<float>(function((Doubles{} + static_cast<double>(x[i]))...)[0]);
}

/// Products of two floats are exact in f64.
inline double products_row(const float* x, const float* y, int64_t n) {
  if (y == nullptr)
    return reduce_wide(
        n, [](Doubles a) { return a; }, x);
  return reduce_wide(
      n, [](Doubles a, Doubles b) { return a * b; }, x, y);
}

inline void scaled_wide_row(const float* x, double scale, float* y, int64_t n) {
  map_wide(
      n, y, [scale](Doubles a) { return scale * a; }, x);
}

inline void add_combined_row(double a, const float* x, double b, const float* z, float* y, int64_t n) {
  map_wide(
      n, y, [a, b](Doubles o, Doubles p, Doubles q) { return o + (a * p + b * q); }, y, x, z);
}

inline uint64_t at_least_row(const float* x, int64_t n, float limit) {
  const Floats least = splat(limit);
  uint64_t mask = 0;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) mask |= mask_at_least(load(x + i), least) << i;
  for (; i < n; ++i) mask |= static_cast<uint64_t>(x[i] >= limit) << i;
  return mask;
}

inline void scaled_row(const float* x, float scale, float* y, int64_t n) {
  map(
      n, y, [s = splat(scale)](Floats a) { return s * a; }, x);
}

inline void scale_columns_row(float* x, float scale, const float* u, int64_t n) {
  map(
      n, x, [s = splat(scale)](Floats a, Floats b) { return a * s * b; }, x, u);
}

inline void subtract_scaled_row(const float* dy, const float* x, float along, float scale, float* y,
                                int64_t n) {
  const Floats a = splat(along);
  const Floats s = splat(scale);
  map(
      n, y, [a, s](Floats d, Floats b) { return (d - b * a) * s; }, dy, x);
}

inline float largest_of(const float* x, int64_t n) {
  Floats best = splat(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) best = larger(load(x + i), best);
  float top = largest(best);
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

inline int64_t first_largest_row(const float* x, int64_t n, float* value) {
  const float top = largest_of(x, n);
  *value = top;
  const Floats least = splat(top);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    if (const uint64_t hits = mask_at_least(load(x + i), least); hits != 0) return i + __builtin_ctzll(hits);
  for (; i < n; ++i)
    if (x[i] >= top) return i;
  return -1;
}

inline float cross_entropy_row(float* logits, const float* targets, float inverse_temperature, bool gradient,
                               float factor, int64_t n) {
  const Floats tau = splat(inverse_temperature);
  const Floats tau_base2 = splat(inverse_temperature * kLog2E);
  const Floats top = splat(largest_of(logits, n));
  const auto shifted_exp = [=](Floats a) { return exp2_of_negative((a - top) * tau_base2); };
  Floats total{}, mass{}, along{};
  const auto accumulate = [&](Floats a, Floats t) {
    total += shifted_exp(a);
    mass += t;
    along = fma(t, (a - top) * tau, along);
  };
  for_vectors(
      n, [&](int64_t i) { accumulate(load(logits + i), load(targets + i)); },
      [&](int64_t i, int64_t left) {
        Floats a = load_part(logits + i, left);
        for (int64_t j = left; j < kLanes; ++j) a[j] = -__builtin_inff();
        // A padded lane must add nothing: exp(-inf) = 0, but 0 (-inf) would be NaN.
        total += shifted_exp(a);
        const Floats t = load_part(targets + i, left);
        mass += t;
        along = fma(t, (load_part(logits + i, left) - top) * tau, along);
      });
  const float target_mass = sum(mass);
  const float sum_exp = sum(total);
  if (gradient) {
    const Floats p = splat(factor * target_mass / sum_exp);
    const Floats f = splat(factor);
    map(
        n, logits, [=](Floats a, Floats t) { return shifted_exp(a) * p - f * t; }, logits, targets);
  }
  return target_mass * std::log(sum_exp) - sum(along);
}

inline void exp_scaled_row(float* x, float shift, float inverse_temperature, int64_t n) {
  const Floats s = splat(shift);
  const Floats tau = splat(inverse_temperature);
  map(
      n, x, [s, tau](Floats a) { return exp_of((a - s) * tau); }, x);
}

inline float exp_row(float* x, float inverse_temperature, int64_t n) {
  const float top = largest_of(x, n);
  exp_scaled_row(x, top, inverse_temperature, n);
  return top;
}

inline void softmax_row(float* x, const float* centre, float inverse_temperature, int64_t n) {
  if (centre != nullptr)
    map(
        n, x, [](Floats a, Floats c) { return a - c; }, x, centre);
  const float top = largest_of(x, n);
  exp_scaled_row(x, top, inverse_temperature, n);
  const float total = reduce(
      n, [](Floats a) { return a; }, x);
  scaled_row(x, 1.0f / total, x, n);
}

inline void adamw_row(float* w, const float* gradient, float* m, float* v, const AdamWFactors& f, int64_t n) {
  const auto update = [&f](Floats& weight, Floats g, Floats& first, Floats& second) {
    g *= f.gradient_scale;
    first = fma(first, splat(f.beta1), g * (1.0f - f.beta1));
    second = fma(second, splat(f.beta2), g * g * (1.0f - f.beta2));
    const Floats root = square_root(second * f.second_correction);
    weight = weight * f.decay - f.step_size * first / (root + f.eps);
  };
  for_vectors(
      n,
      [&](int64_t i) {
        Floats weight = load(w + i), first = load(m + i), second = load(v + i);
        update(weight, load(gradient + i), first, second);
        store(w + i, weight), store(m + i, first), store(v + i, second);
      },
      [&](int64_t i, int64_t left) {
        Floats weight = load_part(w + i, left), first = load_part(m + i, left),
               second = load_part(v + i, left);
        update(weight, load_part(gradient + i, left), first, second);
        store_part(w + i, weight, left), store_part(m + i, first, left), store_part(v + i, second, left);
      });
}

inline void ema_row(float* average, const float* value, float momentum, int64_t n) {
  const Floats keep = splat(momentum);
  const Floats rest = splat(1.0f - momentum);
  map(
      n, average, [keep, rest](Floats a, Floats b) { return fma(keep, a, rest * b); }, average, value);
}

/// The sum stays in registers while the entries go by; each element's is one chain in their order.
template <int V>
DINO_INLINE void sparse_block(const float* x, const int64_t* columns, const float* weights, int64_t count,
                              float* out, bool accumulate, int64_t n) {
  Floats sums[V] = {};
  if (accumulate)
    for (int c = 0; c < V; ++c) sums[c] = load(out + c * kLanes);
  for (int64_t e = 0; e < count; ++e) {
    const float* from = x + columns[e] * n;
    const Floats weight = splat(weights[e]);
    for (int c = 0; c < V; ++c) sums[c] = fma(weight, load(from + c * kLanes), sums[c]);
  }
  for (int c = 0; c < V; ++c) store(out + c * kLanes, sums[c]);
}

inline void sparse_row(const float* x, const int64_t* columns, const float* weights, int64_t count,
                       float* out, bool accumulate, int64_t n) {
  constexpr int kVectors = 4;
  int64_t i = 0;
  for (; i + kVectors * kLanes <= n; i += kVectors * kLanes)
    sparse_block<kVectors>(x + i, columns, weights, count, out + i, accumulate, n);
  for (; i + kLanes <= n; i += kLanes)
    sparse_block<1>(x + i, columns, weights, count, out + i, accumulate, n);
  if (i == n) return;
  Floats sum = accumulate ? load_part(out + i, n - i) : Floats{};
  for (int64_t e = 0; e < count; ++e)
    sum = fma(splat(weights[e]), load_part(x + columns[e] * n + i, n - i), sum);
  store_part(out + i, sum, n - i);
}

/// Short sums in f32, long ones in f64.
inline double target_row(const float* t, float* sums, int64_t n) {
  constexpr int64_t kShort = 32 * kLanes;
  const auto term = [](Floats p) { return p > 0.0f ? p * log_of(p) : Floats{}; };
  double entropy = 0;
  for (int64_t begin = 0; begin < n; begin += kShort) {
    const int64_t count = kShort < n - begin ? kShort : n - begin;
    Floats along{};
    for_vectors(
        count,
        [&](int64_t i) {
          const Floats p = load(t + begin + i);
          store(sums + begin + i, load(sums + begin + i) + p);
          along += term(p);
        },
        [&](int64_t i, int64_t left) {
          const Floats p = load_part(t + begin + i, left);
          store_part(sums + begin + i, load_part(sums + begin + i, left) + p, left);
          along += term(p);
        });
    entropy -= static_cast<double>(sum(along));
  }
  return entropy;
}

/// function(begin, count, x - y + eps) piece by piece; the differences are f32.
template <class Function>
DINO_INLINE void for_differences(const float* x, const float* y, float eps, int64_t n, Function&& function) {
  constexpr int64_t kPiece = 512;
  float difference[kPiece];
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t count = kPiece < n - begin ? kPiece : n - begin;
    map(
        count, difference, [e = splat(eps)](Floats a, Floats b) { return a - b + e; }, x + begin, y + begin);
    function(begin, count, difference);
  }
}

inline double distance_squares_row(const float* x, const float* y, float eps, int64_t n) {
  double total = 0;
  for_differences(x, y, eps, n, [&](int64_t, int64_t count, const float* difference) {
    total += products_row(difference, difference, count);
  });
  return total;
}

inline void add_difference_row(const float* x, const float* y, float eps, double scale, float* out,
                               int64_t n) {
  for_differences(x, y, eps, n, [&](int64_t begin, int64_t count, const float* difference) {
    const float* before = out + begin;
    map_wide(
        count, out + begin, [scale](Doubles o, Doubles d) { return o + scale * d; }, before, difference);
  });
}

}  // namespace
}  // namespace dino::ops
