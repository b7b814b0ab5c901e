// SPDX-License-Identifier: Apache-2.0
#include "report/axis.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace dino::report {

namespace {

/// The smallest of 1, 2, 5 times a power of ten that is >= rough.
double nice_step(double rough) {
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

}  // namespace

Axis::Axis(double low, double high, double from, double to, bool log, int wanted_ticks)
    : low_(log ? std::log10(low) : low),
      high_(log ? std::log10(high) : high),
      from_(from),
      to_(to),
      log_(log) {
  if (!(high_ > low_)) {
    const double margin = log ? 0.5 : (low_ == 0 ? 0.5 : std::abs(low_) * 0.1);
    low_ -= margin;
    high_ += margin;
  }
  step_ = nice_step((high_ - low_) / wanted_ticks);
  // Decades of a log axis carry the labels; a range within one decade falls back to fractions of it.
  if (log_ && step_ < 1 && high_ - low_ >= 1) step_ = 1;
  const double first = std::ceil(low_ / step_ - 1e-9);
  for (int i = 0; i < 32; ++i) {
    const double tick = (first + i) * step_;
    if (tick > high_ + 1e-9 * (high_ - low_)) break;
    ticks_.push_back(log_ ? std::pow(10.0, tick) : (std::abs(tick) < step_ * 1e-9 ? 0.0 : tick));
  }
}

double Axis::pixel(double value) const {
  const double v = log_ ? std::log10(value) : value;
  return from_ + (v - low_) / (high_ - low_) * (to_ - from_);
}

std::string Axis::label(double tick) const {
  const double size = std::abs(tick);
  if (size >= 1e9) return short_number(tick / 1e9, 3) + "G";
  if (size >= 1e6) return short_number(tick / 1e6, 3) + "M";
  if (size >= 1e4) return short_number(tick / 1e3, 3) + "k";
  if (log_) return short_number(tick, 4);
  if (size != 0 && (size < 1e-4)) return short_number(tick, 2);
  const int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(step_) - 1e-9)), 0, 6);
  return fmt::format("{:.{}f}", tick, decimals);
}

std::string with_commas(long long value) {
  const std::string digits = std::to_string(value < 0 ? -value : value);
  std::string out = value < 0 ? "-" : "";
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string short_number(double value, int digits) {
  if (!std::isfinite(value)) return std::isnan(value) ? "n/a" : (value > 0 ? "inf" : "-inf");
  return fmt::format("{:.{}g}", value, digits);
}

std::string px(double value) {
  return fmt::format("{:.1f}", value);
}

}  // namespace dino::report
