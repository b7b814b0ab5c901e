// SPDX-License-Identifier: Apache-2.0
#include "ledger.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <tuple>

#include "base/error.hpp"
#include "base/working.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/seal.hpp"

namespace dino::curation {
namespace {

constexpr int64_t kSchema = 1;

struct QualityColumn {
  const char* name;
  float QualityMeasures::*field;
};
constexpr std::array<QualityColumn, 6> kQuality = {{{"/blur", &QualityMeasures::blur},
                                                    {"/entropy", &QualityMeasures::entropy},
                                                    {"/brightness", &QualityMeasures::brightness},
                                                    {"/contrast", &QualityMeasures::contrast},
                                                    {"/saturation", &QualityMeasures::saturation},
                                                    {"/border", &QualityMeasures::border}}};

template <class T, class Rows, class Get>
void write_column(Hdf5File& file, const std::string& name, const Rows& rows, const Get& get) {
  still_working();
  std::vector<T> column;
  column.reserve(rows.size());
  for (const auto& row : rows) column.push_back(static_cast<T>(get(row)));
  file.write(name, view_of(std::as_const(column).data(), Shape{static_cast<int64_t>(column.size())}));
}

template <class Rows, class Get>
void write_text_column(Hdf5File& file, const std::string& name, const Rows& rows, const Get& get) {
  std::vector<std::string> column;
  column.reserve(rows.size());
  for (const auto& row : rows) column.push_back(get(row));
  file.write_strings(name, column);
}

void write_measured(Hdf5File& file, const std::vector<Measured>& rows) {
  write_column<int64_t>(file, "/bytes", rows, [](const Measured& m) { return m.bytes; });
  write_column<int64_t>(file, "/width", rows, [](const Measured& m) { return m.width; });
  write_column<int64_t>(file, "/height", rows, [](const Measured& m) { return m.height; });
  write_column<uint8_t>(file, "/note", rows, [](const Measured& m) { return m.note; });
  file.write_attribute("/note", "names", note_names());
  write_column<uint8_t>(file, "/coding", rows, [](const Measured& m) { return m.coding; });
  file.write_attribute("/coding", "names", coding_names());
  write_text_column(file, "/format", rows, [](const Measured& m) { return m.format; });
  write_text_column(file, "/sha256", rows, [](const Measured& m) { return hex(m.sha256); });
  write_column<int64_t>(file, "/phash", rows, [](const Measured& m) { return m.phash; });
  for (const QualityColumn& column : kQuality) {
    write_column<float>(file, column.name, rows, [&](const Measured& m) { return m.quality.*column.field; });
  }
  std::vector<int64_t> fault_rows;
  std::vector<std::string> messages;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].message.empty()) continue;
    fault_rows.push_back(static_cast<int64_t>(i));
    messages.push_back(rows[i].message);
  }
  if (fault_rows.empty()) return;
  file.write("/fault/row",
             view_of(std::as_const(fault_rows).data(), Shape{static_cast<int64_t>(fault_rows.size())}));
  file.write_strings("/fault/message", messages);
}

void write_verdicts(Hdf5File& file, const std::vector<Verdict>& rows) {
  write_column<uint8_t>(file, "/decision", rows, [](const Verdict& v) { return v.reason != Reason::kept; });
  write_column<uint8_t>(file, "/reason", rows, [](const Verdict& v) { return v.reason; });
  write_column<uint8_t>(file, "/stage", rows, [](const Verdict& v) { return v.stage; });
  write_column<int64_t>(file, "/representative", rows, [](const Verdict& v) { return v.representative; });
  write_column<float>(file, "/similarity", rows, [](const Verdict& v) { return v.similarity; });
  write_column<float>(file, "/value", rows, [](const Verdict& v) { return v.value; });
  write_column<float>(file, "/threshold", rows, [](const Verdict& v) { return v.threshold; });
  file.write_attribute("/reason", "names", reason_names());
  file.write_attribute("/stage", "names", stage_names());
}

template <class T>
std::vector<T> read_column(const Hdf5File& file, const std::string& name, DType dtype, int64_t rows) {
  still_working();
  const Tensor column = file.read(name, dtype);
  if (column.numel() != rows) {
    throw DataError(fmt::format("bad ledger: {}: {} has {} rows instead of {}; run the stage again",
                                file.path(), name, column.numel(), rows));
  }
  return {column.as<T>(), column.as<T>() + rows};
}

template <class T, class Row, class Set>
void load_column(const Hdf5File& file, const std::string& name, DType dtype, std::vector<Row>& rows,
                 const Set& set) {
  const std::vector<T> column = read_column<T>(file, name, dtype, static_cast<int64_t>(rows.size()));
  for (size_t i = 0; i < rows.size(); ++i) set(rows[i], column[i]);
}

uint8_t nibble(char c) {
  return static_cast<uint8_t>(c >= 'a' ? c - 'a' + 10 : c - '0');
}

