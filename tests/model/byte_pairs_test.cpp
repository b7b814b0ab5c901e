// SPDX-License-Identifier: Apache-2.0
#include "model/byte_pairs.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/random.hpp"
#include "model/byte_pair_files.hpp"
#include "model/temporary_folder.hpp"
#include "model/weights_writer.hpp"
#include "test_data.hpp"

namespace dino {
namespace {

constexpr int64_t kBase = 514;  ///< bytes, bytes that end a word, and the two special tokens

const std::vector<std::pair<std::string, std::string>> kMerges = {{"a", "b"},  {"ab", "c</w>"}, {"b", "a"},
                                                                  {"a", "a"},  {"aa", "a</w>"}, {"ba", "ba"},
                                                                  {"c", "ab"}, {"aa", "aa"}};

std::string merges_text() {
  std::string text = "#version: 0.2\n";
  for (const auto& [left, right] : kMerges) text += left + " " + right + "\n";
  return text;
}

nlohmann::json vocabulary() {
  nlohmann::json ids = nlohmann::json::object();
  const auto add = [&](const std::string& token) { ids[token] = ids.size(); };
  for (const char* end : {"</w>", ""})  // another order than that of merges alone
    for (int byte = 255; byte >= 0; --byte) add(symbol_of_byte(static_cast<uint8_t>(byte)) + end);
  for (const auto& [left, right] : kMerges) add(left + right);
  add("<|startoftext|>");
  add("<|endoftext|>");
  return ids;
}

constexpr int64_t kTokens = kBase + 8;

/// Merges one place of the best pair at a time, searching anew after each.
std::vector<std::string> naive_pairs(const std::string& word) {
  std::vector<std::string> parts;
  for (const char c : word) parts.push_back(symbol_of_byte(static_cast<uint8_t>(c)));
  parts.back() += kEndOfWord;
  for (;;) {
    size_t best_rank = kMerges.size(), place = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = std::find(kMerges.begin(), kMerges.end(), std::pair(parts[i], parts[i + 1]));
      const auto rank = static_cast<size_t>(found - kMerges.begin());
      if (rank < best_rank) best_rank = rank, place = i;
    }
    if (best_rank == kMerges.size()) return parts;
    parts[place] += parts[place + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

class BytePairsTest : public ::testing::Test {
 protected:
  void write_pair() {
    write(path("merges.txt"), merges_text());
    write(path("vocab.json"), vocabulary().dump());
  }
  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path() + "/" + name; }
  /// The message, which names the file.
  template <class E>
  std::string refusal(const std::string& reference, int64_t tokens = kTokens) {
    try {
      (void)BytePairs::load(reference, tokens);
    } catch (const E& error) {
      expect_contains(error.what(), folder_.path());
      return error.what();
    }
    ADD_FAILURE() << reference << " was accepted";
    return "";
  }
  TemporaryFolder folder_;
};

TEST_F(BytePairsTest, MergesAsTheNaiveSearch) {
  write_pair();
  const BytePairs pairs = BytePairs::load(folder_.path(), kTokens);
  const nlohmann::json ids = vocabulary();
  Random random(1, RandomStream::test, 1);
  for (int i = 0; i < 500; ++i) {
    std::string word;
    for (uint64_t n = 1 + random.below(24); n > 0; --n) word += static_cast<char>('a' + random.below(3));
    std::vector<int32_t> expected = {ids["<|startoftext|>"]};
    for (const std::string& part : naive_pairs(word)) expected.push_back(ids[part]);
    expected.push_back(ids["<|endoftext|>"]);
    EXPECT_EQ(pairs.encode(word, 77), expected) << word;
  }
}

/// A caption may be one word of a megabyte.
TEST_F(BytePairsTest, LongTextsAreCutAndCostLittle) {
  write_pair();
  const BytePairs pairs = BytePairs::load(folder_.path(), kTokens);
  const std::vector<int32_t> tokens = pairs.encode(std::string(1 << 20, 'a'), 77);
  ASSERT_EQ(tokens.size(), 77u);
  EXPECT_EQ(tokens.back(), vocabulary()["<|endoftext|>"].get<int32_t>());
  EXPECT_EQ(pairs.encode("", 77).size(), 2u);
  EXPECT_EQ(pairs.encode("abc", 2).size(), 2u);
}

TEST(WordsOfText, SplitsAsThePattern) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(words_of_text("  It's  WE'LL\tgo!!\n"), (Words{"it", "'s", "we", "'ll", "go", "!!"}));
  EXPECT_EQ(words_of_text("a1b23"), (Words{"a", "1", "b", "2", "3"}));
  EXPECT_EQ(words_of_text("x!'s"), (Words{"x", "!'", "s"}));
  EXPECT_EQ(words_of_text("'strange"), (Words{"'s", "trange"}));
  EXPECT_EQ(words_of_text("e\xcc\x81"), (Words{"\xc3\xa9"}));                // composed
  EXPECT_EQ(words_of_text("a\xff\x62"), (Words{"a", "\xef\xbf\xbd", "b"}));  // no UTF-8
  EXPECT_EQ(words_of_text("<|endoftext|>"), (Words{"<|", "endoftext", "|>"}));
  EXPECT_EQ(words_of_text(""), Words{});
}

TEST_F(BytePairsTest, AllFilesGiveOneTokenizer) {
  write_pair();
  const BytePairs pair = BytePairs::load(folder_.path(), kTokens);
  nlohmann::json model = {{"end_of_word_suffix", "</w>"}, {"vocab", vocabulary()}};
  for (const auto& [left, right] : kMerges) model["merges"].push_back(nlohmann::json::array({left, right}));
  write(path("tokenizer.json"), nlohmann::json{{"model", model}}.dump());
  model["merges"] = nlohmann::json::array();
  for (const auto& [left, right] : kMerges) model["merges"].push_back(left + " " + right);
  write(path("older.json"), nlohmann::json{{"model", model}}.dump());
  const std::string text = "abcab baba aaaa caba 42!";
  for (const char* name : {"tokenizer.json", "older.json", "merges.txt"})
    EXPECT_EQ(BytePairs::load(path(name), kTokens).encode(text, 77), pair.encode(text, 77)) << name;
  // Without vocab.json the numbers follow from the order; more merges than the model has tokens are left out.
  std::filesystem::remove(path("vocab.json"));
  const auto ends = BytePairs::load(path("merges.txt"), kTokens).encode("!", 77);
  EXPECT_EQ(ends, (std::vector<int32_t>{kTokens - 2, 256, kTokens - 1}));
  EXPECT_EQ(BytePairs::load(path("merges.txt"), kTokens - 3).encode("", 77).front(), kTokens - 5);
}

TEST_F(BytePairsTest, BrokenFilesAreNamed) {
  expect_contains(refusal<MissingInputError>(path("none")), "no such file");
  expect_contains(refusal<MissingInputError>(folder_.path()), "--vocabulary");
  const auto merges = [&](const std::string& text, int64_t tokens = kTokens) {
    write(path("merges.txt"), text);
    return refusal<DataError>(path("merges.txt"), tokens);
  };
  expect_contains(merges("#version: 0.2\na b c\n"), "merge 1 is not two symbols");
  expect_contains(merges("#version: 0.2\nab\n"), "merge 1 is not two symbols");
  expect_contains(merges("\x1f\x8b compressed"), "gzip");
  expect_contains(merges("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull");
  expect_contains(merges(merges_text(), kTokens + 5), "8 merges make 522 tokens where the model has 527");
  expect_contains(merges("#version: 0.2\nab c\n", kBase + 1), "no token for merge 1 of");
  expect_contains(merges("#version: 0.2\na b\na b\n", kBase + 2), "two merges make ab");
  write_pair();
  const auto ids = [&](const nlohmann::json& json) {
    write(path("vocab.json"), json.dump());
    return refusal<DataError>(folder_.path());
  };
  nlohmann::json changed = vocabulary();
  changed.erase("<|endoftext|>");
  expect_contains(ids(changed), "no token for the end of a text");
  changed = vocabulary();
  changed.erase("z");
  expect_contains(ids(changed), "no token for the byte 122");
  changed = vocabulary();
  changed["z"] = kTokens;
  expect_contains(ids(changed), "the number of z is 522; the model has tokens 0 to 521");
  changed["z"] = "1";
  expect_contains(ids(changed), "the number of z");
  expect_contains(ids(nlohmann::json::array()), "not a JSON object");
  write(path("tokenizer.json"), nlohmann::json{{"model", {{"vocab", vocabulary()}}}}.dump());
  expect_contains(refusal<DataError>(path("tokenizer.json")), "</w>");
  write(path("tokenizer.json"), "{}");
  expect_contains(refusal<DataError>(path("tokenizer.json")), "no object \"model\"");
}

}  // namespace
}  // namespace dino
