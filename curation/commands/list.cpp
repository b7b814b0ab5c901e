// SPDX-License-Identifier: Apache-2.0
// dino-curate list: the ledger's rows as a table, CSV or JSON, chunk by chunk.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "base/working.hpp"
#include "commands.hpp"
#include "ledger.hpp"
#include "storage/seal.hpp"

namespace dino::curation {
namespace {

constexpr int64_t kChunk = 8192;  ///< rows in memory

struct ListConfig {
  std::vector<std::string> reasons, columns;
  bool csv = false;
};

Schema<ListConfig> list_options() {
  using C = ListConfig;
  Schema<C> schema;
  schema
      .add("reason", &C::reasons,
           "Only the rows of these reasons: kept, too_small, near_duplicate, ... (separated by commas).")
      .add("columns", &C::columns, "The columns to print, in this order (separated by commas).")
      .add("csv", &C::csv, "Comma separated values instead of a table.");
  return schema;
}

/// One value, as it is shown. An empty number is one that there is not: a measure without pixels, say.
struct Cell {
  std::string text;
  bool is_number = false;
};
using Cells = std::vector<Cell>;

struct Column {
  std::string name;
  bool short_list = false;  ///< in the table, where no columns are named
  /// Values of rows [begin, begin + count).
  std::function<Cells(const Hdf5File& file, int64_t begin, int64_t count)> read;
};

Cell number(int64_t value) {
  return {std::to_string(value), true};
}
Cell real(float value) {
  return {std::isfinite(value) ? fmt::format("{}", value) : "", true};
}

template <class T, class Show>
Cells read_numbers(const Hdf5File& file, const std::string& name, DType dtype, int64_t begin, int64_t count,
                   const Show& show) {
  Tensor part(Shape{count}, dtype);
  file.read_rows(name, begin, part.view());
  Cells cells;
  cells.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) cells.push_back(show(part.as<T>()[i]));
  return cells;
}

Column integers(const std::string& name, bool short_list = false) {
  return {name, short_list, [name](const Hdf5File& file, int64_t begin, int64_t count) {
            return read_numbers<int64_t>(file, "/" + name, DType::i64, begin, count, number);
          }};
}

Column reals(const std::string& name, bool short_list = false) {
  return {name, short_list, [name](const Hdf5File& file, int64_t begin, int64_t count) {
            return read_numbers<float>(file, "/" + name, DType::f32, begin, count, real);
          }};
}

Column texts(const std::string& name, bool short_list = false) {
  return {name, short_list, [name](const Hdf5File& file, int64_t begin, int64_t count) {
            Cells cells;
            for (std::string& text : file.read_strings("/" + name, begin, count)) {
              // Ledgers hold printable names; a file from elsewhere may not.
              cells.push_back({printable_line(text), false});
            }
            return cells;
          }};
}

/// A code, shown as its name.
Column codes(const std::string& name, const std::vector<std::string>& names, bool short_list = false) {
  return {
      name, short_list, [name, names](const Hdf5File& file, int64_t begin, int64_t count) {
        return read_numbers<uint8_t>(file, "/" + name, DType::u8, begin, count, [&](uint8_t code) {
          if (code >= names.size())
            throw DataError(fmt::format("bad ledger: {}: /{} holds the unknown code {}; run the stage again",
                                        file.path(), name, code));
          return Cell{names[code], false};
        });
      }};
}

/// Why an image could not be decoded: of few rows, which ascend.
Column messages() {
  return {"message", false, [](const Hdf5File& file, int64_t begin, int64_t count) {
            Cells cells(static_cast<size_t>(count));
            if (!file.exists("/fault/row")) return cells;
            const Tensor rows = file.read("/fault/row", DType::i64);
            const int64_t* first =
                std::lower_bound(rows.as<int64_t>(), rows.as<int64_t>() + rows.numel(), begin);
            const int64_t* last = std::lower_bound(first, rows.as<int64_t>() + rows.numel(), begin + count);
            const auto texts = file.read_strings("/fault/message", first - rows.as<int64_t>(), last - first);
            for (const int64_t* row = first; row < last; ++row)
              cells.at(static_cast<size_t>(*row - begin)).text =
                  printable_line(texts[static_cast<size_t>(row - first)]);
            return cells;
          }};
}

/// The excluded image that a row is a near-copy of.
Column leaks() {
  return {"leak", false, [](const Hdf5File& file, int64_t begin, int64_t count) {
            return read_numbers<int64_t>(file, "/leak", DType::i64, begin, count, [&](int64_t leak) {
              return leak < 0 ? Cell{}
                              : Cell{printable_line(file.read_strings("/excluded/key", leak, 1)[0]), false};
            });
          }};
}

std::vector<Column> columns_of(const Hdf5File& file) {
  std::vector<Column> columns = {
      {"row", true,
       [](const Hdf5File& /*file*/, int64_t begin, int64_t count) {
         Cells cells;
         for (int64_t i = 0; i < count; ++i) cells.push_back(number(begin + i));
         return cells;
       }},
      texts("key", true),
      codes("decision", {"kept", "dropped"}, true),
      codes("reason", reason_names(), true),
      codes("stage", stage_names()),
      integers("representative", true),
      reals("similarity", true),
      reals("value"),
      reals("threshold"),
      leaks(),
      integers("width", true),
      integers("height", true),
      integers("bytes"),
      texts("format", true),
      codes("coding", coding_names()),
      codes("note", note_names()),
      messages(),
      texts("sha256"),
      {"phash", false,
       [](const Hdf5File& ledger, int64_t begin, int64_t count) {
         return read_numbers<int64_t>(ledger, "/phash", DType::i64, begin, count, [](int64_t hash) {
           return Cell{fmt::format("{:016x}", static_cast<uint64_t>(hash)), false};
         });
       }},
      reals("blur"),
      reals("entropy"),
      reals("brightness"),
      reals("contrast"),
      reals("saturation"),
      reals("border"),
      texts("source"),
      texts("location"),
      texts("exported")};
  // Of a stage's ledger some are missing, and those of earlier versions have fewer.
  std::erase_if(columns, [&](const Column& column) {
    return column.name != "row" && column.name != "message" && !file.exists("/" + column.name);
  });
  for (int level = 1; file.exists(fmt::format("/cluster/level{}", level)); ++level)
    columns.push_back(integers(fmt::format("cluster/level{}", level)));
  return columns;
}

/// A word of an option must be one of `names`.
void require_known(const std::string& option, const std::string& word,
                   const std::vector<std::string>& names) {
  if (std::find(names.begin(), names.end(), word) != names.end()) return;
  const std::string nearest = nearest_name(word, names);
  throw UsageError(fmt::format("bad option: --{}: '{}' is none of them; {}", option, printable_name(word),
                               nearest.empty() ? fmt::format("there are {}", fmt::join(names, ", "))
                                               : "did you mean " + nearest + "?"));
}

std::vector<std::string> words_of(const std::vector<std::string>& values) {
  std::vector<std::string> words;
  for (const std::string& value : values)
    for (const std::string& word : split(value, ','))
      if (!trim(word).empty()) words.push_back(trim(word));
  return words;
}

std::vector<Column> chosen_columns(const Hdf5File& file, const ListConfig& config, bool table) {
  std::vector<Column> all = columns_of(file), chosen;
  std::vector<std::string> names;
  for (const Column& column : all) names.push_back(column.name);
  for (const std::string& word : words_of(config.columns)) {
    require_known("columns", word, names);
    chosen.push_back(*std::find_if(all.begin(), all.end(), [&](const Column& c) { return c.name == word; }));
  }
  if (!chosen.empty()) return chosen;
  if (table) std::erase_if(all, [](const Column& column) { return !column.short_list; });
  return all;
}

/// Rows are written as they come: a ledger may be larger than the memory.
class Printer {
 public:
  enum class Form { table, csv, json };
  Printer(Form form, std::vector<std::string> names) : form_(form), names_(std::move(names)) {}

