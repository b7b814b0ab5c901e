// SPDX-License-Identifier: Apache-2.0
// Writes the kept images into WebDataset shards: original bytes, sidecars kept.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "export_names.hpp"
#include "pipeline.hpp"
#include "stage_settings.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"
#include "storage/tar.hpp"
#include "vector_commands.hpp"

namespace dino::curation {
namespace {

constexpr int64_t kTarBlock = 512;

std::string shard_name(int64_t shard) {
  return fmt::format("shards/{:06}.tar", shard);
}

/// What the item takes in a tar: a header and whole blocks per member.
int64_t tar_bytes(const Item& item) {
  const auto member = [](int64_t size) { return kTarBlock + (size + kTarBlock - 1) / kTarBlock * kTarBlock; };
  int64_t total = member(std::max<int64_t>(item.record.size, 0));
  for (const Sidecar& sidecar : item.sidecars) total += member(sidecar.size);
  return item.record.label < 0 ? total : total + member(1);
}

/// Keys become names of members, and a class, whatever form it had, the number in classes.txt.
void make_members(std::vector<Item>& items, const std::vector<std::string>& names) {
  for (Item& item : items) {
    item.record.key = names[static_cast<size_t>(item.row)];
    item.record.extension = export_extension(item.record.extension);
    if (item.record.label >= 0)
      std::erase_if(item.sidecars,
                    [](const Sidecar& s) { return s.extension == "cls" || s.extension == "cls.txt"; });
    for (Sidecar& sidecar : item.sidecars) sidecar.extension = export_extension(sidecar.extension);
  }
}

/// One name a line, in the order of the numbers in .cls members.
void write_class_names(const Run& run) {
  if (run.listing.classes.empty()) return;
  write_file_atomically(run.out + "/classes.txt", fmt::format("{}\n", fmt::join(run.listing.classes, "\n")));
}

/// First item of every shard.
std::vector<int64_t> plan_shards(const std::vector<Item>& items, const CurateConfig& config) {
  std::vector<int64_t> first;
  int64_t records = 0, bytes = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const int64_t size = tar_bytes(items[i]);
    if (first.empty() || records == config.shard_records || bytes + size > config.shard_bytes) {
      first.push_back(static_cast<int64_t>(i));
      records = bytes = 0;
    }
    ++records;
    bytes += size;
  }
  return first;
}

/// What is known of a shard that is written: OUT/work/export/<shard>.json.
struct ShardNote {
  int64_t bytes = 0, records = 0;
  uint32_t crc = 0;
  std::vector<int64_t> changed;  ///< rows that were left out
};

std::string note_path(const Run& run, int64_t shard) {
  return run.work(fmt::format("export/{:06}.json", shard));
}

void write_note(const Run& run, int64_t shard, const ShardNote& note) {
  const nlohmann::ordered_json json = {
      {"bytes", note.bytes}, {"records", note.records}, {"crc", note.crc}, {"changed", note.changed}};
  write_file_atomically(note_path(run, shard), sealed_json(json_text(json, 1)));
}

ShardNote read_note(const Run& run, int64_t shard) {
  const std::string path = note_path(run, shard), text = read_text(path);
  check_sealed_json(text, path, "the same command writes the shard again");
  const auto json = nlohmann::json::parse(text);
  return {json.at("bytes").get<int64_t>(), json.at("records").get<int64_t>(), json.at("crc").get<uint32_t>(),
          json.at("changed").get<std::vector<int64_t>>()};
}

/// Whether an earlier start wrote the shard, and it is still what was written.
bool shard_holds(const Run& run, int64_t shard) {
  if (!path_exists(note_path(run, shard))) return false;
  const std::string path = run.out + "/" + shard_name(shard);
  try {
    const ShardNote note = read_note(run, shard);
    if (note.records == 0) return true;
    if (path_exists(path) && file_size(path) == note.bytes && crc32c_file(path) == note.crc) return true;
  } catch (const DataError&) {  // a damaged note
  }
  log::warning(fmt::format("damaged shard: {}: it is not what was written; it is written again", path));
  return false;
}

/// Not with a target: another image cannot be drawn any more.
void tell_changed(const Run& run, const Item& item) {
  const std::string what = item.record.offset == 0
                               ? item.record.path
                               : fmt::format("{} (in {})", item.record.key, item.record.path);
  if (run.config.target > 0)
    throw DataError(
        fmt::format("input changed: {}: its sha256 is not that of the image that was judged, and the exact "
                    "--target {} cannot be "
                    "met without it; put it back and run again, or begin again in another --output",
                    what, run.config.target));
  log::warning(
      fmt::format("input changed: {}: its sha256 is not that of the image that was judged; dropped", what));
}

/// False when the image is another than the one that was judged.
bool add_item(TarWriter& tar, const Item& item) {
  const Record& record = item.record;
  const auto bytes = read_as_judged(item);
  if (!bytes) return false;
  tar.add(record.key + "." + record.extension, *bytes);
  for (const Sidecar& sidecar : item.sidecars)
    tar.add(record.key + "." + sidecar.extension, read_listed(sidecar.path, sidecar.offset, sidecar.size));
  if (record.label < 0) return true;
  const std::string number = std::to_string(record.label);
  tar.add(record.key + ".cls", std::span(reinterpret_cast<const uint8_t*>(number.data()), number.size()));
  return true;
}

void write_shard(const Run& run, int64_t shard, const std::vector<Item>& items, UnitCounter& counter) {
  ShardNote note;
  commit_file(run.out + "/" + shard_name(shard), [&](const std::string& temporary) {
    note = {};
    TarWriter tar(temporary);
    for (const Item& item : items) {
      if (add_item(tar, item)) {
        ++note.records;
      } else {
        tell_changed(run, item);
        note.changed.push_back(item.row);
      }
      counter.add();
    }
    tar.close();
    note.bytes = file_size(temporary);
    note.crc = crc32c_file(temporary);
  });
  write_note(run, shard, note);
}

/// Which shards of an earlier start are whole; ranks share the reading. False when stopped early. Collective.
bool find_whole_shards(const Run& run, int64_t shards, std::vector<uint8_t>& whole) {
  int64_t notes = 0;
  on_root(run.world, [&] {
    for (int64_t shard = 0; shard < shards; ++shard) notes += path_exists(note_path(run, shard)) ? 1 : 0;
  });
  std::array<int64_t, 2> counts = {shards, notes};
  run.world.broadcast_span(std::span<int64_t>(counts));
  whole.assign(static_cast<size_t>(counts[0]), 0);
  if (counts[1] == 0) return true;
  Units units;
  units.total = units.missing = counts[0];
  units.counted = "shards";
  const Range range = even_range(counts[0], run.world.rank(), run.world.size());
  for (int64_t shard = range.begin; shard < range.end; ++shard) units.number.push_back(shard);
  units.mine.resize(units.number.size());
  std::vector<uint8_t> mine;
  const bool finished = process_units("export: checking", units, run.world,
                                      [&](int64_t shard, const std::vector<Item>&, UnitCounter& counter) {
                                        mine.push_back(shard_holds(run, shard) ? 1 : 0);
                                        counter.add();
                                      });
  if (finished) whole = run.world.all_gather_values<uint8_t>(mine);
  return finished;
}

/// Shards have different numbers of items, so they are dealt out here and not by share_units.
Units share_shards(const Run& run, const std::vector<Item>& items, const std::vector<int64_t>& first,
                   const std::vector<uint8_t>& whole) {
  Units units;
  std::vector<std::vector<std::vector<Item>>> parts(static_cast<size_t>(run.world.size()));
  std::vector<int64_t> missing;
  on_root(run.world, [&] {
    units.total = static_cast<int64_t>(first.size());
    for (int64_t shard = 0; shard < units.total; ++shard) {
      if (whole[static_cast<size_t>(shard)] == 0) missing.push_back(shard);
    }
    units.missing = static_cast<int64_t>(missing.size());
    for (int rank = 0; rank < run.world.size(); ++rank) {
      const Range range = even_range(units.missing, rank, run.world.size());
      for (int64_t i = range.begin; i < range.end; ++i) {
        const auto shard = static_cast<size_t>(missing[static_cast<size_t>(i)]);
        const int64_t end = shard + 1 < first.size() ? first[shard + 1] : static_cast<int64_t>(items.size());
        parts[static_cast<size_t>(rank)].emplace_back(items.begin() + first[shard], items.begin() + end);
      }
    }
  });
  run.world.broadcast_span(std::span(&units.total, 1));
  run.world.broadcast_span(std::span(&units.missing, 1));
  missing.resize(static_cast<size_t>(units.missing));
  run.world.broadcast_span(std::span(missing));
  const Range range = even_range(units.missing, run.world.rank(), run.world.size());
  units.number.assign(missing.begin() + range.begin, missing.begin() + range.end);
  units.mine = scatter_units(parts, run.world);
  return units;
}

/// Rank 0: the list of shards and the ledger without what changed. A shard of which nothing is left is none.
void conclude(Run& run, Ledger ledger, int64_t shards, size_t items) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  int64_t records = 0;
  for (int64_t shard = 0; shard < shards; ++shard) {
    const ShardNote note = read_note(run, shard);
    for (const int64_t row : note.changed) ledger.drop(row, verdict_of(Reason::changed, Stage::exported));
    records += note.records;
    const std::string name = shard_name(shard);
    if (note.records == 0) {
      std::filesystem::remove(run.out + "/" + name);
      continue;
    }
    list.push_back(
        {{"path", name}, {"bytes", note.bytes}, {"records", note.records}, {"crc32c", hex32(note.crc)}});
    run.wrote.push_back({name, note.bytes, note.crc});
  }
  DINO_CHECK(records == ledger.counts()[0], "a shard is out of place");
  if (records == 0)
    throw DataError(
        fmt::format("nothing left to export: {}: all {} images changed since ingest; begin again in "
                    "another --output",
                    run.out, items));
  const auto lost = static_cast<int64_t>(items) - records;
  if (lost > 0) log::warning(fmt::format("export: {} images changed since ingest and were dropped", lost));
  write_file_atomically(run.stage_file("shards.json"), sealed_json(json_text({{"shards", list}}, 1)));
  run.add_written("stages/shards.json");
  if (!run.listing.classes.empty()) run.add_written("classes.txt");
  save_stage(run, ledger, "export");
  log::info(fmt::format("export: {} images in {} shards", records, list.size()));
}

}  // namespace

bool export_stage(Run& run) {
  Ledger ledger;
  std::vector<Item> items;
  std::vector<int64_t> first;
  on_root(run.world, [&] {
    make_folders(run.out + "/shards");
    load_listing(run);
    ledger = load_stage(run, "balance");
    begin_units(run, "export", run.after + stage_settings_text(run.config, "export"),
                [&] { remove_shards(run.out); });
    items = judged_items(run, ledger, ledger.kept_rows());
    make_members(items, export_names(ledger.key));
    write_class_names(run);
    first = plan_shards(items, run.config);
  });
  std::vector<uint8_t> whole;
  if (!find_whole_shards(run, static_cast<int64_t>(first.size()), whole)) return false;
  const Units units = share_shards(run, items, first, whole);
  const bool finished = process_units(
      "export", units, run.world, [&](int64_t shard, const std::vector<Item>& part, UnitCounter& counter) {
        write_shard(run, shard, part, counter);
      });
  if (!finished) return false;
  on_root(run.world, [&] { conclude(run, std::move(ledger), units.total, items.size()); });
  return true;
}

}  // namespace dino::curation
