// SPDX-License-Identifier: Apache-2.0
// `run` and its single stages.
#include "commands.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"
#include "pipeline.hpp"
#include "redo.hpp"
#include "stage_settings.hpp"
#include "storage/files.hpp"
#include "storage/output_folder.hpp"
#include "storage/seal.hpp"
#include "vector_commands.hpp"

namespace dino::curation {
namespace {

std::string settings_path(const std::string& out) {
  return out + "/curate.ini";
}
/// Up to so many bytes of results are read again and compared when a curation is started again.
constexpr int64_t kAlwaysVerified = int64_t{8} << 30;

bool same_references(std::vector<std::string> a, std::vector<std::string> b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  return a == b;
}

/// The settings with which OUT was begun last; none where there are none.
std::optional<CurateConfig> known_settings(const std::string& out) {
  const std::string path = settings_path(out);
  if (path_exists(path)) {
    CurateConfig known = parse_settings(read_text(path), path);
    check_settings_file(out, known, path);
    return known;
  }
  if (path_exists(out + "/manifest.json") && !path_exists(out + "/stages/report.json"))
    throw UsageError(fmt::format(
        "output in use: {}: it has a manifest.json but no curate.ini; name another --output", out));
  return std::nullopt;
}

/// Every row of every table is an image of the inputs, in their order: other inputs are another curation.
void require_same_inputs(const std::string& out, const CurateConfig& known, const CurateConfig& config) {
  if (known.input == config.input) return;
  if (same_references(known.input, config.input))
    throw DataError(
        fmt::format("inputs changed: {}: their order is another since this curation began: input: '{}' "
                    "against '{}'; give "
                    "them in that order, or name another --output",
                    out, fmt::join(known.input, ", "), fmt::join(config.input, ", ")));
  throw UsageError(
      fmt::format("inputs changed: {}: this curation was begun over others: input: '{}' against '{}'; name "
                  "another --output",
                  out, fmt::join(known.input, ", "), fmt::join(config.input, ", ")));
}

/// What a start with these settings takes back, before anything is changed.
Redo examine(const std::string& out, const CurateConfig& config) {
  std::error_code none;
  if (!config.embeddings.empty() &&
      std::filesystem::equivalent(config.embeddings, out + "/embeddings.h5", none))
    throw UsageError(
        fmt::format("bad option: --embeddings: {} is what this curation writes; name another --output",
                    config.embeddings));
  if (const auto known = known_settings(out)) require_same_inputs(out, *known, config);
  return plan_redo(out, config);
}

/// Rank 0: the marker of a complete stage, whose files are all there. None when the stage is to be done.
std::optional<StageMarker> complete_marker(Run& run, const std::string& stage) {
  auto marker = read_marker(run.out, stage);
  if (!marker) return marker;
  if (marker->after != run.after) {
    log::warning(fmt::format("{}: the stage before has another result now; done again", stage));
    return std::nullopt;
  }
  check_files(run.out, stage, *marker);
  return marker;
}

void finish_stage(Run& run, const std::string& stage, double seconds) {
  write_marker(run.out, stage, {stage_settings(run.config, stage), run.after, run.wrote, {}});
  run.after = read_marker(run.out, stage)->crc;
  log::info(fmt::format("{}: done in {}", stage, human_seconds(seconds)));
}

/// Copies are not embedded: no GPU is looked for then, unless it is asked for.
void settle_compute(CurateConfig& config, const Communicator& world) {
  if (config.embedding != "copy" || !config.compute.device.is_auto())
    settle_device(config.compute.device, world);
}

/// Runs the stages up to and including `last` that are not complete. False when stopped early.
bool run_stages(Run& run, const std::string& last) {
  for (const StageEntry& stage : stage_entries()) {
    int64_t complete = 0;
    on_root(run.world, [&] {
      const auto marker = complete_marker(run, stage.name);
      complete = marker ? 1 : 0;
      if (marker) run.after = marker->crc;
      run.wrote.clear();
    });
    run.world.broadcast_span(std::span(&complete, 1));
    if (complete != 0) {
      if (run.world.root()) log::info(fmt::format("{}: complete, nothing to do", stage.name));
    } else {
      const log::Phase phase(stage.name);
      const Stopwatch watch;
      // Of a start that was killed, perhaps with other settings.
      on_root(run.world, [&] { remove_outputs(run.out, stage); });
      if (!stage.run(run)) {
        log::warning(fmt::format("{}: stopped early; start the same command again to go on", stage.name));
        return false;
      }
      on_root(run.world, [&] { finish_stage(run, stage.name, watch.seconds()); });
    }
    if (stage.name == last) break;
  }
  if (last == "report") {
    // Units and their descriptors have served; what they held is in the ledger and in embeddings.h5.
    on_root(run.world, [&] {
      std::error_code ignored;
      std::filesystem::remove_all(run.out + "/work", ignored);
    });
  }
  return true;
}

/// Compares the results of all complete stages with their checksums, where they are small or it is asked for.
/// False when stopped early.
bool verify_results(const Run& run, bool always) {
  std::vector<std::string> stages;
  std::vector<StageMarker> markers;
  on_root(run.world, [&] {
    int64_t bytes = 0;
    for (const StageEntry& stage : stage_entries()) {
      auto marker = read_marker(run.out, stage.name);
      if (!marker) break;
      check_files(run.out, stage.name, *marker);
      for (const StageFile& file : marker->files) bytes += file.bytes;
      stages.emplace_back(stage.name);
      markers.push_back(std::move(*marker));
    }
    if (bytes <= kAlwaysVerified || always) return;
    log::info(
        fmt::format("results of {} GiB: sizes and places were compared, not every byte; --verify reads all",
                    bytes >> 30));
    markers.clear();
  });
  return check_contents(run.out, stages, markers, run.world);
}

/// The inputs must be what ingest saw, also when everything is complete.
void compare_with_ingest(Run& run) {
  try {
    compare_listing(run);
  } catch (const MissingInputError& error) {
    if (!path_exists(run.out + "/manifest.json")) throw;
    throw MissingInputError(
        fmt::format("{} [the curation in {} is complete: explain, report and training go without its inputs]",
                    error.what(), run.out));
  }
}

void summarise(const Run& run, CommandContext& context) {
  if (!context.common.json || !run.world.root()) return;
  const std::string path = run.out + "/manifest.json";
  if (path_exists(path)) {
    const std::string text = read_text(path);
    check_sealed_json(text, path, do_again(run.out, "report"));
    auto manifest = nlohmann::ordered_json::parse(text);
    manifest["output"] = run.out;
    context.result = json_line(manifest);
    return;
  }
  nlohmann::ordered_json stages = {{"output", run.out}, {"complete", nlohmann::ordered_json::array()}};
  for (const StageEntry& stage : stage_entries()) {
    if (path_exists(run.stage_file(std::string(stage.name) + ".json")))
      stages["complete"].push_back(stage.name);
  }
  context.result = json_line(stages);
}

/// Without writing: do the inputs open, and what would be done again?
ExitCode dry_run(const CurateConfig& config, const CommandContext& context) {
  on_root(context.world, [&] {
    Run run{context.world, config, context.common.output, {}};
    const Redo redo = examine(run.out, config);
    compare_with_ingest(run);
    if (!redo.stages.empty()) log::info("dry run: " + redo.text());
    log::info(fmt::format("dry run: would curate {} images from {} inputs, {} images excluded; filters: {}",
                          run.listing.items.size(), run.listing.inputs.size(), run.excluded.items.size(),
                          filters_text(config)));
  });
  return ExitCode::done;
}

/// The settings of a new start: what they change is taken back, then they are written.
void take_up(Run& run) {
  const Redo redo = examine(run.out, run.config);
  make_folders(run.out + "/stages");
  make_folders(run.out + "/work");
  compare_with_ingest(run);
  if (!redo.stages.empty()) {
    log::info(redo.text());
    take_back(run.out, redo);
  }
  const std::string path = settings_path(run.out), text = settings_text(run.config);
  if (!path_exists(path) || read_text(path) != text) write_file_atomically(path, text);
  keep_listing(run);
  log::info("filters: " + filters_text(run.config));
}

/// A curation begins here: `run` and `ingest` take all settings.
ExitCode begin(const CurateConfig& given, bool verify, CommandContext& context, const std::string& last) {
  CurateConfig config = given;
  config.seed = context.common.seed;
  check_settings(config);
  if (context.common.dry_run) return dry_run(config, context);
  settle_compute(config, context.world);
  Run run{context.world, config, context.common.output, config_hash(config)};
  // Before anything is written: a mistyped input must not become a setting that the next start has to keep,
  // nor a mistyped exclusion be found out after hours of embedding.
  on_root(run.world, [&] {
    if (!path_exists(settings_path(run.out))) list_references(run);
  });
  const std::unique_ptr<FolderLock> lock = lock_output_folder(context, output_kind::curation);
  on_root(run.world, [&] { take_up(run); });
  if (!verify_results(run, verify)) return ExitCode::stopped;
  if (!run_stages(run, last)) return ExitCode::stopped;
  summarise(run, context);
  return ExitCode::done;
}

/// What a later stage takes beside the settings in the folder.
struct Later {
  PairLimit pairs;
  EmbedDevice compute;
};

Schema<Later> later_options(const std::string& stage) {
  Schema<Later> schema;
  if (stage == "decontaminate") schema.add(&Later::pairs, pair_limit_options());
  if (stage == "embed" || stage == "decontaminate") schema.add(&Later::compute, embed_device_options());
  return schema;
}

/// A later stage by itself: settings come from the output folder.
ExitCode resume(CommandContext& context, const std::string& stage, const std::string& needs,
                const Later& later) {
  const std::string& out = context.common.output;
  std::string settings;
  on_root(context.world, [&] {
    if (!is_folder(out)) {
      throw MissingInputError(fmt::format(
          "no curation: {}: there is no such folder; begin one with `dino-curate ingest` or `run`", out));
    }
    if (!path_exists(settings_path(out)) || !path_exists(out + "/stages/" + needs + ".json")) {
      throw UpstreamError(fmt::format("stage missing: {}: {} is not complete; run `dino-curate {}` first",
                                      out, needs, needs == "ingest" ? "ingest" : needs));
    }
    settings = read_text(settings_path(out));
  });
  context.world.broadcast(settings);
  CurateConfig config = parse_settings(settings, settings_path(out));
  config.pairs = later.pairs;
  config.compute = later.compute;
  if (context.common.dry_run) {
    if (context.world.root()) log::info(fmt::format("dry run: would run {} in {}", stage, out));
    return ExitCode::done;
  }
  settle_compute(config, context.world);
  const std::unique_ptr<FolderLock> lock = lock_output_folder(context, output_kind::curation);
  Run run{context.world, config, out, config_hash(config)};
  on_root(run.world, [&] { check_settings_file(out, config, settings_path(out)); });
  if (!run_stages(run, stage)) return ExitCode::stopped;
  summarise(run, context);
  return ExitCode::done;
}

struct Begin {
  CurateConfig curate;
  bool verify = false;
};

Schema<Begin> begin_options(bool later_stages) {
  Schema<CurateConfig> limits;
  limits.add(&CurateConfig::pairs, pair_limit_options());
  limits.add(&CurateConfig::compute, embed_device_options());
  Schema<Begin> schema;
  schema.add(&Begin::curate, curate_options());
  schema.section("Start again")
      .add("verify", &Begin::verify,
           "Compare every byte of complete stages with its checksum (up to 8 GiB this is always done).");
  if (later_stages) schema.add(&Begin::curate, limits);
  return schema;
}

Command beginning(const std::string& name, const std::string& summary, const std::string& description,
                  const std::string& last) {
  Command command;
  command.name = name;
  command.summary = summary;
  command.usage = "--input REF... [--exclude REF...] [--config R] --output OUT";
  command.description = description;
  command.output = "Folder of the curation.";
  command.examples = {{"--input photos --output curated"}};
  command.make =
      with_options(begin_options(last != "ingest"), [last](const Begin& config, CommandContext& context) {
        return begin(config.curate, config.verify, context, last);
      });
  return command;
}

Command continuing(const std::string& name, const std::string& summary, const std::string& description,
                   const std::string& needs) {
  Command command;
  command.name = name;
  command.summary = summary;
  command.usage = "--output OUT";
  command.description = description;
  command.output = "Folder of the curation.";
  command.examples = {{"--output curated"}};
  command.make =
      with_options(later_options(name), [name, needs](const Later& later, CommandContext& context) {
        return resume(context, name, needs, later);
      });
  return command;
}

}  // namespace

Command run_command() {
  return beginning(
      "run", "curate an image dump: all stages",
      "Reads the images of every --input, and writes to OUT: ledger.h5 with one row per image and why it was "
      "kept or dropped, embeddings.h5, dedup.h5, clusters.h5 and selection.h5 (with --target), the kept "
      "images "
      "in shards/*.tar, funnel.json, galleries.json and, last, manifest.json.\n\n"
      "Stages: ingest (decode and measure), embed, filter (the filters of quality, equal files, equal "
      "hashes), "
      "dedup (near-duplicates), decontaminate (near-copies of --exclude), balance (exactly --target images "
      "over "
      "clusters), export, report. Of a group of copies the one with more pixels stays, then the one of the "
      "less "
      "lossy coding, then the larger file, then the first. Every stage commits its result. All files are the "
      "same bytes for any number of ranks and threads.\n\n"
      "Run again, it does only what is missing. Run again with other settings, it does again only the stages "
      "that read a changed one and those after them, and says which and why; the results are those of a new "
      "run with these settings. All settings count, also those that are left to their defaults. --dry-run "
      "tells what would be done again. The inputs are what they were: others need another --output.\n\n"
      "Some filters are on by default, since every collection of photographs needs them: " +
          filters_text(CurateConfig{}) +
          ". The run says how many images each of them drops.\n\n"
          "A bad image never stops the run: it is dropped with a reason. Fails with 64 when OUT was begun "
          "over "
          "other inputs, with 65 when the inputs changed since (names, sizes, classes and order are compared "
          "at "
          "every start, also of a complete curation; an image whose bytes are others than ingest saw is "
          "dropped as "
          "`changed`, or with --target an error), when a result is damaged or gone, or when --target is out "
          "of "
          "reach, with 66 when an input does not exist; ends with 75 when stopped by a signal.",
      "report");
}

Command ingest_command() {
  return beginning(
      "ingest", "the first stage of run: decode, measure and filter",
      "Begins a curation in OUT and stops after the first stage. Takes all settings of `run`; the "
      "later stages read them from OUT/curate.ini.",
      "ingest");
}

Command embed_command() {
  return continuing("embed", "the second stage of run: one vector per image",
                    "Writes OUT/embeddings.h5: /features (unit vectors) and /row (their rows in the ledger).",
                    "ingest");
}

Command decontaminate_command() {
  return continuing("decontaminate", "drop near-duplicates and near-copies of the excluded sets",
                    "Joins the embeddings (OUT/dedup.h5), then drops what is too close to an excluded image, "
                    "and groups of which a member is.",
                    "embed");
}

Command export_command() {
  return continuing("export", "balance, and write the kept images into shards",
                    "Selects --target images over clusters, where the settings ask for it, and writes "
                    "OUT/shards/*.tar: original bytes, sidecars kept.",
                    "decontaminate");
}

Command report_command() {
  return continuing("report", "the last stage of run: ledger, funnel and manifest",
                    "Writes OUT/ledger.h5, funnel.json, galleries.json and manifest.json.", "export");
}

}  // namespace dino::curation
