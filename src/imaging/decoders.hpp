// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the decoders of the formats share. Each fills `out` (status, message, image, file size) and never
// throws for bad input; decode_image is the only caller.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "imaging/image.hpp"

namespace dino::imaging {

using Bytes = std::span<const uint8_t>;

void decode_jpeg(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_png(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_webp(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_pnm(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_bmp(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_tiff(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_jxl(Bytes bytes, const DecodeOptions& options, Decoded& out);
void decode_vips(Bytes bytes, const DecodeOptions& options, Decoded& out);  ///< GIF, HEIC, JPEG 2000, ...

/// Samples as stored, for decode_plane; status, message and file size are in `out`, whose image stays empty.
void decode_png_plane(Bytes bytes, const DecodeOptions& options, Decoded& out,
                      std::vector<uint16_t>& samples);
void decode_pnm_plane(Bytes bytes, const DecodeOptions& options, Decoded& out,
                      std::vector<uint16_t>& samples);

/// False, with the status set, when the header's size is empty or beyond the limits. Called before any memory
/// is allocated for pixels; `bytes_per_pixel` is of the decoded image.
bool accept_size(int64_t width, int64_t height, int64_t bytes_per_pixel, const DecodeLimits& limits,
                 Decoded& out);
/// False, with the status `memory`, when `decoder` bytes beside the picture of `channels` (and what finish
/// makes of it) are more than the limit. `turned`: the picture has an orientation to apply.
bool accept_memory(double decoder, int64_t channels, bool turned, const DecodeOptions& options, Decoded& out);
void fail(Decoded& out, DecodeStatus status, std::string message);
inline constexpr const char* kEndsEarly = "the file ends early";

/// The orientation tag (1..8) of a TIFF-structured EXIF block; 0 where it has none that parses.
int exif_orientation(Bytes tiff);
/// tiff:Orientation of an XMP packet; 0 where it has none.
int xmp_orientation(Bytes packet);
/// Of a PNG's text chunks, before or after the pixels: ImageMagick's "Raw profile type exif", else XMP; 0
/// where they say nothing.
int png_text_orientation(Bytes png);
/// Inks (255 = full) -> RGB, as Pillow does it: paper that each ink takes away from.
inline void cmyk_to_rgb(unsigned c, unsigned m, unsigned y, unsigned k, uint8_t* rgb) {
  const unsigned paper = 255U - k;
  const auto left = [&](unsigned ink) {
    const unsigned t = ink * paper + 128U;  // ink * paper / 255, rounded
    return static_cast<uint8_t>(paper - (((t >> 8) + t) >> 8));
  };
  rgb[0] = left(c), rgb[1] = left(m), rgb[2] = left(y);
}
/// Turns the picture upright: EXIF's eight orientations.
Image apply_orientation(const Image& image, int orientation);
/// Orientation, alpha and the status `ok`; `out.image` holds 3 or 4 channels.
void finish(Decoded& out, const DecodeOptions& options, int orientation);

}  // namespace dino::imaging
