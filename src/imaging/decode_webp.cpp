// SPDX-License-Identifier: Apache-2.0
#include "imaging/decoders.hpp"

#if DINO_HAVE_WEBP
#include <webp/decode.h>
#include <webp/demux.h>

#include <cstring>
#include <memory>

namespace dino::imaging {
namespace {

struct FreeDemuxer {
  void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};

void report(VP8StatusCode code, Decoded& out) {
  switch (code) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
      return fail(out, DecodeStatus::truncated, "the file ends early");
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return fail(out, DecodeStatus::unsupported, "an unsupported WebP feature");
    case VP8_STATUS_OUT_OF_MEMORY:
      return fail(out, DecodeStatus::memory, "not enough memory");
    default:
      return fail(out, DecodeStatus::corrupt, "the WebP bitstream is broken");
  }
}

/// What `read` finds in a chunk; 0 where the file has none.
template <class Read>
int from_chunk(const WebPDemuxer* demuxer, const char* name, const Read& read) {
  WebPChunkIterator chunk;
  int found = 0;
  if (WebPDemuxGetChunk(demuxer, name, 1, &chunk) != 0) {
    found = read(Bytes(chunk.chunk.bytes, chunk.chunk.size));
  }
  WebPDemuxReleaseChunkIterator(&chunk);
  return found;
}

int orientation_of(const WebPDemuxer* demuxer) {
  const int exif = from_chunk(demuxer, "EXIF", [](Bytes block) {
    if (block.size() > 6 && std::memcmp(block.data(), "Exif\0", 6) == 0) block = block.subspan(6);
    return exif_orientation(block);
  });
  return exif > 0 ? exif : from_chunk(demuxer, "XMP ", xmp_orientation);
}

/// Decodes one frame into its place on the (transparent) canvas.
VP8StatusCode decode_frame(const WebPIterator& frame, Image& canvas) {
  WebPDecoderConfig config;
  if (WebPInitDecoderConfig(&config) == 0) return VP8_STATUS_INVALID_PARAM;
  const VP8StatusCode code = WebPGetFeatures(frame.fragment.bytes, frame.fragment.size, &config.input);
  if (code != VP8_STATUS_OK) return code;
  if (frame.x_offset < 0 || frame.y_offset < 0 || config.input.width > canvas.width - frame.x_offset ||
      config.input.height > canvas.height - frame.y_offset) {
    return VP8_STATUS_BITSTREAM_ERROR;
  }
  config.output.colorspace = MODE_RGBA;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = canvas.at(frame.x_offset, frame.y_offset);
  config.output.u.RGBA.stride = static_cast<int>(canvas.width * 4);
  config.output.u.RGBA.size =
      canvas.pixels.size() - static_cast<size_t>(config.output.u.RGBA.rgba - canvas.pixels.data());
  return WebPDecode(frame.fragment.bytes, frame.fragment.size, &config);
}

}  // namespace

void decode_webp(Bytes bytes, const DecodeOptions& options, Decoded& out) {
  WebPBitstreamFeatures features;
  const VP8StatusCode code = WebPGetFeatures(bytes.data(), bytes.size(), &features);
  if (code != VP8_STATUS_OK) return report(code, out);
  if (!accept_size(features.width, features.height, 4, options.limits, out)) return;
  const uint64_t declared =
      uint64_t{bytes[4]} | uint64_t{bytes[5]} << 8 | uint64_t{bytes[6]} << 16 | uint64_t{bytes[7]} << 24;
  if (declared + 8 > bytes.size()) return report(VP8_STATUS_NOT_ENOUGH_DATA, out);
  const WebPData data{bytes.data(), bytes.size()};
  const std::unique_ptr<WebPDemuxer, FreeDemuxer> demuxer(WebPDemux(&data));
  WebPIterator frame;
  if (!demuxer || WebPDemuxGetFrame(demuxer.get(), 1, &frame) == 0) {
    return fail(out, DecodeStatus::corrupt, "the WebP container is broken");
  }
  const int orientation = orientation_of(demuxer.get());
  // Beside the canvas: the decoder's own picture, and its alpha plane.
  const double held = 5.0 * features.width * features.height;
  if (!accept_memory(held, 4, orientation > 1, options, out)) {
    WebPDemuxReleaseIterator(&frame);
    return;
  }
  Image canvas{features.width, features.height, 4, {}};
  canvas.pixels.resize(static_cast<size_t>(canvas.width * canvas.height * 4));
  const VP8StatusCode decoded = decode_frame(frame, canvas);
  WebPDemuxReleaseIterator(&frame);
  if (decoded != VP8_STATUS_OK) return report(decoded, out);
  if (features.has_alpha == 0) canvas = composite(canvas, {255, 255, 255});
  out.image = std::move(canvas);
  finish(out, options, orientation);
}

}  // namespace dino::imaging

#else

namespace dino::imaging {
void decode_webp(Bytes /*bytes*/, const DecodeOptions& /*options*/, Decoded& out) {
  fail(out, DecodeStatus::unsupported, "this build reads no WebP; install libwebp-dev and build again");
}
}  // namespace dino::imaging
#endif
