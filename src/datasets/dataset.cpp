// SPDX-License-Identifier: Apache-2.0
#include "datasets/dataset.hpp"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <unordered_map>
#include <unordered_set>

#include "base/error.hpp"
#include "base/retry.hpp"
#include "base/working.hpp"
#include "datasets/dataset_builder.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"
#include "storage/tar.hpp"

namespace dino {
namespace {

/// A class text is a number or a name.
constexpr int64_t kMaxClassText = 4096;
/// Class numbers above this are taken as names, so that one wrong sidecar cannot make 10^9 classes.
constexpr int64_t kMaxClassNumber = 1'000'000;

struct CloseFolder {
  void operator()(DIR* folder) const { ::closedir(folder); }
};

struct FolderId {
  dev_t device;
  ino_t inode;
  bool operator==(const FolderId&) const = default;
};

class Walk {
 public:
  Walk(const std::string& root, std::vector<std::string>& faults, bool links)
      : root_(root), faults_(faults), links_(links) {}

  std::vector<FoundFile> run() {
    visit("");
    std::sort(files_.begin(), files_.end(),
              [](const FoundFile& a, const FoundFile& b) { return a.relative < b.relative; });
    return std::move(files_);
  }

 private:
  void visit(const std::string& relative) {
    const std::string path = relative.empty() ? root_ : root_ + "/" + relative;
    struct stat status {};
    const auto folder = open_listed(path, status);
    if (!folder) {
      faults_.push_back(fmt::format("{}: cannot read the folder: {}", path, std::strerror(errno)));
      return;
    }
    const FolderId self{status.st_dev, status.st_ino};
    if (std::find(above_.begin(), above_.end(), self) != above_.end()) return;
    above_.push_back(self);
    for (const auto& [name, type] : entries_of(folder.get(), path))
      classify(relative.empty() ? name : relative + "/" + name, type);
    above_.pop_back();
  }

  /// Null where the rights do not suffice; a folder that fails, or that is gone since its parent was read, is
  /// a fault of the file system.
  static std::unique_ptr<DIR, CloseFolder> open_listed(const std::string& path, struct stat& status) {
    return retrying(path, [&] {
      std::unique_ptr<DIR, CloseFolder> folder(::opendir(path.c_str()));
      const bool there = folder && ::fstat(::dirfd(folder.get()), &status) == 0;
      if (!there && (is_passing_fault(errno) || errno == ENOENT))
        throw IoError(
            fmt::format("cannot read the folder: {}: {}; check its file system", path, std::strerror(errno)));
      return there ? std::move(folder) : nullptr;
    });
  }

  static std::vector<std::pair<std::string, unsigned char>> entries_of(DIR* folder, const std::string& path) {
    return retrying(path, [&] {
      std::vector<std::pair<std::string, unsigned char>> entries;
      ::rewinddir(folder);
      errno = 0;
      while (const dirent* entry = ::readdir(folder)) {
        if (entry->d_name[0] != '.' && entry->d_name[0] != '\0')
          entries.emplace_back(entry->d_name, entry->d_type);
        errno = 0;
      }
      if (errno != 0)
        throw IoError(
            fmt::format("cannot read the folder: {}: {}; check its file system", path, std::strerror(errno)));
      return entries;
    });
  }

  static bool ask(const std::string& path, struct stat& status, int (*call)(const char*, struct stat*)) {
    return retrying(path, [&] {
      if (call(path.c_str(), &status) == 0) return true;
      if (is_passing_fault(errno)) throw_errno("cannot stat", path);
      return false;
    });
  }

  void classify(const std::string& relative, unsigned char type) {
    const std::string path = root_ + "/" + relative;
    struct stat status {};
    if (type == DT_UNKNOWN && ask(path, status, ::lstat)) {  // some file systems do not tell
      if (S_ISREG(status.st_mode)) type = DT_REG;
      if (S_ISDIR(status.st_mode)) type = DT_DIR;
      if (S_ISLNK(status.st_mode)) type = DT_LNK;
    }
    if (type == DT_LNK) {
      if (!links_) return;
      if (!ask(path, status, ::stat)) {
        faults_.push_back(fmt::format("{}: cannot follow the link: {}", path, std::strerror(errno)));
        return;
      }
      type = S_ISDIR(status.st_mode) ? DT_DIR : S_ISREG(status.st_mode) ? DT_REG : DT_UNKNOWN;
    }
    if (type == DT_DIR) visit(relative);
    if (type == DT_REG) files_.push_back({relative});
  }

  const std::string& root_;
  std::vector<std::string>& faults_;
  bool links_;
  std::vector<FolderId> above_;
  std::vector<FoundFile> files_;
};

std::string first_component(std::string_view path) {
  const size_t slash = path.find('/');
  return slash == std::string_view::npos ? std::string() : std::string(path.substr(0, slash));
}

std::string base_name(std::string_view path) {
  return std::string(path.substr(path.rfind('/') + 1));
}

std::string trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin));
}

