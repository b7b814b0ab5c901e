// SPDX-License-Identifier: Apache-2.0
#pragma once
// Pictures whose samples are numbers and no colours: label maps and depth maps.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "imaging/image.hpp"

namespace dino {

/// One number a pixel, row-major.
struct SamplePlane {
  int64_t width = 0, height = 0;
  std::vector<uint16_t> samples;
};

struct DecodedPlane {
  DecodeStatus status = DecodeStatus::corrupt;
  std::string message;  ///< why, when not ok
  SamplePlane plane;
};

/// PNG of one channel (grey of 1 to 16 bits as stored; of a palette the indices, not the colours) or PGM (P2,
/// P5). Nothing is scaled, turned or composited. Never throws for bad input: every fault is a status and a
/// message; a picture of colours is `unsupported`, and one that ends early is no plane.
[[nodiscard]] DecodedPlane decode_plane(std::span<const uint8_t> bytes, const DecodeLimits& limits = {});

}  // namespace dino
