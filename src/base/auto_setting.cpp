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

namespace detail {

void read_setting(std::string_view text, bool& value) {
  const auto given = parse_bool(text);
  if (!given) throw std::invalid_argument(fmt::format("'{}' is neither true nor false nor auto", text));
  value = *given;
}

void read_setting(std::string_view text, int64_t& value) {
  const auto given = parse_number<int64_t>(text);
  if (!given) throw std::invalid_argument(fmt::format("'{}' is neither a whole number nor auto", text));
  value = *given;
}

void read_setting(std::string_view text, double& value) {
  const auto given = parse_number<double>(text);
  if (!given) throw std::invalid_argument(fmt::format("'{}' is neither a number nor auto", text));
  value = *given;
}

void read_setting(std::string_view text, std::string& value) {
  value = text;
}

void throw_unknown_name(std::string_view text) {
  throw std::invalid_argument(fmt::format("'{}' is no name of those that there are", text));
}

std::string setting_text(bool value) {
  return value ? "true" : "false";
}

std::string setting_text(int64_t value) {
  return fmt::format("{}", value);
}

std::string setting_text(double value) {
  return fmt::format("{}", value);
}

}  // namespace detail

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
