// SPDX-License-Identifier: Apache-2.0
// Writes the kept images into WebDataset shards: original bytes, sidecars kept.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/log.hpp"
#include "pipeline.hpp"
#include "storage/files.hpp"
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
  return item.class_name.empty() ? total : total + member(static_cast<int64_t>(item.class_name.size()));
}

/// In a tar a key ends at the first dot of its base name, so other dots become underscores; keys stay unique.
void make_tar_keys(std::vector<Item>& items) {
  std::unordered_set<std::string> seen;
  for (Item& item : items) {
    std::string& key = item.record.key;
    const size_t base = key.rfind('/') == std::string::npos ? 0 : key.rfind('/') + 1;
    std::replace(key.begin() + static_cast<std::ptrdiff_t>(base), key.end(), '.', '_');
    const std::string stem = key;
    for (int copy = 2; !seen.insert(key).second; ++copy) key = fmt::format("{}~{}", stem, copy);
  }
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

void add_item(TarWriter& tar, const Item& item) {
  const Record& record = item.record;
  // Members of tars never begin at 0.
  const int64_t now = record.offset == 0 ? listed_size(record.path) : record.size;
  if (now != record.size) {
    throw DataError(fmt::format("input changed: {}: {} bytes instead of {}; use another --output",
                                record.path, now, record.size));
  }
  const std::vector<uint8_t> bytes = read_record(record);
  tar.add(record.key + "." + (record.extension.empty() ? "img" : record.extension), bytes);
  bool has_class = false;
  for (const Sidecar& sidecar : item.sidecars) {
    has_class = has_class || sidecar.extension == "cls";
    tar.add(record.key + "." + sidecar.extension, read_listed(sidecar.path, sidecar.offset, sidecar.size));
  }
  if (item.class_name.empty() || has_class) return;
  tar.add(record.key + ".cls",
          std::span(reinterpret_cast<const uint8_t*>(item.class_name.data()), item.class_name.size()));
}

void write_shard(const Run& run, int64_t shard, const std::vector<Item>& items) {
  commit_file(run.out + "/" + shard_name(shard), [&](const std::string& temporary) {
    TarWriter tar(temporary);
    for (const Item& item : items) add_item(tar, item);
    tar.close();
  });
}

/// Shards have different numbers of items, so they are dealt out here and not by share_units.
Units share_shards(const Run& run, const std::vector<Item>& items, const std::vector<int64_t>& first) {
  Units units;
  std::vector<std::vector<std::vector<Item>>> parts(static_cast<size_t>(run.world.size()));
  std::vector<int64_t> missing;
  on_root(run.world, [&] {
    units.total = static_cast<int64_t>(first.size());
    for (int64_t shard = 0; shard < units.total; ++shard) {
      if (!path_exists(run.out + "/" + shard_name(shard))) missing.push_back(shard);
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

struct ShardSummary {
  int64_t bytes = 0, crc = 0;
};

void write_summary(const Run& run, const std::vector<ShardSummary>& shards, const std::vector<int64_t>& first,
                   size_t items) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (size_t i = 0; i < shards.size(); ++i) {
    const int64_t end = i + 1 < first.size() ? first[i + 1] : static_cast<int64_t>(items);
    list.push_back({{"path", shard_name(static_cast<int64_t>(i))},
                    {"bytes", shards[i].bytes},
                    {"records", end - first[i]},
                    {"crc32c", hex32(static_cast<uint32_t>(shards[i].crc))}});
  }
  write_file_atomically(run.stage_file("shards.json"), list.dump(1) + "\n");
}

}  // namespace

bool export_stage(Run& run) {
  std::vector<Item> items;
  std::vector<int64_t> first;
  on_root(run.world, [&] {
    make_folders(run.out + "/shards");
    load_listing(run);
    const Ledger ledger = Ledger::load(run.stage_file("balance.h5"));
    for (const int64_t row : ledger.kept_rows()) items.push_back(run.listing.items[static_cast<size_t>(row)]);
    make_tar_keys(items);
    first = plan_shards(items, run.config);
  });
  const Units units = share_shards(run, items, first);
  const bool finished =
      process_units("export", units, run.world,
                    [&](int64_t shard, const std::vector<Item>& part) { write_shard(run, shard, part); });
  if (!finished) return false;
  std::vector<ShardSummary> mine;
  const Range range = even_range(units.total, run.world.rank(), run.world.size());
  for (int64_t shard = range.begin; shard < range.end; ++shard) {
    const std::string path = run.out + "/" + shard_name(shard);
    mine.push_back({file_size(path), crc32c_file(path)});
  }
  const std::vector<ShardSummary> all = run.world.gather_values<ShardSummary>(mine);
  on_root(run.world, [&] {
    write_summary(run, all, first, items.size());
    log::info(fmt::format("export: {} images in {} shards", items.size(), all.size()));
  });
  return true;
}

}  // namespace dino::curation
