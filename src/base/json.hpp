// SPDX-License-Identifier: Apache-2.0
#pragma once
// The JSON library, for source files (headers take <nlohmann/json_fwd.hpp>). What its values, parser and
// serialiser are made of is compiled once, in json.cpp and json_ordered.cpp; otherwise every file that names
// them would compile all of it again, which took half of the time of a build.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

// `linkage` is `extern`, or empty in the file that compiles them; `type` is json or ordered_json.
#define DINO_JSON_TEMPLATES(linkage, type)                                                  \
  NLOHMANN_JSON_NAMESPACE_BEGIN                                                             \
  namespace detail {                                                                        \
  linkage template class lexer<type, iterator_input_adapter<std::string::const_iterator>>;  \
  linkage template class lexer<type, iterator_input_adapter<const char*>>;                  \
  linkage template class parser<type, iterator_input_adapter<std::string::const_iterator>>; \
  linkage template class parser<type, iterator_input_adapter<const char*>>;                 \
  linkage template class json_sax_dom_parser<type>;                                         \
  linkage template class json_sax_dom_callback_parser<type>;                                \
  linkage template class serializer<type>;                                                  \
  linkage template class iter_impl<const type>;                                             \
  }                                                                                         \
  NLOHMANN_JSON_NAMESPACE_END                                                               \
  linkage template class std::vector<nlohmann::type>;

DINO_JSON_TEMPLATES(extern, json)
DINO_JSON_TEMPLATES(extern, ordered_json)
extern template class nlohmann::basic_json<>;
extern template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace dino {

using Json = nlohmann::json;                 ///< keys in alphabetical order
using OrderedJson = nlohmann::ordered_json;  ///< keys as they were added

}  // namespace dino
