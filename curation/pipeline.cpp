// SPDX-License-Identifier: Apache-2.0
#include "pipeline.hpp"

#include <fmt/format.h>

#include <omp.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/log.hpp"
#include "base/progress.hpp"
#include "base/signals.hpp"
#include "base/text.hpp"
#include "base/timing.hpp"
#include "comm/keeping_pace.hpp"
#include "input_record.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/seal.hpp"
#include "vector_commands.hpp"
#include "vectors/embeddings.hpp"

namespace dino::curation {

namespace {

std::string joined(const std::vector<std::string>& references) {
  constexpr size_t kShown = 3;
  if (references.size() <= kShown) return fmt::format("{}", fmt::join(references, ", "));
  return fmt::format("{} and {} more", fmt::join(references.begin(), references.begin() + kShown, ", "),
                     references.size() - kShown);
}

}  // namespace

std::span<const StageEntry> stage_entries() {
  static constexpr std::array<StageEntry, 8> entries = {
      {{"ingest", ingest_stage, {"stages/ingest.h5"}},
       {"embed", embed_stage, {"embeddings.h5"}},
       {"filter", filter_stage, {"stages/filter.h5"}},
       {"dedup", dedup_stage, {"dedup.h5", "stages/dedup.h5"}},
       {"decontaminate", decontaminate_stage, {"stages/decontaminate.h5"}},
       {"balance", balance_stage, {"clusters.h5", "selection.h5", "stages/balance.h5"}},
       {"export", export_stage, {"stages/export.h5", "stages/shards.json", "classes.txt"}},
       {"report", report_stage, {"manifest.json", "ledger.h5", "funnel.json", "galleries.json"}}}};
  return entries;
}

void list_references(Run& run) {
  const auto list = [](Listing& listing, const std::vector<std::string>& references, const char* what) {
    if (references.empty() || !listing.items.empty()) return;
    // Before the first stat: a folder of millions on a slow file system takes minutes.
    log::info(fmt::format("listing {} in {} ...", what, joined(references)));
    const Stopwatch watch;
    listing = list_inputs(references);
    log::info(fmt::format("{} {} listed in {}", listing.items.size(), what, human_seconds(watch.seconds())));
  };
  list(run.listing, run.config.input, "images");
  list(run.excluded, run.config.exclude, "excluded images");
}

void compare_listing(Run& run) {
  list_references(run);
  if (run.listing.compared) return;
  run.listing.compared = true;
  for (const Listing* listing : {&run.listing, &run.excluded})
    for (const std::string& fault : listing->faults) log::warning(fault);
  compare_inputs(run.out, run.listing, run.excluded);
}

void keep_listing(Run& run) {
  if (run.listing.kept) return;
  run.listing.kept = true;
  keep_inputs(run.out, run.listing, run.excluded);
  for (Listing* listing : {&run.listing, &run.excluded})
    for (Input& input : listing->inputs) input.lines = {};
}

void load_listing(Run& run) {
  compare_listing(run);
  keep_listing(run);
}

void remove_outputs(const std::string& out, const StageEntry& stage) {
  for (const char* name : stage.outputs)
    if (name != nullptr) std::filesystem::remove(fmt::format("{}/{}", out, name));
}

void remove_shards(const std::string& out) {
  const std::string folder = out + "/shards";
  if (!is_folder(folder)) return;
  std::vector<std::filesystem::path> shards;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string stem = entry.path().stem().string();
    // Six digits or more: what shard_name() gives. Whatever else lies there is not ours.
    if (entry.path().extension() == ".tar" && stem.size() >= 6 &&
        std::all_of(stem.begin(), stem.end(), [](char c) { return c >= '0' && c <= '9'; }))
      shards.push_back(entry.path());
  }
  for (const auto& shard : shards) std::filesystem::remove(shard);
}

Ledger load_stage(const Run& run, const std::string& stage) {
  return Ledger::load(run.stage_file(stage + ".h5"), do_again(run.out, stage));
}

