// SPDX-License-Identifier: Apache-2.0
#pragma once
// Settings with a text form of their own: those that are chosen for the user unless they are given (`auto`),
// and counts of steps that may be shares of all steps (`10%`).

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.hpp"

namespace dino {

/// What OptionTable can bind: from_text throws std::invalid_argument, saying what is wrong with the text;
/// text gives it back in a form that from_text reads; type_name stands in --help.
template <class T>
concept TextSetting = requires(const T& setting, std::string_view text) {
  { T::from_text(text) } -> std::same_as<T>;
  { setting.text() } -> std::convertible_to<std::string>;
  { T::type_name() } -> std::convertible_to<const char*>;
};

/// A value that the user gave, or one that the program has chosen since, or none yet: then it reads and
/// prints `auto`. T is bool, int64_t, double or std::string.
template <class T>
class Auto {
 public:
  Auto() = default;
  Auto(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  [[nodiscard]] bool is_auto() const { return !value_.has_value(); }
  /// InternalError while it is auto.
  [[nodiscard]] const T& value() const {
    DINO_CHECK(value_.has_value(), "a setting is read before it is chosen");
    return *value_;
  }
  operator const T&() const { return value(); }  // NOLINT(google-explicit-constructor)
  /// Takes `value` unless it has one.
  void choose(T value) {
    if (!value_) value_ = std::move(value);
  }
  static Auto from_text(std::string_view text);
  [[nodiscard]] std::string text() const;
  [[nodiscard]] static const char* type_name();

 private:
  std::optional<T> value_;
};

extern template class Auto<bool>;
extern template class Auto<int64_t>;
extern template class Auto<double>;
extern template class Auto<std::string>;

/// A number of steps, given as such (`500`) or as a share of all steps of the run (`10%`, or `0.1`).
class StepCount {
 public:
  StepCount() = default;
  StepCount(int64_t steps) : steps_(steps) {}  // NOLINT(google-explicit-constructor)
  [[nodiscard]] static StepCount percent(double percent);
  [[nodiscard]] bool is_share() const { return is_share_; }
  /// Of a run of `total` steps; a share is rounded to the nearest step, half up.
  [[nodiscard]] int64_t of(int64_t total) const;
  static StepCount from_text(std::string_view text);
  [[nodiscard]] std::string text() const;
  [[nodiscard]] static const char* type_name() { return "N|P%"; }
  bool operator==(const StepCount&) const = default;

 private:
  bool is_share_ = false;
  int64_t steps_ = 0;
  double percent_ = 0;
};

}  // namespace dino