  void begin(const std::string& out) {
    if (form_ == Form::csv) put_csv([&](size_t i) { return names_[i]; });
    if (form_ != Form::json) return;
    text_ = fmt::format("{{\"output\":{},\"columns\":{},\"rows\":[", json_line(out), json_line(names_));
  }
  /// One vector of cells a column; `rows`: which of them are wanted.
  void chunk(const std::vector<Cells>& columns, const std::vector<size_t>& rows) {
    if (form_ == Form::table) set_widths(columns, rows);
    for (const size_t row : rows) {
      if (form_ == Form::csv) put_csv([&](size_t i) { return columns[i][row].text; });
      if (form_ == Form::table) put_line([&](size_t i) { return columns[i][row]; });
      if (form_ == Form::json) put_object(columns, row);
      ++count_;
    }
    flush();
  }
  int64_t finish() {
    if (form_ == Form::json) text_ += fmt::format("],\"count\":{}}}\n", count_);
    flush();
    return count_;
  }

 private:
  /// RFC 4180: what holds a comma, a quote or a line break stands in quotes, and a quote is doubled.
  template <class Get>
  void put_csv(const Get& get) {
    for (size_t i = 0; i < names_.size(); ++i) {
      const std::string value = get(i);
      if (i > 0) text_ += ',';
      if (value.find_first_of(",\"\r\n") == std::string::npos) {
        text_ += value;
        continue;
      }
      text_ += '"';
      for (const char c : value) text_ += c == '"' ? std::string("\"\"") : std::string(1, c);
      text_ += '"';
    }
    text_ += '\n';
  }
  void put_object(const std::vector<Cells>& columns, size_t row) {
    text_ += count_ == 0 ? "{" : ",{";
    for (size_t i = 0; i < names_.size(); ++i) {
      const Cell& cell = columns[i][row];
      text_ += fmt::format("{}{}:{}", i == 0 ? "" : ",", json_line(names_[i]),
                           !cell.is_number     ? json_line(cell.text)
                           : cell.text.empty() ? "null"
                                               : cell.text);
    }
    text_ += '}';
  }
  /// Columns are as wide as the first chunk needs; a later value may stand out.
  void set_widths(const std::vector<Cells>& columns, const std::vector<size_t>& rows) {
    if (!widths_.empty()) return;
    for (size_t i = 0; i < names_.size(); ++i) {
      widths_.push_back(names_[i].size());
      for (const size_t row : rows) widths_[i] = std::max(widths_[i], columns[i][row].text.size());
    }
    put_line([&](size_t i) { return Cell{names_[i], false}; });
  }
  template <class Get>
  void put_line(const Get& get) {
    std::string line;
    for (size_t i = 0; i < names_.size(); ++i) {
      const Cell cell = get(i);
      line += cell.is_number ? fmt::format("{:>{}}  ", cell.text, widths_[i])
                             : fmt::format("{:<{}}  ", cell.text, widths_[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text_ += line + '\n';
  }
  void flush() {
    if (std::fwrite(text_.data(), 1, text_.size(), stdout) != text_.size())
      throw IoError("cannot write: stdout: the rows could not be written; is the disk full?");
    text_.clear();
  }

  Form form_;
  std::vector<std::string> names_;
  std::vector<size_t> widths_;
  std::string text_;
  int64_t count_ = 0;
};

ExitCode list_rows(const ListConfig& config, CommandContext& context) {
  const std::string& out = context.common.output;
  if (config.csv && context.common.json)
    throw UsageError("bad option: --csv: it excludes --json; give one of them");
  const std::vector<std::string> reasons = words_of(config.reasons);
  for (const std::string& reason : reasons) require_known("reason", reason, reason_names());
  const std::string path = newest_ledger(out);
  const Hdf5File file = open_sealed(path, "make it again, or copy it again");
  const auto form = context.common.json ? Printer::Form::json
                    : config.csv        ? Printer::Form::csv
                                        : Printer::Form::table;
  const std::vector<Column> columns = chosen_columns(file, config, form == Printer::Form::table);
  std::vector<std::string> names;
  for (const Column& column : columns) names.push_back(column.name);
  const Column reason = codes("reason", reason_names());
  const int64_t rows = file.info("/key").dims.at(0);
  Printer printer(form, names);
  printer.begin(out);
  context.printed = true;
  for (int64_t begin = 0; begin < rows; begin += kChunk) {
    work_point();
    const int64_t count = std::min(kChunk, rows - begin);
    std::vector<size_t> wanted;
    const Cells why = reason.read(file, begin, count);
    for (size_t i = 0; i < why.size(); ++i)
      if (reasons.empty() || std::find(reasons.begin(), reasons.end(), why[i].text) != reasons.end())
        wanted.push_back(i);
    if (wanted.empty()) continue;
    std::vector<Cells> cells;
    for (const Column& column : columns) cells.push_back(column.read(file, begin, count));
    printer.chunk(cells, wanted);
  }
  const int64_t shown = printer.finish();
  log::info(fmt::format("{} of {} images of {}", shown, rows, path));
  return ExitCode::done;
}

}  // namespace

Command list_command() {
  Command command;
  command.name = "list";
  command.summary = "print the ledger: one row per image, and why it was kept or dropped";
  command.usage = "--output OUT [--reason R...] [--columns a,b] [--csv|--json]";
  command.description =
      "Prints the rows of the newest ledger of OUT in the order of the input: a table of the main columns, "
      "with "
      "--csv all columns as comma separated values (quoted as RFC 4180 says), with --json one object whose "
      "`rows` are objects. A measure that there is not is empty, in JSON null. --columns chooses and orders "
      "the "
      "columns; they are named as in ledger.h5, and beside them `row` and `message`. Rows are read and "
      "printed "
      "in chunks, so that memory does not grow with their number. Bytes of names that are no printable UTF-8 "
      "are shown as \\xNN.\n\n"
      "Fails with 64 for an unknown column or reason, with 66 when there is no such curation, with 77 when "
      "its "
      "first stage is not complete.";
  command.uses_mpi = false;
  command.output = "Folder of the curation.";
  command.examples = {{"--output curated --reason near_duplicate --columns key,representative,similarity"},
                      {"--output curated --csv"}};
  command.make = with_options(list_options(), list_rows);
  return command;
}

}  // namespace dino::curation
