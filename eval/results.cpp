// SPDX-License-Identifier: Apache-2.0
#include "results.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/machine.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/output_kind.hpp"
#include "storage/seal.hpp"

namespace dino::eval {

namespace {

/// A row in the file ends in a member "crc32c", of the text before it.
constexpr std::string_view kRowSeal = ",\"crc32c\":\"";
constexpr size_t kRowSealSize = kRowSeal.size() + 8 + 2;

std::string sealed_row(std::string line) {
  line.pop_back();  // the brace
  const std::string crc = hex32(crc32c(std::as_bytes(std::span(line))));
  return line.append(kRowSeal).append(crc).append("\"}");
}

/// Rows of other programs and of earlier versions have none.
void check_row(std::string_view line, const std::string& source) {
  if (line.size() < kRowSealSize || !line.substr(line.size() - kRowSealSize).starts_with(kRowSeal)) return;
  if (line != sealed_row(std::string(line.substr(0, line.size() - kRowSealSize)) + "}"))
    throw DataError(fmt::format(
        "damaged result: {}: its checksum does not fit the row; remove the line, and run its task again",
        source));
}

std::string sha256(const std::string& text) {
  return sha256_hex(std::as_bytes(std::span(text)));
}

/// "knn k=10": rows of one run that differ in nothing else can be told apart in a log.
std::string task_and_k(const ResultRow& row) {
  const auto card = nlohmann::json::parse(row.card, nullptr, false);
  if (!card.is_object() || !card.contains("k")) return row.task;
  return fmt::format("{} k={}", row.task, json_line(card.at("k")));
}

}  // namespace

Card& Card::set(const std::string& name, std::string_view value) {
  fields_[name] = json_line(value);
  return *this;
}
Card& Card::set(const std::string& name, int64_t value) {
  fields_[name] = std::to_string(value);
  return *this;
}
Card& Card::set(const std::string& name, double value) {
  fields_[name] = json_line(value);
  return *this;
}
Card& Card::set(const std::string& name, bool value) {
  fields_[name] = value ? "true" : "false";
  return *this;
}
Card& Card::set(const std::string& name, const std::vector<double>& values) {
  fields_[name] = json_line(values);
  return *this;
}
Card& Card::set(const std::string& name, const std::vector<int64_t>& values) {
  fields_[name] = json_line(values);
  return *this;
}
Card& Card::set(const std::string& name, const Card& nested) {
  fields_[name] = nested.json();
  return *this;
}

std::string Card::json() const {
  std::string out = "{";
  for (const auto& [name, value] : fields_)
    out += (out.size() == 1 ? "" : ",") + json_line(name) + ":" + value;
  return out + "}";
}

std::string Card::hash() const {
  return sha256(json());
}

std::string to_json_line(const ResultRow& row) {
  nlohmann::ordered_json line;
  line["task"] = row.task;
  line["dataset"] = row.dataset;
  line["model"] = row.model;
  line["metric"] = row.metric;
  line["value"] = row.estimate.value;
  line["low"] = row.estimate.low;
  line["high"] = row.estimate.high;
  line["n"] = row.estimate.n;
  line["card"] = nlohmann::ordered_json::parse(row.card);
  line["card_hash"] = row.card_hash;
  line["seconds"] = row.seconds;
  line["weights"] = row.weights;
  if (row.oracle) line["oracle"] = *row.oracle;
  if (!row.predictions.empty()) line["predictions"] = row.predictions;
  if (!row.model_input.empty()) line["model_input"] = nlohmann::ordered_json::parse(row.model_input);
  if (!row.command.empty()) line["command"] = row.command;
  if (!row.cpu.empty()) line["cpu"] = row.cpu;
  if (row.cores > 0) line["cores"] = row.cores;
  return json_line(line);
}

ResultRow parse_result(std::string_view line, const std::string& source) {
  check_row(line, source);
  try {
    const auto json = nlohmann::json::parse(line);
    ResultRow row;
    row.task = json.at("task").get<std::string>();
    row.dataset = json.at("dataset").get<std::string>();
    row.model = json.at("model").get<std::string>();
    row.metric = json.at("metric").get<std::string>();
    row.estimate = {json.at("value").get<double>(), json.at("low").get<double>(),
                    json.at("high").get<double>(), json.at("n").get<int64_t>()};
    row.card = json_line(json.at("card"));
    row.card_hash = json.at("card_hash").get<std::string>();
    row.seconds = json.value("seconds", 0.0);
    row.weights = json.value("weights", "");
    if (json.contains("oracle")) row.oracle = json.at("oracle").get<double>();
    row.predictions = json.value("predictions", "");
    if (json.contains("model_input")) row.model_input = json_line(json.at("model_input"));
    row.command = json.value("command", "");
    row.cpu = json.value("cpu", "");
    row.cores = json.value("cores", int64_t{0});
    return row;
  } catch (const nlohmann::json::exception& e) {
    throw DataError(fmt::format("reading results: {}: not a result row ({}); remove the line or the file",
                                source, e.what()));
  }
}

std::vector<ResultRow> read_results(const std::string& path) {
  std::vector<ResultRow> rows;
  if (!path_exists(path)) return rows;
  const std::string text = read_text(path);
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    ++number;
    if (end == std::string::npos) break;  // half-written: a complete line ends with a newline
    if (end > begin)
      rows.push_back(parse_result(std::string_view(text).substr(begin, end - begin),
                                  fmt::format("{}:{}", path, number)));
    begin = end + 1;
  }
  return rows;
}

