// SPDX-License-Identifier: Apache-2.0
// Slices of a volume with the region of every pixel.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>

#include "base/error.hpp"
#include "base/text.hpp"
#include "base/working.hpp"
#include "datasets/nifti.hpp"
#include "datasets/prepare.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

/// Lines "NUMBER NAME ...": names by number.
std::map<int64_t, std::string> region_names(const std::string& path) {
  std::istringstream text(read_text(path));
  std::map<int64_t, std::string> names;
  for (std::string line; std::getline(text, line);) {
    std::istringstream words(line);
    std::string number, name;
    if (!(words >> number >> name)) continue;
    const auto value = parse_number<int64_t>(number);
    if (!value || *value < 1 || *value > 254)
      throw DataError(fmt::format("bad names of regions: {}: '{}' is no number from 1 to 254", path, number));
    names[*value] = printable_name(name);
  }
  if (names.empty()) throw DataError(fmt::format("bad names of regions: {}: it has none", path));
  return names;
}

/// Neighbouring slices are alike: parts take blocks of ten, without the two slices at each end.
const char* part_of_slice(int64_t z) {
  const int64_t in_block = z % 10, block = z / 10 % 5;
  if (in_block < 2 || in_block > 7) return "";
  return block == 4 ? "test" : block == 1 ? "val" : "train";
}

}  // namespace

std::vector<std::string> prepare_slices(const std::string& image, const std::string& regions,
                                        const std::string& names_file, const std::string& part,
                                        const std::string& out) {
  const auto numbered = region_names(names_file);
  std::vector<std::string> names = {"background"};
  std::map<int64_t, uint8_t> class_of = {{0, 0}};
  for (const auto& [number, name] : numbered) {
    class_of[number] = static_cast<uint8_t>(names.size());
    names.push_back(name);
  }
  prepare_tar(out, [&](TarWriter& tar) {
    const Volume volume = read_nifti(image), map = read_nifti(regions);
    if (volume.width != map.width || volume.height != map.height || volume.depth != map.depth)
      throw DataError(fmt::format("bad NIfTI file: {}: its grid is not that of {}", regions, image));
    const float most = *std::max_element(volume.values.begin(), volume.values.end());
    const auto pixels = static_cast<size_t>(volume.width * volume.height);
    const std::string header = fmt::format("P5\n{} {}\n255\n", volume.width, volume.height);
    for (int64_t z = 0; z < volume.depth; ++z) {
      work_point();
      if (part_of_slice(z) != part) continue;
      std::vector<uint8_t> grey, labels;
      bool any = false;
      // The file's second axis runs upwards.
      for (int64_t y = volume.height - 1; y >= 0; --y)
        for (int64_t x = 0; x < volume.width; ++x) {
          const size_t at = static_cast<size_t>(z) * pixels + static_cast<size_t>(y * volume.width + x);
          grey.push_back(static_cast<uint8_t>(
              std::lround(255 * std::clamp(volume.values[at] / std::max(most, 1e-9F), 0.0F, 1.0F))));
          const auto found = class_of.find(std::lround(map.values[at]));
          labels.push_back(found == class_of.end() ? 255 : found->second);
          any = any || (labels.back() != 0 && labels.back() != 255);
        }
      if (!any) continue;
      tar.add(fmt::format("{:04}.pgm", z), with_header(header, grey));
      tar.add(fmt::format("{:04}.labels", z), with_header(header, labels));
    }
  });
  return names;
}

}  // namespace dino
