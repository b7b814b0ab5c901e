// SPDX-License-Identifier: Apache-2.0
#include "model/byte_pairs.hpp"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <queue>
#include <set>
#include <unordered_map>

#include "base/error.hpp"
#include "model/byte_pair_files.hpp"

namespace dino {
namespace {

using CodePoints = std::vector<utf8proc_int32_t>;

/// Each byte that begins no character is U+FFFD.
CodePoints decoded(std::string_view text) {
  CodePoints points;
  points.reserve(text.size());
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t point = -1;
    const utf8proc_ssize_t used =
        utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &point);
    points.push_back(used > 0 ? point : 0xfffd);
    at += used > 0 ? static_cast<size_t>(used) : 1;
  }
  return points;
}

std::string encoded(const utf8proc_int32_t* points, size_t count) {
  std::string text;
  std::array<utf8proc_uint8_t, 4> bytes{};
  for (size_t i = 0; i < count; ++i) {
    const utf8proc_ssize_t used = utf8proc_encode_char(points[i], bytes.data());
    text.append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(used));
  }
  return text;
}

/// Canonical composition, then every character's lower case by itself.
CodePoints normalised(std::string_view text) {
  const CodePoints sound = decoded(text);
  const std::string valid = encoded(sound.data(), sound.size());
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t length = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(valid.data()), static_cast<utf8proc_ssize_t>(valid.size()),
      &composed, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, &std::free);
  DINO_CHECK(length >= 0, utf8proc_errmsg(length));
  CodePoints lower;
  for (const utf8proc_int32_t point :
       decoded({reinterpret_cast<const char*>(composed), static_cast<size_t>(length)})) {
    if (point == 0x130) {  // the one character whose lower case is two
      lower.insert(lower.end(), {'i', 0x307});
    } else {
      lower.push_back(utf8proc_tolower(point));
    }
  }
  return lower;
}

enum class Kind : uint8_t { space, letter, number, other };

Kind kind_of(utf8proc_int32_t point) {
  if ((point >= 9 && point <= 13) || point == 0x85) return Kind::space;
  switch (utf8proc_category(point)) {
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return Kind::space;
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return Kind::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return Kind::number;
    default:
      return Kind::other;
  }
}

/// Length of an English contraction that begins at `at`, with its apostrophe; 0 = none.
size_t contraction_at(const CodePoints& points, size_t at) {
  if (points[at] != '\'') return 0;
  for (const std::string_view ending : {"s", "t", "re", "ve", "m", "ll", "d"}) {
    if (points.size() - at <= ending.size()) continue;
    if (std::equal(ending.begin(), ending.end(), points.begin() + static_cast<std::ptrdiff_t>(at) + 1))
      return 1 + ending.size();
  }
  return 0;
}

}  // namespace

std::vector<std::string> words_of_text(std::string_view text) {
  const CodePoints points = normalised(text);
  std::vector<std::string> words;
  for (size_t at = 0; at < points.size();) {
    const Kind kind = kind_of(points[at]);
    size_t length = contraction_at(points, at);
    if (length == 0) {
      length = 1;
      while (kind != Kind::number && at + length < points.size() && kind_of(points[at + length]) == kind)
        ++length;
    }
    if (kind != Kind::space) words.push_back(encoded(points.data() + at, length));
    at += length;
  }
  return words;
}

struct BytePairs::Table {
  struct Merge {
    int32_t rank, result;
  };
  std::array<int32_t, 256> bytes{}, last_bytes{};  ///< a byte's token within a word, and at its end
  std::unordered_map<uint64_t, Merge> merges;
  int32_t start = 0, end = 0;
  int64_t size = 0;
  std::vector<std::string> files;

  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  [[nodiscard]] const Merge* merge_of(int32_t left, int32_t right) const {
    const auto found = merges.find(key(left, right));
    return found == merges.end() ? nullptr : &found->second;
  }
  void append_word(const std::string& word, std::vector<int32_t>& out) const;
};