ResultStore::ResultStore(std::string folder) : folder_(std::move(folder)), path_(folder_ + "/results.jsonl") {
  refuse_other_output(folder_, output_kind::results);
  make_folders(folder_);
  rows_ = read_results(path_);
}

const ResultRow* ResultStore::find(const ResultRow& row) const {
  for (const ResultRow& r : rows_)
    if (r.task == row.task && r.dataset == row.dataset && r.model == row.model && r.weights == row.weights &&
        r.metric == row.metric && r.card_hash == row.card_hash)
      return &r;
  return nullptr;
}

bool ResultStore::add(const ResultRow& row, bool force) {
  const std::string what =
      fmt::format("{}: {} {} of {}: {:.4f} [{:.4f}, {:.4f}]", task_and_k(row), row.dataset, row.metric,
                  row.model, row.estimate.value, row.estimate.low, row.estimate.high);
  if (!force && find(row) != nullptr) {
    log::info(what + ": already in " + path_ + ", kept as it is (--force appends it again)");
    return false;
  }
  ResultRow written = row;
  written.command = command_line();
  written.cpu = cpu_model();
  written.cores = cpu_cores();
  LineWriter writer(path_);
  writer.write(sealed_row(to_json_line(written)));
  writer.close();
  rows_.push_back(std::move(written));
  log::info(what);
  return true;
}

std::vector<uint8_t> Predictions::right() const {
  std::vector<uint8_t> out(labels.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = labels[i] == predicted[i] ? 1 : 0;
  return out;
}

std::string predictions_name(const ResultRow& row) {
  return "predictions/" +
         sha256(row.task + "\n" + row.dataset + "\n" + row.model + "\n" + row.weights + "\n" + row.card_hash)
             .substr(0, 16) +
         ".h5";
}

void write_predictions(const std::string& path, const Predictions& p) {
  make_folders(path.substr(0, path.rfind('/')));
  commit_hdf5(path, [&](Hdf5File& file) {
    const auto n = static_cast<int64_t>(p.keys.size()), classes = static_cast<int64_t>(p.classes.size());
    if (!p.labels.empty()) {
      file.write("/labels", view_of(p.labels.data(), {n}));
      file.write("/predicted", view_of(p.predicted.data(), {n}));
    }
    for (const auto& [metric, values] : p.values)
      file.write("/values/" + metric, view_of(values.data(), {n}));
    if (!p.pixels.empty()) file.write("/pixels", view_of(p.pixels.data(), {n, classes, 3}));
    file.write_strings("/keys", p.keys);
    file.write_attribute("/", "classes", p.classes);
  });
}

namespace {

template <class T>
std::vector<T> read_if_there(const Hdf5File& file, const std::string& name, DType dtype) {
  if (!file.exists(name)) return {};
  const Tensor values = file.read(name, dtype);
  return {values.as<T>(), values.as<T>() + values.numel()};
}

}  // namespace

Predictions read_predictions(const std::string& path) {
  const Hdf5File file = open_checked(path, "run the task again with --force");
  Predictions p;
  p.labels = read_if_there<int32_t>(file, "/labels", DType::i32);
  p.predicted = read_if_there<int32_t>(file, "/predicted", DType::i32);
  p.pixels = read_if_there<int64_t>(file, "/pixels", DType::i64);
  p.keys = file.read_strings("/keys");
  p.classes = file.attribute_strings("/", "classes");
  const size_t n = p.keys.size(), cells = p.classes.size() * 3;
  const auto fits = [&](size_t count, size_t each) { return count == 0 || count == n * each; };
  bool sound =
      p.labels.size() == p.predicted.size() && fits(p.labels.size(), 1) && fits(p.pixels.size(), cells);
  if (file.exists("/values"))
    for (const std::string& metric : file.list("/values"))
      sound = sound &&
              (p.values[metric] = read_if_there<double>(file, "/values/" + metric, DType::f64)).size() == n;
  if (!sound)
    throw DataError("reading predictions: " + path +
                    ": its datasets differ in length; run the task again with --force");
  return p;
}

}  // namespace dino::eval
