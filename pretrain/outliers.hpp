// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which steps of a training are unlike those before: by the z-score of loss and gradient norm over a sliding
// window.

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace dino::pretrain {

/// A value that lies far above its window.
struct Outlier {
  const char* quantity = "loss";  ///< or "grad_norm"
  double value = 0;
  double mean = 0;  ///< of the window
  double z = 0;     ///< (value - mean) / deviation
};

class OutlierDetector {
 public:
  static constexpr size_t kWindow = 128;  ///< steps
  static constexpr size_t kLeast = 32;    ///< steps before a value is judged
  /// Values that hardly vary have at least this deviation, as a share of their mean: rounding is no outlier.
  static constexpr double kLeastDeviation = 1e-3;

  /// `limit` 0: nothing is an outlier.
  explicit OutlierDetector(double limit) : limit_(limit) {}
  /// The values of one step, which join the window; the larger of two outliers. A smaller loss than usual is
  /// none. Depends on the values alone: ranks that add the same agree.
  [[nodiscard]] std::optional<Outlier> add(double loss, double grad_norm);
  /// Both windows, for checkpoints: a run that goes on judges as one that was never stopped.
  [[nodiscard]] std::map<std::string, std::vector<double>> state() const;
  /// A window that is not in it begins anew.
  void set_state(const std::map<std::string, std::vector<double>>& state);

 private:
  struct Series {
    const char* name;
    std::deque<double> window;
  };
  double limit_;
  Series loss_{"loss", {}}, grad_norm_{"grad_norm", {}};
};

}  // namespace dino::pretrain
