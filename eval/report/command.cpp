// SPDX-License-Identifier: Apache-2.0
// The report in four forms from the same store.
#include <fmt/format.h>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/version.hpp"
#include "commands.hpp"
#include "options.hpp"
#include "report/html.hpp"
#include "report/parts.hpp"
#include "storage/files.hpp"

namespace dino::eval {

std::string report_html(const ReportInput& input, const std::string& title) {
  const std::vector<Check> checks = verdict_checks(input);
  const ModelColours colours(input);
  std::string subtitle = fmt::format("{} results", all_rows(input).size());
  if (input.training) subtitle += fmt::format(", training run {}", dataset_name(input.training->folder));
  if (input.curation) subtitle += fmt::format(", curation {}", dataset_name(input.curation->folder));
  report::Page page(title, subtitle);
  page.section("summary", "Summary", summary_html(input, colours, checks));
  const bool any = !all_rows(input).empty();
  if (input.training) page.section("training", "Training", training_html(*input.training, colours));
  if (input.curation) page.section("curation", "Curation", curation_html(*input.curation));
  if (const std::string html = pictures_html(input); !html.empty())
    page.section("pictures", "Pictures", html);
  if (any) page.section("results", "Results", results_html(input, colours));
  if (const std::string html = comparisons_html(input, colours); !html.empty())
    page.section("comparisons", "Paired comparisons", html);
  if (const std::string html = confusion_html(input); !html.empty())
    page.section("confusions", "Confusions", html);
  if (any) page.section("protocols", "Protocol cards", cards_html(input));
  if (!input.references.empty()) page.section("published", "Published figures", references_html(input));
  page.section("provenance", "Provenance", provenance_html(input));
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const LocatedRow& located : all_rows(input))
    rows.push_back(nlohmann::ordered_json::parse(to_json_line(*located.row)));
  page.section("data", "Data",
               "<p class=\"note\">All results are embedded in this page as JSON in the element "
               "<code>results-json</code>; the same rows lie beside it as .jsonl and .csv.</p>");
  page.data("results-json", json_line(rows));
  return page.html();
}

namespace {

/// RFC 4180. A spreadsheet takes a cell that begins with one of =+-@ for a formula: a quote in front keeps it
/// text.
std::string csv_cell(std::string text) {
  if (!text.empty() && std::string_view("=+-@\t\r").find(text[0]) != std::string_view::npos)
    text = "'" + text;
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

}  // namespace

std::string report_markdown(const ReportInput& input, const std::string& title) {
  using report::escape_markdown;
  std::string out = "# " + escape_markdown(title) + "\n\n## Verdict\n\n";
  constexpr const char* words[] = {"good", "attention", "problem"};
  for (const Check& c : verdict_checks(input))
    out += fmt::format("- **{}: {}.** {}\n", words[static_cast<size_t>(c.level)], escape_markdown(c.title),
                       escape_markdown(c.why + (c.detail.empty() ? "" : " ") +
                                       fmt::format("{}", fmt::join(c.detail, "; "))));
  out +=
      "\n## Results\n\n| task | data set | model | metric | variant | value [95 %] | n | oracle | card "
      "|\n|---|---|---|---|---|---|---|---|---|\n";
  for (const LocatedRow& located : all_rows(input)) {
    const ResultRow& r = *located.row;
    out += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", escape_markdown(r.task),
                       escape_markdown(r.dataset), escape_markdown(r.model), escape_markdown(r.metric),
                       escape_markdown(variant_of(r)), with_interval(r.estimate), r.estimate.n,
                       r.oracle ? fmt::format("{:.3f}", *r.oracle) : "", r.card_hash.substr(0, 8));
  }
  if (!input.references.empty()) {
    out +=
        "\n## Published figures (other data, not comparable)\n\n| task | data set | model | metric | value | "
        "source |\n|---|---|---|---|---|---|\n";
    for (const ReferenceRow& r : input.references)
      out += fmt::format("| {} | {} | {} | {} | {:.3f} | {} |\n", escape_markdown(r.task),
                         escape_markdown(r.dataset), escape_markdown(r.model), escape_markdown(r.metric),
                         r.value, escape_markdown(r.source));
  }
  return out;
}

std::string report_csv(const ReportInput& input) {
  std::string out = "task,dataset,model,metric,variant,value,low,high,n,oracle,card_hash,weights,seconds\n";
  for (const LocatedRow& located : all_rows(input)) {
    const ResultRow& r = *located.row;
    out += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{}\n", csv_cell(r.task), csv_cell(r.dataset),
                       csv_cell(r.model), csv_cell(r.metric), csv_cell(variant_of(r)), r.estimate.value,
                       r.estimate.low, r.estimate.high, r.estimate.n,
                       r.oracle ? fmt::format("{}", *r.oracle) : "", r.card_hash, r.weights, r.seconds);
  }
  return out;
}

