// SPDX-License-Identifier: Apache-2.0
// dino-curate explain KEY: why was this image kept or dropped?
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <memory>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/text.hpp"
#include "commands.hpp"
#include "datasets/dataset_builder.hpp"
#include "ledger.hpp"
#include "storage/files.hpp"

namespace dino::curation {
namespace {

/// A key as the ledger shows it or as the file has it, a path, or a name in the exported tars.
int64_t find_row(const Ledger& ledger, const std::string& wanted, const std::string& out) {
  const std::string shown = printable_name(wanted), stem = without_extension(wanted);
  const auto find = [&](const auto& matches) {
    for (int64_t row = 0; row < ledger.rows(); ++row)
      if (matches(static_cast<size_t>(row))) return row;
    return int64_t{-1};
  };
  for (const int64_t row :
       {find([&](size_t at) { return ledger.key[at] == wanted; }),
        find([&](size_t at) { return ledger.key[at] == shown || ledger.path[at] == shown; }),
        find([&](size_t at) { return !ledger.exported.empty() && ledger.exported[at] == wanted; }),
        find([&](size_t at) { return !ledger.exported.empty() && ledger.exported[at] == stem; })})
    if (row >= 0) return row;
  throw MissingInputError(fmt::format(
      "unknown key: {}: none of the {} images of {} has this key or path; a key is the path below the input "
      "without its extension",
      wanted, ledger.rows(), out));
}

std::string verdict_text(const Ledger& ledger, int64_t row) {
  const auto at = static_cast<size_t>(row);
  const Verdict& v = ledger.verdict[at];
  std::string text = name_of(v.reason);
  if (v.representative >= 0) {
    text += fmt::format(", represented by {} (row {}, similarity {:.4f})",
                        ledger.key[static_cast<size_t>(v.representative)], v.representative, v.similarity);
  }
  if (std::isfinite(v.threshold))
    text += fmt::format(", {:g} against the threshold {:g}", v.value, v.threshold);
  if (!ledger.measured[at].message.empty()) text += ": " + ledger.measured[at].message;
  const int64_t leak = ledger.leak[at];
  if (leak >= 0)
    text += fmt::format(", near-copy of the excluded {}", ledger.excluded[static_cast<size_t>(leak)]);
  return text;
}

void print_text(const Ledger& ledger, int64_t row) {
  const auto at = static_cast<size_t>(row);
  const Measured& m = ledger.measured[at];
  const Verdict& v = ledger.verdict[at];
  fmt::print("key            {}\nrow            {}\nsource         {}\nlocation       {}\n", ledger.key[at],
             row, ledger.source[at], location_of(ledger.path[at], ledger.offset[at]));
  if (!ledger.exported.empty() && !ledger.exported[at].empty())
    fmt::print("exported       {}\n", ledger.exported[at]);
  fmt::print("file           {}, {} x {}, {} bytes\nsha256         {}\nphash          {:016x}\n",
             m.format.empty() ? "unknown format" : m.format, m.width, m.height, m.bytes, hex(m.sha256),
             m.phash);
  if (m.note != DecodeNote::none)
    fmt::print("note           {}\n", note_names()[static_cast<size_t>(m.note)]);
  if (std::isfinite(m.quality.blur)) {
    const QualityMeasures& q = m.quality;
    fmt::print(
        "measures       blur {:.1f}, entropy {:.2f} bits, brightness {:.1f}, contrast {:.1f}, saturation "
        "{:.1f}, border {:.3f}\n",
        q.blur, q.entropy, q.brightness, q.contrast, q.saturation, q.border);
  }
  for (const Stage stage : dropping_stages()) {
    const bool here = v.reason != Reason::kept && v.stage == stage;
    fmt::print("{:<15}{}\n", stage_names()[static_cast<size_t>(stage)],
               here ? "dropped: " + verdict_text(ledger, row) : "passed");
    if (here) break;
  }
  for (size_t level = 0; level < ledger.cluster.size(); ++level) {
    if (ledger.cluster[level][at] >= 0) fmt::print("cluster {:<7}{}\n", level + 1, ledger.cluster[level][at]);
  }
  for (int64_t other = 0; other < ledger.rows(); ++other) {
    const Verdict& o = ledger.verdict[static_cast<size_t>(other)];
    if (o.representative == row && o.reason != Reason::leak_group) {
      fmt::print("stands for     {} ({}, similarity {:.4f})\n", ledger.key[static_cast<size_t>(other)],
                 name_of(o.reason), o.similarity);
    }
  }
  fmt::print("decision       {}\n",
             v.reason == Reason::kept ? "kept" : fmt::format("dropped: {}", name_of(v.reason)));
}

std::string as_json(const Ledger& ledger, int64_t row) {
  const auto at = static_cast<size_t>(row);
  const Measured& m = ledger.measured[at];
  const Verdict& v = ledger.verdict[at];
  nlohmann::ordered_json out = {{"key", ledger.key[at]},
                                {"row", row},
                                {"source", ledger.source[at]},
                                {"location", location_of(ledger.path[at], ledger.offset[at])},
                                {"exported", ledger.exported.empty() ? "" : ledger.exported[at]},
                                {"format", m.format},
                                {"width", m.width},
                                {"height", m.height},
                                {"bytes", m.bytes},
                                {"sha256", hex(m.sha256)},
                                {"phash", fmt::format("{:016x}", m.phash)},
                                {"decision", v.reason == Reason::kept ? "kept" : "dropped"},
                                {"reason", name_of(v.reason)},
                                {"stage", stage_names()[static_cast<size_t>(v.stage)]},
                                {"explanation", verdict_text(ledger, row)}};
  if (m.note != DecodeNote::none) out["note"] = note_names()[static_cast<size_t>(m.note)];
  if (std::isfinite(m.quality.blur)) {
    out["measures"] = {{"blur", m.quality.blur},
                       {"entropy", m.quality.entropy},
                       {"brightness", m.quality.brightness},
                       {"contrast", m.quality.contrast},
                       {"saturation", m.quality.saturation},
                       {"border", m.quality.border}};
  }
  if (v.representative >= 0) {
    out["representative"] = ledger.key[static_cast<size_t>(v.representative)];
    out["similarity"] = v.similarity;
  }
  return json_line(out);
}

struct ExplainConfig {
  std::string key;
};

ExitCode explain(const ExplainConfig& config, CommandContext& context) {
  const std::string& out = context.common.output;
  const Ledger ledger = Ledger::load(newest_ledger(out));
  const int64_t row = find_row(ledger, config.key, out);
  context.result = as_json(ledger, row);
  if (!context.common.json) print_text(ledger, row);
  return ExitCode::done;
}

}  // namespace

Command explain_command() {
  Command command;
  command.name = "explain";
  command.summary = "say why an image was kept or dropped";
  command.usage = "KEY --output OUT";
  command.description =
      "Prints what the ledger of OUT knows about one image: where it lies, its measures, the verdict of "
      "every "
      "stage, which image represents it and how similar they are, and which images it stands for. KEY is the "
      "image's key (the path below the input without its extension), its path, or its name in the exported "
      "tars. Bytes that are no printable UTF-8 are shown as \\xNN. Fails with 66 when there is no such "
      "image.";
  command.uses_mpi = false;
  command.output = "Folder of the curation.";
  command.examples = {{"animals/cat_0042 --output curated"}};
  Schema<ExplainConfig> schema;
  schema.add("key", &ExplainConfig::key, "Key or path of the image.").positional().required();
  command.make = with_options(schema, explain);
  return command;
}

}  // namespace dino::curation
