// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <span>
#include <string_view>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/retry.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/seal.hpp"

namespace dino {
namespace {

/// Shards kept open at once; a run of thousands of ranks would otherwise meet the limit on open files.
constexpr size_t kOpenShards = 64;
/// Unit sizes beyond this are nonsense in a manifest, not models.
constexpr int64_t kMaxElements = int64_t{1} << 40;

[[noreturn]] void bad(const std::string& path, const std::string& why) {
  throw DataError(fmt::format("bad checkpoint: {}: {}; use another checkpoint", path, why));
}

int64_t whole(const Json& value, const std::string& path, const std::string& what,
              int64_t limit = kMaxElements) {
  if (!value.is_number_integer()) bad(path, what + " is not an integer");
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(limit))
    bad(path, fmt::format("{} is {}", what, value.get<uint64_t>()));
  const auto number = value.get<int64_t>();
  if (number < 0 || number > limit) bad(path, fmt::format("{} is {}", what, number));
  return number;
}

const Json& member(const Json& object, const char* key, const std::string& path) {
  if (!object.is_object() || !object.contains(key)) bad(path, fmt::format("no field \"{}\"", key));
  return object.at(key);
}

std::string text(const Json& value, const std::string& path, const char* what) {
  if (!value.is_string()) bad(path, fmt::format("{} is not a string", what));
  return value.get<std::string>();
}

const Json& list(const Json& object, const char* key, const std::string& path) {
  const Json& value = member(object, key, path);
  if (!value.is_array()) bad(path, fmt::format("\"{}\" is not a list", key));
  return value;
}

CheckpointManifest::Unit parse_unit(const Json& json, const std::string& path) {
  CheckpointManifest::Unit unit;
  unit.name = text(member(json, "name", path), path, "a unit's name");
  unit.module = text(member(json, "module", path), path, "a unit's module");
  unit.padded = whole(member(json, "padded", path), path, "the size of " + unit.name);
  for (const Json& entry : list(json, "parameters", path)) {
    CheckpointManifest::Parameter parameter;
    parameter.name = text(member(entry, "name", path), path, "a parameter's name");
    const Json& shape = list(entry, "shape", path);
    if (shape.size() > Shape::kMaxRank) bad(path, parameter.name + " has more than four dimensions");
    std::vector<int64_t> dims;
    int64_t numel = 1;
    for (const Json& dim : shape) {
      dims.push_back(whole(dim, path, "a dimension of " + parameter.name));
      if (dims.back() != 0 && numel > kMaxElements / dims.back()) bad(path, parameter.name + " is too large");
      numel *= dims.back();
    }
    parameter.shape = Shape(dims);
    parameter.offset = whole(member(entry, "offset", path), path, "the offset of " + parameter.name);
    if (parameter.offset + numel > unit.padded)
      bad(path, fmt::format("{} ends at {} of {} elements of {}", parameter.name, parameter.offset + numel,
                            unit.padded, unit.name));
    unit.parameters.push_back(std::move(parameter));
  }
  return unit;
}

CheckpointManifest::Shard parse_shard(const Json& json, const CheckpointManifest& manifest,
                                      const std::string& path) {
  CheckpointManifest::Shard shard;
  shard.file = text(member(json, "file", path), path, "a shard's file");
  if (shard.file.empty() || shard.file.find('/') != std::string::npos)
    bad(path, fmt::format("shard file \"{}\" is not a plain name", shard.file));
  shard.bytes = whole(member(json, "bytes", path), path, "the size of " + shard.file,
                      std::numeric_limits<int64_t>::max());
  shard.crc32c = text(member(json, "crc32c", path), path, "a checksum");
  const Json& ranges = list(json, "ranges", path);
  if (ranges.size() != manifest.units.size())
    bad(path, fmt::format("{} has {} ranges for {} units", shard.file, ranges.size(), manifest.units.size()));
  for (size_t u = 0; u < ranges.size(); ++u) {
    const std::string what = fmt::format("the range of {} in {}", manifest.units[u].name, shard.file);
    if (!ranges[u].is_array() || ranges[u].size() != 2) bad(path, what + " is not a pair");
    const int64_t begin = whole(ranges[u][0], path, what);
    const int64_t end = whole(ranges[u][1], path, what);
    if (begin > end || end > manifest.units[u].padded)
      bad(path, fmt::format("{} is [{}, {}) of {}", what, begin, end, manifest.units[u].padded));
    shard.ranges.push_back({begin, end});
  }
  return shard;
}

/// Every element of every unit is in exactly one shard.
void check_cover(const CheckpointManifest& manifest, const std::string& path) {
  for (size_t u = 0; u < manifest.units.size(); ++u) {
    std::vector<std::array<int64_t, 2>> ranges;
    for (const auto& shard : manifest.shards)
      if (shard.ranges[u][0] < shard.ranges[u][1]) ranges.push_back(shard.ranges[u]);
    std::sort(ranges.begin(), ranges.end());
    int64_t end = 0;
    for (const auto& range : ranges) {
      if (range[0] != end)
        bad(path, fmt::format("shards do not cover {} once at {}", manifest.units[u].name, end));
      end = range[1];
    }
    if (end != manifest.units[u].padded)
      bad(path, fmt::format("shards cover {} of {} elements of {}", end, manifest.units[u].padded,
                            manifest.units[u].name));
  }
}

/// What stands before the checksum; the checksum is of all that stands before this.
constexpr std::string_view kSeal = ",\n \"manifest_crc32c\": \"";

std::string checksum_of(std::string_view body) {
  return hex32(crc32c(std::as_bytes(std::span(body))));
}

/// A flipped digit leaves valid JSON. Manifests of earlier versions have no seal.
void check_seal(const std::string& content, const std::string& path) {
  const size_t at = content.rfind(kSeal);
  if (at == std::string::npos) return;
  const std::string there = content.substr(at + kSeal.size(), 8);
  const std::string sum = checksum_of(std::string_view(content).substr(0, at));
  if (sum != there) bad(path, fmt::format("CRC32C {}, it says {} of itself", sum, there));
}

/// `path` is what messages name.
CheckpointManifest parse_manifest(const std::string& checkpoint, const std::string& path,
                                  std::string content) {
  const Json json = Json::parse(content, nullptr, false);
  if (json.is_discarded() || !json.is_object()) bad(path, "not a JSON object");
  check_seal(content, path);
  if (const int64_t schema = whole(member(json, "schema", path), path, "the schema"); schema != 1)
    bad(path, fmt::format("schema {} is not known to this version", schema));
  CheckpointManifest manifest;
  manifest.path = checkpoint;
  manifest.step = whole(member(json, "step", path), path, "the step");
  manifest.samples =
      whole(member(json, "samples", path), path, "the sample count", std::numeric_limits<int64_t>::max());
  manifest.ranks = static_cast<int>(whole(member(json, "ranks", path), path, "the rank count", 1 << 24));
  manifest.model_json = json_line(member(json, "model", path));
  for (const Json& store : list(json, "stores", path))
    manifest.stores.push_back(text(store, path, "a store"));
  for (const Json& unit : list(json, "units", path)) manifest.units.push_back(parse_unit(unit, path));
  for (const Json& shard : list(json, "shards", path))
    manifest.shards.push_back(parse_shard(shard, manifest, path));
  if (manifest.shards.size() != static_cast<size_t>(manifest.ranks))
    bad(path, fmt::format("{} shards of {} ranks", manifest.shards.size(), manifest.ranks));
  check_cover(manifest, path);
  manifest.json = std::move(content);
  return manifest;
}

/// The step of "step_00001000", or -1.
int64_t step_of(const std::string& name) {
  if (!name.starts_with("step_") || name.size() == 5 || name.size() > 23) return -1;
  int64_t step = 0;
  for (const char c : name.substr(5)) {
    if (c < '0' || c > '9') return -1;
    step = step * 10 + (c - '0');
  }
  return step;
}

}  // namespace

