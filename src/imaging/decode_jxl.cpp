// SPDX-License-Identifier: Apache-2.0
// JPEG XL through libjxl, on the thread that asks: a pool of threads for every picture costs more than it
// brings where many pictures are decoded at once. The first frame, upright, as 8-bit sRGB.
#include "imaging/decoders.hpp"

#if DINO_HAVE_JXL
#include <jxl/decode.h>

#include <algorithm>
#include <cmath>
#include <memory>

namespace dino::imaging {
namespace {

struct FreeDecoder {
  void operator()(JxlDecoder* decoder) const { JxlDecoderDestroy(decoder); }
};

struct Header {
  JxlBasicInfo info{};
  bool black = false;  ///< an ink beside the three colours
  bool extra = false;  ///< channels that are neither colour nor alpha
  [[nodiscard]] int64_t channels() const { return info.alpha_bits > 0 ? 4 : 3; }
};

bool read_header(const JxlDecoder* decoder, Header& header) {
  if (JxlDecoderGetBasicInfo(decoder, &header.info) != JXL_DEC_SUCCESS) return false;
  for (size_t i = 0; i < header.info.num_extra_channels; ++i) {
    JxlExtraChannelInfo channel;
    if (JxlDecoderGetExtraChannelInfo(decoder, i, &channel) != JXL_DEC_SUCCESS) return false;
    header.black = header.black || channel.type == JXL_CHANNEL_BLACK;
    // Spot colours are drawn by libjxl.
    header.extra =
        header.extra || (channel.type != JXL_CHANNEL_ALPHA && channel.type != JXL_CHANNEL_SPOT_COLOR);
  }
  return true;
}

/// Pixels of the largest layer up to the first frame that is shown; 0 where none is found. A layer may be
/// larger than the picture: its header is read alone, before libjxl takes memory for it.
double largest_layer(Bytes bytes) {
  const std::unique_ptr<JxlDecoder, FreeDecoder> decoder(JxlDecoderCreate(nullptr));
  if (!decoder || JxlDecoderSetCoalescing(decoder.get(), 0) != JXL_DEC_SUCCESS ||
      JxlDecoderSubscribeEvents(decoder.get(), JXL_DEC_FRAME) != JXL_DEC_SUCCESS ||
      JxlDecoderSetInput(decoder.get(), bytes.data(), bytes.size()) != JXL_DEC_SUCCESS) {
    return 0;
  }
  double largest = 0;
  JxlFrameHeader frame{};
  while (JxlDecoderProcessInput(decoder.get()) == JXL_DEC_FRAME &&
         JxlDecoderGetFrameHeader(decoder.get(), &frame) == JXL_DEC_SUCCESS) {
    largest = std::max(largest, static_cast<double>(frame.layer_info.xsize) * frame.layer_info.ysize);
    if (frame.is_last != 0 || frame.duration > 0) break;
  }
  return largest;
}

/// False, with the status set, when the picture is not to be decoded.
bool accept(Bytes bytes, const Header& header, const DecodeOptions& options, Decoded& out) {
  const JxlBasicInfo& info = header.info;
  if (!accept_size(info.xsize, info.ysize, 4, options.limits, out)) return false;
  if (header.black) {
    fail(out, DecodeStatus::unsupported, "JPEG XL with a black ink beside its three colours");
    return false;
  }
  // Measured with libjxl 0.7: samples of 32 bits, the planes as stored and as transformed. Gray is one
  // plane only where it is not stored as the eye's three colours.
  const bool one_plane = info.num_color_channels == 1 && info.uses_original_profile != 0;
  const double each =
      (one_plane ? 18 : 31) + 13.0 * info.num_extra_channels + (info.bits_per_sample > 16 ? 10 : 0);
  const double pixels = std::max(largest_layer(bytes), static_cast<double>(out.file_width * out.file_height));
  return accept_memory(each * pixels, header.channels(), info.orientation > 1, options, out);
}

/// Asks for sRGB, which libjxl heeds where it has the choice; true when it hands over linear light.
bool choose_colours(JxlDecoder* decoder, const JxlBasicInfo& info) {
  JxlColorEncoding colours{};
  colours.color_space = info.num_color_channels == 1 ? JXL_COLOR_SPACE_GRAY : JXL_COLOR_SPACE_RGB;
  colours.white_point = JXL_WHITE_POINT_D65;
  colours.primaries = JXL_PRIMARIES_SRGB;
  colours.transfer_function = JXL_TRANSFER_FUNCTION_SRGB;
  colours.rendering_intent = JXL_RENDERING_INTENT_PERCEPTUAL;
  if (info.uses_original_profile == 0) JxlDecoderSetPreferredColorProfile(decoder, &colours);
  JxlColorEncoding given{};
  return JxlDecoderGetColorAsEncodedProfile(decoder, nullptr, JXL_COLOR_PROFILE_TARGET_DATA, &given) ==
             JXL_DEC_SUCCESS &&
         given.transfer_function == JXL_TRANSFER_FUNCTION_LINEAR;
}

/// Linear light in 16 bits -> the 8 bits of sRGB.
const std::vector<uint8_t>& srgb_curve() {
  static const std::vector<uint8_t> curve = [] {
    std::vector<uint8_t> values(65536);
    for (size_t i = 0; i < values.size(); ++i) {
      const double x = static_cast<double>(i) / 65535.0;
      const double y = x <= 0.0031308 ? 12.92 * x : 1.055 * std::pow(x, 1 / 2.4) - 0.055;
      values[i] = static_cast<uint8_t>(std::lround(255.0 * y));
    }
    return values;
  }();
  return curve;
}

/// A part of a row as libjxl hands it over where light is linear.
void take_linear(void* target, size_t x, size_t y, size_t count, const void* samples) {
  Image& image = *static_cast<Image*>(target);
  const std::vector<uint8_t>& curve = srgb_curve();
  const auto* from = static_cast<const uint16_t*>(samples);
  uint8_t* to = image.at(static_cast<int64_t>(x), static_cast<int64_t>(y));
  const auto channels = static_cast<size_t>(image.channels);
  for (size_t i = 0; i < count * channels; ++i) {
    const bool alpha = channels == 4 && i % 4 == 3;
    to[i] = alpha ? static_cast<uint8_t>((from[i] + 128U) / 257U) : curve[from[i]];
  }
}

bool set_target(JxlDecoder* decoder, bool linear, Image& image) {
  image.pixels.resize(static_cast<size_t>(image.width * image.height * image.channels));
  JxlPixelFormat format{static_cast<uint32_t>(image.channels), linear ? JXL_TYPE_UINT16 : JXL_TYPE_UINT8,
                        JXL_NATIVE_ENDIAN, 0};
  if (linear) return JxlDecoderSetImageOutCallback(decoder, &format, take_linear, &image) == JXL_DEC_SUCCESS;
  size_t size = 0;
  return JxlDecoderImageOutBufferSize(decoder, &format, &size) == JXL_DEC_SUCCESS &&
         size == image.pixels.size() &&
         JxlDecoderSetImageOutBuffer(decoder, &format, image.pixels.data(), size) == JXL_DEC_SUCCESS;
}

bool prepare(JxlDecoder* decoder, Bytes bytes) {
  const int events = JXL_DEC_BASIC_INFO | JXL_DEC_COLOR_ENCODING | JXL_DEC_FULL_IMAGE;
  const bool ready = JxlDecoderSubscribeEvents(decoder, events) == JXL_DEC_SUCCESS &&
                     JxlDecoderSetKeepOrientation(decoder, 1) == JXL_DEC_SUCCESS &&
                     JxlDecoderSetUnpremultiplyAlpha(decoder, 1) == JXL_DEC_SUCCESS;
  // The picture is turned when it has its 8 bits: libjxl would hold it in 32 a sample. The input is not
  // closed: what is missing is then asked for, and told from damage.
  return ready && JxlDecoderSetInput(decoder, bytes.data(), bytes.size()) == JXL_DEC_SUCCESS;
}

}  // namespace

void decode_jxl(Bytes bytes, const DecodeOptions& options, Decoded& out) {
  const std::unique_ptr<JxlDecoder, FreeDecoder> decoder(JxlDecoderCreate(nullptr));
  if (!decoder || !prepare(decoder.get(), bytes))
    return fail(out, DecodeStatus::memory, "libjxl does not start");
  Header header;
  bool linear = false;
  for (;;) {
    switch (JxlDecoderProcessInput(decoder.get())) {
      case JXL_DEC_BASIC_INFO:
        if (!read_header(decoder.get(), header))
          return fail(out, DecodeStatus::corrupt, "the JPEG XL header is broken");
        if (!accept(bytes, header, options, out)) return;
        break;
      case JXL_DEC_COLOR_ENCODING:
        linear = choose_colours(decoder.get(), header.info);
        break;
      case JXL_DEC_NEED_IMAGE_OUT_BUFFER:
        out.image = Image{out.file_width, out.file_height, header.channels(), {}};
        if (!set_target(decoder.get(), linear, out.image))
          return fail(out, DecodeStatus::corrupt, "the JPEG XL codestream is broken");
        break;
      case JXL_DEC_FULL_IMAGE:
        if (header.extra) out.note = DecodeNote::extra_bands;
        return finish(out, options, header.info.orientation);
      case JXL_DEC_NEED_MORE_INPUT:
        return fail(out, DecodeStatus::truncated, "the file ends early");
      default:
        return fail(out, DecodeStatus::corrupt, "the JPEG XL codestream is broken");
    }
  }
}

}  // namespace dino::imaging

#else

namespace dino::imaging {
void decode_jxl(Bytes /*bytes*/, const DecodeOptions& /*options*/, Decoded& out) {
  fail(out, DecodeStatus::unsupported, "this build reads no JPEG XL; install libjxl-dev and build again");
}
}  // namespace dino::imaging
#endif
