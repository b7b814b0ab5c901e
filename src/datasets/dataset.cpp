// SPDX-License-Identifier: Apache-2.0
#include "datasets/dataset.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <unordered_set>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/working.hpp"
#include "datasets/dataset_builder.hpp"
#include "datasets/record_list_writer.hpp"
#include "datasets/tar_unpack.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"
#include "storage/tar.hpp"

namespace dino {
namespace {

/// Of a record's key: bytes before the extension of a tar.
std::string tar_prefix(const std::string& path) {
  size_t stem = path.size();
  static_cast<void>(is_tar_name(path, &stem));
  return printable_name(path.substr(0, stem));
}

/// Sidecars beside an image are not opened, as there may be as many as images.
bool is_sidecar_extension(std::string_view extension) {
  return extension == "json" || extension == "txt" || extension == "cls";
}

constexpr const char* kClassNames = "classes.txt";

/// The names of the classes that a curation numbered, one a line.
std::vector<std::string> read_class_names(const std::string& path) {
  std::vector<std::string> names;
  const std::string whole = read_text(path);
  std::istringstream text{std::string(without_byte_order_mark(whole))};
  for (std::string line; std::getline(text, line); names.push_back(line))
    if (line.ends_with('\r')) line.pop_back();
  return names;
}

/// Names for the numbers in the tars of a folder: its classes.txt, or the one beside a curation's shards/.
void name_classes_beside(DatasetBuilder& builder, const std::string& folder) {
  const std::filesystem::path there = folder.empty() ? "." : folder;
  std::filesystem::path names = there / kClassNames;
  std::error_code ignored;
  const auto whole = std::filesystem::weakly_canonical(there, ignored);
  if (!path_exists(names.string()) && whole.filename() == "shards") names = whole.parent_path() / kClassNames;
  builder.add_source(names.string());
  if (path_exists(names.string())) builder.name_classes(read_class_names(names.string()));
}

Dataset open_folder(const std::string& reference, RecordListWriter* list) {
  DatasetBuilder builder(reference, list);
  const FolderFiles found = walk_folder(reference, builder.dataset().faults);
  for (const std::string& folder : found.folders) builder.add_source(folder);
  if (!builder.dataset().faults.empty()) builder.set_uncertain();  // of links and rights
  builder.pass_over_hidden(found.hidden);
  const bool has_tars = std::any_of(found.files.begin(), found.files.end(),
                                    [](const FoundFile& file) { return is_tar_name(file.relative); });
  if (has_tars) name_classes_beside(builder, reference);
  std::unordered_set<std::string> stems;
  for (const FoundFile& file : found.files)
    if (is_image_extension(lower_extension(file.relative))) stems.insert(without_extension(file.relative));
  for (const FoundFile& file : found.files) {
    work_point();
    const std::string path = reference + "/" + file.relative;
    if (is_tar_name(file.relative)) {
      builder.add_tar(path, tar_prefix(file.relative));
      continue;
    }
    if (has_tars && file.relative == kClassNames) continue;
    Record record;
    record.path = path;
    record.extension = lower_extension(file.relative);
    record.key = printable_name(without_extension(file.relative));
    if (!is_image_extension(record.extension)) {
      const bool beside =
          is_sidecar_extension(record.extension) && stems.contains(without_extension(file.relative));
      std::string told;
      if (!beside) builder.add_source(path);
      try {
        if (!beside) told = extension_by_content(path);
      } catch (const IoError&) {
        throw;
      } catch (const Error& error) {
        builder.fault(error.what());
        continue;
      }
      if (told.empty()) {
        builder.pass_over(file.relative);
        continue;
      }
      record.extension = told;
      record.key = printable_name(file.relative.substr(0, key_length(file.relative)));
    }
    const size_t slash = file.relative.rfind('/');
    builder.add_in_folder(std::move(record),
                          std::string_view(file.relative).substr(0, slash == std::string::npos ? 0 : slash));
  }
  return builder.finish();
}

/// The file that a line of a list names: spaces at its ends may belong to the name.
std::string listed_path(const std::string& folder, const std::string& exact, const std::string& given) {
  const auto place = [&](const std::string& name) { return name[0] == '/' ? name : folder + name; };
  return exact != given && path_exists(place(exact)) ? exact : given;
}

/// One line of a list, without what ends it.
struct ListLine {
  std::string path, label;
};

std::optional<ListLine> parse_list_line(std::string line, const std::string& folder) {
  if (line.ends_with('\r')) line.pop_back();
  const size_t tab = line.find('\t');
  const std::string exact = line.substr(0, tab), given = trimmed_text(exact);
  if (given.empty() || given[0] == '#') return std::nullopt;
  std::string ignored;
  return ListLine{given.find('\0') == std::string::npos ? listed_path(folder, exact, given) : given,
                  tab == std::string::npos ? "" : class_text(line.substr(tab + 1), ignored)};
}

/// Why the file cannot be a record, or nothing: then its extension is set.
std::string refuse_listed(Record& record) {
  if (record.path.find('\0') != std::string::npos) return "not the name of a file";
  if (!path_exists(record.path)) return "no such file";
  if (is_folder(record.path)) return "a folder; list its files, or give it as the reference";
  if (static_cast<int64_t>(record.path.size()) > kMaxName) return "its name is too long";
  if (is_tar_name(record.path) || is_image_extension(record.extension)) return {};
  try {
    record.extension = extension_by_content(record.path);
  } catch (const IoError&) {
    throw;
  } catch (const Error& error) {
    return error.what();
  }
  return record.extension.empty() ? "not an image" : "";
}

/// One path a line (an image or a tar), relative to the list's folder; after a tab, optionally, the label.
Dataset open_list(const std::string& reference, RecordListWriter* list) {
  DatasetBuilder builder(reference, list);
  const std::string folder = reference.substr(0, reference.rfind('/') + 1);
  builder.add_source(reference);
  const std::string whole = read_text(reference);
  if (is_wide_text(whole))
    throw DataError(fmt::format("bad list: {}: it is UTF-16 or UTF-32; save it as UTF-8", reference));
  std::istringstream text{std::string(without_byte_order_mark(whole))};
  std::unordered_set<std::string> seen;
  std::string line;
  for (int64_t number = 1; std::getline(text, line); ++number) {
    const auto parsed = parse_list_line(line, folder);
    if (!parsed) continue;
    const std::string& given = parsed->path;
    Record record;
    record.path = given[0] == '/' ? given : folder + given;
    record.extension = lower_extension(given);
    const bool named = is_image_extension(record.extension);
    record.key = printable_name(given.substr(0, named ? without_extension(given).size() : key_length(given)));
    std::string why = refuse_listed(record);
    // To look for each file again costs what listing them does.
    if (!why.empty() || !is_tar_name(record.path)) builder.set_uncertain();
    const bool found = why.empty();
    if (found && !seen.insert(std::filesystem::path(record.path).lexically_normal().string()).second)
      why = "listed twice; used once";
    if (!why.empty()) {
      builder.fault(fmt::format("{}: line {}: {}: {}", reference, number, given.substr(0, 200), why));
      builder.dataset().passed_over += !found;
    } else if (is_tar_name(record.path)) {
      builder.add_tar(record.path, tar_prefix(given));
    } else {
      builder.add(std::move(record), parsed->label);
    }
  }
  return builder.finish();
}

/// Shards of so many bytes in all are read and compared with their checksums when they are opened.
constexpr int64_t kAlwaysVerified = int64_t{1} << 30;

struct Shard {
  std::string file;
  std::string crc;  ///< as the manifest has it; empty when it has none
};

/// A shard that is gone, cut off or changed would be a part that looks like the whole.
[[noreturn]] void fail_shard(const std::string& file, const std::string& why) {
  throw DataError(
      fmt::format("damaged shard: {}: {}; copy it again, or run `dino-curate run` there, which says how to "
                  "export it again",
                  file, why));
}

Shard check_shard(const nlohmann::json& shard, const std::string& reference, int64_t& total) {
  const auto name = shard["path"].get<std::string>();
  const std::string file = name.starts_with('/') ? name : reference + "/" + name;
  if (!path_exists(file)) fail_shard(file, "manifest.json lists it and it is not there");
  const int64_t bytes = file_size(file);
  total += bytes;
  if (shard.contains("bytes") && shard["bytes"].is_number_integer() && shard["bytes"].get<int64_t>() != bytes)
    fail_shard(file, fmt::format("{} bytes, manifest.json says {}", bytes, shard["bytes"].get<int64_t>()));
  const bool has_crc = shard.contains("crc32c") && shard["crc32c"].is_string();
  return {file, has_crc ? shard["crc32c"].get<std::string>() : std::string()};
}

/// The shards that manifest.json lists, or nothing when it is not the manifest of a curation.
std::optional<Dataset> open_curated(const std::string& reference, RecordListWriter* list) {
  const std::string path = reference + "/manifest.json", text = read_text(path);
  const auto manifest = nlohmann::json::parse(text, nullptr, false);
  if (manifest.is_discarded()) throw DataError(fmt::format("bad manifest: {}: it is not JSON", path));
  if (!manifest.is_object() || !manifest.contains("shards") || !manifest["shards"].is_array())
    return std::nullopt;
  if (has_json_seal(text)) check_sealed_json(text, path, "copy it again, or run `dino-curate run` there");
  DatasetBuilder builder(reference, list);
  builder.add_source(path);
  name_classes_beside(builder, reference);
  int64_t total = 0;
  std::vector<Shard> shards;
  for (const auto& shard : manifest["shards"]) {
    if (!shard.is_object() || !shard.contains("path") || !shard["path"].is_string())
      throw DataError(fmt::format("bad manifest: {}: a shard has no path", path));
    shards.push_back(check_shard(shard, reference, total));
  }
  for (const Shard& shard : shards) {
    if (total <= kAlwaysVerified && !shard.crc.empty() && hex32(crc32c_file(shard.file)) != shard.crc)
      fail_shard(shard.file, "its checksum is not that of manifest.json");
    // The keys' folders are those of its inputs, and labels only by chance.
    builder.add_tar(shard.file, tar_prefix(base_name(shard.file)), false);
  }
  return builder.finish();
}

/// The reference's data set; its records are in `list` where one is given, but for a set with a name.
Dataset open_reference(const std::string& given, RecordListWriter* list) {
  std::string reference = given;
  while (reference.size() > 1 && reference.back() == '/') reference.pop_back();
  if (!path_exists(reference)) {
    if (auto named = open_named_dataset(reference)) {
      if (list != nullptr) list->sources().set_uncertain();
      return std::move(*named);
    }
    throw MissingInputError(fmt::format(
        "cannot find data: {}: no such file or folder, and no data set of that name; known names: {}", given,
        fmt::join(dataset_names(), ", ")));
  }
  if (is_folder(reference)) {
    if (path_exists(reference + "/manifest.json"))
      if (auto curated = open_curated(reference, list)) return std::move(*curated);
    // Its shards, if any, are those of some ranks: a part that looks like the whole.
    if (path_exists(reference + "/curate.ini") && !path_exists(reference + "/manifest.json"))
      throw UpstreamError(fmt::format(
          "curation not complete: {}: it has no manifest.json yet; run `dino-curate run` again", given));
    return open_folder(reference, list);
  }
  if (lower_extension(reference) == "txt") return open_list(reference, list);
  if (is_tar_name(reference)) {
    DatasetBuilder builder(reference, list);
    name_classes_beside(builder, std::filesystem::path(reference).parent_path().string());
    builder.add_tar(reference, tar_prefix(base_name(reference)));
    return builder.finish();
  }
  throw DataError(
      fmt::format("cannot use as data: {}: neither a folder, a .tar (.tar.gz, .tgz, .tar.zst, .tar.xz, "
                  ".tar.bz2), a .txt list nor a name; give one of those",
                  given));
}

}  // namespace

Dataset open_dataset(const std::string& given) {
  return open_reference(given, nullptr);
}

Dataset list_dataset(const std::string& reference, RecordListWriter& list) {
  Dataset dataset = open_reference(reference, &list);
  for (const Record& record : dataset.records) list.add(record);
  dataset.records = {};
  dataset.sidecars = {};
  return dataset;
}

std::vector<uint8_t> read_record(const Record& record) {
  if (!record.fault.empty()) throw DataError(fmt::format("cannot use: {}: {}", record.key, record.fault));
  return read_listed(record.path, record.offset, record.size);
}

}  // namespace dino
