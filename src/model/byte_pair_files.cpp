// SPDX-License-Identifier: Apache-2.0
#include "model/byte_pair_files.hpp"

#include <fmt/format.h>

#include <filesystem>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "model/tensor_source.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr int64_t kMaxFile = int64_t{64} << 20;
constexpr int64_t kMostTokens = 1'000'000;
constexpr size_t kMaxToken = 4096;
constexpr int64_t kBytes = 256, kSpecialTokens = 2;

/// Bytes in the order in which a vocabulary counts them: those that stand for themselves first.
const std::vector<uint8_t>& bytes_in_order() {
  static const std::vector<uint8_t> order = [] {
    const auto visible = [](int byte) {
      return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    };
    std::vector<uint8_t> bytes;
    for (const bool wanted : {true, false})
      for (int byte = 0; byte < kBytes; ++byte)
        if (visible(byte) == wanted) bytes.push_back(static_cast<uint8_t>(byte));
    return bytes;
  }();
  return order;
}

std::string utf8(uint32_t point) {
  if (point < 0x80) return {static_cast<char>(point)};
  return {static_cast<char>(0xc0 | point >> 6), static_cast<char>(0x80 | (point & 0x3f))};
}

std::string text_of(const std::string& path) {
  if (file_size(path) > kMaxFile) fail_vocabulary(path, "a vocabulary of more than 64 MiB");
  std::string text = read_text(path);
  if (text.starts_with("\x1f\x8b")) fail_vocabulary(path, "compressed with gzip; unpack it first");
  if (text.starts_with("version https://git-lfs"))
    fail_vocabulary(path, "a Git LFS pointer in place of the file; fetch it with `git lfs pull`");
  return text;
}

Json json_of(const std::string& path) {
  const auto shallow = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > 32) fail_vocabulary(path, "nested too deeply for a vocabulary");
    return true;
  };
  Json json = Json::parse(text_of(path), shallow, false);
  if (json.is_discarded() || !json.is_object()) fail_vocabulary(path, "not a JSON object");
  return json;
}

void take_id(BytePairFiles& to, const std::string& token, const Json& id, int64_t vocabulary) {
  if (token.size() > kMaxToken) fail_vocabulary(to.source, "a token of more than 4,096 bytes");
  if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocabulary)
    fail_vocabulary(to.source, fmt::format("the number of {} is {}; the model has tokens 0 to {}",
                                           shown_name(token), shown_name(json_line(id)), vocabulary - 1));
  const auto [there, fresh] = to.ids.emplace(token, id.get<int32_t>());
  if (!fresh && there->second != id.get<int32_t>())
    fail_vocabulary(to.source, fmt::format("{} has two numbers", shown_name(token)));
}

void take_vocabulary(BytePairFiles& to, const Json& ids, int64_t vocabulary) {
  if (!ids.is_object() || ids.empty()) fail_vocabulary(to.source, "no object of tokens and their numbers");
  for (const auto& [token, id] : ids.items()) take_id(to, token, id, vocabulary);
}

void take_merge(BytePairFiles& to, const std::string& line, int64_t number) {
  const size_t space = line.find(' ');
  if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string::npos || line.size() > kMaxToken)
    fail_vocabulary(to.source, fmt::format("merge {} is not two symbols with a space between: {}", number,
                                           shown_name(line)));
  to.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
}

/// A line each, behind a head line that begins with "#version"; at most `limit`.
void take_merges_text(BytePairFiles& to, const std::string& text, int64_t limit) {
  bool first = true;
  for (size_t at = 0; at < text.size() && std::ssize(to.merges) < limit;) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    if (line.ends_with('\r')) line.pop_back();
    // The head line of OpenAI's file has quotes around it.
    const bool head = first && (line.starts_with("#version") || line.starts_with("\"bpe_simple_vocab"));
    first = false;
    if (!head && !line.empty()) take_merge(to, line, std::ssize(to.merges) + 1);
  }
}

