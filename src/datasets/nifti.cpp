// SPDX-License-Identifier: Apache-2.0
#include "datasets/nifti.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.hpp"
#include "datasets/archive_reader.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr size_t kHeader = 348;
constexpr uint64_t kMostVoxels = uint64_t{1} << 28;

template <class T>
T number_at(const std::vector<uint8_t>& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

template <class T>
void read_voxels(const std::vector<uint8_t>& bytes, size_t at, std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(number_at<T>(bytes, at + i * sizeof(T)));
}

}  // namespace

Volume read_nifti(const std::string& path) {
  const auto bytes = path.ends_with(".gz") ? gunzip(path) : read_bytes(path);
  const auto fail = [&](const std::string& why) {
    throw DataError(fmt::format("bad NIfTI file: {}: {}", path, why));
  };
  if (bytes.size() < kHeader + 4) fail("it ends within its header");
  if (number_at<int32_t>(bytes, 0) != static_cast<int32_t>(kHeader))
    fail("it has no little-endian NIfTI-1 header");
  if (std::memcmp(bytes.data() + 344, "n+1", 4) != 0) fail("its voxels are not in the same file");
  const auto dim = [&](size_t i) { return int64_t{number_at<int16_t>(bytes, 40 + 2 * i)}; };
  if (dim(0) < 3 || dim(0) > 7 || dim(1) < 1 || dim(2) < 1 || dim(3) < 1)
    fail(fmt::format("{} dimensions of {} x {} x {}", dim(0), dim(1), dim(2), dim(3)));
  for (int64_t i = 4; i <= dim(0); ++i)
    if (dim(static_cast<size_t>(i)) > 1) fail("it has more than three dimensions");
  Volume volume{dim(1), dim(2), dim(3), {}};
  const uint64_t voxels = static_cast<uint64_t>(volume.width) * static_cast<uint64_t>(volume.height) *
                          static_cast<uint64_t>(volume.depth);
  if (voxels > kMostVoxels) fail("it has more than 2^28 voxels");
  const int type = number_at<int16_t>(bytes, 70);
  const size_t wide = type == 2 ? 1 : type == 4 || type == 512 ? 2 : type == 8 || type == 16 ? 4 : 0;
  if (wide == 0) fail(fmt::format("voxels of data type {}; u8, i16, u16, i32 and f32 are read", type));
  const auto offset = static_cast<double>(number_at<float>(bytes, 108));
  if (!(offset >= static_cast<double>(kHeader) && offset <= static_cast<double>(bytes.size())) ||
      bytes.size() - static_cast<size_t>(offset) < voxels * wide)
    fail("it ends before its last voxel");
  volume.values.resize(voxels);
  const auto at = static_cast<size_t>(offset);
  if (type == 2) read_voxels<uint8_t>(bytes, at, volume.values);
  if (type == 4) read_voxels<int16_t>(bytes, at, volume.values);
  if (type == 512) read_voxels<uint16_t>(bytes, at, volume.values);
  if (type == 8) read_voxels<int32_t>(bytes, at, volume.values);
  if (type == 16) read_voxels<float>(bytes, at, volume.values);
  const float slope = number_at<float>(bytes, 112), shift = number_at<float>(bytes, 116);
  if (std::isfinite(slope) && slope != 0 && (slope != 1 || shift != 0))
    for (float& value : volume.values) value = value * slope + (std::isfinite(shift) ? shift : 0);
  return volume;
}

}  // namespace dino
