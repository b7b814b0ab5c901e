// SPDX-License-Identifier: Apache-2.0
#pragma once
// A class or a depth for every pixel: what the files of segmentation and depth data sets hold, and how the
// published protocols cut them.

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/names.hpp"
#include "imaging/image.hpp"
#include "imaging/sample_plane.hpp"

namespace dino {

/// A pixel that counts neither in training nor in testing.
constexpr int16_t kIgnoredLabel = -1;

struct LabelMap {
  int64_t width = 0, height = 0;
  std::vector<int16_t> labels;  ///< row-major: a class, or kIgnoredLabel
};

struct DepthMap {
  int64_t width = 0, height = 0;
  std::vector<float> metres;  ///< row-major, along the camera's axis; 0 where it is not known
};

/// Which class a stored number stands for.
class LabelCoding {
 public:
  LabelCoding() = default;
  /// values[c] is the number of class c; `ignored` numbers do not count. Any other number is a fault of the
  /// file, or, with `others_ignored`, does not count either.
  LabelCoding(std::span<const int64_t> values, std::span<const int64_t> ignored, bool others_ignored);
  [[nodiscard]] int64_t classes() const { return classes_; }
  /// DataError without a file's name ("number 37 is of none of the 19 classes").
  [[nodiscard]] LabelMap decode(const SamplePlane& plane) const;

 private:
  int64_t classes_ = 0;
  bool others_ignored_ = false;
  std::vector<int32_t> class_of_;  ///< by number
};

/// sun: the number's bits stand rotated by three, as the files of SUN RGB-D do (arXiv: Song et al., CVPR
/// 2015; its toolbox turns them back): below 8.192 m that is `linear` with eight times the scale.
enum class DepthCodingKind : uint8_t { linear, sun };
constexpr auto names_of(DepthCodingKind) {
  return std::to_array<Named<DepthCodingKind>>(
      {{"linear", DepthCodingKind::linear}, {"sun", DepthCodingKind::sun}});
}

struct DepthCoding {
  DepthCodingKind kind = DepthCodingKind::linear;
  double scale = 1000;             ///< stored units in a metre
  double least = 1e-3, most = 10;  ///< metres; what lies outside is not valid (0 in the map)
  [[nodiscard]] DepthMap decode(const SamplePlane& plane) const;
  /// Metres in, invalid ones (not finite, out of range) set to 0.
  void clear_invalid(DepthMap& map) const;
};

/// A depth map of ViSP's data: rows and columns as u32, then u16 numbers, all little-endian. The status says
/// what is wrong with it.
[[nodiscard]] DecodedPlane decode_visp_depth(std::span<const uint8_t> bytes, const DecodeLimits& limits = {});

/// Where predictions are compared with the truth.
///  eigen: rows 45 to 471, columns 41 to 601 of 480 x 640 (Eigen et al., arXiv 1406.2283; NYU);
///  garg: of the height .40810811 to .99189189, of the width .03594771 to .96405229 (Garg et al., arXiv
///  1603.04992; KITTI).
enum class DepthCrop : uint8_t { none, eigen, garg };
constexpr auto names_of(DepthCrop) {
  return std::to_array<Named<DepthCrop>>(
      {{"none", DepthCrop::none}, {"eigen", DepthCrop::eigen}, {"garg", DepthCrop::garg}});
}
/// DataError where the protocol does not know images of this size.
[[nodiscard]] Box evaluation_box(DepthCrop crop, int64_t height, int64_t width);

/// What is cut from image and map before anything else.
///  nyu: the frame without its white border, rows 45 to 472, columns 43 to 608 of 480 x 640;
///  kitti: the lowest 352 rows and the middle 1216 columns.
enum class ImageCrop : uint8_t { none, nyu, kitti };
constexpr auto names_of(ImageCrop) {
  return std::to_array<Named<ImageCrop>>(
      {{"none", ImageCrop::none}, {"nyu", ImageCrop::nyu}, {"kitti", ImageCrop::kitti}});
}
[[nodiscard]] Box image_box(ImageCrop crop, int64_t height, int64_t width);

/// Parts of a map, an image. The box lies within.
[[nodiscard]] LabelMap crop(const LabelMap& map, Box box);
[[nodiscard]] DepthMap crop(const DepthMap& map, Box box);
[[nodiscard]] Image crop(const Image& image, Box box);

/// The number of the nearest pixel (half-pixel centres), as maps of classes and of depths are resized:
/// neither has a mean.
[[nodiscard]] LabelMap resize_nearest(const LabelMap& map, int64_t width, int64_t height);
[[nodiscard]] DepthMap resize_nearest(const DepthMap& map, int64_t width, int64_t height);

}  // namespace dino
