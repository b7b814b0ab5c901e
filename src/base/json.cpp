// SPDX-License-Identifier: Apache-2.0
// nlohmann::json, compiled here once for all (json.hpp).
#include "base/json.hpp"

DINO_JSON_TEMPLATES(, json)
template class nlohmann::basic_json<>;