bool CheckpointManifest::has_store(const std::string& name) const {
  return std::find(stores.begin(), stores.end(), name) != stores.end();
}

std::string CheckpointManifest::shard_path(size_t shard) const {
  return is_folder(path) ? path + "/" + shards[shard].file : path;
}

std::string CheckpointManifest::text_path() const {
  return is_folder(path) ? path + "/manifest.json" : path;
}

bool is_checkpoint(const std::string& path) {
  if (is_folder(path)) return path_exists(path + "/manifest.json");
  return Hdf5File::is_hdf5(path) && Hdf5File::open(path).exists(kManifestDataset);
}

CheckpointManifest read_checkpoint_manifest(const std::string& path) {
  if (!is_folder(path) && path_exists(path)) {
    const Hdf5File file = Hdf5File::open(path);
    if (!file.exists(kManifestDataset)) bad(path, fmt::format("no dataset {}", kManifestDataset));
    const std::vector<std::string> texts = file.read_strings(kManifestDataset);
    if (texts.size() != 1) bad(path, fmt::format("{} is not one string", kManifestDataset));
    CheckpointManifest manifest = parse_manifest(path, path, texts.front());
    if (manifest.shards.size() != 1) bad(path, fmt::format("{} shards in one file", manifest.shards.size()));
    return manifest;
  }
  const std::string text = path + "/manifest.json";
  if (!path_exists(text))
    throw MissingInputError(fmt::format(
        "no checkpoint: {}: no manifest.json, so it was never finished; use another checkpoint", path));
  return parse_manifest(path, text, read_text(text));
}

