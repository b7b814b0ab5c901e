// SPDX-License-Identifier: Apache-2.0
// Reads what dino-curate leaves for reports.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/text.hpp"
#include "datasets/dataset.hpp"
#include "report/data.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"

namespace dino::eval {

namespace {

Json parse_file(const std::string& path) {
  const std::string text = read_text(path);
  if (has_json_seal(text))
    check_sealed_json(text, path, "run `dino-curate run` there, which says what to do");
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object())
    throw DataError("reading a curation: " + path + ": is not a JSON object; run dino-curate report again");
  return json;
}

SizeCounts sizes_of(const Json& list) {
  SizeCounts sizes;
  for (const Json& entry : list)
    sizes.emplace_back(entry.at("size").get<int64_t>(), entry.at("count").get<int64_t>());
  return sizes;
}

void read_funnel(const std::string& path, CurationData& data) {
  const Json json = parse_file(path);
  for (const Json& stage : json.at("stages"))
    data.stages.push_back({stage.at("stage").get<std::string>(), stage.at("out").get<int64_t>(),
                           stage.at("dropped").get<std::map<std::string, int64_t>>()});
  data.group_sizes = sizes_of(json.value("duplicate_group_sizes", Json::array()));
  if (json.contains("similarity")) {
    const Json& part = json["similarity"];
    data.similarities = {part.at("low").get<double>(), part.at("high").get<double>(),
                         part.at("counts").get<std::vector<int64_t>>()};
  }
  for (const Json& level : json.value("clusters", Json::array()))
    data.clusters.push_back(
        {level.at("clusters").get<int64_t>(), sizes_of(level.at("before")), sizes_of(level.at("after"))});
}

Image thumbnail(const Json& picture) {
  return curated_thumbnail(raw_name(picture.value("path", "")), picture.value("offset", int64_t{0}),
                           picture.value("bytes", int64_t{-1}));
}

DuplicateGroup::Member member_of(const Json& picture) {
  return {picture.at("key").get<std::string>(), picture.value("similarity", 1.0), picture.value("reason", ""),
          thumbnail(picture)};
}

void read_galleries(const std::string& path, CurationData& data) {
  constexpr size_t kGroups = 12, kMembers = 11, kLeaks = 50;
  const Json json = parse_file(path);
  for (const Json& group : json.value("duplicates", Json::array())) {
    if (data.groups.size() == kGroups) break;
    DuplicateGroup out;
    out.size = group.at("size").get<int64_t>();
    out.members.push_back(member_of(group.at("representative")));
    for (const Json& member : group.at("members"))
      if (out.members.size() <= kMembers) out.members.push_back(member_of(member));
    data.groups.push_back(std::move(out));
  }
  for (const Json& leak : json.value("leaks", Json::array()))
    if (data.leaks.size() < kLeaks)
      data.leaks.push_back({leak.at("key").get<std::string>(),
                            leak.at("excluded").is_string() ? leak.at("excluded").get<std::string>()
                                                            : json_line(leak.at("excluded")),
                            leak.value("similarity", 0.0)});
}

}  // namespace

Image curated_thumbnail(const std::string& path, int64_t offset, int64_t bytes) {
  Record record;
  record.path = path;
  record.offset = offset;
  record.size = bytes;
  try {
    // Moved or shortened since: not worth the second tries that read_record makes.
    std::error_code fault;
    const auto size = static_cast<int64_t>(std::filesystem::file_size(path, fault));
    if (fault || offset < 0 || offset + std::max<int64_t>(bytes, 0) > size) return {0, 0, 3, {}};
    const Decoded decoded = decode_image(read_record(record));
    return decoded.status == DecodeStatus::ok ? fit(decoded.image, 96) : Image{0, 0, 3, {}};
  } catch (const Error&) {
    return {0, 0, 3, {}};  // a moved source image leaves a gap in the gallery, not a failed report
  }
}

CurationData read_curation(const std::string& folder) {
  CurationData data;
  data.folder = folder;
  const std::string path = folder + "/manifest.json";
  const Json manifest = parse_file(path);
  try {
    data.manifest_json = json_line(manifest);
    data.records = manifest.at("records").get<int64_t>();
    data.kept = manifest.at("kept").get<int64_t>();
    data.selected = manifest.value("selected_with_multiplicity", data.kept);
    for (const auto& [reason, count] : manifest.at("dropped").items())
      data.dropped[reason] = count.get<int64_t>();
    for (const Json& shard : manifest.value("shards", Json::array())) {
      ++data.shards;
      data.shard_bytes += shard.value("bytes", int64_t{0});
    }
    if (path_exists(folder + "/funnel.json")) read_funnel(folder + "/funnel.json", data);
    if (path_exists(folder + "/galleries.json")) read_galleries(folder + "/galleries.json", data);
    data.pictures = read_curation_pictures(folder, data.records);
  } catch (const Json::exception& e) {
    throw DataError("reading a curation: " + folder + ": " + e.what() + "; run dino-curate report again");
  }
  return data;
}

}  // namespace dino::eval