/// The class number in `text`, or -1.
int64_t class_number(const std::string& text) {
  int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= 0 && value < kMaxClassNumber
             ? value
             : -1;
}

Dataset open_folder(const std::string& reference) {
  DatasetBuilder builder(reference);
  for (const FoundFile& file : walk_folder(reference, builder.dataset().faults)) {
    work_point();
    const std::string extension = lower_extension(file.relative);
    const std::string path = reference + "/" + file.relative;
    if (extension == "tar") {
      builder.add_tar(path, without_extension(file.relative));
    } else if (is_image_extension(extension)) {
      Record record;
      record.key = without_extension(file.relative);
      record.path = path;
      record.extension = extension;
      builder.add(std::move(record), first_component(file.relative));
    }
  }
  return builder.finish();
}

/// One path a line, relative to the list's folder; after a tab, optionally, the label.
Dataset open_list(const std::string& reference) {
  DatasetBuilder builder(reference);
  const std::string folder = reference.substr(0, reference.rfind('/') + 1);
  std::istringstream text(read_text(reference));
  std::unordered_set<std::string> seen;
  std::string line;
  for (int64_t number = 1; std::getline(text, line); ++number) {
    const size_t tab = line.find('\t');
    const std::string given = trimmed(line.substr(0, tab));
    if (given.empty() || given[0] == '#') continue;
    const auto fault = [&](const std::string& why) {
      builder.fault(fmt::format("{}: line {}: {}: {}", reference, number, given, why));
    };
    Record record;
    record.path = given[0] == '/' ? given : folder + given;
    record.key = without_extension(given);
    record.extension = lower_extension(given);
    if (given.find('\0') != std::string::npos || !is_image_extension(record.extension)) {
      fault("not the name of an image file");
    } else if (!path_exists(record.path)) {
      fault("no such file");
    } else if (!seen.insert(record.path).second) {
      fault("listed twice; used once");
    } else {
      builder.add(std::move(record), tab == std::string::npos ? "" : trimmed(line.substr(tab + 1)));
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
std::optional<Dataset> open_curated(const std::string& reference) {
  const std::string path = reference + "/manifest.json", text = read_text(path);
  const auto manifest = nlohmann::json::parse(text, nullptr, false);
  if (manifest.is_discarded()) throw DataError(fmt::format("bad manifest: {}: it is not JSON", path));
  if (!manifest.is_object() || !manifest.contains("shards") || !manifest["shards"].is_array())
    return std::nullopt;
  if (has_json_seal(text)) check_sealed_json(text, path, "copy it again, or run `dino-curate run` there");
  DatasetBuilder builder(reference);
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
    builder.add_tar(shard.file, without_extension(base_name(shard.file)));
  }
  return builder.finish();
}

}  // namespace

std::vector<FoundFile> walk_folder(const std::string& root, std::vector<std::string>& faults,
                                   bool follow_links) {
  return Walk(root, faults, follow_links).run();
}

std::string lower_extension(std::string_view path) {
  const std::string base = base_name(path);
  const size_t dot = base.rfind('.');
  if (dot == std::string::npos || dot == 0) return {};
  std::string extension = base.substr(dot + 1);
  for (char& c : extension)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return extension;
}

std::string without_extension(std::string_view path) {
  const std::string base = base_name(path);
  const size_t dot = base.rfind('.');
  return std::string(
      path.substr(0, path.size() - (dot == std::string::npos || dot == 0 ? 0 : base.size() - dot)));
}

bool is_image_extension(std::string_view extension) {
  for (const std::string_view known :
       {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm",
        "heic", "heif", "avif", "jxl", "jp2"})
    if (extension == known) return true;
  return false;
}

void DatasetBuilder::add(Record record, std::string label) {
  dataset_.records.push_back(std::move(record));
  labels_.push_back(std::move(label));
}

namespace {

/// A tar that cannot be reached is not one without images.
std::vector<TarMember> scan_listed_tar(const std::string& path, std::vector<TarFault>& faults) {
  return retrying(path, [&] {
    static_cast<void>(listed_size(path));
    faults.clear();
    return scan_tar(path, faults);
  });
}

}  // namespace

void DatasetBuilder::add_tar(const std::string& path, const std::string& prefix) {
  std::vector<TarFault> faults;
  std::vector<TarMember> members;
  try {
    members = scan_listed_tar(path, faults);
  } catch (const DataError& error) {
    fault(error.what());
    return;
  }
  for (const TarFault& f : faults) fault(fmt::format("{}: offset {}: {}", path, f.offset, f.what));
  // Sidecars may stand before or after their image.
  std::unordered_map<std::string_view, int64_t> by_key;
  for (const TarMember& member : members) {
    const std::string last = lower_extension(member.name);
    if (!is_image_extension(last)) continue;
    // "a.1.jpg" is a second image of the sample "a".
    const std::string inner = without_extension("." + member.extension).substr(1);
    const bool plain = member.extension == last;
    by_key.emplace(member.key, static_cast<int64_t>(dataset_.records.size()));
    Record record;
    record.key = prefix + "/" + member.key + (plain ? "" : "." + inner);
    record.path = path;
    record.offset = member.offset;
    record.size = member.size;
    record.extension = last;
    add(std::move(record), first_component(member.key));
  }
  for (const TarMember& member : members) {
    if (member.extension != "json" && member.extension != "txt" && member.extension != "cls" &&
        member.extension != "depth")
      continue;
    const auto owner = by_key.find(member.key);
    if (owner == by_key.end()) continue;
    dataset_.sidecars.push_back({owner->second, member.extension, path, member.offset, member.size});
    if (member.extension != "cls") continue;
    if (member.size > kMaxClassText) {
      fault(fmt::format("{}: offset {}: {}: a class of {} bytes", path, member.offset, member.name,
                        member.size));
      continue;
    }
    const auto bytes = read_listed(path, member.offset, member.size);
    labels_[static_cast<size_t>(owner->second)] =
        trimmed({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
}

void DatasetBuilder::make_keys_unique() {
  std::unordered_set<std::string_view> seen;
  seen.reserve(dataset_.records.size());
  for (Record& record : dataset_.records) {
    if (seen.contains(record.key) && !record.extension.empty()) record.key += "." + record.extension;
    const std::string stem = record.key;
    for (int copy = 2; seen.contains(record.key); ++copy) record.key = fmt::format("{}~{}", stem, copy);
    seen.insert(record.key);
  }
}

void DatasetBuilder::number_labels() {
  int64_t highest = -1;
  bool numbers = true;
  std::vector<std::string> names;
  for (const std::string& label : labels_) {
    if (label.empty()) continue;
    const int64_t number = class_number(label);
    numbers = numbers && number >= 0;
    highest = std::max(highest, number);
    names.push_back(label);
  }
  if (numbers) {
    // Numbers keep their value even when some do not occur, so that two parts of a data set agree.
    for (int64_t i = 0; i <= highest; ++i) dataset_.classes.push_back(std::to_string(i));
    for (size_t i = 0; i < labels_.size(); ++i)
      dataset_.records[i].label = labels_[i].empty() ? -1 : static_cast<int32_t>(class_number(labels_[i]));
    return;
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  dataset_.classes = std::move(names);
  const auto& classes = dataset_.classes;
  for (size_t i = 0; i < labels_.size(); ++i)
    if (!labels_[i].empty())
      dataset_.records[i].label = static_cast<int32_t>(
          std::lower_bound(classes.begin(), classes.end(), labels_[i]) - classes.begin());
}

Dataset DatasetBuilder::finish() {
  if (dataset_.records.empty())
    throw DataError(
        fmt::format("no image found: {}: {}; give a folder of images or tars, a tar, a .txt list or a name",
                    dataset_.reference,
                    dataset_.faults.empty() ? "no file with an image's extension" : dataset_.faults[0]));
  make_keys_unique();
  number_labels();
  return std::move(dataset_);
}

Dataset open_dataset(const std::string& given) {
  std::string reference = given;
  while (reference.size() > 1 && reference.back() == '/') reference.pop_back();
  if (!path_exists(reference)) {
    if (auto named = open_named_dataset(reference)) return std::move(*named);
    throw MissingInputError(fmt::format(
        "cannot find data: {}: no such file or folder, and no data set of that name; known names: {}", given,
        fmt::join(dataset_names(), ", ")));
  }
  if (is_folder(reference)) {
    if (path_exists(reference + "/manifest.json"))
      if (auto curated = open_curated(reference)) return std::move(*curated);
    // Its shards, if any, are those of some ranks: a part that looks like the whole.
    if (path_exists(reference + "/curate.ini") && !path_exists(reference + "/manifest.json"))
      throw UpstreamError(fmt::format(
          "curation not complete: {}: it has no manifest.json yet; run `dino-curate run` again", given));
    return open_folder(reference);
  }
  const std::string extension = lower_extension(reference);
  if (extension == "txt") return open_list(reference);
  if (extension == "tar") {
    DatasetBuilder builder(reference);
    builder.add_tar(reference, without_extension(base_name(reference)));
    return builder.finish();
  }
  throw DataError(fmt::format(
      "cannot use as data: {}: neither a folder, a .tar, a .txt list nor a name; give one of those", given));
}

std::vector<uint8_t> read_record(const Record& record) {
  return read_listed(record.path, record.offset, record.size);
}

}  // namespace dino
