// SPDX-License-Identifier: Apache-2.0
#include "heads/logistic_regression.hpp"

#include <algorithm>
#include <cmath>
#include <deque>

#include "base/error.hpp"
#include "base/working.hpp"
#include "ops/ops.hpp"

namespace dino::eval {

namespace {

/// Rows of one product, forward and backward. Sums of products go on in f64.
constexpr int64_t kChunk = 2048;
constexpr size_t kMemory = 10;
constexpr int64_t kMostIterations = 1000;
/// What is left to gain, over the objective, at which the search ends.
constexpr double kTolerance = 1e-8;
/// Sums of f32 products: differences below this say nothing.
constexpr double kNoise = 1e-9;

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  const double *x = a.data(), *y = b.data();
  const size_t n = a.size();
#pragma omp simd reduction(+ : sum)
  for (size_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

void add(double factor, const std::vector<double>& x, std::vector<double>& y) {
  const double* from = x.data();
  double* to = y.data();
  const size_t n = x.size();
#pragma omp simd
  for (size_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

/// to[j, i] = from[i, j]
void transpose(const float* from, int64_t rows, int64_t columns, float* to) {
  constexpr int64_t kTile = 32;
#pragma omp parallel for schedule(static) if (rows * columns > 1 << 14)
  for (int64_t j0 = 0; j0 < columns; j0 += kTile)
    for (int64_t i0 = 0; i0 < rows; i0 += kTile)
      for (int64_t j = j0; j < std::min(j0 + kTile, columns); ++j)
        for (int64_t i = i0; i < std::min(i0 + kTile, rows); ++i) to[j * rows + i] = from[i * columns + j];
}

/// Logits -> probabilities minus the true class, in place; the losses by row.
void softmax_minus_truth(ops::Backend& backend, TensorView logits, const int32_t* labels,
                         std::vector<double>& losses) {
  const int64_t rows = logits.dim(0), classes = logits.dim(1);
  float* const values = logits.as<float>();
  Tensor top = Tensor::uninitialised({rows});
  losses.resize(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i)
    losses[static_cast<size_t>(i)] = -static_cast<double>(values[i * classes + labels[i]]);
  HostStream stream;
  backend.exp_rows(stream, logits, 1, top);
  const float* const tops = top.as<float>();
#pragma omp parallel for schedule(static) if (rows * classes > 1 << 14)
  for (int64_t i = 0; i < rows; ++i) {
    float* row = values + i * classes;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < classes; ++c) sum += static_cast<double>(row[c]);
    losses[static_cast<size_t>(i)] += std::log(sum) + static_cast<double>(tops[i]);
    const auto scale = static_cast<float>(1 / sum);
#pragma omp simd
    for (int64_t c = 0; c < classes; ++c) row[c] *= scale;
    row[labels[i]] -= 1;
  }
}

/// W and b of a solution in f32.
struct FloatHead {
  Tensor weight, bias;
  FloatHead(const std::vector<double>& theta, int64_t classes, int64_t width)
      : weight(Tensor::uninitialised({classes, width})), bias(Tensor::uninitialised({classes})) {
    const auto weights = static_cast<size_t>(classes * width);
    for (size_t i = 0; i < weights; ++i) weight.as<float>()[i] = static_cast<float>(theta[i]);
    for (size_t i = weights; i < theta.size(); ++i)
      bias.as<float>()[i - weights] = static_cast<float>(theta[i]);
  }
};

/// sums += factor x w', through a product whose bits do not depend on the number of threads.
void add_product(ops::Backend& backend, ConstTensorView x, ConstTensorView w, double factor,
                 TensorView product, double* sums) {
  HostStream stream;
  backend.linear(stream, x, w, {}, ops::Activation::none, product, {});
  const float* const values = product.as<float>();
  const int64_t n = product.numel();
#pragma omp parallel for simd schedule(static) if (n > 1 << 14)
  for (int64_t i = 0; i < n; ++i) sums[i] += factor * static_cast<double>(values[i]);
}

/// The lower triangle L with L L' = a, in place; rows of n.
void cholesky(std::vector<double>& a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    double* row = a.data() + i * n;
    for (int64_t j = 0; j <= i; ++j) {
      const double* other = a.data() + j * n;
      double sum = row[j];
#pragma omp simd reduction(- : sum)
      for (int64_t k = 0; k < j; ++k) sum -= row[k] * other[k];
      row[j] = j < i ? sum / other[j] : std::sqrt(sum);
    }
  }
}

/// Row i of the result is row i of the inverse of the lower triangle, as rows of n.
std::vector<double> inverse_of_triangle(const std::vector<double>& l, int64_t n) {
  std::vector<double> inverse(static_cast<size_t>(n * n), 0);
  for (int64_t i = 0; i < n; ++i) {
    double* row = inverse.data() + i * n;
    const double* from = l.data() + i * n;
    for (int64_t k = 0; k < i; ++k) {
      const double factor = from[k];
      const double* other = inverse.data() + k * n;
#pragma omp simd
      for (int64_t j = 0; j <= k; ++j) row[j] -= factor * other[j];
    }
    for (int64_t j = 0; j < i; ++j) row[j] /= from[i];
    row[i] = 1 / from[i];
  }
  return inverse;
}

/// Steps and changes of the gradient of the last iterations.
struct Memory {
  struct Pair {
    std::vector<double> step, change;
    double inverse;  ///< 1 / step.change
  };
  std::deque<Pair> pairs;
  double scale = 1;  ///< of the first guess

  void keep(std::vector<double> step, std::vector<double> change) {
    const double curvature = dot(step, change);
    if (!(curvature > 0)) return;
    pairs.push_back({std::move(step), std::move(change), 1 / curvature});
    if (pairs.size() > kMemory) pairs.pop_front();
  }
};

/// -H gradient by the two-loop recursion; `apply` is the first guess of H.
template <class Apply>
std::vector<double> direction_of(const Memory& memory, const std::vector<double>& gradient,
                                 const Apply& apply) {
  std::vector<double> q = gradient, factors(memory.pairs.size());
  for (size_t i = memory.pairs.size(); i-- > 0;) {
    const auto& pair = memory.pairs[i];
    factors[i] = pair.inverse * dot(pair.step, q);
    add(-factors[i], pair.change, q);
  }
  apply(q);
  for (double& value : q) value *= memory.scale;
  for (size_t i = 0; i < memory.pairs.size(); ++i) {
    const auto& pair = memory.pairs[i];
    add(factors[i] - pair.inverse * dot(pair.change, q), pair.step, q);
  }
  for (double& value : q) value = -value;
  return q;
}

}  // namespace

LogisticRegression::LogisticRegression(const FeatureView& x, const std::vector<int32_t>& labels,
                                       const std::vector<int64_t>& rows)
    : rows_(static_cast<int64_t>(rows.size())),
      width_(x.width),
      features_(Tensor::uninitialised({rows_, x.width})),
      covariance_(static_cast<size_t>(x.width * x.width)) {
  DINO_CHECK(rows_ > 0, "rows to learn from");
  for (const int64_t r : rows) present_.push_back(labels[static_cast<size_t>(r)]);
  std::sort(present_.begin(), present_.end());
  present_.erase(std::unique(present_.begin(), present_.end()), present_.end());
  std::vector<double> sums(static_cast<size_t>(width_));
  for (const int64_t r : rows) {
    const auto place = std::lower_bound(present_.begin(), present_.end(), labels[static_cast<size_t>(r)]);
    labels_.push_back(static_cast<int32_t>(place - present_.begin()));
    for (int64_t j = 0; j < width_; ++j) sums[static_cast<size_t>(j)] += static_cast<double>(x.row(r)[j]);
  }
  for (const double sum : sums) mean_.push_back(static_cast<float>(sum / static_cast<double>(rows_)));
  float* const to = features_.as<float>();
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < rows_; ++i) {
    const float* from = x.row(rows[static_cast<size_t>(i)]);
    for (int64_t j = 0; j < width_; ++j) to[i * width_ + j] = from[j] - mean_[static_cast<size_t>(j)];
  }
  ops::Backend& backend = ops::backend_named("cpu");
  Tensor product = Tensor::uninitialised({width_, width_});
  for (int64_t first = 0; first < rows_; first += kChunk) {
    const int64_t count = std::min(kChunk, rows_ - first);
    transposed_.push_back(Tensor::uninitialised({width_, count}));
    const Tensor& columns = transposed_.back();
    transpose(to + first * width_, count, width_, transposed_.back().as<float>());
    add_product(backend, columns, columns, 1 / static_cast<double>(rows_), product, covariance_.data());
  }
}

double LogisticRegression::evaluate(const std::vector<double>& theta, double lambda,
                                    std::vector<double>& gradient) const {
  const int64_t k = classes();
  const FloatHead head(theta, k, width_);
  ops::Backend& backend = ops::backend_named("cpu");
  HostStream stream;
  const int64_t most = std::min(kChunk, rows_);
  Tensor scores = Tensor::uninitialised({most, k}), turned = Tensor::uninitialised({k, most}),
         product = Tensor::uninitialised({k, width_});
  const double share = 1 / static_cast<double>(rows_);
  std::vector<double> losses;
  double loss = 0, squares = 0;
  gradient.assign(theta.size(), 0);
  for (size_t chunk = 0; chunk < transposed_.size(); ++chunk) {
    const int64_t first = static_cast<int64_t>(chunk) * kChunk, count = std::min(kChunk, rows_ - first);
    const TensorView logits = scores.view().rows(0, count), columns = view_of(turned.as<float>(), {k, count});
    backend.linear(stream, features_.view().rows(first, count), head.weight, head.bias, ops::Activation::none,
                   logits, {});
    softmax_minus_truth(backend, logits, labels_.data() + first, losses);
    for (const double of_row : losses) loss += share * of_row;
    transpose(logits.as<float>(), count, k, columns.as<float>());
    add_product(backend, columns, transposed_[chunk], share, product, gradient.data());
    for (int64_t c = 0; c < k; ++c) {
      const float* row = columns.as<float>() + c * count;
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(row[i]);
      gradient[weights() + static_cast<size_t>(c)] += share * sum;
    }
  }
  for (size_t i = 0; i < weights(); ++i) {
    gradient[i] += lambda * theta[i];
    squares += theta[i] * theta[i];
  }
  return loss + lambda / 2 * squares;
}

LogisticRegression::Preconditioner LogisticRegression::precondition(double lambda) const {
  const auto k = static_cast<double>(classes());
  const double curvature = (1 - 1 / k) / k;  // p (1 - p) of equal probabilities
  std::vector<double> matrix = covariance_;
  double trace = 0;
  for (int64_t i = 0; i < width_; ++i) trace += matrix[static_cast<size_t>(i * (width_ + 1))];
  // Directions in which the features hardly differ: their covariance is that of rounding.
  const double least = std::max(1e-6 * trace / static_cast<double>(width_), 1e-30);
  for (double& value : matrix) value *= curvature;
  for (int64_t i = 0; i < width_; ++i)
    matrix[static_cast<size_t>(i * (width_ + 1))] += lambda + curvature * least;
  cholesky(matrix, width_);
  const std::vector<double> inverse = inverse_of_triangle(matrix, width_);
  Preconditioner made{Tensor({width_, width_}), Tensor({width_, width_}), 1 / curvature};
  for (int64_t i = 0; i < width_; ++i)
    for (int64_t j = 0; j <= i; ++j)
      made.factor.as<float>()[i * width_ + j] = made.transposed.as<float>()[j * width_ + i] =
          static_cast<float>(inverse[static_cast<size_t>(i * width_ + j)]);
  return made;
}

void LogisticRegression::apply(const Preconditioner& by, std::vector<double>& direction) const {
  const int64_t k = classes();
  Tensor rows = Tensor::uninitialised({k, width_}), turned = Tensor::uninitialised({k, width_});
  for (size_t i = 0; i < weights(); ++i) rows.as<float>()[i] = static_cast<float>(direction[i]);
  ops::Backend& backend = ops::backend_named("cpu");
  HostStream stream;
  backend.linear(stream, rows, by.factor, {}, ops::Activation::none, turned, {});
  backend.linear(stream, turned, by.transposed, {}, ops::Activation::none, rows, {});
  for (size_t i = 0; i < weights(); ++i) direction[i] = static_cast<double>(rows.as<float>()[i]);
  for (size_t i = weights(); i < direction.size(); ++i) direction[i] *= by.bias;
}

LogisticRegression::Solution LogisticRegression::minimise(double lambda, std::vector<double> theta) const {
  const Preconditioner by = precondition(lambda);
  const auto guess = [&](std::vector<double>& q) { apply(by, q); };
  Solution solution;
  Memory memory;
  std::vector<double> gradient, next(theta.size()), next_gradient;
  double value = evaluate(theta, lambda, gradient);
  solution.evaluations = 1;
  while (solution.iterations < kMostIterations) {
    work_point();
    const std::vector<double> direction = direction_of(memory, gradient, guess);
    const double slope = dot(direction, gradient);
    // Half of this is what a quadratic of this curvature has left to gain.
    solution.converged = -slope <= 2 * kTolerance * value;
    if (solution.converged || !(slope < 0)) break;
    // Weak Wolfe conditions by bisection (Lewis and Overton 2013).
    double step = 1, low = 0, high = 0, reached = 0;
    bool found = false;
    for (int attempt = 0; attempt < 30 && !found; ++attempt) {
      next = theta;
      add(step, direction, next);
      reached = evaluate(next, lambda, next_gradient);
      ++solution.evaluations;
      if (!(reached <= value + 1e-4 * step * slope + kNoise * value))
        high = step;
      else if (dot(next_gradient, direction) < 0.9 * slope)
        low = step;
      else
        found = true;
      if (!found) step = high > 0 ? (low + high) / 2 : 2 * low;
    }
    if (!found) break;
    std::vector<double> moved = direction, change = next_gradient;
    for (double& part : moved) part *= step;
    add(-1, gradient, change);
    std::vector<double> guessed = change;
    guess(guessed);
    memory.scale = dot(moved, change) / dot(change, guessed);
    memory.keep(std::move(moved), std::move(change));
    std::swap(theta, next);
    std::swap(gradient, next_gradient);
    value = reached;
    ++solution.iterations;
  }
  solution.weights = std::move(theta);
  solution.objective = value;
  return solution;
}

LogisticRegression::Solution LogisticRegression::fit(double c, const Solution* from) const {
  const auto k = static_cast<size_t>(classes());
  std::vector<double> theta(weights() + k, 0);
  if (k == 1) {  // one class alone: any weights are right, and the smallest are zero
    Solution solution;
    solution.weights = std::move(theta);
    solution.converged = true;
    return solution;
  }
  if (from != nullptr) {
    theta = from->weights;
  } else {
    std::vector<double> counts(k);
    for (const int32_t label : labels_) counts[static_cast<size_t>(label)] += 1;
    for (size_t i = 0; i < k; ++i) theta[weights() + i] = std::log(counts[i] / static_cast<double>(rows_));
  }
  const double penalty = (k == 2 ? 2.0 : 1.0) / (c * static_cast<double>(rows_));
  Solution solution = minimise(penalty, std::move(theta));
  solution.objective *= c * static_cast<double>(rows_);
  return solution;
}

std::vector<int32_t> LogisticRegression::predict(const Solution& solution, const FeatureView& x,
                                                 const std::vector<int64_t>& rows) const {
  const int64_t k = classes();
  const FloatHead head(solution.weights, k, width_);
  ops::Backend& backend = ops::backend_named("cpu");
  HostStream stream;
  std::vector<int32_t> predicted;
  Tensor input({kChunk, width_}), logits({kChunk, k});
  const auto total = static_cast<int64_t>(rows.size());
  for (int64_t begin = 0; begin < total; begin += kChunk) {
    const int64_t count = std::min(kChunk, total - begin);
    for (int64_t i = 0; i < count; ++i) {
      const float* from = x.row(rows[static_cast<size_t>(begin + i)]);
      for (int64_t j = 0; j < width_; ++j)
        input.as<float>()[i * width_ + j] = from[j] - mean_[static_cast<size_t>(j)];
    }
    const TensorView scores = logits.view().rows(0, count);
    backend.linear(stream, input.view().rows(0, count), head.weight, head.bias, ops::Activation::none, scores,
                   {});
    for (int64_t i = 0; i < count; ++i) {
      const float* row = scores.as<float>() + i * k;
      predicted.push_back(present_[static_cast<size_t>(std::max_element(row, row + k) - row)]);
    }
  }
  return predicted;
}

}  // namespace dino::eval