void save_stage(Run& run, const Ledger& ledger, const std::string& stage) {
  // The settings are in the marker: a ledger depends on those alone that were read so far.
  ledger.save(run.stage_file(stage + ".h5"), {});
  run.add_written("stages/" + stage + ".h5");
}

namespace {

std::string made_from_text(const std::string& identity) {
  return sha256_hex(std::as_bytes(std::span(identity))) + "\n";
}

}  // namespace

bool units_made_from(const Run& run, const std::string& stage, const std::string& identity) {
  const std::string path = run.work(stage) + "/made_from";
  return path_exists(path) && read_text(path) == made_from_text(identity);
}

void begin_units(const Run& run, const std::string& stage, const std::string& identity,
                 const std::function<void()>& others) {
  if (units_made_from(run, stage, identity)) return;
  const std::string folder = run.work(stage);
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  if (others) others();
  make_folders(folder);
  write_file_atomically(folder + "/made_from", made_from_text(identity));
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

void UnitCounter::add(int64_t done) {
  mine_ += done;
  if (omp_get_thread_num() == 0) show();
}

void UnitCounter::show() {
  pace_.count(mine_);
  progress_.set(mine_ + pace_.done_elsewhere());
}

namespace {

int64_t items_of(const Units& units) {
  if (std::string_view(units.counted) != "images") return static_cast<int64_t>(units.mine.size());
  int64_t count = 0;
  for (const auto& unit : units.mine) count += static_cast<int64_t>(unit.size());
  return count;
}

}  // namespace

bool process_units(const std::string& stage, const Units& units, const Communicator& world,
                   const std::function<void(int64_t, const std::vector<Item>&, UnitCounter&)>& work) {
  const int64_t total = world.sum(items_of(units));
  if (world.root()) {
    log::info(fmt::format("{}: {} {} in {} work units", stage, total, units.counted, units.missing));
    if (units.missing < units.total)
      log::info(fmt::format("{}: {} of {} work units were already done", stage, units.total - units.missing,
                            units.total));
  }
  KeepingPace pace(world);
  Progress progress(stage, total, units.counted);
  UnitCounter counter(progress, pace);
  size_t next = 0;
  const RankFailure failure = failure_of([&] {
    for (; next < units.mine.size() && pace.step(stop_requested()); ++next) {
      work(units.number[next], units.mine[next], counter);
      counter.show();
    }
  });
  const bool finished = !pace.finish(next < units.mine.size(), failure);
  counter.show();
  progress.finish();
  return finished;
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

KeptRows share_kept(const Run& run, const Ledger& ledger, const std::function<void(const KeptRows&)>& check) {
  KeptRows kept;
  on_root(run.world, [&] {
    const std::vector<int64_t> all = embedded_rows(run, ledger);
    for (size_t i = 0; i < all.size(); ++i) {
      if (!ledger.kept(all[i])) continue;
      kept.row.push_back(all[i]);
      kept.embedding.push_back(static_cast<int64_t>(i));
    }
    if (check) check(kept);
  });
  int64_t count = kept.count();
  run.world.broadcast_span(std::span(&count, 1));
  kept.row.resize(static_cast<size_t>(count));
  kept.embedding.resize(static_cast<size_t>(count));
  run.world.broadcast_span(std::span(kept.row));
  run.world.broadcast_span(std::span(kept.embedding));
  return kept;
}

Tensor load_kept(const Run& run, const KeptRows& kept) {
  const EmbeddingStore store = EmbeddingStore::open(embeddings_path(run));
  const Range mine = even_range(kept.count(), run.world.rank(), run.world.size());
  Tensor local(Shape{mine.size(), store.width()});
  for (int64_t i = mine.begin; i < mine.end;) {
    // Runs of consecutive rows are read at once.
    int64_t end = i + 1;
    while (end < mine.end &&
           kept.embedding[static_cast<size_t>(end)] == kept.embedding[static_cast<size_t>(end - 1)] + 1)
      ++end;
    store.read(kept.embedding[static_cast<size_t>(i)], end - i,
               local.as<float>() + (i - mine.begin) * store.width());
    i = end;
  }
  return local;
}

}  // namespace dino::curation
