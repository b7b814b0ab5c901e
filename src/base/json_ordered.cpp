// SPDX-License-Identifier: Apache-2.0
// nlohmann::ordered_json, compiled here once for all (json.hpp).
#include "base/json.hpp"

DINO_JSON_TEMPLATES(, ordered_json)
template class nlohmann::basic_json<nlohmann::ordered_map>;
