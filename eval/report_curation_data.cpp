// SPDX-License-Identifier: Apache-2.0
// Reads what dino-curate leaves for reports.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "report_data.hpp"
#include "storage/dataset.hpp"
#include "storage/files.hpp"

namespace dino::eval {

namespace {

using Json = nlohmann::json;

Json parse_file(const std::string& path) {
  Json json = Json::parse(read_text(path), nullptr, false);
  if (!json.is_object())
    throw DataError("reading a curation: " + path + ": is not a JSON object; run dino-curate report again");
  return json;
}

HistogramData histogram_of(const Json& json, const char* name) {
  HistogramData h;
  if (!json.contains(name) || !json[name].is_object()) return h;
  const Json& part = json[name];
  h.edges = part.value("edges", std::vector<double>{});
  h.counts = part.value("counts", std::vector<int64_t>{});
  if (part.contains("threshold") && part["threshold"].is_number()) h.marker = part["threshold"].get<double>();
  return h;
}

void read_funnel(const std::string& path, CurationData& data) {
  const Json json = parse_file(path);
  for (const Json& stage : json.value("stages", Json::array()))
    data.stages.push_back(
        {stage.value("name", ""), stage.value("remaining", int64_t{0}), stage.value("dropped", int64_t{0})});
  data.group_sizes = histogram_of(json, "group_sizes");
  data.similarities = histogram_of(json, "similarities");
}

Image thumbnail(const Json& member) {
  Record record;
  record.path = member.value("path", "");
  record.offset = member.value("offset", int64_t{0});
  record.size = member.value("size", int64_t{-1});
  try {
    Decoded decoded = decode_image(read_record(record));
    return decoded.status == DecodeStatus::ok ? fit(decoded.image, 96) : Image{0, 0, 3, {}};
  } catch (const Error&) {
    return {0, 0, 3, {}};  // a moved source image leaves a gap in the gallery, not a failed report
  }
}

void read_galleries(const std::string& path, CurationData& data) {
  constexpr size_t kGroups = 12, kMembers = 12;
  const Json json = parse_file(path);
  for (const Json& group : json.value("groups", Json::array())) {
    if (data.groups.size() == kGroups) break;
    DuplicateGroup out;
    const Json members = group.value("members", Json::array());
    out.size = group.value("size", static_cast<int64_t>(members.size()));
    for (const Json& member : members) {
      if (out.members.size() == kMembers) break;
      out.members.push_back({member.value("key", ""), member.value("similarity", 1.0),
                             member.value("kept", false), thumbnail(member)});
    }
    data.groups.push_back(std::move(out));
  }
}

}  // namespace

CurationData read_curation(const std::string& folder) {
  CurationData data;
  data.folder = folder;
  const std::string path = folder + "/manifest.json";
  const Json manifest = parse_file(path);
  try {
    data.manifest_json = manifest.dump();
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
  } catch (const Json::exception& e) {
    throw DataError("reading a curation: " + folder + ": " + e.what() + "; run dino-curate report again");
  }
  return data;
}

}  // namespace dino::eval