void load_measured(const Hdf5File& file, std::vector<Measured>& rows) {
  load_column<int64_t>(file, "/bytes", DType::i64, rows, [](Measured& m, int64_t v) { m.bytes = v; });
  load_column<int64_t>(file, "/width", DType::i64, rows, [](Measured& m, int64_t v) { m.width = v; });
  load_column<int64_t>(file, "/height", DType::i64, rows, [](Measured& m, int64_t v) { m.height = v; });
  load_column<int64_t>(file, "/phash", DType::i64, rows,
                       [](Measured& m, int64_t v) { m.phash = static_cast<uint64_t>(v); });
  if (file.exists("/note"))
    load_column<uint8_t>(file, "/note", DType::u8, rows, [&](Measured& m, uint8_t code) {
      if (code >= note_names().size()) {
        throw DataError(
            fmt::format("bad ledger: {}: unknown note {}; run the stage again", file.path(), code));
      }
      m.note = static_cast<DecodeNote>(code);
    });
  if (file.exists("/coding"))
    load_column<uint8_t>(file, "/coding", DType::u8, rows, [&](Measured& m, uint8_t code) {
      if (code >= coding_names().size())
        throw DataError(
            fmt::format("bad ledger: {}: unknown coding {}; run the stage again", file.path(), code));
      m.coding = static_cast<Coding>(code);
    });
  for (const QualityColumn& column : kQuality) {
    load_column<float>(file, column.name, DType::f32, rows,
                       [&](Measured& m, float v) { m.quality.*column.field = v; });
  }
  const std::vector<std::string> formats = file.read_strings("/format"),
                                 digests = file.read_strings("/sha256");
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].format = formats.at(i);
    for (size_t b = 0; b < 32 && digests.at(i).size() == 64; ++b) {
      rows[i].sha256[b] =
          static_cast<uint8_t>(nibble(digests[i][2 * b]) << 4 | nibble(digests[i][2 * b + 1]));
    }
  }
  if (!file.exists("/fault/row")) return;
  const Tensor faults = file.read("/fault/row", DType::i64);
  const std::vector<std::string> messages = file.read_strings("/fault/message");
  for (int64_t i = 0; i < faults.numel(); ++i) {
    rows.at(static_cast<size_t>(faults.as<int64_t>()[i])).message = messages.at(static_cast<size_t>(i));
  }
}

void load_verdicts(const Hdf5File& file, std::vector<Verdict>& rows) {
  load_column<uint8_t>(file, "/reason", DType::u8, rows, [&](Verdict& v, uint8_t code) {
    if (code >= reason_names().size()) {
      throw DataError(
          fmt::format("bad ledger: {}: unknown reason {}; run the stage again", file.path(), code));
    }
    v.reason = static_cast<Reason>(code);
  });
  load_column<uint8_t>(file, "/stage", DType::u8, rows,
                       [](Verdict& v, uint8_t code) { v.stage = static_cast<Stage>(code); });
  load_column<int64_t>(file, "/representative", DType::i64, rows,
                       [](Verdict& v, int64_t row) { v.representative = row; });
  load_column<float>(file, "/similarity", DType::f32, rows, [](Verdict& v, float x) { v.similarity = x; });
  load_column<float>(file, "/value", DType::f32, rows, [](Verdict& v, float x) { v.value = x; });
  load_column<float>(file, "/threshold", DType::f32, rows, [](Verdict& v, float x) { v.threshold = x; });
}

}  // namespace

std::string newest_ledger(const std::string& out) {
  if (path_exists(out + "/manifest.json") && path_exists(out + "/ledger.h5")) return out + "/ledger.h5";
  for (const char* stage : {"export", "balance", "decontaminate", "dedup", "filter", "ingest"}) {
    const std::string path = fmt::format("{}/stages/{}.h5", out, stage);
    if (path_exists(path)) return path;
  }
  if (!is_folder(out)) {
    throw MissingInputError(
        fmt::format("no curation: {}: there is no such folder; name one that `run` wrote", out));
  }
  throw UpstreamError(
      fmt::format("no ledger: {}: ingest is not complete; run `dino-curate ingest` first", out));
}

Verdict verdict_of(Reason reason, Stage stage) {
  constexpr float none = std::numeric_limits<float>::quiet_NaN();
  return {reason, stage, -1, 0, none, none};
}

std::string location_of(const std::string& path, int64_t offset) {
  return offset == 0 ? path : fmt::format("{}@{}", path, offset);
}

bool represents_before(const Ledger& ledger, int64_t a, int64_t b) {
  const Measured& x = ledger.measured[static_cast<size_t>(a)];
  const Measured& y = ledger.measured[static_cast<size_t>(b)];
  return std::tuple(y.width * y.height, y.coding, y.bytes, a) <
         std::tuple(x.width * x.height, x.coding, x.bytes, b);
}