std::string seal_manifest(std::string json) {
  DINO_CHECK(json.ends_with("\n}"), "a manifest is an indented JSON object");
  json.resize(json.size() - 2);
  const std::string sum = checksum_of(json);
  return json.append(kSeal).append(sum).append("\"\n}\n");
}

std::string find_shard_fault(const CheckpointManifest& manifest) {
  if (!is_folder(manifest.path))
    return seal_holds(manifest.path) ? "" : manifest.path + ": not the bytes that were sealed";
  for (size_t s = 0; s < manifest.shards.size(); ++s) {
    const auto& shard = manifest.shards[s];
    const std::string path = manifest.shard_path(s);
    if (!path_exists(path)) return fmt::format("{}: missing", path);
    if (const int64_t size = file_size(path); size != shard.bytes)
      return fmt::format("{}: {} bytes, the manifest says {}", path, size, shard.bytes);
    if (const std::string sum = hex32(crc32c_file(path)); sum != shard.crc32c)
      return fmt::format("{}: CRC32C {}, the manifest says {}", path, sum, shard.crc32c);
  }
  return "";
}

std::vector<std::string> complete_checkpoints(const std::string& run) {
  const std::filesystem::path parent = std::filesystem::path(run) / "checkpoints";
  std::vector<std::pair<int64_t, std::string>> found;
  // To take a folder that fails for one without checkpoints would begin the training anew.
  retrying(parent.string(), [&] {
    found.clear();
    std::error_code error;
    for (std::filesystem::directory_iterator it(parent, error), end; !error && it != end;
         it.increment(error)) {
      const int64_t step = step_of(it->path().filename().string());
      if (step >= 0 && path_exists(it->path().string() + "/manifest.json"))
        found.emplace_back(step, it->path().string());
    }
    if (error && error != std::errc::no_such_file_or_directory && error != std::errc::not_a_directory)
      throw IoError(fmt::format("cannot read the folder: {}: {}", parent.string(), error.message()));
  });
  std::sort(found.rbegin(), found.rend());
  std::vector<std::string> folders;
  for (auto& [step, folder] : found) folders.push_back(std::move(folder));
  return folders;
}

