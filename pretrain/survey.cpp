// SPDX-License-Identifier: Apache-2.0
#include "survey.hpp"

#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <stdexcept>

#include "base/log.hpp"
#include "base/text.hpp"
#include "begin_from_weights.hpp"
#include "comm/together.hpp"
#include "imaging/image.hpp"
#include "model/checkpoint_reader.hpp"
#include "ops/accelerator.hpp"
#include "ops/gemm_rate.hpp"
#include "storage/files.hpp"
#include "training/checkpoint.hpp"

namespace dino::pretrain {
namespace {

constexpr int64_t kSampled = 64;

/// The first number after `key` in a file of lines "key  number ..."; -1 where it has none.
int64_t number_in(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with(key)) continue;
    int64_t value = -1;
    if (std::istringstream(line.substr(key.size())) >> value) return value;
  }
  return -1;
}

/// What the control group of this process (Slurm, containers) leaves it; the largest number where it sets no
/// limit.
int64_t left_by_control_group() {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with("0::/")) continue;
    int64_t left = kNone;
    for (std::string path = line.substr(3);;) {
      const std::string folder = "/sys/fs/cgroup" + path;
      const int64_t limit = number_in(folder + "/memory.max", "");
      const int64_t used = number_in(folder + "/memory.current", "");
      const int64_t cached = std::max<int64_t>(0, number_in(folder + "/memory.stat", "inactive_file "));
      if (limit >= 0 && used >= 0) left = std::min(left, std::max<int64_t>(0, limit - used + cached));
      if (path.size() <= 1) break;
      path.resize(std::max<size_t>(1, path.rfind('/')));
    }
    return left;
  }
  return kNone;
}

int64_t median(std::vector<int64_t> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Sizes as the headers of the sampled images have them.
std::array<int64_t, 2> median_sides(const RecordList& list) {
  // No picture has so few pixels: every decoder stops at the header.
  DecodeOptions header_only;
  header_only.limits.max_pixels = 0;
  const int64_t records = list.count();
  const int64_t count = std::min(records, kSampled);
  std::vector<int64_t> shorter, longer;
  for (int64_t i = 0; i < count; ++i) {
    try {
      const Decoded decoded = decode_image(read_record(list.at(i * records / count)), header_only);
      if (decoded.file_width <= 0 || decoded.file_height <= 0) continue;
      shorter.push_back(std::min(decoded.file_width, decoded.file_height));
      longer.push_back(std::max(decoded.file_width, decoded.file_height));
    } catch (const Error&) {
      continue;  // the training tells what is wrong with the file when it comes to it
    }
  }
  if (shorter.empty()) return {0, 0};
  return {median(std::move(shorter)), median(std::move(longer))};
}

/// A setting's text in `settings`, put into `field` while that is auto.
template <class T>
void take(const std::map<std::string, std::string>& settings, const std::string& path, const char* name,
          Auto<T>& field) {
  const auto it = settings.find(name);
  if (!field.is_auto() || it == settings.end()) return;
  try {
    field = Auto<T>::from_text(it->second);
  } catch (const std::invalid_argument& fault) {
    throw DataError(
        fmt::format("cannot go on: {}: {}: {}; mend it, or give --{}", path, name, fault.what(), name));
  }
}

}  // namespace

int64_t free_memory() {
  const int64_t available = number_in("/proc/meminfo", "MemAvailable:");
  const int64_t machine = available < 0 ? std::numeric_limits<int64_t>::max() : available * 1024;
  return std::min(machine, left_by_control_group());
}

ImageFacts survey_images(const RecordList& list, const Communicator& comm) {
  const log::Phase phase("survey of the images");
  std::array<int64_t, 3> facts{};
  on_root(comm, [&] {
    const auto [shorter, longer] = median_sides(list);
    facts = {list.count(), shorter, longer};
  });
  comm.broadcast_span<int64_t>(facts);
  return {facts[0], facts[1], facts[2]};
}

MachineFacts survey_machine(const CommandContext& context, const DeviceChoice& device, Precision precision) {
  const Communicator& world = context.world;
  MachineFacts machine;
  machine.ranks = world.size();
  machine.cores = world.sum(static_cast<int64_t>(resolve_threads(context)));
  machine.memory = -world.max(-free_memory() / ranks_of_node(world));
  machine.core_gflops = nominal_core_gflops(cpu_level(), precision);
  if (kind_of(device) != Device::Kind::cpu) {
    machine.memory = -world.max(-ops::gpu_memory());
    machine.core_gflops =
        world.sum(ops::gemm_rate(backend_of(device), precision, 512, 3)) / static_cast<double>(machine.cores);
  }
  return machine;
}

bool take_from_run(TrainConfig& config, const std::string& run, const Communicator& comm) {
  std::string text;
  std::string path = run + "/config.ini";
  on_root(comm, [&] {
    const std::string& checkpoint = config.resume.folder;
    if (!run.empty() && path_exists(path)) {
      text = read_text(path);
    } else if (config.resume.from == Resume::From::folder && is_checkpoint(checkpoint) &&
               !holds_weights_only(checkpoint)) {
      text = read_checkpoint_header(checkpoint).config_ini;
      path = checkpoint;
    }
  });
  comm.broadcast(text);
  comm.broadcast(path);
  if (text.empty()) return false;
  std::map<std::string, std::string> settings;
  for (const IniLine& line : read_ini(text, path)) settings[line.key] = line.value;
  for_each_auto(config, [&](const std::string& name, auto& field) {
    if (name != "cache-gib") take(settings, path, name.c_str(), field);
  });
  return true;
}

}  // namespace dino::pretrain
