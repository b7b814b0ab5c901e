// SPDX-License-Identifier: Apache-2.0
#include "pipeline.hpp"

#include <fmt/format.h>

#include <array>
#include <filesystem>

#include "base/log.hpp"
#include "base/progress.hpp"
#include "base/signals.hpp"
#include "base/text.hpp"
#include "comm/keeping_pace.hpp"
#include "input_record.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/seal.hpp"
#include "vector_commands.hpp"

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
  if (run.excluded.items.empty() && !run.config.exclude.empty())
    run.excluded = list_inputs(run.config.exclude);
  run.listing.compared = true;
  for (const Listing* listing : {&run.listing, &run.excluded})
    for (const std::string& fault : listing->faults) log::warning(fault);
  keep_or_compare_inputs(run.out, run.listing, run.excluded);
  for (Listing* listing : {&run.listing, &run.excluded})
    for (Input& input : listing->inputs) input.lines = {};
}

Ledger load_stage(const Run& run, const std::string& stage) {
  return Ledger::load(run.stage_file(stage + ".h5"), do_again(run.out, stage));
}

void save_stage(Run& run, const Ledger& ledger, const std::string& stage) {
  ledger.save(run.stage_file(stage + ".h5"), run.hash);
  run.add_written("stages/" + stage + ".h5");
}

void begin_units(const Run& run, const std::string& stage, const std::string& identity) {
  const std::string folder = run.work(stage), path = folder + "/made_from";
  const std::string text = sha256_hex(std::as_bytes(std::span(identity))) + "\n";
  if (path_exists(path) && read_text(path) == text) return;
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  make_folders(folder);
  write_file_atomically(path, text);
}

bool unit_done(const std::string& path) {
  if (!path_exists(path)) return false;
  if (seal_holds(path)) return true;
  log::warning(fmt::format("damaged work unit: {}: its checksum does not hold; it is made again", path));
  return false;
}

void check_size(const Record& record) {
  // Members of tars never begin at 0.
  const int64_t now = record.offset == 0 ? listed_size(record.path) : record.size;
  if (now != record.size)
    throw DataError(
        fmt::format("input changed: {}: {} bytes instead of {}; put it back, or name another --output",
                    record.path, now, record.size));
}

std::optional<std::vector<uint8_t>> read_as_judged(const Item& item) {
  const Record& record = item.record;
  check_size(record);
  std::vector<uint8_t> bytes = read_record(record);
  if (sha256_of(bytes) != item.sha256) return std::nullopt;
  return bytes;
}

std::vector<Item> judged_items(const Run& run, const Ledger& ledger, const std::vector<int64_t>& rows) {
  std::vector<Item> items;
  items.reserve(rows.size());
  for (const int64_t row : rows) {
    items.push_back(run.listing.items[static_cast<size_t>(row)]);
    items.back().sha256 = ledger.measured[static_cast<size_t>(row)].sha256;
  }
  return items;
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
  RankFailure failure;
  size_t next = 0;
  {
    // Rank 0 shows its own part, which stands for all: ranks have equal numbers of units.
    Progress progress(stage, static_cast<int64_t>(units.mine.size()), "units");
    failure = failure_of([&] {
      for (; next < units.mine.size() && pace.step(stop_requested()); ++next) {
        work(units.number[next], units.mine[next]);
        progress.add(1);
      }
    });
    progress.finish();
  }
  return !pace.finish(next < units.mine.size(), failure);
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

void verify_embeddings(const Run& run) {
  static_cast<void>(open_rows(embeddings_path(run), run.world, do_again(run.out, "embed")));
}

}  // namespace dino::curation