void read_tokenizer_json(BytePairFiles& to, int64_t vocabulary) {
  const Json json = json_of(to.source);
  if (!json.contains("model") || !json.at("model").is_object())
    fail_vocabulary(to.source, "no object \"model\"");
  const Json& model = json.at("model");
  const Json suffix = model.value("end_of_word_suffix", Json());
  if (!suffix.is_string() || suffix.get<std::string>() != kEndOfWord)
    fail_vocabulary(to.source, "its words do not end in \"</w>\": not the byte pairs of a CLIP model");
  take_vocabulary(to, model.value("vocab", Json()), vocabulary);
  const Json added = json.value("added_tokens", Json());
  if (added.is_array())
    for (const Json& token : added)
      if (token.is_object() && token.contains("content") && token.at("content").is_string())
        take_id(to, token.at("content").get<std::string>(), token.value("id", Json()), vocabulary);
  const Json merges = model.value("merges", Json());
  if (!merges.is_array()) fail_vocabulary(to.source, "no list \"merges\"");
  for (const Json& merge : merges) {
    const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    take_merge(to,
               pair                ? merge[0].get<std::string>() + " " + merge[1].get<std::string>()
               : merge.is_string() ? merge.get<std::string>()
                                   : json_line(merge),
               std::ssize(to.merges) + 1);
  }
}

/// The vocabulary follows from the merges' order.
void number_by_order(BytePairFiles& to, int64_t vocabulary) {
  const auto number = [&](const std::string& token) {
    if (!to.ids.emplace(token, static_cast<int32_t>(to.ids.size())).second)
      fail_vocabulary(to.source, fmt::format("two merges make {}", shown_name(token)));
  };
  for (const char* end : {"", kEndOfWord})
    for (const uint8_t byte : bytes_in_order()) number(symbol_of_byte(byte) + end);
  for (const auto& [left, right] : to.merges) number(left + right);
  number("<|startoftext|>");
  number("<|endoftext|>");
  if (std::ssize(to.ids) != vocabulary && vocabulary != kMostTokens)
    fail_vocabulary(to.source, fmt::format("{} merges make {} tokens where the model has {}",
                                           to.merges.size(), to.ids.size(), vocabulary));
}

void read_merges(BytePairFiles& to, int64_t vocabulary) {
  const std::string names = (std::filesystem::path(to.source).parent_path() / "vocab.json").string();
  const bool named = path_exists(names);
  const int64_t own = vocabulary - 2 * kBytes - kSpecialTokens;
  take_merges_text(to, text_of(to.source), named ? vocabulary : std::max<int64_t>(own, 0));
  if (!named) return number_by_order(to, vocabulary);
  const std::string merges = std::exchange(to.source, names);
  to.ids_source = names;
  to.files.push_back(names);
  take_vocabulary(to, json_of(names), vocabulary);
  to.source = merges;
}

}  // namespace

std::string symbol_of_byte(uint8_t byte) {
  static const std::vector<std::string> symbols = [] {
    std::vector<std::string> table(kBytes);
    constexpr size_t visible = 188;
    const std::vector<uint8_t>& order = bytes_in_order();
    for (size_t i = 0; i < order.size(); ++i)
      table[order[i]] = utf8(i < visible ? order[i] : static_cast<uint32_t>(256 + i - visible));
    return table;
  }();
  return symbols[byte];
}

void fail_vocabulary(const std::string& path, const std::string& why) {
  throw DataError(fmt::format("bad vocabulary: {}: {}", path, why));
}

BytePairFiles read_byte_pair_files(const std::string& reference, int64_t asked) {
  const int64_t vocabulary = asked > 0 ? asked : kMostTokens;
  if (!path_exists(reference))
    throw MissingInputError(fmt::format("no vocabulary: {}: no such file or folder", reference));
  BytePairFiles read;
  read.source = reference;
  if (is_folder(reference)) {
    for (const char* name : {"/merges.txt", "/tokenizer.json"})
      if (path_exists(reference + name)) read.source = reference + name;
    if (read.source == reference)
      throw MissingInputError(
          fmt::format("no vocabulary: {}: neither tokenizer.json nor merges.txt; copy them from the model's "
                      "publisher, or name a file with --vocabulary",
                      reference));
  }
  read.ids_source = read.source;
  read.files.push_back(read.source);
  if (read.source.ends_with(".json")) {
    read_tokenizer_json(read, vocabulary);
  } else {
    read_merges(read, vocabulary);
  }
  return read;
}

}  // namespace dino
