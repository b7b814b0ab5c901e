// SPDX-License-Identifier: Apache-2.0
#pragma once
// Scales and ticks that all plots share. Numbers are printed with fixed rules, so equal data give equal
// bytes.

#include <string>
#include <vector>

namespace dino::report {

/// Maps data to pixels, linear or log10, and knows round tick values.
class Axis {
 public:
  /// Data range [low, high] onto pixels [from, to]. An empty or degenerate range is widened; a log axis needs
  /// low > 0 (the caller drops other values).
  Axis(double low, double high, double from, double to, bool log, int wanted_ticks);
  [[nodiscard]] double pixel(double value) const;
  [[nodiscard]] const std::vector<double>& ticks() const { return ticks_; }
  [[nodiscard]] double low() const { return low_; }
  [[nodiscard]] double high() const { return high_; }
  [[nodiscard]] std::string label(double tick) const;

 private:
  double low_, high_, from_, to_;
  bool log_;
  double step_ = 1;
  std::vector<double> ticks_;
};

/// "1,234,567".
[[nodiscard]] std::string with_commas(long long value);
/// Up to `digits` significant digits without trailing zeros: "0.0021", "12.5", "3.2e+09".
[[nodiscard]] std::string short_number(double value, int digits = 4);
/// A pixel coordinate with one decimal.
[[nodiscard]] std::string px(double value);

}  // namespace dino::report
