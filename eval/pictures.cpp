// SPDX-License-Identifier: Apache-2.0
#include "pictures.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "storage/files.hpp"

namespace dino::eval {

PictureSource::PictureSource(const FeatureSet& set) : set_(set), dataset_(open_dataset(set.data)) {
  for (size_t i = 0; i < dataset_.records.size(); ++i) index_[dataset_.records[i].key] = i;
}

Image fit(const Image& image, int64_t side) {
  const int64_t longest = std::max(image.width, image.height);
  if (longest <= side) return image;
  return resize(image, std::max<int64_t>(1, image.width * side / longest),
                std::max<int64_t>(1, image.height * side / longest));
}

Image PictureSource::thumbnail(int64_t row) const {
  constexpr int64_t kSide = 96;
  const auto it = index_.find(set_.keys[static_cast<size_t>(row)]);
  if (it != index_.end()) {
    const Decoded decoded = decode_image(read_record(dataset_.records[it->second]));
    if (decoded.status == DecodeStatus::ok) return fit(decoded.image, kSide);
  }
  return {kSide, kSide, 3, std::vector<uint8_t>(static_cast<size_t>(kSide * kSide * 3), 128)};
}

PictureSet::PictureSet(std::string results, std::string kind, const ResultRow& row)
    : results_(std::move(results)), kind_(std::move(kind)), row_(row) {
  const std::string name = predictions_name(row);  // "predictions/<hash>.h5"
  stem_ = "pictures/" + kind_ + "_" + name.substr(name.find('/') + 1, 16);
}

void PictureSet::begin_strip(const std::string& title) {
  strips_.push_back({title, {}});
}

void PictureSet::add(const Image& image, const std::string& caption, const std::string& css_class) {
  Strip& strip = strips_.back();
  const std::string file = fmt::format("{}/{:03}_{:02}.png", stem_, strips_.size() - 1, strip.entries.size());
  make_folders(results_ + "/" + stem_);
  const std::vector<uint8_t> png = encode_png(image);
  write_file_atomically(results_ + "/" + file, {reinterpret_cast<const char*>(png.data()), png.size()});
  strip.entries.push_back({file, caption, css_class});
}

void PictureSet::commit() {
  nlohmann::ordered_json json{{"kind", kind_},
                              {"task", row_.task},
                              {"dataset", row_.dataset},
                              {"model", row_.model},
                              {"card_hash", row_.card_hash},
                              {"card", nlohmann::ordered_json::parse(row_.card)},
                              {"strips", nlohmann::ordered_json::array()}};
  for (const Strip& strip : strips_) {
    nlohmann::ordered_json pictures = nlohmann::ordered_json::array();
    for (const Entry& e : strip.entries)
      pictures.push_back({{"file", e.file}, {"caption", e.caption}, {"class", e.css_class}});
    json["strips"].push_back({{"title", strip.title}, {"pictures", pictures}});
  }
  write_file_atomically(results_ + "/" + stem_ + ".json", json_text(json, 1) + "\n");
}

bool PictureSet::exists() const {
  return path_exists(results_ + "/" + stem_ + ".json");
}

namespace {

LoadedPictures read_set(const std::string& results, const std::string& path) {
  try {
    const auto json = nlohmann::json::parse(read_text(path));
    LoadedPictures set{json.at("kind"),  json.at("task"),      json.at("dataset"),
                       json.at("model"), json.at("card_hash"), {}};
    for (const auto& strip : json.at("strips")) {
      LoadedStrip loaded{strip.at("title"), {}};
      for (const auto& p : strip.at("pictures")) {
        const std::string file = results + "/" + p.at("file").get<std::string>();
        DecodeOptions options;
        options.keep_alpha = true;
        const Decoded decoded = decode_image(read_bytes(file), options);
        if (decoded.status != DecodeStatus::ok)
          throw DataError("reading pictures: " + file + ": " + name_of(decoded.status) +
                          "; run the task again with --force");
        loaded.entries.push_back({decoded.image, p.at("caption"), p.at("class")});
      }
      set.strips.push_back(std::move(loaded));
    }
    return set;
  } catch (const nlohmann::json::exception& e) {
    throw DataError("reading pictures: " + path + ": " + e.what() + "; run the task again with --force");
  }
}

}  // namespace

std::vector<LoadedPictures> read_pictures(const std::string& results) {
  std::vector<std::string> paths;
  if (is_folder(results + "/pictures"))
    for (const auto& entry : std::filesystem::directory_iterator(results + "/pictures"))
      if (entry.path().extension() == ".json") paths.push_back(entry.path().string());
  std::sort(paths.begin(), paths.end());
  std::vector<LoadedPictures> sets;
  for (const std::string& path : paths) sets.push_back(read_set(results, path));
  return sets;
}

}  // namespace dino::eval
