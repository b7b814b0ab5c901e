// SPDX-License-Identifier: Apache-2.0
#include "training/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "comm/together.hpp"
#include "model/checkpoint_reader.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/seal.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

namespace fs = std::filesystem;

int64_t step_of(const std::string& folder) {
  return std::stoll(fs::path(folder).filename().string().substr(5));
}

std::string best_link(const std::string& run) {
  return run + "/checkpoints/best";
}

/// The name that the link holds, "" where there is none.
std::string best_name(const std::string& run) {
  std::error_code error;
  return fs::read_symlink(best_link(run), error).filename().string();
}

}  // namespace

void remove_checkpoint(const std::string& folder) {
  // Renamed first, so that a kill in the middle of the removal leaves no folder that looks like a checkpoint.
  const std::string trash = folder + ".trash";
  std::error_code error;
  fs::remove_all(trash, error);
  fs::rename(folder, trash, error);
  fs::remove_all(trash, error);
  if (error) log::warning(fmt::format("old checkpoint not removed: {}: {}", folder, error.message()));
}

void remove_old_checkpoints(const std::string& run, const Retention& keep) {
  const std::vector<std::string> folders = complete_checkpoints(run);
  const std::string best = best_name(run);
  for (size_t i = static_cast<size_t>(keep.newest); i < folders.size(); ++i) {
    if (fs::path(folders[i]).filename() == best) continue;
    if (keep.every == 0 || step_of(folders[i]) % keep.every != 0) remove_checkpoint(folders[i]);
  }
}

void write_full_checkpoint(const std::string& checkpoint, const std::string& path) {
  CheckpointReader reader(read_checkpoint_manifest(checkpoint));
  const CheckpointManifest& manifest = reader.manifest();
  OrderedJson json = OrderedJson::parse(manifest.json), ranges = OrderedJson::array();
  for (const auto& unit : manifest.units) ranges.push_back({0, unit.padded});
  json["ranks"] = 1;
  // The seal stands for size and checksum, which a file cannot hold of itself otherwise.
  json["shards"] = OrderedJson::array();
  json["shards"].push_back(OrderedJson{
      {"file", fs::path(path).filename().string()}, {"bytes", 0}, {"crc32c", ""}, {"ranges", ranges}});
  json.erase("manifest_crc32c");
  commit_hdf5(path, [&](Hdf5File& out) {
    for (const std::string& store : manifest.stores)
      for (size_t u = 0; u < manifest.units.size(); ++u) {
        Tensor values(Shape{manifest.units[u].padded});
        reader.read_range(store, static_cast<int64_t>(u), 0, values.f32());
        out.write(fmt::format("/{}/{}", store, manifest.units[u].name), values);
      }
    out.write_strings(kManifestDataset, {seal_manifest(json_text(json, 1))});
  });
}

void mark_best_checkpoint(const std::string& run, const std::string& folder) {
  const std::string temporary = fmt::format("{}.{}.tmp", best_link(run), random_hex(12));
  std::error_code error;
  fs::create_symlink(fs::path(folder).filename(), temporary, error);
  if (error) throw IoError(fmt::format("cannot make a link: {}: {}", temporary, error.message()));
  rename_durably(temporary, best_link(run));
}

