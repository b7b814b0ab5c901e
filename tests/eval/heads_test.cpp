// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/random.hpp"
#include "heads/linear_heads.hpp"
#include "heads/logistic_regression.hpp"

namespace dino::eval {
namespace {

struct Samples {
  int64_t width, classes;
  std::vector<float> x;
  std::vector<int32_t> labels;
  std::vector<int64_t> rows;
  [[nodiscard]] FeatureView view() const {
    return {x.data(), static_cast<int64_t>(labels.size()), width, width};
  }
};

/// Overlapping blobs, far from zero, with scales of columns over two decades.
Samples samples(int64_t n, int64_t width, int64_t classes, uint64_t seed = 1) {
  Samples made{width, classes, {}, {}, {}};
  Random random(seed, RandomStream::test, 3);
  std::vector<double> centres;
  for (int64_t i = 0; i < classes * width; ++i) centres.push_back(0.7 * random.normal());
  for (int64_t i = 0; i < n; ++i) {
    const auto label = static_cast<int32_t>(random.below(static_cast<uint64_t>(classes)));
    made.labels.push_back(label);
    made.rows.push_back(i);
    for (int64_t j = 0; j < width; ++j) {
      const double scale = std::pow(10.0, -2.0 * static_cast<double>(j) / static_cast<double>(width));
      made.x.push_back(static_cast<float>(
          3 + scale * (centres[static_cast<size_t>(label * width + j)] + random.normal())));
    }
  }
  return made;
}

/// The same training in f64, one head, one number at a time.
std::vector<double> train_alone(const Samples& data, double lr, const LinearHeads::Training& training,
                                const LinearHeads& begun) {
  const int64_t d = data.width, k = data.classes, n = static_cast<int64_t>(data.rows.size());
  std::vector<double> w(static_cast<size_t>(k * (d + 1))), v(w.size());
  for (int64_t i = 0; i < k * d; ++i)
    w[static_cast<size_t>(i)] = static_cast<double>(begun.weight().as<float>()[i]);
  const int64_t per_epoch = n / training.batch, steps = per_epoch * training.epochs;
  for (int64_t epoch = 0, step = 0; epoch < training.epochs; ++epoch) {
    Random random(training.seed, RandomStream::probe, static_cast<uint64_t>(epoch));
    const auto order = permutation(random, n);
    for (int64_t b = 0; b < per_epoch; ++b, ++step) {
      std::vector<double> gradient(w.size());
      for (int64_t i = 0; i < training.batch; ++i) {
        const int64_t row =
            data.rows[static_cast<size_t>(order[static_cast<size_t>(b * training.batch + i)])];
        std::vector<double> p(static_cast<size_t>(k));
        double sum = 0;
        for (int64_t c = 0; c < k; ++c) {
          double z = w[static_cast<size_t>(k * d + c)];
          for (int64_t j = 0; j < d; ++j)
            z += w[static_cast<size_t>(c * d + j)] *
                 static_cast<double>(data.x[static_cast<size_t>(row * d + j)]);
          sum += p[static_cast<size_t>(c)] = std::exp(z);
        }
        for (int64_t c = 0; c < k; ++c) {
          const double g =
              (p[static_cast<size_t>(c)] / sum - (data.labels[static_cast<size_t>(row)] == c ? 1 : 0)) /
              static_cast<double>(training.batch);
          for (int64_t j = 0; j < d; ++j)
            gradient[static_cast<size_t>(c * d + j)] +=
                g * static_cast<double>(data.x[static_cast<size_t>(row * d + j)]);
          gradient[static_cast<size_t>(k * d + c)] += g;
        }
      }
      const double rate =
          lr * static_cast<double>(training.batch) / 256 * 0.5 *
          (1 + std::cos(std::numbers::pi * static_cast<double>(step) / static_cast<double>(steps)));
      for (size_t i = 0; i < w.size(); ++i) {
        v[i] = 0.9 * v[i] + gradient[i];
        w[i] -= rate * v[i];
      }
    }
  }
  return w;
}

TEST(LinearHeads, SideBySideAreWhatEachIsAlone) {
  const Samples data = samples(200, 12, 5);
  const LinearHeads::Training training{3, 32, 7};
  const std::vector<double> rates = {1e-3, 0.05, 0.5};
  LinearHeads together(12, 5, rates, 7);
  const LinearHeads begun(12, 5, {1.0}, 7);  // the same draws
  together.fit(data.view(), data.labels, data.rows, training);
  const auto predicted = together.predict(data.view(), data.rows);
  for (size_t h = 0; h < rates.size(); ++h) {
    LinearHeads alone(12, 5, {rates[h]}, 7);
    alone.fit(data.view(), data.labels, data.rows, training);
    EXPECT_EQ(alone.predict(data.view(), data.rows)[0], predicted[h]);
    const auto exact = train_alone(data, rates[h], training, begun);
    const auto head = static_cast<int64_t>(h);
    for (int64_t i = 0; i < 60; ++i) {
      const auto value = static_cast<double>(together.weight().as<float>()[head * 60 + i]);
      EXPECT_NEAR(value, static_cast<double>(alone.weight().as<float>()[i]), 1e-6);
      EXPECT_NEAR(value, exact[static_cast<size_t>(i)], 2e-5);
    }
    for (int64_t c = 0; c < 5; ++c)
      EXPECT_NEAR(static_cast<double>(together.bias().as<float>()[head * 5 + c]),
                  exact[static_cast<size_t>(60 + c)], 2e-5);
  }
}

/// The objective and the norm of its gradient in f64, from the definition, with features as they are.
struct Definition {
  double value = 0, gradient = 0;
};
Definition by_definition(const Samples& data, const LogisticRegression::Solution& solution, double c) {
  const int64_t d = data.width, k = data.classes, n = static_cast<int64_t>(data.rows.size());
  std::vector<double> mean(static_cast<size_t>(d)), w = solution.weights, gradient(w.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < d; ++j)
      mean[static_cast<size_t>(j)] +=
          static_cast<double>(data.x[static_cast<size_t>(i * d + j)]) / static_cast<double>(n);
  Definition result;
  for (int64_t i = 0; i < n; ++i) {
    std::vector<double> z(static_cast<size_t>(k));
    double sum = 0;
    for (int64_t o = 0; o < k; ++o) {
      z[static_cast<size_t>(o)] = w[static_cast<size_t>(k * d + o)];
      for (int64_t j = 0; j < d; ++j)
        z[static_cast<size_t>(o)] +=
            w[static_cast<size_t>(o * d + j)] *
            (static_cast<double>(data.x[static_cast<size_t>(i * d + j)]) - mean[static_cast<size_t>(j)]);
      sum += std::exp(z[static_cast<size_t>(o)]);
    }
    const auto truth = static_cast<size_t>(data.labels[static_cast<size_t>(i)]);
    result.value += c * (std::log(sum) - z[truth]);
    for (int64_t o = 0; o < k; ++o) {
      const double g =
          c * (std::exp(z[static_cast<size_t>(o)]) / sum - (static_cast<size_t>(o) == truth ? 1 : 0));
      for (int64_t j = 0; j < d; ++j)
        gradient[static_cast<size_t>(o * d + j)] +=
            g * (static_cast<double>(data.x[static_cast<size_t>(i * d + j)]) - mean[static_cast<size_t>(j)]);
      gradient[static_cast<size_t>(k * d + o)] += g;
    }
  }
  for (int64_t i = 0; i < k * d; ++i) {
    result.value += 0.5 * w[static_cast<size_t>(i)] * w[static_cast<size_t>(i)];
    gradient[static_cast<size_t>(i)] += w[static_cast<size_t>(i)];
  }
  for (const double g : gradient) result.gradient += g * g;
  result.gradient = std::sqrt(result.gradient);
  return result;
}

TEST(LogisticRegression, EndsWhereTheGradientVanishes) {
  const Samples data = samples(2500, 20, 6);  // more than one chunk of rows
  const LogisticRegression problem(data.view(), data.labels, data.rows);
  for (const double c : {1e-4, 0.01, 1.0, 100.0}) {
    const auto solution = problem.fit(c);
    EXPECT_TRUE(solution.converged) << c;
    EXPECT_LT(solution.iterations, 60) << c;
    const Definition exact = by_definition(data, solution, c);
    EXPECT_NEAR(solution.objective, exact.value, 1e-6 * exact.value) << c;
    // The objective is strongly convex in the weights with modulus 1: it is within |gradient|^2 / 2 of its
    // least.
    EXPECT_LT(exact.gradient * exact.gradient / 2, 5e-5 * exact.value) << c;
  }
}

TEST(LogisticRegression, AWarmStartEndsAtTheSameOptimumSooner) {
  const Samples data = samples(600, 16, 4);
  const LogisticRegression problem(data.view(), data.labels, data.rows);
  const auto before = problem.fit(0.5), cold = problem.fit(0.6), warm = problem.fit(0.6, &before);
  EXPECT_NEAR(cold.objective, warm.objective, 1e-6 * cold.objective);
  EXPECT_LT(warm.iterations, cold.iterations);
  EXPECT_EQ(problem.predict(cold, data.view(), data.rows), problem.predict(warm, data.view(), data.rows));
}

TEST(LogisticRegression, TheSameBytesForAnyNumberOfThreads) {
  const Samples data = samples(2500, 40, 30);
  std::vector<double> first;
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    const auto solution = LogisticRegression(data.view(), data.labels, data.rows).fit(1);
    if (first.empty()) first = solution.weights;
    EXPECT_EQ(solution.weights, first) << threads;
  }
  omp_set_num_threads(before);
}

TEST(LogisticRegression, TwoClassesArePenalisedByTheirDifference) {
  const Samples data = samples(300, 8, 2);
  const LogisticRegression problem(data.view(), data.labels, data.rows);
  const double c = 0.3;
  const auto solution = problem.fit(c);
  // Gradient of C sum log(1 + exp(-+ z)) + |w|^2 / 2 for w = W1 - W0.
  std::vector<double> mean(8), gradient(8);
  for (int64_t i = 0; i < 300; ++i)
    for (size_t j = 0; j < 8; ++j)
      mean[j] += static_cast<double>(data.x[static_cast<size_t>(i) * 8 + j]) / 300;
  for (size_t i = 0; i < 300; ++i) {
    double z = solution.weights[17] - solution.weights[16];
    for (size_t j = 0; j < 8; ++j)
      z += (solution.weights[8 + j] - solution.weights[j]) *
           (static_cast<double>(data.x[i * 8 + j]) - mean[j]);
    const double g = c * (1 / (1 + std::exp(-z)) - (data.labels[i] == 1 ? 1 : 0));
    for (size_t j = 0; j < 8; ++j) gradient[j] += g * (static_cast<double>(data.x[i * 8 + j]) - mean[j]);
  }
  for (size_t j = 0; j < 8; ++j)
    EXPECT_NEAR(gradient[j] + solution.weights[8 + j] - solution.weights[j], 0, 1e-3) << j;
}

TEST(LogisticRegression, ClassesWithoutRowsAreNeverPredicted) {
  Samples data = samples(200, 6, 5);
  for (int32_t& label : data.labels) label = label == 2 ? 3 : label;
  const LogisticRegression problem(data.view(), data.labels, data.rows);
  const auto predicted = problem.predict(problem.fit(1), data.view(), data.rows);
  for (const int32_t label : predicted) EXPECT_NE(label, 2);
  EXPECT_TRUE(std::find(predicted.begin(), predicted.end(), 4) != predicted.end());
  for (int32_t& label : data.labels) label = 3;
  const LogisticRegression one(data.view(), data.labels, data.rows);
  EXPECT_EQ(one.predict(one.fit(1), data.view(), data.rows), std::vector<int32_t>(200, 3));
}

}  // namespace
}  // namespace dino::eval