std::string newest_sound_checkpoint(const std::string& run) {
  for (const std::string& folder : complete_checkpoints(run)) {
    std::string fault;
    try {
      fault = find_shard_fault(read_checkpoint_manifest(folder));
    } catch (const IoError&) {
      throw;  // the next older one would go on from another state, for a fault that may pass
    } catch (const Error& error) {
      fault = error.what();
    }
    if (fault.empty()) return folder;
    log::warning(fmt::format("checkpoint passed over: {}: {}", folder, fault));
  }
  return "";
}

CheckpointReader::CheckpointReader(CheckpointManifest manifest) : manifest_(std::move(manifest)) {
  for (size_t u = 0; u < manifest_.units.size(); ++u)
    for (const auto& parameter : manifest_.units[u].parameters)
      places_.emplace(parameter.name, Place{static_cast<int64_t>(u), &parameter});
}

CheckpointReader::~CheckpointReader() = default;

CheckpointReader::Place CheckpointReader::find(const std::string& name) const {
  const auto found = places_.find(name);
  if (found == places_.end()) bad(manifest_.path, "no parameter " + name);
  return found->second;
}

Hdf5File& CheckpointReader::shard_file(size_t shard) {
  auto found = open_.find(shard);
  if (found == open_.end()) {
    if (open_.size() >= kOpenShards) open_.clear();
    found =
        open_.emplace(shard, std::make_unique<Hdf5File>(Hdf5File::open_verified(manifest_.shard_path(shard))))
            .first;
  }
  return *found->second;
}

void CheckpointReader::read_range(const std::string& store, int64_t unit, int64_t begin,
                                  std::span<float> out) {
  if (!manifest_.has_store(store)) bad(manifest_.path, fmt::format("no store \"{}\"", store));
  const auto u = static_cast<size_t>(unit);
  const int64_t end = begin + static_cast<int64_t>(out.size());
  DINO_CHECK(u < manifest_.units.size() && begin >= 0 && end <= manifest_.units[u].padded, "range of a unit");
  const std::string name = fmt::format("/{}/{}", store, manifest_.units[u].name);
  for (size_t s = 0; s < manifest_.shards.size(); ++s) {
    const auto [shard_begin, shard_end] = manifest_.shards[s].ranges[u];
    const int64_t from = std::max(begin, shard_begin);
    const int64_t to = std::min(end, shard_end);
    if (from >= to) continue;
    Hdf5File& file = shard_file(s);
    if (!file.exists(name)) bad(file.path(), "no dataset " + name);
    const auto info = file.info(name);
    if (info.dtype != DType::f32 || info.dims != std::vector<int64_t>{shard_end - shard_begin})
      bad(file.path(), fmt::format("{} does not hold {} f32 values", name, shard_end - shard_begin));
    file.read_rows(name, from - shard_begin, view_of(out.data() + (from - begin), Shape{to - from}));
  }
}

Tensor CheckpointReader::read_tensor(const std::string& store, const std::string& name) {
  const Place place = find(name);
  Tensor tensor(place.parameter->shape);
  read_range(store, place.unit, place.parameter->offset, tensor.f32());
  return tensor;
}

void CheckpointReader::read_part(const std::string& store, const ParameterInfo& parameter, int64_t begin,
                                 std::span<float> out) {
  const Place place = find(parameter.name);
  if (place.parameter->shape != parameter.shape)
    bad(manifest_.path, fmt::format("{} is {}, the model wants {}", parameter.name,
                                    place.parameter->shape.str(), parameter.shape.str()));
  read_range(store, place.unit, place.parameter->offset + begin, out);
}

void CheckpointReader::read_store(const std::string& store, ParameterStore& out) {
  for (const ParameterInfo& info : out.layout().parameters()) read_part(store, info, 0, out.view(info).f32());
}

}  // namespace dino
