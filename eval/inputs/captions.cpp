// SPDX-License-Identifier: Apache-2.0
#include "inputs/captions.hpp"

#include <fmt/format.h>

#include <map>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "comm/together.hpp"
#include "datasets/on_all_ranks.hpp"
#include "storage/files.hpp"

namespace dino::eval {

namespace {

constexpr int64_t kMostBytes = int64_t{1} << 20;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    if (line.find_first_not_of(" \t\r\v\f") != std::string::npos) lines.push_back(line);
    at = end + 1;
  }
  return lines;
}

std::string bytes_of_file(const std::string& path, int64_t offset, int64_t size) {
  if (size > kMostBytes)
    throw DataError(fmt::format("bad captions: {}: a text of {} bytes; at most 1 MiB is read", path, size));
  const std::vector<uint8_t> bytes = read_bytes(path, offset, size);
  return {bytes.begin(), bytes.end()};
}

std::vector<std::string> caption_of_json(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("caption") || !json.at("caption").is_string()) return {};
  return lines_of(json.at("caption").get<std::string>());
}

/// By record, of tars.
std::map<int64_t, std::vector<std::string>> captions_of_tars(const Dataset& dataset) {
  std::map<int64_t, std::vector<std::string>> captions;
  for (const char* extension : {"txt", "json"})
    for (const Sidecar& sidecar : dataset.sidecars) {
      if (sidecar.extension != extension || captions.contains(sidecar.record)) continue;
      const std::string text = bytes_of_file(sidecar.path, sidecar.offset, sidecar.size);
      auto found = sidecar.extension == "txt" ? lines_of(text) : caption_of_json(text);
      if (!found.empty()) captions.emplace(sidecar.record, std::move(found));
    }
  return captions;
}

std::vector<std::string> captions_of_file(const Record& record) {
  const size_t dot = record.path.rfind('.'), slash = record.path.rfind('/');
  const bool ends = dot != std::string::npos && (slash == std::string::npos || dot > slash);
  const std::string path = (ends ? record.path.substr(0, dot) : record.path) + ".txt";
  if (record.size >= 0 || !path_exists(path) || is_folder(path)) return {};
  return lines_of(bytes_of_file(path, 0, file_size(path)));
}

/// {key: captions} as text, of rank 0.
std::string captions_as_json(const std::string& reference) {
  const Dataset dataset = open_dataset(reference);
  const auto of_tars = captions_of_tars(dataset);
  Json all = Json::object();
  for (size_t i = 0; i < dataset.records.size(); ++i) {
    const auto found = of_tars.find(static_cast<int64_t>(i));
    const Record& record = dataset.records[i];
    const std::vector<std::string> captions =
        found != of_tars.end() ? found->second : captions_of_file(record);
    if (!captions.empty()) all[record.key] = captions;
  }
  return json_line(all);
}

}  // namespace

std::vector<CaptionedRecord> captioned_records(const std::string& reference, const Communicator& world) {
  Dataset dataset = open_on_all_ranks(reference, world);
  std::string text;
  on_root(world, [&] { text = captions_as_json(reference); });
  world.broadcast(text);
  const Json all = Json::parse(text);
  std::vector<CaptionedRecord> records;
  for (Record& record : dataset.records)
    if (const auto found = all.find(record.key); found != all.end())
      records.push_back({std::move(record), found->get<std::vector<std::string>>()});
  if (records.empty())
    throw DataError(
        fmt::format("no captions: {}: none of its {} images has a text beside it; tars have KEY.txt or "
                    "\"caption\" in KEY.json, folders NAME.txt",
                    reference, dataset.records.size()));
  if (records.size() < dataset.records.size())
    log::info(fmt::format("{}: {} of {} images have captions; the others are left out", reference,
                          records.size(), dataset.records.size()));
  return records;
}

}  // namespace dino::eval
