// SPDX-License-Identifier: Apache-2.0
#include "vectors/partial.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <span>

#include "base/error.hpp"
#include "base/log.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"

namespace dino {
namespace {

constexpr int64_t kVersion = 1;  // of what the states mean

std::span<const std::byte> bytes_of(ConstTensorView array) {
  return {static_cast<const std::byte*>(array.data),
          static_cast<size_t>(array.numel()) * size_of(array.dtype)};
}

uint32_t checksum(const PartialState& state) {
  uint32_t crc = 0;
  const auto add = [&](const void* data, size_t bytes) {
    crc = crc32c({static_cast<const std::byte*>(data), bytes}, crc);
  };
  for (const auto& [name, value] : state.numbers) {
    add(name.data(), name.size());
    add(&value, sizeof value);
  }
  for (const auto& [name, array] : state.arrays) {
    add(name.data(), name.size());
    const auto bytes = bytes_of(array.view());
    add(bytes.data(), bytes.size());
  }
  return crc;
}

PartialState read_state(const std::string& path, const std::string& fingerprint) {
  const Hdf5File file = Hdf5File::open(path);
  if (static_cast<int64_t>(file.attribute_number("/", "version")) != kVersion ||
      file.attribute_string("/", "fingerprint") != fingerprint)
    throw DataError("it belongs to other embeddings or settings");
  PartialState state;
  const auto names = file.exists("/names") ? file.read_strings("/names") : std::vector<std::string>{};
  const auto values = names.empty() ? Tensor() : file.read("/values", DType::f64);
  for (size_t i = 0; i < names.size(); ++i) state.numbers[names[i]] = values.as<double>()[i];
  for (const std::string& name : file.list("/arrays")) state.arrays[name] = file.read("/arrays/" + name);
  if (static_cast<uint32_t>(file.attribute_number("/", "crc32c")) != checksum(state))
    throw DataError("its checksum does not match");
  return state;
}

}  // namespace

void PartialState::save(const std::string& path, const std::string& fingerprint) const {
  make_folders(std::filesystem::path(path).parent_path().string());
  std::vector<std::string> names;
  std::vector<double> values;
  for (const auto& [name, value] : numbers) names.push_back(name), values.push_back(value);
  commit_file(path, [&](const std::string& temporary) {
    Hdf5File file = Hdf5File::create(temporary);
    if (!names.empty()) {
      file.write_strings("/names", names);
      file.write("/values",
                 view_of(std::as_const(values).data(), Shape{static_cast<int64_t>(values.size())}));
    }
    for (const auto& [name, array] : arrays) file.write("/arrays/" + name, array);
    file.write_attribute("/", "version", kVersion);
    file.write_attribute("/", "fingerprint", fingerprint);
    file.write_attribute("/", "crc32c", static_cast<int64_t>(checksum(*this)));
    file.close();
  });
}

std::optional<PartialState> PartialState::load(const std::string& path, const std::string& fingerprint) {
  if (!path_exists(path)) return std::nullopt;
  try {
    return read_state(path, fingerprint);
  } catch (const Error& error) {
    log::warning(fmt::format("{}: what an earlier start left cannot be used: {}; its work is done again",
                             path, error.what()));
    return std::nullopt;
  }
}

void PartialState::broadcast(const Communicator& comm) {
  if (comm.size() == 1) return;
  std::string names;
  std::vector<int64_t> heads;  // per array: dtype, rank, sizes
  std::vector<double> values;
  for (const auto& [name, value] : numbers) names += name + '\n', values.push_back(value);
  for (const auto& [name, array] : arrays) {
    names += name + '\n';
    heads.push_back(static_cast<int64_t>(array.dtype()));
    heads.push_back(array.shape().rank());
    for (int i = 0; i < array.shape().rank(); ++i) heads.push_back(array.shape()[i]);
  }
  std::vector<int64_t> counts = {static_cast<int64_t>(values.size()), static_cast<int64_t>(heads.size())};
  comm.broadcast(names);
  comm.broadcast_span(std::span(counts));
  values.resize(static_cast<size_t>(counts[0]));
  heads.resize(static_cast<size_t>(counts[1]));
  comm.broadcast_span(std::span(values));
  comm.broadcast_span(std::span(heads));
  size_t at = 0, head = 0;
  for (size_t i = 0; at < names.size(); ++i) {
    const size_t end = names.find('\n', at);
    const std::string name = names.substr(at, end - at);
    at = end + 1;
    if (i < values.size()) {
      numbers[name] = values[i];
      continue;
    }
    const auto dtype = static_cast<DType>(heads[head++]);
    const auto rank = static_cast<size_t>(heads[head++]);
    const Shape shape(std::span<const int64_t>(heads).subspan(head, rank));
    head += rank;
    if (!comm.root()) arrays[name] = Tensor(shape, dtype);
    Tensor& array = arrays[name];
    comm.broadcast({static_cast<std::byte*>(array.view().data), bytes_of(array.view()).size()});
  }
}

std::string partial_fingerprint(ConstTensorView local, int64_t first, const std::string& settings,
                                const Communicator& comm) {
  const int64_t n = local.dim(0), width = local.dim(1);
  const auto* rows = n > 0 ? local.as<float>() : nullptr;
  uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const auto row = std::as_bytes(std::span(rows + i * width, static_cast<size_t>(width)));
    // The row's number goes in by a second hash, so that rows that change places are seen.
    const uint64_t parts[] = {xxh3(row), static_cast<uint64_t>(first + i)};
    sum += xxh3(std::as_bytes(std::span(parts)));
  }
  auto total = static_cast<int64_t>(sum);
  comm.all_reduce(std::span(&total, 1));  // wraps: only equality counts
  return fmt::format("{:016x} {}", static_cast<uint64_t>(total), settings);
}

bool WritePace::due() const {
  constexpr double kLeast = 4;
  return since_.seconds() > std::max({kLeast, whole_.seconds() / 50, 20 * last_cost_});
}

void WritePace::wrote(double seconds) {
  last_cost_ = seconds;
  since_.restart();
}

StateKeeper::StateKeeper(std::string path, std::string fingerprint, const Communicator& comm)
    : path_(std::move(path)), fingerprint_(std::move(fingerprint)), comm_(comm) {}

std::optional<PartialState> StateKeeper::restore() {
  if (path_.empty()) return std::nullopt;
  std::optional<PartialState> state;
  if (comm_.root()) state = PartialState::load(path_, fingerprint_);
  if (!comm_.any(state.has_value())) return std::nullopt;
  if (!state) state.emplace();
  state->broadcast(comm_);
  return state;
}

void StateKeeper::save(const PartialState& state) {
  if (!keeps()) return;
  const Stopwatch watch;
  try {
    state.save(path_, fingerprint_);
  } catch (const Error& error) {
    log::warning(fmt::format("{}; a later start will not be able to go on here", error.what()));
    path_.clear();
  }
  pace_.wrote(watch.seconds());
}

void remove_partial(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
  const auto around = std::filesystem::path(path).parent_path();
  if (std::filesystem::is_empty(around, ignored)) std::filesystem::remove(around, ignored);
}

}  // namespace dino
