// SPDX-License-Identifier: Apache-2.0
#pragma once
// The files of a byte-pair vocabulary. Internal to src/model.

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dino {

/// Stands behind the last symbol of a word.
constexpr const char* kEndOfWord = "</w>";
/// A byte as the visible character that stands for it in vocabularies, in UTF-8: itself where it is a visible
/// one of Latin-1, else one from U+0100 on.
[[nodiscard]] std::string symbol_of_byte(uint8_t byte);

struct BytePairFiles {
  std::string source;              ///< the file of the merges
  std::string ids_source;          ///< of the tokens' numbers; another one only where that is vocab.json
  std::vector<std::string> files;  ///< all that were read
  std::unordered_map<std::string, int32_t> ids;
  std::vector<std::pair<std::string, std::string>> merges;  ///< in the order they were learnt
};

/// "bad vocabulary: PATH: WHY".
[[noreturn]] void fail_vocabulary(const std::string& path, const std::string& why);
/// See BytePairs::load(). Numbers are below `vocabulary` (0: below a million); the rest is checked there.
[[nodiscard]] BytePairFiles read_byte_pair_files(const std::string& reference, int64_t asked);

}  // namespace dino
