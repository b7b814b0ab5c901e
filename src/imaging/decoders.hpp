// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the decoders of the formats share. Each fills `out` (status, message, image, file size) and never
// throws for bad input; decode_image is the only caller.

#include <cstdint>
#include <span>
#include <string>

#include "imaging/image.hpp"

namespace dino::imaging {

using Bytes = std::span<const uint8_t>;

void decode_jpeg(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_png(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_webp(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_pnm(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_bmp(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_vips(Bytes bytes, const DecodeOptions& options, Decoded& out);  ///< TIFF, GIF, HEIC, JPEG XL, ...

/// False, with the status set, when the header's size is empty or beyond the limits. Called before any memory
/// is allocated for pixels; `bytes_per_pixel` is of the decoded image.
bool accept_size(int64_t width, int64_t height, int64_t bytes_per_pixel, const DecodeLimits& limits,
                 Decoded& out);
void fail(Decoded& out, DecodeStatus status, std::string message);

/// The orientation tag (1..8) of a TIFF-structured EXIF block; 1 for anything that does not parse.
int exif_orientation(Bytes tiff);
/// Turns the picture upright: EXIF's eight orientations.
Image apply_orientation(const Image& image, int orientation);
/// Orientation, alpha and the status `ok`; `out.image` holds 3 or 4 channels.
void finish(Decoded& out, const DecodeOptions& options, int orientation);

}  // namespace dino::imaging
