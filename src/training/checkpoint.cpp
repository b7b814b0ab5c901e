// SPDX-License-Identifier: Apache-2.0
#include "training/checkpoint.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "base/json.hpp"
#include "base/log.hpp"
#include "base/pending_io.hpp"
#include "base/version.hpp"
#include "comm/together.hpp"
#include "model/checkpoint_reader.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/seal.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

namespace fs = std::filesystem;

std::string step_folder(const std::string& run, int64_t step) {
  return fmt::format("{}/checkpoints/step_{:08d}", run, step);
}

const ParameterLayout& layout_of(const CheckpointContent& content) {
  DINO_CHECK(!content.stores.empty(), "a checkpoint holds at least one store");
  return content.stores.begin()->second->layout();
}

/// Writes this rank's shard and returns its entry of the manifest.
std::string write_shard(const std::string& folder, const CheckpointContent& content,
                        const Communicator& comm) {
  const ParameterLayout& layout = layout_of(content);
  const std::string file = fmt::format("rank_{:04d}.h5", comm.rank());
  const std::string path = folder + "/" + file;
  OrderedJson ranges = OrderedJson::array();
  const ShardedValues& any = *content.stores.begin()->second;
  {
    const IoScope scope("writing", path);
    Hdf5File out = Hdf5File::create(path);
    for (size_t u = 0; u < layout.units().size(); ++u) {
      const UnitInfo& unit = layout.units()[u];
      const Range range = any.own_range(static_cast<int64_t>(u));
      ranges.push_back({range.begin, range.end});
      if (range.size() == 0) continue;
      for (const auto& [store, values] : content.stores)
        out.write(fmt::format("/{}/{}", store, unit.name), values->own(static_cast<int64_t>(u)));
    }
    out.close();
  }
  fsync_file(path);
  return OrderedJson{
      {"file", file}, {"bytes", file_size(path)}, {"crc32c", hex32(crc32c_file(path))}, {"ranges", ranges}}
      .dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string manifest_text(const CheckpointContent& content, const std::vector<std::string>& shards) {
  const ParameterLayout& layout = layout_of(content);
  OrderedJson json;
  json["schema"] = 1;
  json["version"] = version();
  json["commit"] = commit();
  json["step"] = content.integers.at("step");
  json["samples"] = content.integers.at("samples");
  json["ranks"] = shards.size();
  json["model"] = OrderedJson{{"vit", OrderedJson::parse(content.model_json)}};
  json["integers"] = content.integers;
  json["vectors"] = content.vectors;
  json["config_ini"] = content.config_ini;
  json["stores"] = OrderedJson::array();
  for (const auto& [store, values] : content.stores) json["stores"].push_back(store);
  json["units"] = OrderedJson::array();
  for (const UnitInfo& unit : layout.units())
    json["units"].push_back(OrderedJson{{"name", unit.name},
                                        {"module", unit.module},
                                        {"padded", unit.padded},
                                        {"parameters", OrderedJson::array()}});
  for (const ParameterInfo& info : layout.parameters()) {
    OrderedJson shape = OrderedJson::array();
    for (int i = 0; i < info.shape.rank(); ++i) shape.push_back(info.shape[i]);
    json["units"][static_cast<size_t>(info.unit)]["parameters"].push_back(
        OrderedJson{{"name", info.name}, {"shape", shape}, {"offset", info.offset}});
  }
  json["shards"] = OrderedJson::array();
  for (const std::string& shard : shards) json["shards"].push_back(OrderedJson::parse(shard));
  return seal_manifest(json.dump(1, ' ', false, OrderedJson::error_handler_t::replace));
}

/// Renamed first, so that a kill in the middle of the removal leaves no folder that looks like a checkpoint.
void remove_durably(const std::string& folder) {
  const std::string trash = folder + ".trash";
  std::error_code error;
  fs::remove_all(trash, error);
  fs::rename(folder, trash, error);
  fs::remove_all(trash, error);
  if (error) log::warning(fmt::format("old checkpoint not removed: {}: {}", folder, error.message()));
}

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

void apply_retention(const std::string& run, int64_t keep, int64_t keep_every) {
  const std::vector<std::string> folders = complete_checkpoints(run);
  const std::string best = best_name(run);
  for (size_t i = static_cast<size_t>(keep); i < folders.size(); ++i) {
    if (fs::path(folders[i]).filename() == best) continue;
    const int64_t step = step_of(folders[i]);
    if (keep_every == 0 || step % keep_every != 0) remove_durably(folders[i]);
  }
}

/// A folder of a name that nobody can foresee, so that no link planted there leads the shards elsewhere.
std::string make_temporary_folder(const std::string& folder) {
  std::string temporary = fmt::format("{}.{}.tmp", folder, random_hex(12));
  if (::mkdir(temporary.c_str(), 0777) != 0)
    throw IoError(
        fmt::format("cannot make folder: {}: {}", temporary, std::system_category().message(errno)));
  return temporary;
}

}  // namespace

std::string save_checkpoint(const std::string& run, int64_t step, const CheckpointContent& content,
                            const Communicator& comm, int64_t keep, int64_t keep_every) {
  const std::string folder = step_folder(run, step);
  std::string temporary;
  try {
    together(comm, [&] {
      if (!comm.root()) return;
      make_folders(run + "/checkpoints");
      remove_unfinished_checkpoints(run);
      temporary = make_temporary_folder(folder);
    });
    comm.broadcast(temporary);
    std::string entry;
    together(comm, [&] { entry = write_shard(temporary, content, comm); });
    std::vector<std::string> shards = comm.all_gather_strings(entry);
    together(comm, [&] {
      if (!comm.root()) return;
      write_file_atomically(temporary + "/manifest.json", manifest_text(content, shards));
      if (path_exists(folder)) remove_durably(folder);
      rename_durably(temporary, folder);
      apply_retention(run, keep, keep_every);
    });
  } catch (const Error&) {
    // All ranks have failed together, so nobody writes there any more.
    if (comm.root() && !temporary.empty()) {
      std::error_code ignored;
      fs::remove_all(temporary, ignored);
    }
    throw;
  }
  return folder;
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
    out.write_strings(kManifestDataset,
                      {seal_manifest(json.dump(1, ' ', false, OrderedJson::error_handler_t::replace))});
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
void read_own_part(CheckpointReader& reader, const std::string& store, ShardedValues& values) {
  for (const ParameterInfo& info : values.layout().parameters()) {
    const Range own = values.own_range(info.unit);
    const int64_t begin = std::max(info.offset, own.begin);
    const int64_t end = std::max(begin, std::min(info.offset + info.shape.numel(), own.end));
    const TensorView part =
        begin < end ? values.own(info.unit).rows(begin - own.begin, end - begin) : TensorView{};
    reader.read_part(store, info, begin - info.offset, part ? part.f32() : std::span<float>{});
  }
}

void read_own_parts(const std::string& folder, CheckpointContent& content) {
  CheckpointReader reader(read_checkpoint_manifest(folder));
  const CheckpointManifest& manifest = reader.manifest();
  const std::string path = manifest.text_path();
  HostStream stream;
  for (auto& [store, values] : content.stores) {
    if (!manifest.has_store(store))
      throw DataError(
          fmt::format("cannot resume: {}: it has no \"{}\" (weights only); start a new run from it instead",
                      folder, store));
    values->zero(stream);
    read_own_part(reader, store, *values);
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
  HostStream stream;
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
