// SPDX-License-Identifier: Apache-2.0
#pragma once
// The text of a CLIP model as numbers: byte-pair encoding (arXiv 1508.07909) of UTF-8 bytes within words, as
// OpenAI's CLIP and the CLIPTokenizerFast of transformers do it. Text is normalised (NFC) and lower-cased;
// words are runs of letters, single digits, runs of anything else, and English contractions; white space only
// parts them. What OpenCLIP does before that to text of the web (ftfy, HTML entities) is not done.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

class BytePairs {
 public:
  /// From a folder's tokenizer.json, or vocab.json and merges.txt; or from one such file. A merges.txt alone
  /// (OpenCLIP's bpe_simple_vocab, unpacked) gives the vocabulary by its order: bytes, bytes that end a word,
  /// merges, and the two tokens around a text; `vocabulary` tells how many there are.
  /// vocabulary: rows of the model's table of tokens; 0 = as many as the files have, for a model that is yet
  /// to be. MissingInputError; DataError names the file and what is wrong with it.
  [[nodiscard]] static BytePairs load(const std::string& reference, int64_t vocabulary);
  ~BytePairs();
  BytePairs(BytePairs&&) noexcept;

  /// Start of text, the text's tokens, end of text: at most `context` (>= 2) numbers; what is too much of the
  /// text is left out. The names of the two special tokens are text like any other. Bytes that are no UTF-8
  /// count as U+FFFD.
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text, int64_t context) const;
  /// Rows that a table of tokens needs.
  [[nodiscard]] int64_t size() const;
  /// The files that it was read from, which a copy of the model takes along.
  [[nodiscard]] const std::vector<std::string>& files() const;

 private:
  struct Table;
  explicit BytePairs(std::unique_ptr<Table> table);
  std::unique_ptr<Table> table_;
};

/// The words that are encoded one by one, normalised; for tests.
[[nodiscard]] std::vector<std::string> words_of_text(std::string_view text);

}  // namespace dino
