// SPDX-License-Identifier: Apache-2.0
#pragma once
// JPEG XL files that the tests make by hand.

#include <jxl/encode.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "imaging/image.hpp"

namespace dino::test {

struct JxlSpec {
  int64_t width = 0, height = 0;
  uint32_t colours = 3;  ///< 1: gray
  bool alpha = false;    ///< the last of each pixel's samples
  int64_t layer = 0;     ///< > 0: the side of a square layer below the first frame of an animation, 8 bits
  const char* alpha_name = nullptr;
  JxlDataType type = JXL_TYPE_UINT8;   ///< of the samples given
  bool lossy = false, linear = false;  ///< linear: the samples are linear light
  int orientation = 1;
  bool container = false, animated = false;
  std::vector<JxlExtraChannelType> more = {};  ///< channels beside those, half full
};

/// Every element of `frames` holds the samples of one frame, row by row.
inline std::vector<uint8_t> make_jxl(const JxlSpec& spec, const std::vector<const void*>& frames) {
  struct Free {
    void operator()(JxlEncoder* encoder) const { JxlEncoderDestroy(encoder); }
  };
  const std::unique_ptr<JxlEncoder, Free> owner(JxlEncoderCreate(nullptr));
  JxlEncoder* const encoder = owner.get();
  const auto must = [&](JxlEncoderStatus status, const char* what) {
    if (status != JXL_ENC_SUCCESS)
      throw std::runtime_error(std::string("libjxl: ") + what + " " +
                               std::to_string(static_cast<int>(JxlEncoderGetError(encoder))));
  };
  const uint32_t bits = spec.type == JXL_TYPE_UINT8 ? 8 : spec.type == JXL_TYPE_UINT16 ? 16 : 32;
  JxlBasicInfo info;
  JxlEncoderInitBasicInfo(&info);
  info.xsize = static_cast<uint32_t>(spec.width), info.ysize = static_cast<uint32_t>(spec.height);
  info.bits_per_sample = bits;
  info.exponent_bits_per_sample = bits == 32 ? 8 : 0;
  info.uses_original_profile = spec.lossy ? 0 : 1;
  info.orientation = static_cast<JxlOrientation>(spec.orientation);
  info.num_color_channels = spec.colours;
  info.num_extra_channels = static_cast<uint32_t>(spec.more.size()) + (spec.alpha ? 1 : 0);
  info.alpha_bits = spec.alpha ? bits : 0;
  info.alpha_exponent_bits = spec.alpha ? info.exponent_bits_per_sample : 0;
  info.have_animation = spec.animated ? 1 : 0;
  info.animation.tps_numerator = 10, info.animation.tps_denominator = 1;
  must(JxlEncoderUseContainer(encoder, spec.container ? 1 : 0), "container");
  must(JxlEncoderSetBasicInfo(encoder, &info), "header");
  JxlColorEncoding colours{};
  (spec.linear ? JxlColorEncodingSetToLinearSRGB : JxlColorEncodingSetToSRGB)(&colours, spec.colours == 1);
  must(JxlEncoderSetColorEncoding(encoder, &colours), "colours");
  for (size_t i = 0; i < spec.more.size(); ++i) {
    JxlExtraChannelInfo channel;
    JxlEncoderInitExtraChannelInfo(spec.more[i], &channel);
    channel.bits_per_sample = 8;
    must(JxlEncoderSetExtraChannelInfo(encoder, i + (spec.alpha ? 1 : 0), &channel), "channel");
  }
  if (spec.alpha_name != nullptr) {
    JxlExtraChannelInfo channel;
    JxlEncoderInitExtraChannelInfo(JXL_CHANNEL_ALPHA, &channel);
    channel.bits_per_sample = bits;
    must(JxlEncoderSetExtraChannelInfo(encoder, 0, &channel), "alpha");
    must(JxlEncoderSetExtraChannelName(encoder, 0, spec.alpha_name, std::strlen(spec.alpha_name)), "name");
  }
  JxlEncoderFrameSettings* settings = JxlEncoderFrameSettingsCreate(encoder, nullptr);
  must(JxlEncoderFrameSettingsSetOption(settings, JXL_ENC_FRAME_SETTING_EFFORT, 1), "effort");
  must(JxlEncoderSetFrameLossless(settings, spec.lossy ? 0 : 1), "lossless");
  const JxlPixelFormat format{spec.colours + (spec.alpha ? 1 : 0), spec.type, JXL_NATIVE_ENDIAN, 0};
  const size_t pixels = static_cast<size_t>(spec.width * spec.height);
  const auto set_frame = [&](uint32_t duration, int64_t side) {
    JxlFrameHeader header;
    JxlEncoderInitFrameHeader(&header);
    header.duration = duration;
    header.layer_info.have_crop = side > 0 ? 1 : 0;
    header.layer_info.xsize = header.layer_info.ysize = static_cast<uint32_t>(side);
    must(JxlEncoderSetFrameHeader(settings, &header), "frame");
  };
  if (spec.layer > 0) {
    set_frame(0, spec.layer);
    const std::vector<uint8_t> flat(static_cast<size_t>(spec.layer * spec.layer) * format.num_channels, 90);
    must(JxlEncoderAddImageFrame(settings, &format, flat.data(), flat.size()), "samples of a layer");
  }
  for (const void* frame : frames) {
    if (spec.animated) set_frame(1, 0);
    must(JxlEncoderAddImageFrame(settings, &format, frame, pixels * format.num_channels * (bits / 8)),
         "samples");
    const std::vector<uint8_t> half(pixels, 128);
    const JxlPixelFormat single{1, JXL_TYPE_UINT8, JXL_NATIVE_ENDIAN, 0};
    for (size_t i = 0; i < spec.more.size(); ++i)
      must(JxlEncoderSetExtraChannelBuffer(settings, &single, half.data(), pixels,
                                           static_cast<uint32_t>(i + (spec.alpha ? 1 : 0))),
           "samples of a channel");
  }
  JxlEncoderCloseInput(encoder);
  std::vector<uint8_t> out(pixels * 32 + (1 << 20));
  uint8_t* next = out.data();
  size_t left = out.size();
  must(JxlEncoderProcessOutput(encoder, &next, &left), "encoding");
  out.resize(out.size() - left);
  return out;
}

}  // namespace dino::test
