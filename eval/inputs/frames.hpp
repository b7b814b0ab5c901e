// SPDX-License-Identifier: Apache-2.0
#pragma once
// Frames of videos among the records of a data set.

#include <optional>
#include <string>
#include <vector>

#include "datasets/dataset.hpp"
#include "imaging/image.hpp"

namespace dino::eval {

/// Frames in the order of their keys.
struct Clip {
  std::string name;
  int32_t label = -1;
  std::vector<Record> frames;
  std::vector<Record> masks;  ///< of each frame; empty: its alpha channel is the mask
};

/// Records of one group, else of one folder, in the order of their first record.
[[nodiscard]] std::vector<Clip> clips_of(const std::vector<Record>& records);

/// Clips with masks: JPEGImages/[480p/]CLIP/* beside Annotations/[480p/]CLIP/* where the data set has them
/// (the layout of DAVIS), else clips_of() with masks from alpha; of two frames at least. DataError names a
/// frame without its mask.
[[nodiscard]] std::vector<Clip> masked_clips(const Dataset& dataset);

/// `count` of n frames, evenly spaced from the first: all where there are fewer.
[[nodiscard]] std::vector<int64_t> spaced_frames(int64_t n, int64_t count);

/// Object of every pixel, 0 = background: colours of a mask that `colours` (of the clip's first frame) has,
/// black aside. With `learn` the mask's own colours are added, in order of their value.
[[nodiscard]] std::vector<uint8_t> objects_of(const Image& mask, std::vector<uint32_t>& colours, bool learn);

}  // namespace dino::eval
