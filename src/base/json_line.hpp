// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace dino {

/// JSON on one line, without its end. Names from outside may hold any bytes: what is not UTF-8 becomes
/// U+FFFD.
[[nodiscard]] std::string json_line(const nlohmann::ordered_json& json);

}  // namespace dino
