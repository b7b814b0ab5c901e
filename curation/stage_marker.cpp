// SPDX-License-Identifier: Apache-2.0
#include "stage_marker.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/signals.hpp"
#include "base/text.hpp"
#include "comm/keeping_pace.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"

namespace dino::curation {
namespace {

std::string marker_path(const std::string& out, const std::string& stage) {
  return fmt::format("{}/stages/{}.json", out, stage);
}

[[noreturn]] void fail_file(const std::string& out, const std::string& stage, const std::string& path,
                            const std::string& why) {
  throw DataError(fmt::format("damaged curation: {}/{}: {}; {}", out, path, why, do_again(out, stage)));
}

}  // namespace

std::string do_again(const std::string& out, const std::string& stage) {
  return fmt::format("delete {}, and `dino-curate run` with the same settings does {} again",
                     marker_path(out, stage), stage);
}

StageFile stage_file_of(const std::string& out, const std::string& path) {
  const std::string whole = out + "/" + path;
  const auto seal = path.ends_with(".h5") ? read_seal(whole) : std::nullopt;
  return {path, file_size(whole), seal ? seal->whole : crc32c_file(whole)};
}

void write_marker(const std::string& out, const std::string& stage, const StageMarker& marker) {
  OrderedJson json = {{"stage", stage}, {"settings", OrderedJson::object()}, {"after", marker.after}};
  for (const Setting& setting : marker.settings)
    json["settings"][setting.name] = printable_name(setting.value);
  json["files"] = OrderedJson::array();
  for (const StageFile& file : marker.files)
    json["files"].push_back({{"path", file.path}, {"bytes", file.bytes}, {"crc32c", hex32(file.crc)}});
  write_file_atomically(marker_path(out, stage), sealed_json(json_text(json, 1)));
}

std::optional<StageMarker> read_marker(const std::string& out, const std::string& stage) {
  const std::string path = marker_path(out, stage);
  if (!path_exists(path)) return std::nullopt;
  const std::string text = read_text(path);
  check_sealed_json(text, path, do_again(out, stage));
  StageMarker marker;
  try {
    const OrderedJson json = OrderedJson::parse(text);
    if (!json.contains("settings"))
      throw DataError(
          fmt::format("curation of an earlier version: {}: {} does not name its settings; delete it, and run "
                      "again, or name another --output",
                      out, path));
    for (const auto& [name, value] : json.at("settings").items())
      marker.settings.push_back({name, raw_name(value.get<std::string>())});
    marker.after = json.at("after").get<std::string>();
    marker.crc = json.at("crc32c").get<std::string>();
    for (const OrderedJson& file : json.at("files"))
      marker.files.push_back(
          {file.at("path").get<std::string>(), file.at("bytes").get<int64_t>(),
           static_cast<uint32_t>(std::stoul(file.at("crc32c").get<std::string>(), nullptr, 16))});
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw DataError(fmt::format("damaged file: {}: {}; {}", path, error.what(), do_again(out, stage)));
  }
  return marker;
}

void check_files(const std::string& out, const std::string& stage, const StageMarker& marker) {
  for (const StageFile& file : marker.files) {
    const std::string path = out + "/" + file.path;
    if (!path_exists(path)) fail_file(out, stage, file.path, "it is gone");
    if (const int64_t bytes = file_size(path); bytes != file.bytes)
      fail_file(out, stage, file.path,
                fmt::format("it has {} bytes, {} when it was written", bytes, file.bytes));
    if (!file.path.ends_with(".h5")) continue;
    const auto seal = read_seal(path);
    if (!seal || seal->whole != file.crc)
      fail_file(out, stage, file.path, "it is not the file that was written: its checksum is another");
  }
}

bool check_contents(const std::string& out, const std::vector<std::string>& stages,
                    const std::vector<StageMarker>& markers, const Communicator& world) {
  // One line a file: stage, size, checksum, path.
  std::string list;
  int64_t count = 0;
  for (size_t i = 0; i < markers.size(); ++i) {
    for (const StageFile& file : markers[i].files) {
      list += fmt::format("{} {} {}\n", stages[i], file.crc, file.path);
      ++count;
    }
  }
  world.broadcast(list);
  world.broadcast_span(std::span(&count, 1));
  const Range mine = even_range(count, world.rank(), world.size());
  KeepingPace pace(world);
  bool stopped = false;
  const RankFailure failure = failure_of([&] {
    size_t begin = 0;
    for (int64_t i = 0; i < count; ++i) {
      const size_t end = list.find('\n', begin);
      const std::string line = list.substr(begin, end - begin);
      begin = end + 1;
      if (i < mine.begin || i >= mine.end) continue;
      stopped = !pace.step(stop_requested());
      if (stopped) break;
      const size_t first = line.find(' '), second = line.find(' ', first + 1);
      const std::string path = line.substr(second + 1);
      const uint32_t crc = crc32c_file(out + "/" + path);
      if (std::to_string(crc) != line.substr(first + 1, second - first - 1))
        fail_file(out, line.substr(0, first), path, fmt::format("its checksum is {} now", hex32(crc)));
    }
  });
  return !pace.finish(stopped, failure);
}

}  // namespace dino::curation
