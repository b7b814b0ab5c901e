// SPDX-License-Identifier: Apache-2.0
#pragma once
// Settings with a text form of their own: those that are chosen for the user unless they are given (`auto`),
// and counts of steps that may be shares of all steps (`10%`).

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/names.hpp"

namespace dino {

/// What OptionTable can bind: from_text throws std::invalid_argument, saying what is wrong with the text;
/// text gives it back in a form that from_text reads; type_name stands in --help.
template <class T>
concept TextSetting = requires(const T& setting, std::string_view text) {
  { T::from_text(text) } -> std::same_as<T>;
  { setting.text() } -> std::convertible_to<std::string>;
  { T::type_name() } -> std::convertible_to<const char*>;
};

namespace detail {
// std::invalid_argument says what is wrong.
void read_setting(std::string_view text, bool& value);
void read_setting(std::string_view text, int64_t& value);
void read_setting(std::string_view text, double& value);
void read_setting(std::string_view text, std::string& value);
[[noreturn]] void throw_unknown_name(std::string_view text);
template <NamedEnum E>
void read_setting(std::string_view text, E& value) {
  const std::optional<E> named = value_named<E>(text);
  if (!named) throw_unknown_name(text);
  value = *named;
}
std::string setting_text(bool value);
std::string setting_text(int64_t value);
std::string setting_text(double value);
inline std::string setting_text(const std::string& value) {
  return value;
}
template <NamedEnum E>
std::string setting_text(E value) {
  return name_of(value);
}
}  // namespace detail

/// A value that the user gave, or one that the program has chosen since, or none yet: then it reads and
/// prints `auto`. T is bool, int64_t, double, std::string or an
/// enum with a table of names.
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
  static Auto from_text(std::string_view text) {
    if (text == "auto") return {};
    T value{};
    detail::read_setting(text, value);
    return Auto(std::move(value));
  }
  [[nodiscard]] std::string text() const { return value_ ? detail::setting_text(*value_) : "auto"; }
  [[nodiscard]] static const char* type_name() {
    if constexpr (std::is_same_v<T, bool>) return "";
    if constexpr (std::is_same_v<T, int64_t>) return "N";
    if constexpr (std::is_same_v<T, double>) return "X";
    return std::is_enum_v<T> ? "NAME" : "TEXT";
  }
  /// Of an enum: all that may be written.
  [[nodiscard]] static std::vector<std::string> names() {
    std::vector<std::string> all;
    if constexpr (NamedEnum<T>) {
      all = all_names<T>();
      all.insert(all.begin(), "auto");
    }
    return all;
  }

 private:
  std::optional<T> value_;
};

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