namespace {

/// A pair of neighbours that may be merged; the merge that was learnt first goes first, and of its places the
/// leftmost.
struct Candidate {
  int32_t rank;
  size_t left, right;
  int32_t left_token, right_token;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

}  // namespace

/// Log-linear in the word's length, which comes from outside.
void BytePairs::Table::append_word(const std::string& word, std::vector<int32_t>& out) const {
  const size_t count = word.size(), none = count;
  std::vector<int32_t> token(count);
  std::vector<size_t> next(count), previous(count);
  for (size_t i = 0; i < count; ++i) {
    const auto byte = static_cast<uint8_t>(word[i]);
    token[i] = i + 1 == count ? last_bytes[byte] : bytes[byte];
    next[i] = i + 1;
    previous[i] = i == 0 ? none : i - 1;
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](size_t left, size_t right) {
    if (left == none || right == none) return;
    if (const Merge* merge = merge_of(token[left], token[right]))
      queue.push({merge->rank, left, right, token[left], token[right]});
  };
  for (size_t i = 0; i + 1 < count; ++i) offer(i, i + 1);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    // One of both may be part of a longer token by now.
    if (token[best.left] != best.left_token || token[best.right] != best.right_token ||
        next[best.left] != best.right)
      continue;
    token[best.left] = merge_of(best.left_token, best.right_token)->result;
    token[best.right] = -1;
    next[best.left] = next[best.right];
    if (next[best.left] != none) previous[next[best.left]] = best.left;
    offer(previous[best.left], best.left);
    offer(best.left, next[best.left]);
  }
  for (size_t i = 0; i < count; i = next[i]) out.push_back(token[i]);
}

BytePairs::BytePairs(std::unique_ptr<Table> table) : table_(std::move(table)) {}
BytePairs::~BytePairs() = default;
BytePairs::BytePairs(BytePairs&&) noexcept = default;

int64_t BytePairs::size() const {
  return table_->size;
}

const std::vector<std::string>& BytePairs::files() const {
  return table_->files;
}

std::vector<int32_t> BytePairs::encode(std::string_view text, int64_t context) const {
  DINO_CHECK(context >= 2, "a text of " + std::to_string(context) + " tokens");
  std::vector<int32_t> tokens{table_->start};
  for (const std::string& word : words_of_text(text)) {
    if (static_cast<int64_t>(tokens.size()) >= context) break;
    table_->append_word(word, tokens);
  }
  tokens.resize(static_cast<size_t>(std::min<int64_t>(std::ssize(tokens), context - 1)));
  tokens.push_back(table_->end);
  return tokens;
}

BytePairs BytePairs::load(const std::string& reference, int64_t vocabulary) {
  const BytePairFiles read = read_byte_pair_files(reference, vocabulary);
  const auto id_of = [&](const std::string& token, const std::string& what) {
    const auto found = read.ids.find(token);
    if (found == read.ids.end())
      fail_vocabulary(read.ids_source, fmt::format("no token for {}; is it of a CLIP model?", what));
    return found->second;
  };
  auto table = std::make_unique<Table>();
  table->files = read.files;
  for (const auto& [token, id] : read.ids) table->size = std::max<int64_t>(table->size, id + 1);
  table->start = id_of("<|startoftext|>", "the start of a text, <|startoftext|>");
  table->end = id_of("<|endoftext|>", "the end of a text, <|endoftext|>");
  for (int byte = 0; byte < 256; ++byte) {
    const std::string symbol = symbol_of_byte(static_cast<uint8_t>(byte));
    table->bytes[static_cast<size_t>(byte)] = id_of(symbol, fmt::format("the byte {}", byte));
    table->last_bytes[static_cast<size_t>(byte)] =
        id_of(symbol + kEndOfWord, fmt::format("the byte {} at the end of a word", byte));
  }
  for (size_t rank = 0; rank < read.merges.size(); ++rank) {
    const auto& [left, right] = read.merges[rank];
    const std::string what = fmt::format("merge {} of {}", rank + 1, read.source);
    const uint64_t key = Table::key(id_of(left, what), id_of(right, what));
    if (!table->merges.emplace(key, Table::Merge{static_cast<int32_t>(rank), id_of(left + right, what)})
             .second)
      fail_vocabulary(read.source, fmt::format("merge {} is there twice", rank + 1));
  }
  return BytePairs(std::move(table));
}

}  // namespace dino
