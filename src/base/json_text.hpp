// SPDX-License-Identifier: Apache-2.0
#pragma once
// JSON as text. Names from outside may hold any bytes: what is not UTF-8 becomes U+FFFD.
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace dino {

/// On one line, without its end.
[[nodiscard]] std::string json_line(const nlohmann::ordered_json& json);

/// On many lines, `indent` spaces for each level, without the end of the last.
[[nodiscard]] std::string json_text(const nlohmann::ordered_json& json, int indent);

/// On one line in which everything but ASCII is escaped: names from outside in a message.
[[nodiscard]] std::string json_ascii(const nlohmann::ordered_json& json);

}  // namespace dino
