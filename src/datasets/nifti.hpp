// SPDX-License-Identifier: Apache-2.0
#pragma once
// Volumes of medical imaging: NIfTI-1 in one file (.nii, .nii.gz), little-endian.

#include <cstdint>
#include <string>
#include <vector>

namespace dino {

struct Volume {
  int64_t width = 0, height = 0, depth = 0;  ///< voxels along the file's three axes
  std::vector<float> values;                 ///< [depth, height, width], scaled as the header says
};

/// Of u8, i16, u16, i32 or f32; a fourth dimension has one entry at most. DataError names the file and what
/// is wrong; MissingInputError.
[[nodiscard]] Volume read_nifti(const std::string& path);

}  // namespace dino