std::vector<double> representative_ranks(const Ledger& ledger, const std::vector<int64_t>& rows) {
  std::vector<size_t> order(rows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return represents_before(ledger, rows[a], rows[b]); });
  std::vector<double> ranks(rows.size());
  for (size_t place = 0; place < order.size(); ++place)
    ranks[order[place]] = static_cast<double>(rows.size() - place);
  return ranks;
}

std::span<const Stage> dropping_stages() {
  static constexpr std::array<Stage, 7> stages = {Stage::ingest,  Stage::embed,         Stage::filter,
                                                  Stage::dedup,   Stage::decontaminate, Stage::balance,
                                                  Stage::exported};
  return stages;
}

std::string hex(const std::array<uint8_t, 32>& digest) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (uint8_t byte : digest) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

std::array<uint8_t, 32> sha256_of(std::span<const uint8_t> bytes) {
  const std::string text = sha256_hex(std::as_bytes(bytes));
  std::array<uint8_t, 32> digest{};
  for (size_t i = 0; i < 32; ++i)
    digest[i] = static_cast<uint8_t>(nibble(text[2 * i]) << 4 | nibble(text[2 * i + 1]));
  return digest;
}

void Ledger::resize(int64_t rows) {
  const auto n = static_cast<size_t>(rows);
  key.resize(n), source.resize(n), path.resize(n), offset.resize(n), measured.resize(n);
  verdict.resize(n, verdict_of(Reason::kept, Stage::none));
  leak.resize(n, -1);
}

void Ledger::drop(int64_t row, Verdict dropped) {
  Verdict& current = verdict[static_cast<size_t>(row)];
  if (current.reason == Reason::kept) current = dropped;
}

std::vector<int64_t> Ledger::kept_rows() const {
  std::vector<int64_t> rows_kept;
  for (int64_t i = 0; i < rows(); ++i) {
    if (kept(i)) rows_kept.push_back(i);
  }
  return rows_kept;
}

std::vector<int64_t> Ledger::counts() const {
  std::vector<int64_t> counts(reason_names().size(), 0);
  for (const Verdict& v : verdict) ++counts[static_cast<size_t>(v.reason)];
  DINO_CHECK(std::accumulate(counts.begin(), counts.end(), int64_t{0}) == rows(), "records were lost");
  return counts;
}

void Ledger::save(const std::string& path_, const std::string& config_hash,
                  const std::function<void(Hdf5File&)>& extra) const {
  commit_hdf5(path_, [&](Hdf5File& file) {
    file.write_attribute("/", "schema", kSchema);
    if (!config_hash.empty()) file.write_attribute("/", "config_hash", config_hash);
    file.write_strings("/key", key);
    file.write_strings("/source", source);
    file.write_strings("/path", path);
    write_column<int64_t>(file, "/offset", offset, [](int64_t v) { return v; });
    std::vector<std::string> locations;
    for (size_t i = 0; i < path.size(); ++i) locations.push_back(location_of(path[i], offset[i]));
    file.write_strings("/location", locations);
    write_measured(file, measured);
    write_verdicts(file, verdict);
    for (size_t level = 0; level < cluster.size(); ++level) {
      write_column<int64_t>(file, fmt::format("/cluster/level{}", level + 1), cluster[level],
                            [](int64_t v) { return v; });
    }
    write_column<int64_t>(file, "/leak", leak, [](int64_t v) { return v; });
    if (!excluded.empty()) file.write_strings("/excluded/key", excluded);
    if (!exported.empty()) file.write_strings("/exported", exported);
    if (extra) extra(file);
  });
}

Ledger Ledger::load(const std::string& path_, const std::string& remedy) {
  const Hdf5File file = open_sealed(path_, remedy);
  if (!file.has_attribute("/", "schema") || file.attribute_number("/", "schema") != kSchema) {
    throw DataError(fmt::format("not a ledger of this version: {}; run the stage again", path_));
  }
  Ledger ledger;
  ledger.key = file.read_strings("/key");
  ledger.resize(static_cast<int64_t>(ledger.key.size()));
  ledger.source = file.read_strings("/source");
  ledger.path = file.read_strings("/path");
  ledger.offset = read_column<int64_t>(file, "/offset", DType::i64, ledger.rows());
  load_measured(file, ledger.measured);
  load_verdicts(file, ledger.verdict);
  for (size_t level = 1; file.exists(fmt::format("/cluster/level{}", level)); ++level) {
    ledger.cluster.push_back(
        read_column<int64_t>(file, fmt::format("/cluster/level{}", level), DType::i64, ledger.rows()));
  }
  ledger.leak = read_column<int64_t>(file, "/leak", DType::i64, ledger.rows());
  if (file.exists("/excluded/key")) ledger.excluded = file.read_strings("/excluded/key");
  if (file.exists("/exported")) ledger.exported = file.read_strings("/exported");
  return ledger;
}

}  // namespace dino::curation
