// SPDX-License-Identifier: Apache-2.0
#include "training/checkpoint_writer.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/pending_io.hpp"
#include "base/version.hpp"
#include "comm/together.hpp"
#include "model/checkpoint_reader.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

/// Between two votes of ranks that wait for shards.
constexpr auto kShardPause = std::chrono::milliseconds(50);

const ParameterLayout& layout_of(const CheckpointStores& stores) {
  DINO_CHECK(!stores.empty(), "a checkpoint holds at least one store");
  return stores.begin()->second->layout();
}

std::string step_folder(const std::string& run, int64_t step) {
  return fmt::format("{}/checkpoints/step_{:08d}", run, step);
}

/// A folder of a name that nobody can foresee, so that no link planted there leads the shards elsewhere.
std::string make_temporary_folder(const std::string& folder) {
  std::string temporary = fmt::format("{}.{}.tmp", folder, random_hex(12));
  if (::mkdir(temporary.c_str(), 0777) != 0)
    throw IoError(
        fmt::format("cannot make folder: {}: {}", temporary, std::system_category().message(errno)));
  return temporary;
}

std::string manifest_text(const CheckpointContent& content, const std::vector<std::string>& shards) {
  const ParameterLayout& layout = layout_of(content.stores);
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
  return seal_manifest(json_text(json, 1));
}

}  // namespace

CheckpointWriter::CheckpointWriter(std::string run, const CheckpointStores& stores, const Communicator& comm,
                                   const Retention& keep)
    : run_(std::move(run)), comm_(comm), keep_(keep) {
  const auto units = static_cast<int64_t>(layout_of(stores).units().size());
  for (int64_t u = 0; u < units; ++u) ranges_.push_back(stores.begin()->second->own_range(u));
  for (const auto& [store, values] : stores)
    for (const Range& range : ranges_) copy_[store].emplace_back(Shape{range.size()});
}

CheckpointWriter::~CheckpointWriter() {
  dropped_ = true;
  if (shard_.valid()) shard_.wait();
}

void CheckpointWriter::begin(int64_t step, const CheckpointContent& content) {
  DINO_CHECK(!pending(), "the checkpoint before is not finished");
  temporary_.clear();
  together(comm_, [&] {
    if (!comm_.root()) return;
    make_folders(run_ + "/checkpoints");
    remove_unfinished_checkpoints(run_);
    temporary_ = make_temporary_folder(step_folder(run_, step));
  });
  comm_.broadcast(temporary_);
  step_ = step;
  content_ = content;
  copy_own_parts(content);
  // Where no thread is to be had, finish() writes the shard.
  shard_ = std::async(std::launch::async | std::launch::deferred, [this] { return write_shard(); });
}

void CheckpointWriter::copy_own_parts(const CheckpointContent& content) {
  HostStream host;
  Stream& stream = content.stream != nullptr ? *content.stream : host;
  for (auto& [store, units] : copy_) {
    ShardedValues& values = *content.stores.at(store);
    for (size_t u = 0; u < units.size(); ++u)
      if (ranges_[u].size() > 0) copy(stream, units[u], values.own(static_cast<int64_t>(u)));
  }
  stream.synchronize();
}

std::string CheckpointWriter::write_shard() const {
  const log::ThreadPhase phase("checkpoint");  // the steps go on beside it
  const std::string file = fmt::format("rank_{:04d}.h5", comm_.rank());
  const std::string path = temporary_ + "/" + file;
  const auto go_on = [&] {
    if (dropped_) throw IoError(fmt::format("cannot write: {}: the run has ended", path));
  };
  // One scope a call: together they may take longer than a file system may be silent.
  const auto writing = [&](const auto& body) {
    go_on();
    const IoScope scope("writing", path);
    return body();
  };
  OrderedJson ranges = OrderedJson::array();
  Hdf5File out = writing([&] { return Hdf5File::create(path); });
  for (size_t u = 0; u < ranges_.size(); ++u) {
    ranges.push_back({ranges_[u].begin, ranges_[u].end});
    if (ranges_[u].size() == 0) continue;
    const std::string& unit = layout_of(content_.stores).units()[u].name;
    for (const auto& [store, units] : copy_)
      writing([&] { out.write(fmt::format("/{}/{}", store, unit), units[u]); });
  }
  writing([&] { out.close(); });
  go_on();
  fsync_file(path);
  go_on();
  return json_line(
      {{"file", file}, {"bytes", file_size(path)}, {"crc32c", hex32(crc32c_file(path))}, {"ranges", ranges}});
}

bool CheckpointWriter::written() const {
  return !pending() || shard_.wait_for(std::chrono::seconds(0)) != std::future_status::timeout;
}

std::string CheckpointWriter::finish() {
  DINO_CHECK(pending(), "no checkpoint has begun");
  // Votes, and no wait in one of them: a rank whose disk is slow is not taken for one that stalls.
  while (comm_.any(!written())) static_cast<void>(shard_.wait_for(kShardPause));
  std::string folder = step_folder(run_, step_);
  try {
    std::string entry;
    // The future is empty from here on, whatever comes.
    together(comm_, [&] { entry = shard_.get(); });
    const std::vector<std::string> shards = comm_.all_gather_strings(entry);
    together(comm_, [&] {
      if (comm_.root()) commit(folder, shards);
    });
  } catch (const Error&) {
    // All ranks have failed together, so nobody writes there any more.
    std::error_code ignored;
    if (comm_.root()) std::filesystem::remove_all(temporary_, ignored);
    throw;
  }
  return folder;
}

void CheckpointWriter::commit(const std::string& folder, const std::vector<std::string>& shards) const {
  write_file_atomically(temporary_ + "/manifest.json", manifest_text(content_, shards));
  if (path_exists(folder)) remove_checkpoint(folder);
  rename_durably(temporary_, folder);
  remove_old_checkpoints(run_, keep_);
}

std::string save_checkpoint(const std::string& run, int64_t step, const CheckpointContent& content,
                            const Communicator& comm, const Retention& keep) {
  CheckpointWriter writer(run, content.stores, comm, keep);
  writer.begin(step, content);
  return writer.finish();
}

}  // namespace dino
