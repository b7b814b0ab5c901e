// SPDX-License-Identifier: Apache-2.0
#pragma once
// An enum that users meet has one table of names: a function `names_of` beside it that takes a value of the
// enum and returns an array of Named. Options, files and messages all read that table.

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace dino {

template <class E>
struct Named {
  const char* name;
  E value;
};

template <class E>
concept NamedEnum = std::is_enum_v<E> && requires(E value) {
  { names_of(value).front().name } -> std::convertible_to<const char*>;
};

/// The first name that the table has for the value.
template <NamedEnum E>
[[nodiscard]] const char* name_of(E value) {
  for (const Named<E>& entry : names_of(value))
    if (entry.value == value) return entry.name;
  return "?";
}

template <NamedEnum E>
[[nodiscard]] std::optional<E> value_named(std::string_view name) {
  for (const Named<E>& entry : names_of(E{}))
    if (entry.name == name) return entry.value;
  return std::nullopt;
}

template <NamedEnum E>
[[nodiscard]] std::vector<std::string> all_names() {
  std::vector<std::string> names;
  for (const Named<E>& entry : names_of(E{})) names.emplace_back(entry.name);
  return names;
}

}  // namespace dino
