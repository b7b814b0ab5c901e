// SPDX-License-Identifier: Apache-2.0
#include "base/json_text.hpp"

#include "base/json.hpp"

namespace dino {

namespace {

constexpr auto kReplaced = OrderedJson::error_handler_t::replace;

}  // namespace

std::string json_line(const OrderedJson& json) {
  return json.dump(-1, ' ', false, kReplaced);
}

std::string json_text(const OrderedJson& json, int indent) {
  return json.dump(indent, ' ', false, kReplaced);
}

std::string json_ascii(const OrderedJson& json) {
  return json.dump(-1, ' ', true, kReplaced);
}

}  // namespace dino
