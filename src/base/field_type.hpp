// SPDX-License-Identifier: Apache-2.0
#pragma once
// How a field of a config struct is read from words and printed: one FieldType for each C++ type that options
// may have.

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/auto_setting.hpp"
#include "base/names.hpp"

namespace dino {

struct FieldType {
  enum class Takes : uint8_t {
    flag,     ///< nothing, or true and false
    word,     ///< one word
    numbers,  ///< words with commas in them
    words,    ///< one or more words; commas in recipes
  };
  Takes takes = Takes::word;
  std::string metavar{};             ///< what stands for the value in --help
  std::vector<std::string> names{};  ///< of an enum: all that there are
  bool takes_auto = false;           ///< a flag that `auto` may follow
  /// Throws std::invalid_argument that says what is wrong with the words. `words` are final: split at commas,
  /// and for `flag` and `word` exactly one.
  void (*assign)(void* field, const std::vector<std::string>& words) = nullptr;
  /// As it stands in a recipe.
  std::string (*print)(const void* field) = nullptr;

  [[nodiscard]] bool is_list() const { return takes == Takes::numbers || takes == Takes::words; }
};

namespace detail {

FieldType make_type(const bool* tag);
FieldType make_type(const int64_t* tag);
FieldType make_type(const double* tag);
FieldType make_type(const std::string* tag);
FieldType make_type(const std::vector<int64_t>* tag);
FieldType make_type(const std::vector<double>* tag);
FieldType make_type(const std::vector<std::string>* tag);
/// Quotes where a recipe needs them.
std::string print_word(const std::string& word);
std::string print_names(const std::vector<std::string>& names);

template <TextSetting T>
FieldType make_type(const T*) {
  constexpr bool flag = std::is_same_v<T, Auto<bool>>;
  std::vector<std::string> names;
  if constexpr (requires { T::names(); }) names = T::names();
  return {flag ? FieldType::Takes::flag : FieldType::Takes::word,
          T::type_name(),
          std::move(names),
          flag,
          [](void* field, const std::vector<std::string>& words) {
            *static_cast<T*>(field) = T::from_text(words.front());
          },
          [](const void* field) { return print_word(static_cast<const T*>(field)->text()); }};
}

template <TextSetting T>
FieldType make_type(const std::vector<T>*) {
  return {FieldType::Takes::words,
          std::string(T::type_name()) + "...",
          {},
          false,
          [](void* field, const std::vector<std::string>& words) {
            auto& values = *static_cast<std::vector<T>*>(field);
            values.clear();
            for (const std::string& word : words) values.push_back(T::from_text(word));
          },
          [](const void* field) {
            std::vector<std::string> texts;
            for (const T& value : *static_cast<const std::vector<T>*>(field)) texts.push_back(value.text());
            return print_names(texts);
          }};
}

// The names are compared before a value is assigned.
template <NamedEnum E>
FieldType make_type(const E*) {
  return {FieldType::Takes::word,
          "NAME",
          all_names<E>(),
          false,
          [](void* field, const std::vector<std::string>& words) {
            *static_cast<E*>(field) = value_named<E>(words.front()).value();
          },
          [](const void* field) { return std::string(name_of(*static_cast<const E*>(field))); }};
}

template <NamedEnum E>
FieldType make_type(const std::vector<E>*) {
  return {FieldType::Takes::words,
          "NAME...",
          all_names<E>(),
          false,
          [](void* field, const std::vector<std::string>& words) {
            auto& values = *static_cast<std::vector<E>*>(field);
            values.clear();
            for (const std::string& word : words) values.push_back(value_named<E>(word).value());
          },
          [](const void* field) {
            std::vector<std::string> names;
            for (const E value : *static_cast<const std::vector<E>*>(field))
              names.emplace_back(name_of(value));
            return print_names(names);
          }};
}

}  // namespace detail

template <class T>
[[nodiscard]] const FieldType& field_type() {
  static const FieldType type = detail::make_type(static_cast<const T*>(nullptr));
  return type;
}

}  // namespace dino
