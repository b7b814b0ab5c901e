// SPDX-License-Identifier: Apache-2.0
#include "base/json_line.hpp"

#include "base/json.hpp"

namespace dino {

std::string json_line(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace dino
