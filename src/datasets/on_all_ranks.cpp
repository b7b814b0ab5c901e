// SPDX-License-Identifier: Apache-2.0
#include "datasets/on_all_ranks.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <malloc.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/retry.hpp"
#include "base/working.hpp"
#include "comm/together.hpp"
#include "datasets/dataset_builder.hpp"
#include "datasets/record_list_writer.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"

namespace dino {
namespace {

struct Attempt {
  Dataset dataset;
  RankFailure failure;
  uint64_t hash = 0;  ///< of the records; 0 = failed
};

uint64_t hash_of(const Dataset& dataset) {
  std::string text;
  for (const Record& r : dataset.records)
    text += fmt::format("{}\t{}\t{}\t{}\t{}\n", r.key, r.path, r.offset, r.size, r.label);
  return xxh3(std::as_bytes(std::span(text))) | 1;
}

Attempt attempt(const std::string& reference) {
  Attempt made;
  made.failure = failure_of([&] {
    made.dataset = open_dataset(reference);
    made.hash = hash_of(made.dataset);
  });
  return made;
}

/// Files of the list that every rank looks for, evenly spread.
constexpr int64_t kLookedFor = 64;

/// A file, and the bytes that it must have; -1 = any.
struct Sight {
  std::string path;
  int64_t bytes = -1;
};

std::vector<Sight> sights_of(const RecordList& list, const std::vector<std::string>& copies) {
  std::vector<Sight> sights;
  const int64_t count = std::min(list.count(), kLookedFor);
  for (int64_t i = 0; i < count; ++i) {
    const Record record = list.at(i * list.count() / count);
    sights.push_back({record.path, record.size < 0 ? -1 : record.offset + record.size});
  }
  for (const std::string& path : copies) sights.push_back({path, -1});
  return sights;
}

void look_for(const std::vector<Sight>& sights, const std::string& all) {
  for (const auto& [path, bytes] : sights) {
    std::string why;
    if (!path_exists(path))
      why = "no such file";
    else if (const int64_t found = file_size(path); found < bytes)
      why = fmt::format("{} bytes, {} on rank 0 at least", found, bytes);
    if (!why.empty())
      throw IoError(fmt::format(
          "the ranks see different data: {}: {}: {}; check that it is mounted on this node", all, path, why));
  }
}

/// On every rank but 0: sees what rank 0 listed. Unpacked tars and prepared sets may lie on a disk of the
/// node: listing the references makes them there.
void require_sight(const std::vector<std::string>& references, const std::vector<Sight>& sights,
                   const std::string& all) {
  const bool is_made_here = std::any_of(sights.begin(), sights.end(), [](const Sight& sight) {
    return sight.path.starts_with(data_dir()) && !path_exists(sight.path);
  });
  if (is_made_here)
    for (const std::string& reference : references) static_cast<void>(open_dataset(reference));
  retrying(all, [&] { look_for(sights, all); });
}

void broadcast_sights(std::vector<Sight>& sights, const Communicator& world) {
  auto count = static_cast<int64_t>(sights.size());
  world.broadcast_span(std::span(&count, 1));
  sights.resize(static_cast<size_t>(count));
  for (Sight& sight : sights) {
    world.broadcast(sight.path);
    world.broadcast_span(std::span(&sight.bytes, 1));
  }
}

/// Is this list there already? A damaged one is not.
bool is_there(const RecordListHeader& header, const std::string& path) {
  if (!path_exists(path)) return false;
  try {
    return RecordList::open(path).header() == header;
  } catch (const DataError& error) {
    log::warning(fmt::format("{}: it is made anew now", error.what()));
    return false;
  }
}

RecordList open_shared(const std::string& path, const RecordListHeader& wanted) {
  return retrying(path, [&] {
    std::string why = "another list than rank 0 has";
    try {
      RecordList list = RecordList::open_unchecked(path);
      if (list.header() == wanted) return list;
    } catch (const IoError&) {
      throw;
    } catch (const Error& error) {
      why = error.what();  // an older or unfinished file in this node's cache
    }
    throw IoError(fmt::format(
        "the ranks see different data: {}: {}; the output must lie where all nodes see it", path, why));
  });
}

/// list_dataset by way of all records in memory.
Dataset list_whole(const std::string& reference, RecordListWriter& list) {
  Dataset dataset = open_dataset(reference);
  list.sources().set_uncertain();  // these are known only while records go to the list as they are read
  for (const Record& record : dataset.records) list.add(record);
  dataset.records = {};
  dataset.sidecars = {};
  return dataset;
}

/// The path of a source that is not as it was; empty: all are.
std::string changed_source(const std::vector<ListSource>& sources) {
  for (const ListSource& source : sources) {
    still_working();
    if (look_at(source.path) != source) return source.path;
  }
  return {};
}

/// The list at `path`, where it would be made again as it is. What is damaged is said by share_list.
std::optional<RecordList> list_from_before(const std::vector<std::string>& references,
                                           const std::string& path) {
  if (path.empty() || !path_exists(path)) return std::nullopt;
  RecordList list;
  std::vector<ListSource> sources;
  try {
    list = RecordList::open(path);
    sources = list.sources();
  } catch (const Error&) {
    return std::nullopt;
  }
  if (sources.size() < references.size()) return std::nullopt;
  for (size_t i = 0; i < references.size(); ++i)
    if (sources[i].path != references[i]) return std::nullopt;
  if (list.reference() != fmt::format("{}", fmt::join(references, ", "))) return std::nullopt;
  if (const std::string changed = changed_source(sources); !changed.empty()) {
    log::info(fmt::format("{} has changed since {} was made: the images are listed anew", changed, path));
    return std::nullopt;
  }
  log::info(fmt::format("the images are those of {}: its {} files and folders are as they were", path,
                        sources.size()));
  return list;
}

RecordList list_all(const std::vector<std::string>& references, const std::string& folder,
                    Dataset (*add)(const std::string&, RecordListWriter&), std::vector<std::string>& copies) {
  RecordListWriter writer(folder);
  for (const std::string& reference : references) writer.sources().add(reference);
  for (const std::string& reference : references) {
    const Dataset dataset = add(reference, writer);
    // Class numbers of several references are their own: no list of names holds for all.
    writer.add_reference(reference, references.size() == 1 ? dataset.classes : std::vector<std::string>(),
                         dataset.faults);
  }
  copies = writer.copies();
  return writer.finish();
}

}  // namespace

Dataset open_on_all_ranks(const std::string& reference, const Communicator& world) {
  if (world.size() == 1) return open_dataset(reference);
  Attempt mine = attempt(reference);
  settle(world, world.root() ? mine.failure : RankFailure{});
  uint64_t wanted = mine.hash;
  world.broadcast_span(std::span(&wanted, 1));
  together(world, [&] {
    retrying(reference, [&] {
      if (mine.hash == wanted) return;
      const std::string why =
          mine.failure.message.empty()
              ? fmt::format("{} images, others than rank 0 lists", mine.dataset.records.size())
              : mine.failure.message;
      mine = attempt(reference);
      if (mine.hash != wanted)
        throw IoError(fmt::format(
            "the ranks see different data: {}: {}; check that it is mounted on this node", reference, why));
    });
  });
  return std::move(mine.dataset);
}

RecordList list_images(const std::vector<std::string>& references, const std::string& folder,
                       const std::string& kept, const Communicator& world) {
  RecordList list;
  std::vector<Sight> sights;
  on_root(world, [&] {
    std::vector<std::string> copies;
    if (auto before = list_from_before(references, kept)) {
      list = std::move(*before);
      for (const ListSource& source : list.sources())
        if (is_copy(source.path)) copies.push_back(source.path);
    } else {
      try {
        list = list_all(references, folder, list_dataset, copies);
      } catch (const RepeatedKeys&) {
        list = list_all(references, folder, list_whole, copies);
      }
    }
    sights = sights_of(list, copies);
    ::malloc_trim(0);  // what the listing took goes back to the machine
  });
  if (world.size() == 1) return list;
  broadcast_sights(sights, world);
  const std::string all = fmt::format("{}", fmt::join(references, ", "));
  together(world, [&] {
    if (!world.root()) require_sight(references, sights, all);
  });
  return list;
}

RecordList share_list(RecordList list, const std::string& path, const Communicator& world) {
  RecordListHeader header = list.header();
  on_root(world, [&] {
    if (!is_there(header, path)) list.commit_to(path);
  });
  world.broadcast_span(std::span(&header, 1));
  together(world, [&] { list = open_shared(path, header); });
  const Range part = even_range(header.content_bytes(), world.rank(), world.size());
  uint32_t crc = 0;
  together(world,
           [&] { crc = crc32c_part(path, static_cast<int64_t>(sizeof header) + part.begin, part.size()); });
  uint32_t whole = 0;
  const std::vector<uint32_t> parts = world.all_gather_values<uint32_t>(std::span<const uint32_t>(&crc, 1));
  for (int rank = 0; rank < world.size(); ++rank)
    whole = crc32c_combine(whole, parts[static_cast<size_t>(rank)],
                           even_range(header.content_bytes(), rank, world.size()).size());
  if (whole != header.content_crc)
    throw DataError(fmt::format(
        "damaged list of images: {}: its checksum differs; remove it, the next start makes it anew", path));
  return list;
}

std::string nearest_folder(const std::string& path) {
  std::filesystem::path folder = std::filesystem::absolute(path);
  while (!is_folder(folder.string()) && folder.has_relative_path()) folder = folder.parent_path();
  return folder.string();
}

}  // namespace dino
