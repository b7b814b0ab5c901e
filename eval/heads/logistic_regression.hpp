// SPDX-License-Identifier: Apache-2.0
#pragma once
// Multinomial logistic regression to the optimum, as DINOv2's eval/log_regression.py asks of its solver: L2
// on the weights, none on the biases. Minimises
//   C sum_i -log softmax(W x_i + b)[y_i] + |W|^2 / 2
// by L-BFGS (Nocedal 1980; Liu and Nocedal 1989) whose first guess of the inverse Hessian is that of
// lambda I + h S, S the covariance of the features: close to the curvature of all classes at once, so that a
// few tens of iterations do. With two classes the penalty is that of the one weight vector that is their
// difference, as usual.

#include <cstdint>
#include <vector>

#include "inputs/feature_file.hpp"
#include "tensor/tensor.hpp"

namespace dino::eval {

class LogisticRegression {
 public:
  /// Labels by row of x; `rows` picks those to train on. Copies them, centred. A class without a row there is
  /// never predicted.
  LogisticRegression(const FeatureView& x, const std::vector<int32_t>& labels,
                     const std::vector<int64_t>& rows);

  struct Solution {
    std::vector<double> weights;  ///< [classes that occur, width], then a bias each, of centred features
    double objective = 0;         ///< as above
    int64_t iterations = 0, evaluations = 0;
    bool converged = false;  ///< the objective is within 1e-7 of the optimum, as far as its curvature tells
  };
  /// Begins at `from` where it is given: the solution of a smaller C. The same bytes for any number of
  /// threads.
  [[nodiscard]] Solution fit(double c, const Solution* from = nullptr) const;
  /// Class of each picked row (ties: the smaller index).
  [[nodiscard]] std::vector<int32_t> predict(const Solution& solution, const FeatureView& x,
                                             const std::vector<int64_t>& rows) const;

 private:
  /// Mean loss + penalty, and its gradient.
  double evaluate(const std::vector<double>& theta, double lambda, std::vector<double>& gradient) const;
  /// The lower triangle R with R'R = (lambda I + h S)^-1, and its transpose, in f32.
  struct Preconditioner {
    Tensor factor, transposed;
    double bias = 1;  ///< of a bias's gradient
  };
  [[nodiscard]] Preconditioner precondition(double lambda) const;
  void apply(const Preconditioner& by, std::vector<double>& direction) const;
  [[nodiscard]] Solution minimise(double lambda, std::vector<double> theta) const;
  [[nodiscard]] size_t weights() const { return static_cast<size_t>(classes() * width_); }
  [[nodiscard]] int64_t classes() const { return static_cast<int64_t>(present_.size()); }

  int64_t rows_, width_;
  std::vector<float> mean_;         ///< of the features
  Tensor features_;                 ///< f32 [rows, width], centred
  std::vector<Tensor> transposed_;  ///< the same by chunks of rows, each [width, rows of it]
  std::vector<int32_t> labels_;     ///< places in present_
  std::vector<int32_t> present_;
  std::vector<double> covariance_;
};

}  // namespace dino::eval
