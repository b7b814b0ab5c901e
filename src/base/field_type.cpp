// SPDX-License-Identifier: Apache-2.0
#include "base/field_type.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>

#include "base/text.hpp"

namespace dino::detail {
namespace {

using Takes = FieldType::Takes;

int64_t to_integer(const std::string& word) {
  const auto value = parse_number<int64_t>(word);
  if (!value) throw std::invalid_argument(fmt::format("'{}' is not a whole number", word));
  return *value;
}

double to_double(const std::string& word) {
  const auto value = parse_number<double>(word);
  if (!value) throw std::invalid_argument(fmt::format("'{}' is not a number", word));
  return *value;
}

template <class T>
T& at(void* field) {
  return *static_cast<T*>(field);
}

template <class T>
std::string print_number(const void* field) {
  return fmt::format("{}", *static_cast<const T*>(field));
}

template <class T>
std::string print_numbers(const void* field) {
  return fmt::format("{}", fmt::join(*static_cast<const std::vector<T>*>(field), ","));
}

}  // namespace

std::string print_word(const std::string& word) {
  return ini_quote(word, false);
}

std::string print_names(const std::vector<std::string>& names) {
  std::vector<std::string> quoted;
  for (const std::string& word : names) quoted.push_back(ini_quote(word, true));
  return fmt::format("{}", fmt::join(quoted, ", "));
}

FieldType make_type(const bool*) {
  return {
      Takes::flag,
      "",
      {},
      false,
      [](void* field, const std::vector<std::string>& words) {
        const auto value = parse_bool(words.front());
        if (!value) throw std::invalid_argument(fmt::format("'{}' is neither true nor false", words.front()));
        at<bool>(field) = *value;
      },
      [](const void* field) -> std::string { return *static_cast<const bool*>(field) ? "true" : "false"; }};
}

FieldType make_type(const int64_t*) {
  return {Takes::word,
          "N",
          {},
          false,
          [](void* field, const std::vector<std::string>& words) {
            at<int64_t>(field) = to_integer(words.front());
          },
          print_number<int64_t>};
}

FieldType make_type(const double*) {
  return {Takes::word,
          "X",
          {},
          false,
          [](void* field, const std::vector<std::string>& words) {
            at<double>(field) = to_double(words.front());
          },
          print_number<double>};
}

FieldType make_type(const std::string*) {
  return {Takes::word,
          "TEXT",
          {},
          false,
          [](void* field, const std::vector<std::string>& words) { at<std::string>(field) = words.front(); },
          [](const void* field) { return print_word(*static_cast<const std::string*>(field)); }};
}

FieldType make_type(const std::vector<int64_t>*) {
  return {Takes::numbers,
          "N,N,...",
          {},
          false,
          [](void* field, const std::vector<std::string>& words) {
            auto& values = at<std::vector<int64_t>>(field);
            values.clear();
            for (const std::string& word : words) values.push_back(to_integer(word));
          },
          print_numbers<int64_t>};
}

FieldType make_type(const std::vector<double>*) {
  return {Takes::numbers,
          "X,X,...",
          {},
          false,
          [](void* field, const std::vector<std::string>& words) {
            auto& values = at<std::vector<double>>(field);
            values.clear();
            for (const std::string& word : words) values.push_back(to_double(word));
          },
          print_numbers<double>};
}

FieldType make_type(const std::vector<std::string>*) {
  return {
      Takes::words,
      "TEXT...",
      {},
      false,
      [](void* field, const std::vector<std::string>& words) { at<std::vector<std::string>>(field) = words; },
      [](const void* field) { return print_names(*static_cast<const std::vector<std::string>*>(field)); }};
}

}  // namespace dino::detail
