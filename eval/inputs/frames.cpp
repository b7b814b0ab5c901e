// SPDX-License-Identifier: Apache-2.0
#include "inputs/frames.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "base/error.hpp"

namespace dino::eval {

namespace {

std::string folder_of_key(const std::string& key) {
  const size_t slash = key.rfind('/');
  return slash == std::string::npos ? "" : key.substr(0, slash);
}

}  // namespace

std::vector<Clip> clips_of(const std::vector<Record>& records) {
  std::vector<Clip> clips;
  std::unordered_map<std::string, size_t> index;
  for (const Record& record : records) {
    const std::string name = record.group.empty() ? folder_of_key(record.key) : record.group;
    const auto [found, is_new] = index.emplace(name, clips.size());
    if (is_new) clips.push_back({name, record.label, {}, {}});
    clips[found->second].frames.push_back(record);
  }
  for (Clip& clip : clips)
    std::sort(clip.frames.begin(), clip.frames.end(),
              [](const Record& a, const Record& b) { return a.key < b.key; });
  return clips;
}

std::vector<Clip> masked_clips(const Dataset& dataset) {
  constexpr std::string_view kFrames = "JPEGImages/", kMasks = "Annotations/";
  std::map<std::string, Record> masks;
  std::map<std::string, Clip> annotated;
  for (const Record& record : dataset.records)
    if (record.key.starts_with(kMasks)) masks.emplace(record.key.substr(kMasks.size()), record);
  if (masks.empty()) {
    std::vector<Clip> clips = clips_of(dataset.records);
    std::erase_if(clips, [](const Clip& clip) { return clip.frames.size() < 2; });
    return clips;
  }
  for (const Record& record : dataset.records) {
    if (!record.key.starts_with(kFrames)) continue;
    const std::string name = record.key.substr(kFrames.size());
    const auto mask = masks.find(name);
    if (mask == masks.end())
      throw DataError(fmt::format("reading frames: {}: {} has no mask {}{}; add it, or leave the frame out",
                                  dataset.reference, record.key, kMasks, name));
    Clip& clip = annotated[folder_of_key(name)];
    clip.name = folder_of_key(name);
    clip.frames.push_back(record);
    clip.masks.push_back(mask->second);
  }
  std::vector<Clip> clips;
  for (auto& [name, clip] : annotated)
    if (clip.frames.size() >= 2) clips.push_back(std::move(clip));
  return clips;
}

std::vector<int64_t> spaced_frames(int64_t n, int64_t count) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < std::min(n, count); ++i) out.push_back(n <= count ? i : i * n / count);
  return out;
}

std::vector<uint8_t> objects_of(const Image& mask, std::vector<uint32_t>& colours, bool learn) {
  const auto colour_at = [&](int64_t i) {
    const uint8_t* pixel = mask.pixels.data() + i * mask.channels;
    return static_cast<uint32_t>(pixel[0]) << 16 | static_cast<uint32_t>(pixel[1]) << 8 |
           static_cast<uint32_t>(pixel[2]);
  };
  const int64_t pixels = mask.width * mask.height;
  if (learn) {
    std::set<uint32_t> seen;
    for (int64_t i = 0; i < pixels && seen.size() <= 255; ++i) seen.insert(colour_at(i));
    seen.erase(0);
    colours.assign(seen.begin(), seen.end());
  }
  std::vector<uint8_t> out(static_cast<size_t>(pixels));
  for (int64_t i = 0; i < pixels; ++i) {
    const auto found = std::find(colours.begin(), colours.end(), colour_at(i));
    if (found != colours.end())
      out[static_cast<size_t>(i)] = static_cast<uint8_t>(found - colours.begin() + 1);
  }
  return out;
}

}  // namespace dino::eval
