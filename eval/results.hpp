// SPDX-License-Identifier: Apache-2.0
#pragma once
// Protocol cards and the append-only store of results.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "numeric/statistics.hpp"

namespace dino::eval {

/// The whole protocol behind a number, as canonical JSON: keys sorted, no spaces, shortest numbers that read
/// back exactly. It never names the model, so rows of different models with equal cards can be compared.
class Card {
 public:
  Card& set(const std::string& name, std::string_view value);
  Card& set(const std::string& name, const char* value) { return set(name, std::string_view(value)); }
  Card& set(const std::string& name, int64_t value);
  Card& set(const std::string& name, double value);
  Card& set(const std::string& name, bool value);
  Card& set(const std::string& name, const std::vector<double>& values);
  Card& set(const std::string& name, const std::vector<int64_t>& values);
  Card& set(const std::string& name, const Card& nested);
  [[nodiscard]] std::string json() const;
  [[nodiscard]] std::string hash() const;  ///< SHA-256 of json(), hex

 private:
  std::map<std::string, std::string> fields_;  ///< name -> encoded value
};

/// One line of RESULTS/results.jsonl.
struct ResultRow {
  std::string task, dataset, model, metric;
  Estimate estimate;
  std::string card;  ///< canonical JSON
  std::string card_hash;
  double seconds = 0;
  std::string weights;           ///< SHA-256 of the model's weights; empty for raw pixels
  std::optional<double> oracle;  ///< best over the grid on the test set; for comparison with papers only
  std::string predictions;       ///< file below RESULTS, where per-sample predictions are kept
  std::string model_input{};     ///< ModelIdentity::input; empty = not known
  std::string command{}, cpu{};  ///< what computed it, and on what; empty in rows of older versions
  int64_t cores = 0;             ///< of that machine
};
[[nodiscard]] std::string to_json_line(const ResultRow& row);
/// `source` is "file:line" for messages. DataError when a field is missing or has another type.
[[nodiscard]] ResultRow parse_result(std::string_view line, const std::string& source);

/// All rows of FILE; a half-written last line is ignored (a killed run left it), any other broken line is a
/// DataError that names file and line. A missing file has no rows.
[[nodiscard]] std::vector<ResultRow> read_results(const std::string& path);

class ResultStore {
 public:
  /// Reads FOLDER/results.jsonl; makes the folder.
  explicit ResultStore(std::string folder);
  /// A row of the same task, dataset, model, weights, metric and card.
  [[nodiscard]] const ResultRow* find(const ResultRow& row) const;
  /// Appends unless `find` has it; says on stderr which of the two it did. With `force` it always appends,
  /// and readers take the last row. Returns whether a line was written.
  bool add(const ResultRow& row, bool force);
  [[nodiscard]] const std::vector<ResultRow>& rows() const { return rows_; }
  [[nodiscard]] const std::string& folder() const { return folder_; }

 private:
  std::string folder_, path_;
  std::vector<ResultRow> rows_;
};

/// What was predicted for every test sample: RESULTS/predictions/<hash>.h5. Classes of samples, numbers of
/// samples, or pixels of samples by class; a task fills what its metrics are made of.
struct Predictions {
  std::vector<std::string> keys, classes;
  std::vector<int32_t> labels, predicted;               ///< by key, or empty
  std::map<std::string, std::vector<double>> values{};  ///< metric -> by key; its estimate is their mean
  /// [keys, classes, 3]: pixels that truth and prediction share, of the truth, of the prediction; or empty.
  /// IoU, accuracy and their means follow from sums of it (confusions of many classes would be large).
  std::vector<int64_t> pixels{};
  [[nodiscard]] std::vector<uint8_t> right() const;
};
/// "predictions/<16 hex digits>.h5" for a row.
[[nodiscard]] std::string predictions_name(const ResultRow& row);
void write_predictions(const std::string& path, const Predictions& predictions);
[[nodiscard]] Predictions read_predictions(const std::string& path);

}  // namespace dino::eval