std::string report_jsonl(const ReportInput& input) {
  std::string out;
  for (const LocatedRow& located : all_rows(input)) out += to_json_line(*located.row) + "\n";
  return out;
}

namespace {

struct ReportConfig {
  std::vector<std::string> results;
  std::string curation, run, chain, title = "Evaluation report";
  bool references = true;
};

ReportInput read_input(const ReportConfig& config) {
  ReportInput input;
  for (const std::string& folder : config.results) {
    if (!path_exists(folder + "/results.jsonl") && !is_folder(folder + "/pictures"))
      throw MissingInputError(
          "making a report: --results " + folder +
          ": has neither results.jsonl nor pictures/; name a folder that a dino-eval command wrote");
    input.results.push_back({folder, read_results(folder + "/results.jsonl"), read_pictures(folder)});
  }
  if (!config.curation.empty()) input.curation = read_curation(config.curation);
  if (!config.run.empty()) input.training = read_training_run(config.run);
  if (!config.chain.empty()) input.chain = read_chain(config.chain);
  if (const std::string path = share_dir() + "/report/reference_rows.csv";
      config.references && path_exists(path))
    input.references = read_reference_rows(path);
  return input;
}

ExitCode run_report(CommandContext& context, const ReportConfig& config) {
  if (!context.world.root()) return ExitCode::done;
  const log::Phase phase("report");
  const std::string& output = context.common.output;
  if (!output.ends_with(".html"))
    throw UsageError("making a report: --output " + output +
                     ": must end in .html; the other forms lie beside it");
  const ReportInput input = read_input(config);
  const std::string html = report_html(input, config.title);
  if (context.common.dry_run) return ExitCode::done;
  const std::string stem = output.substr(0, output.size() - 5);
  if (const size_t slash = output.rfind('/'); slash != std::string::npos && slash > 0)
    make_folders(output.substr(0, slash));
  write_file_atomically(output, html);
  write_file_atomically(stem + ".md", report_markdown(input, config.title));
  write_file_atomically(stem + ".csv", report_csv(input));
  write_file_atomically(stem + ".jsonl", report_jsonl(input));
  log::info(fmt::format("{} ({:.1f} MB), and {}.md, .csv, .jsonl", output,
                        static_cast<double>(html.size()) * 1e-6, stem));
  nlohmann::ordered_json json{
      {"report", output}, {"results", all_rows(input).size()}, {"checks", nlohmann::ordered_json::array()}};
  constexpr const char* levels[] = {"green", "amber", "red"};
  for (const Check& c : verdict_checks(input))
    json["checks"].push_back({{"level", levels[static_cast<size_t>(c.level)]},
                              {"title", c.title},
                              {"why", c.why},
                              {"detail", c.detail}});
  context.result = json_line(json);
  return ExitCode::done;
}

}  // namespace

namespace {

Schema<ReportConfig> report_options() {
  using C = ReportConfig;
  Schema<C> schema;
  schema.add("results", &C::results, "Results folders.").positional();
  schema.add("curation", &C::curation, "Output folder of dino-curate.");
  schema.add("run", &C::run, "Run folder of dino-pretrain.");
  schema.add("chain", &C::chain, "Run folder of dino-jobs: for wall times and commands.");
  schema.add("title", &C::title, "Title of the page.");
  schema.add("references", &C::references, "Append published figures, marked as not comparable.");
  return schema;
}

ExitCode start_report(ReportConfig config, CommandContext& context) {
  if (config.results.empty() && config.curation.empty() && config.run.empty())
    throw UsageError(
        "making a report: --results, --curation, --run: all are missing; name at least one input");
  return run_report(context, config);
}

}  // namespace

Command report_command() {
  Command command;
  command.name = "report";
  command.summary = "Make one self-contained HTML report (and Markdown, CSV, JSON Lines)";
  command.usage = "--results RESULTS... [--curation OUT] [--run RUN] [--chain RUN] --output report.html";
  command.description =
      "Reads results.jsonl, predictions and pictures of one or more results folders, and optionally a "
      "curation (manifest.json, funnel.json, galleries.json) and a "
      "training run (metrics.jsonl, config.ini, run.json) and of the chain that ran it all. The curation's "
      "ledger.h5, dedup.h5 and embeddings.h5 give its galleries. The page needs neither network nor "
      "JavaScript. "
      "Equal inputs give equal bytes.";
  command.uses_mpi = false;
  command.output = "Page to write, ending in .html.";
  command.examples = {{"--results results --curation curated --run run --output report.html"}};
  command.make = with_options(report_options(), start_report);
  return command;
}

}  // namespace dino::eval
