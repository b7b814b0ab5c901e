// SPDX-License-Identifier: Apache-2.0
#include "inputs/image_pairs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "storage/files.hpp"

namespace dino::eval {

namespace {

constexpr double kPi = 3.14159265358979323846;

[[noreturn]] void fail_pairs(const std::string& path, const std::string& why) {
  throw DataError(
      fmt::format("reading pairs: {}: {}; the format is in docs/formats.md", printable_name(path), why));
}

std::string pairs_file(const std::string& reference) {
  return reference + "/pairs.json";
}

std::vector<PointMatch> pair_points(const Json& entry, const std::string& path, size_t pair) {
  std::vector<PointMatch> out;
  if (!entry.contains("points") || !entry.at("points").is_array() || entry.at("points").empty())
    fail_pairs(path, fmt::format("pair {} has no list \"points\"", pair));
  for (const Json& point : entry.at("points")) {
    const bool four = point.is_array() && point.size() == 4 &&
                      std::all_of(point.begin(), point.end(), [](const Json& v) { return v.is_number(); });
    if (!four) fail_pairs(path, fmt::format("pair {}: a point is not a list of 4 numbers", pair));
    out.push_back(
        {point[0].get<double>(), point[1].get<double>(), point[2].get<double>(), point[3].get<double>()});
  }
  return out;
}

}  // namespace

bool has_pairs(const std::string& reference) {
  return is_folder(reference) && path_exists(pairs_file(reference));
}

std::vector<ImagePair> read_pairs(const Dataset& dataset) {
  const std::string path = pairs_file(dataset.reference);
  constexpr int64_t kMost = int64_t{1} << 28;
  if (file_size(path) > kMost) fail_pairs(path, "is larger than 256 MiB");
  const Json json = Json::parse(read_text(path), nullptr, false);
  if (json.is_discarded() || !json.is_object() || !json.contains("pairs") || !json.at("pairs").is_array() ||
      json.at("pairs").empty())
    fail_pairs(path, "is not a JSON object with a list \"pairs\"");
  std::unordered_map<std::string, size_t> index;
  for (size_t i = 0; i < dataset.records.size(); ++i) index.emplace(dataset.records[i].key, i);
  std::vector<ImagePair> pairs;
  for (const Json& entry : json.at("pairs")) {
    const auto record = [&](const char* name) {
      if (!entry.is_object() || !entry.contains(name) || !entry.at(name).is_string())
        fail_pairs(path, fmt::format("pair {} has no \"{}\"", pairs.size(), name));
      const std::string key = entry.at(name).get<std::string>();
      const auto found = index.find(key);
      if (found == index.end())
        fail_pairs(
            path, fmt::format("pair {}: {} is no image's key (its path below the folder, without its ending)",
                              pairs.size(), printable_name(key)));
      return dataset.records[found->second];
    };
    ImagePair pair{"", record("a"), record("b"), pair_points(entry, path, pairs.size())};
    pair.name = pair.first.key + " " + pair.second.key;
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

PointMatch DrawnView::match(double x, double y) const {
  return {x, y, to_view[0] * x + to_view[1] * y + to_view[2], to_view[3] * x + to_view[4] * y + to_view[5]};
}

DrawnView draw_view(const Image& image, Random& random) {
  const auto w = static_cast<double>(image.width), h = static_cast<double>(image.height);
  const double angle = random.uniform(-kPi / 6, kPi / 6),
               scale = std::exp(random.uniform(-1, 1) * std::log(4.0 / 3));
  const double dx = random.uniform(-0.1, 0.1) * w, dy = random.uniform(-0.1, 0.1) * h;
  const double light = random.uniform(0.8, 1.2);
  const double c = std::cos(angle) * scale, s = std::sin(angle) * scale;
  DrawnView view;
  // About the centre of the picture.
  view.to_view = {c, -s, w / 2 - c * w / 2 + s * h / 2 + dx, s, c, h / 2 - s * w / 2 - c * h / 2 + dy};
  view.image = {image.width, image.height, 3,
                std::vector<uint8_t>(static_cast<size_t>(image.width * image.height * 3), 127)};
  const double determinant = scale * scale;
  for (int64_t y = 0; y < image.height; ++y)
    for (int64_t x = 0; x < image.width; ++x) {
      // Pixel centres; back through the inverse.
      const double u = static_cast<double>(x) + 0.5 - view.to_view[2],
                   v = static_cast<double>(y) + 0.5 - view.to_view[5];
      const double from_x = (c * u + s * v) / determinant - 0.5,
                   from_y = (-s * u + c * v) / determinant - 0.5;
      if (from_x < 0 || from_y < 0 || from_x > w - 1 || from_y > h - 1) continue;
      const auto left = static_cast<int64_t>(from_x), top = static_cast<int64_t>(from_y);
      const int64_t right = std::min(left + 1, image.width - 1), below = std::min(top + 1, image.height - 1);
      const double fx = from_x - static_cast<double>(left), fy = from_y - static_cast<double>(top);
      for (int64_t k = 0; k < 3; ++k) {
        const double upper = image.at(left, top)[k] * (1 - fx) + image.at(right, top)[k] * fx;
        const double lower = image.at(left, below)[k] * (1 - fx) + image.at(right, below)[k] * fx;
        view.image.at(x, y)[k] = static_cast<uint8_t>(
            std::lround(std::clamp((upper * (1 - fy) + lower * fy) * light, 0.0, 255.0)));
      }
    }
  return view;
}

}  // namespace dino::eval
