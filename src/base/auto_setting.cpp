// SPDX-License-Identifier: Apache-2.0
#include "base/auto_setting.hpp"

#include <fmt/format.h>

#include <cmath>
#include <stdexcept>
#include <type_traits>

#include "base/text.hpp"

namespace dino {
namespace {

constexpr double kMostSteps = 1e9;

}  // namespace

template <class T>
Auto<T> Auto<T>::from_text(std::string_view text) {
  if (text == "auto") return {};
  if constexpr (std::is_same_v<T, std::string>) {
    return Auto(std::string(text));
  } else if constexpr (std::is_same_v<T, bool>) {
    if (const auto value = parse_bool(text)) return Auto(*value);
    throw std::invalid_argument(fmt::format("'{}' is neither true nor false nor auto", text));
  } else {
    if (const auto value = parse_number<T>(text)) return Auto(*value);
    throw std::invalid_argument(fmt::format("'{}' is neither a {} nor auto", text,
                                            std::is_integral_v<T> ? "whole number" : "number"));
  }
}

template <class T>
std::string Auto<T>::text() const {
  return value_ ? fmt::format("{}", *value_) : "auto";
}

template <class T>
const char* Auto<T>::type_name() {
  if constexpr (std::is_same_v<T, bool>) return "";
  if constexpr (std::is_same_v<T, int64_t>) return "N";
  if constexpr (std::is_same_v<T, double>) return "X";
  return "TEXT";
}

template class Auto<bool>;
template class Auto<int64_t>;
template class Auto<double>;
template class Auto<std::string>;

StepCount StepCount::percent(double percent) {
  DINO_CHECK(percent >= 0 && percent <= 100, "a share of the steps");
  StepCount count;
  count.is_share_ = true;
  count.percent_ = percent;
  return count;
}

int64_t StepCount::of(int64_t total) const {
  if (!is_share_) return steps_;
  return static_cast<int64_t>(std::floor(percent_ / 100 * static_cast<double>(total) + 0.5));
}

StepCount StepCount::from_text(std::string_view text) {
  const bool has_sign = text.ends_with('%');
  const auto value = parse_number<double>(has_sign ? text.substr(0, text.size() - 1) : text);
  // 0.1 is the share that 10% is: no step is a part of one.
  const bool is_share = has_sign || (value && *value > 0 && *value < 1);
  if (value && is_share && *value >= 0 && *value <= 100) return percent(has_sign ? *value : *value * 100);
  const auto steps = parse_number<int64_t>(text);
  if (!is_share && steps && *steps >= 0 && static_cast<double>(*steps) <= kMostSteps) return {*steps};
  throw std::invalid_argument(fmt::format(
      "'{}' is neither a number of steps (0 to {:.0f}) nor a share of them (0% to 100%)", text, kMostSteps));
}

std::string StepCount::text() const {
  return is_share_ ? fmt::format("{:.6g}%", percent_) : fmt::format("{}", steps_);
}

}  // namespace dino
