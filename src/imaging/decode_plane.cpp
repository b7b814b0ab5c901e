// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <new>

#include "imaging/decoders.hpp"
#include "imaging/sample_plane.hpp"

namespace dino {

DecodedPlane decode_plane(std::span<const uint8_t> bytes, const DecodeLimits& limits) {
  DecodeOptions options;
  options.limits = limits;
  // Two bytes a sample here, three a pixel where accept_memory counts: the plane is the smaller.
  options.keep_alpha = true;
  Decoded header;
  DecodedPlane out;
  try {
    const std::string_view kind = image_extension_of(bytes.first(std::min<size_t>(bytes.size(), 32)));
    if (kind == "png")
      imaging::decode_png_plane(bytes, options, header, out.plane.samples);
    else if (bytes.size() > 2 && bytes[0] == 'P' && bytes[1] == '5')
      imaging::decode_pnm_plane(bytes, options, header, out.plane.samples);
    else if (kind.empty())
      imaging::fail(header, DecodeStatus::not_an_image, "it is neither PNG nor PGM");
    else
      imaging::fail(header, DecodeStatus::unsupported,
                    "it is " + std::string(kind) + "; maps of numbers are PNG or PGM");
  } catch (const std::bad_alloc&) {
    imaging::fail(header, DecodeStatus::memory, "the machine has not enough memory for it");
  }
  out.status = header.status;
  out.message = header.message;
  if (out.status != DecodeStatus::ok)
    out.plane = {};
  else
    out.plane.width = header.file_width, out.plane.height = header.file_height;
  return out;
}

}  // namespace dino