void remove_unfinished_checkpoints(const std::string& run) {
  std::error_code error;
  for (fs::directory_iterator it(run + "/checkpoints", error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if ((name.starts_with("step_") || name.starts_with("best.")) &&
        (name.ends_with(".tmp") || name.ends_with(".trash"))) {
      std::error_code ignored;
      fs::remove_all(it->path(), ignored);
    }
  }
}

std::vector<std::string> list_checkpoints(const std::string& run) {
  return complete_checkpoints(run);
}

std::string verify_checkpoint(const std::string& folder) {
  try {
    return find_shard_fault(read_checkpoint_manifest(folder));
  } catch (const IoError&) {
    throw;  // of the file system, and no fault of the checkpoint
  } catch (const Error& error) {
    return error.what();
  }
}

std::string newest_valid_checkpoint(const std::string& run) {
  return newest_sound_checkpoint(run);
}

void set_aside_checkpoints(const std::string& run, int64_t step) {
  for (const std::string& folder : complete_checkpoints(run)) {
    if (step_of(folder) <= step) continue;
    std::string aside = folder + ".abandoned";
    for (int copy = 2; path_exists(aside); ++copy) aside = fmt::format("{}.abandoned.{}", folder, copy);
    // The best one of a history that is left is no longer this run's.
    std::error_code ignored;
    if (fs::path(folder).filename() == best_name(run)) fs::remove(best_link(run), ignored);
    rename_durably(folder, aside);
    log::info(fmt::format("{} is newer than what this run goes on from; kept as {}", folder, aside));
  }
}

namespace {

std::map<std::string, std::vector<double>> read_vectors(const OrderedJson& manifest,
                                                        const std::string& path) {
  std::map<std::string, std::vector<double>> vectors;
  if (!manifest.contains("vectors")) return vectors;
  try {
    for (const auto& [name, values] : manifest["vectors"].items())
      vectors[name] = values.get<std::vector<double>>();
  } catch (const OrderedJson::exception&) {
    throw DataError("bad checkpoint: " + path +
                    ": \"vectors\" are not lists of numbers; use another checkpoint");
  }
  return vectors;
}

std::string text_field(const OrderedJson& manifest, const char* name) {
  return manifest.contains(name) && manifest[name].is_string() ? manifest[name].get<std::string>() : "";
}

/// Of the parameters, what lies in this rank's own part.
void read_own_part(CheckpointReader& reader, const std::string& store, ShardedValues& values,
                   Stream& stream) {
  for (const ParameterInfo& info : values.layout().parameters()) {
    const Range own = values.own_range(info.unit);
    const int64_t begin = std::max(info.offset, own.begin);
    const int64_t end = std::max(begin, std::min(info.offset + info.shape.numel(), own.end));
    const TensorView part =
        begin < end ? values.own(info.unit).rows(begin - own.begin, end - begin) : TensorView{};
    if (!part || part.device.is_host()) {
      reader.read_part(store, info, begin - info.offset, part ? part.f32() : std::span<float>{});
      continue;
    }
    Tensor host = Tensor::uninitialised(part.shape);
    reader.read_part(store, info, begin - info.offset, host.f32());
    copy(stream, part, host);
  }
}

void read_own_parts(const std::string& folder, CheckpointContent& content) {
  CheckpointReader reader(read_checkpoint_manifest(folder));
  const CheckpointManifest& manifest = reader.manifest();
  const std::string path = manifest.text_path();
  HostStream host;
  Stream& stream = content.stream != nullptr ? *content.stream : host;
  for (auto& [store, values] : content.stores) {
    if (!manifest.has_store(store))
      throw DataError(
          fmt::format("cannot resume: {}: it has no \"{}\" (weights only); start a new run from it instead",
                      folder, store));
    values->zero(stream);
    read_own_part(reader, store, *values, stream);
  }
  const OrderedJson json = OrderedJson::parse(manifest.json);
  if (!json.contains("integers") || !json["integers"].is_object())
    throw DataError("bad checkpoint: " + path + ": no field \"integers\"; use another checkpoint");
  for (auto& [name, value] : content.integers) {
    if (!json["integers"].contains(name))
      throw DataError(
          fmt::format("bad checkpoint: {}: no integer \"{}\"; use another checkpoint", path, name));
    if (!json["integers"][name].is_number_integer())
      throw DataError(
          fmt::format("bad checkpoint: {}: \"{}\" is not an integer; use another checkpoint", path, name));
    value = json["integers"][name].get<int64_t>();
  }
  content.vectors = read_vectors(json, path);
  content.model_json = manifest.model_json;
}

}  // namespace

void load_checkpoint(const std::string& folder, CheckpointContent& content, const Communicator& comm) {
  together(comm, [&] { read_own_parts(folder, content); });
  HostStream host;
  Stream& stream = content.stream != nullptr ? *content.stream : host;
  for (auto& [store, values] : content.stores) values->share(stream);
}

CheckpointHeader read_checkpoint_header(const std::string& folder) {
  const CheckpointManifest manifest = read_checkpoint_manifest(folder);
  const OrderedJson json = OrderedJson::parse(manifest.json);
  CheckpointHeader header;
  header.step = manifest.step;
  header.samples = manifest.samples;
  header.ranks = manifest.ranks;
  header.version = text_field(json, "version");
  header.commit = text_field(json, "commit");
  header.model_json = manifest.model_json;
  header.config_ini = text_field(json, "config_ini");
  for (const std::string& store : manifest.stores) {
    for (const auto& unit : manifest.units) {
      for (const auto& parameter : unit.parameters)
        header.tensors.push_back({store, parameter.name, parameter.shape});
    }
  }
  for (const auto& shard : manifest.shards) header.shards.push_back({shard.file, shard.bytes, shard.crc32c});
  return header;
}

Tensor read_checkpoint_tensor(const std::string& folder, const std::string& store, const std::string& name) {
  return CheckpointReader(read_checkpoint_manifest(folder)).read_tensor(store, name);
}

}  // namespace dino
