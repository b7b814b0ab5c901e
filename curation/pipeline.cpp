// SPDX-License-Identifier: Apache-2.0
#include "pipeline.hpp"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "base/log.hpp"
#include "base/progress.hpp"
#include "base/signals.hpp"
#include "comm/keeping_pace.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"

namespace dino::curation {

std::span<const StageEntry> stage_entries() {
  static constexpr std::array<StageEntry, 7> entries = {{{"ingest", ingest_stage},
                                                         {"embed", embed_stage},
                                                         {"dedup", dedup_stage},
                                                         {"decontaminate", decontaminate_stage},
                                                         {"balance", balance_stage},
                                                         {"export", export_stage},
                                                         {"report", report_stage}}};
  return entries;
}

void load_listing(Run& run) {
  if (run.listing.compared) return;
  if (run.listing.items.empty()) run.listing = list_inputs(run.config.input);
  run.listing.compared = true;
  for (const std::string& fault : run.listing.faults) log::warning(fault);
  const std::string path = run.stage_file("inputs.json");
  if (!path_exists(path)) {
    nlohmann::ordered_json inputs = nlohmann::ordered_json::array();
    for (const Input& input : run.listing.inputs) {
      inputs.push_back({{"reference", input.reference}, {"records", input.records}, {"hash", input.hash}});
    }
    // A path may hold any bytes; JSON holds UTF-8.
    write_file_atomically(
        path, inputs.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
    return;
  }
  const auto known = nlohmann::json::parse(read_text(path), nullptr, false);
  if (!known.is_array() || known.size() != run.listing.inputs.size()) {
    throw DataError(
        fmt::format("bad state: {}: not a list of this run's inputs; use another --output", path));
  }
  for (size_t i = 0; i < known.size(); ++i) {
    const Input& input = run.listing.inputs[i];
    if (!known[i].is_object() || !known[i].contains("hash") || !known[i].contains("records") ||
        !known[i]["records"].is_number_integer())
      throw DataError(
          fmt::format("bad state: {}: not a list of this run's inputs; use another --output", path));
    if (known[i]["hash"] == input.hash) continue;
    throw DataError(fmt::format(
        "input changed: {}: it had {} images when this curation began and has {}, or their sizes differ; use "
        "another --output",
        input.reference, known[i]["records"].get<int64_t>(), input.records));
  }
}

Units share_units(const std::vector<Item>& items, int64_t unit, const std::function<bool(int64_t)>& done,
                  const Communicator& world) {
  Units units;
  std::vector<int64_t> missing;
  std::vector<std::vector<std::vector<Item>>> parts(static_cast<size_t>(world.size()));
  if (world.root()) {
    const auto count = static_cast<int64_t>(items.size());
    units.total = (count + unit - 1) / unit;
    for (int64_t u = 0; u < units.total; ++u) {
      if (!done(u)) missing.push_back(u);
    }
    units.missing = static_cast<int64_t>(missing.size());
    for (int rank = 0; rank < world.size(); ++rank) {
      const Range range = even_range(units.missing, rank, world.size());
      for (int64_t i = range.begin; i < range.end; ++i) {
        const int64_t begin = missing[static_cast<size_t>(i)] * unit;
        const int64_t end = std::min(begin + unit, count);
        parts[static_cast<size_t>(rank)].emplace_back(items.begin() + begin, items.begin() + end);
      }
    }
  }
  world.broadcast_span(std::span(&units.total, 1));
  world.broadcast_span(std::span(&units.missing, 1));
  missing.resize(static_cast<size_t>(units.missing));
  world.broadcast_span(std::span(missing));
  const Range range = even_range(units.missing, world.rank(), world.size());
  units.number.assign(missing.begin() + range.begin, missing.begin() + range.end);
  units.mine = scatter_units(parts, world);
  DINO_CHECK(units.mine.size() == units.number.size(), "units were lost");
  return units;
}

bool process_units(const std::string& stage, const Units& units, const Communicator& world,
                   const std::function<void(int64_t, const std::vector<Item>&)>& work) {
  if (units.missing < units.total) {
    log::info(fmt::format("{}: {} of {} work units were already done", stage, units.total - units.missing,
                          units.total));
  }
  KeepingPace pace(world);
  std::string failure;
  int code = 0;
  size_t next = 0;
  bool stopped = false;  // in the middle of a unit, while a file was tried again
  {
    // Rank 0 shows its own part, which stands for all: ranks have equal numbers of units.
    Progress progress(stage, static_cast<int64_t>(units.mine.size()), "units");
    try {
      for (; next < units.mine.size() && pace.step(stop_requested()); ++next) {
        work(units.number[next], units.mine[next]);
        progress.add(1);
      }
    } catch (const Error& error) {
      stopped = error.code() == ExitCode::stopped;
      if (!stopped) failure = error.what();
      code = static_cast<int>(error.code());
    }
    progress.finish();
  }
  return !pace.finish(stopped || next < units.mine.size(), failure, code);
}

std::string embeddings_path(const Run& run) {
  return run.out + "/embeddings.h5";
}

std::vector<int64_t> embedded_rows(const Run& run, const Ledger& ledger) {
  const Tensor rows = Hdf5File::open(embeddings_path(run)).read("/row", DType::i64);
  const std::span<const int64_t> all(rows.as<int64_t>(), static_cast<size_t>(rows.numel()));
  for (const int64_t row : all)
    if (row < 0 || row >= ledger.rows())
      throw DataError(
          fmt::format("bad embeddings: {}: row {} of a ledger of {}; delete it and {}, and run again",
                      embeddings_path(run), row, ledger.rows(), run.stage_file("embed.json")));
  return {all.begin(), all.end()};
}

}  // namespace dino::curation
