// SPDX-License-Identifier: Apache-2.0
#include "datasets/dense_maps.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"

namespace dino {
namespace {

constexpr int32_t kNoClass = -2;

/// Rows of a plane of T, cut.
template <class T>
std::vector<T> cut(const std::vector<T>& from, int64_t width, Box box, int64_t channels = 1) {
  std::vector<T> out;
  out.reserve(static_cast<size_t>(box.height * box.width * channels));
  for (int64_t y = box.top; y < box.top + box.height; ++y) {
    const auto begin = from.begin() + (y * width + box.left) * channels;
    out.insert(out.end(), begin, begin + box.width * channels);
  }
  return out;
}

void check_inside(Box box, int64_t width, int64_t height) {
  DINO_CHECK(box.top >= 0 && box.left >= 0 && box.height > 0 && box.width > 0 &&
                 box.top + box.height <= height && box.left + box.width <= width,
             "a box beyond the map");
}

template <class T>
std::vector<T> nearest(const std::vector<T>& from, int64_t width, int64_t height, int64_t to_width,
                       int64_t to_height) {
  std::vector<T> out(static_cast<size_t>(to_width * to_height));
  // The centre of pixel x lies at (x + 1/2) / to_width of the width.
  const auto place = [](int64_t at, int64_t from_size, int64_t to_size) {
    return std::min((2 * at + 1) * from_size / (2 * to_size), from_size - 1);
  };
  for (int64_t y = 0; y < to_height; ++y) {
    const int64_t row = place(y, height, to_height) * width;
    for (int64_t x = 0; x < to_width; ++x)
      out[static_cast<size_t>(y * to_width + x)] = from[static_cast<size_t>(row + place(x, width, to_width))];
  }
  return out;
}

}  // namespace

LabelCoding::LabelCoding(std::span<const int64_t> values, std::span<const int64_t> ignored,
                         bool others_ignored)
    : classes_(static_cast<int64_t>(values.size())),
      others_ignored_(others_ignored),
      class_of_(65536, kNoClass) {
  for (const int64_t value : ignored) class_of_.at(static_cast<size_t>(value)) = kIgnoredLabel;
  for (size_t c = 0; c < values.size(); ++c)
    class_of_.at(static_cast<size_t>(values[c])) = static_cast<int32_t>(c);
}

LabelMap LabelCoding::decode(const SamplePlane& plane) const {
  LabelMap map{plane.width, plane.height, {}};
  map.labels.reserve(plane.samples.size());
  for (const uint16_t number : plane.samples) {
    const int32_t found = class_of_[number];
    if (found == kNoClass && !others_ignored_)
      throw DataError(fmt::format("number {} is of none of the {} classes", number, classes_));
    map.labels.push_back(found < 0 ? kIgnoredLabel : static_cast<int16_t>(found));
  }
  return map;
}

DepthMap DepthCoding::decode(const SamplePlane& plane) const {
  DepthMap map{plane.width, plane.height, {}};
  map.metres.reserve(plane.samples.size());
  for (const uint16_t stored : plane.samples) {
    const unsigned number =
        kind == DepthCodingKind::sun ? (stored >> 3U | (unsigned{stored} << 13U & 0xe000U)) : stored;
    map.metres.push_back(static_cast<float>(number / scale));
  }
  clear_invalid(map);
  return map;
}

void DepthCoding::clear_invalid(DepthMap& map) const {
  for (float& z : map.metres)
    if (!(static_cast<double>(z) >= least && static_cast<double>(z) <= most)) z = 0;
}

DecodedPlane decode_visp_depth(std::span<const uint8_t> bytes, const DecodeLimits& limits) {
  DecodedPlane out;
  const auto fail = [&](DecodeStatus status, std::string why) {
    out.status = status;
    out.message = std::move(why);
    return out;
  };
  if (bytes.size() < 8) return fail(DecodeStatus::truncated, "the file ends early");
  const auto number = [&](size_t at, int count) {
    uint32_t value = 0;
    for (int i = count - 1; i >= 0; --i) value = value << 8U | bytes[at + static_cast<size_t>(i)];
    return value;
  };
  const uint64_t rows = number(0, 4), columns = number(4, 4);
  if (rows == 0 || columns == 0) return fail(DecodeStatus::corrupt, "the header declares no pixels");
  if (rows > 65536 || columns > 65536 || rows * columns > static_cast<uint64_t>(limits.max_pixels))
    return fail(DecodeStatus::too_large, fmt::format("the header declares {} x {} pixels", columns, rows));
  if (bytes.size() != 8 + 2 * rows * columns)
    return fail(bytes.size() < 8 + 2 * rows * columns ? DecodeStatus::truncated : DecodeStatus::corrupt,
                fmt::format("{} x {} numbers do not fit {} bytes", columns, rows, bytes.size()));
  out.status = DecodeStatus::ok;
  out.plane = {static_cast<int64_t>(columns), static_cast<int64_t>(rows), {}};
  for (size_t i = 0; i < rows * columns; ++i)
    out.plane.samples.push_back(static_cast<uint16_t>(number(8 + 2 * i, 2)));
  return out;
}

Box evaluation_box(DepthCrop crop, int64_t height, int64_t width) {
  if (crop == DepthCrop::none) return {0, 0, height, width};
  if (crop == DepthCrop::eigen) {
    if (height != 480 || width != 640)
      throw DataError(
          fmt::format("the Eigen crop is of 640 x 480 pixels, and not of {} x {}", width, height));
    return {45, 41, 471 - 45, 601 - 41};
  }
  const auto h = static_cast<double>(height), w = static_cast<double>(width);
  const auto top = static_cast<int64_t>(0.40810811 * h), left = static_cast<int64_t>(0.03594771 * w);
  const Box box{top, left, static_cast<int64_t>(0.99189189 * h) - top,
                static_cast<int64_t>(0.96405229 * w) - left};
  if (box.height <= 0 || box.width <= 0)
    throw DataError(fmt::format("the Garg crop of {} x {} pixels is empty", width, height));
  return box;
}

Box image_box(ImageCrop crop, int64_t height, int64_t width) {
  if (crop == ImageCrop::none) return {0, 0, height, width};
  if (crop == ImageCrop::nyu) {
    if (height != 480 || width != 640)
      throw DataError(fmt::format("NYU's frame is of 640 x 480 pixels, and not of {} x {}", width, height));
    return {45, 43, 472 - 45, 608 - 43};
  }
  if (height < 352 || width < 1216)
    throw DataError(
        fmt::format("KITTI's crop of 1216 x 352 does not fit into {} x {} pixels", width, height));
  return {height - 352, (width - 1216) / 2, 352, 1216};
}

LabelMap crop(const LabelMap& map, Box box) {
  check_inside(box, map.width, map.height);
  return {box.width, box.height, cut(map.labels, map.width, box)};
}

DepthMap crop(const DepthMap& map, Box box) {
  check_inside(box, map.width, map.height);
  return {box.width, box.height, cut(map.metres, map.width, box)};
}

Image crop(const Image& image, Box box) {
  check_inside(box, image.width, image.height);
  return {box.width, box.height, image.channels, cut(image.pixels, image.width, box, image.channels)};
}

LabelMap resize_nearest(const LabelMap& map, int64_t width, int64_t height) {
  return {width, height, nearest(map.labels, map.width, map.height, width, height)};
}

DepthMap resize_nearest(const DepthMap& map, int64_t width, int64_t height) {
  return {width, height, nearest(map.metres, map.width, map.height, width, height)};
}

}  // namespace dino
