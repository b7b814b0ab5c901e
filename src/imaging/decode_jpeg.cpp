// SPDX-License-Identifier: Apache-2.0
// JPEG through libjpeg-turbo. libjpeg reports errors by longjmp, so the function that calls it holds only
// trivial locals; everything that owns memory lives in JpegReader, outside the jump.
#include <csetjmp>
#include <cstdio>
#include <cstring>
// jpeglib.h needs <cstdio> first.
#include <jerror.h>
#include <jpeglib.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "imaging/decoders.hpp"

namespace dino::imaging {
namespace {

// A progressive file may name thousands of scans over a large picture in a few bytes.
constexpr int kMaxScans = 500;

struct JpegReader {
  jpeg_error_mgr errors{};  // first member: libjpeg hands back this address
  jpeg_decompress_struct info{};
  jpeg_progress_mgr progress{};
  std::jmp_buf jump{};
  bool truncated = false, corrupt = false, unsupported = false, too_many_scans = false, memory = false;
  bool incomplete = false;   ///< a scan is missing, if the bytes ended early
  bool ended_early = false;  ///< the bytes ended where a marker or more data was looked for
  char message[JMSG_LENGTH_MAX] = {};
  char warning[JMSG_LENGTH_MAX] = {};
  std::vector<uint8_t> row;
  int orientation = 1;

  ~JpegReader() { jpeg_destroy_decompress(&info); }
};

JpegReader& reader_of(j_common_ptr info) {
  return *reinterpret_cast<JpegReader*>(info->err);
}

[[noreturn]] void on_error(j_common_ptr info) {
  JpegReader& reader = reader_of(info);
  switch (info->err->msg_code) {
    case JERR_INPUT_EMPTY:
    case JERR_INPUT_EOF:
      reader.truncated = true;
      break;
    case JERR_OUT_OF_MEMORY:
    case JERR_NO_BACKING_STORE:
      reader.memory = true;
      break;
    case JERR_BAD_PRECISION:
    case JERR_SOF_UNSUPPORTED:
    case JERR_CONVERSION_NOTIMPL:
    case JERR_ARITH_NOTIMPL:
    case JERR_NOT_COMPILED:
      reader.unsupported = true;
      break;
    default:
      reader.corrupt = true;
  }
  info->err->format_message(info, reader.message);
  std::longjmp(reader.jump, 1);
}

/// libjpeg fills what is missing with gray and only warns; half a picture must not pass for a whole one.
void on_message(j_common_ptr info, int level) {
  if (level >= 0) return;
  JpegReader& reader = reader_of(info);
  bool fatal = true;
  switch (info->err->msg_code) {
    case JWRN_JPEG_EOF:
      reader.ended_early = true;  // the scan may be whole all the same: see `incomplete`
      return;
    case JWRN_HIT_MARKER:
      reader.truncated = true;
      break;
    case JWRN_HUFF_BAD_CODE:
    case JWRN_MUST_RESYNC:
    case JWRN_NOT_SEQUENTIAL:
      reader.corrupt = true;
      break;
    default:
      fatal = false;  // extra bytes between markers, odd version numbers: harmless
  }
  if (fatal && reader.warning[0] == 0) info->err->format_message(info, reader.warning);
}

void on_progress(j_common_ptr info) {
  if (info->is_decompressor == 0) return;
  JpegReader& reader = reader_of(info);
  if (reader.info.input_scan_number > kMaxScans) {
    reader.too_many_scans = true;
    std::longjmp(reader.jump, 1);
  }
}

void quiet(j_common_ptr /*info*/) {}

int marker_orientation(const jpeg_decompress_struct& info) {
  using namespace std::string_view_literals;
  constexpr auto exif_name = "Exif\0\0"sv, xmp_name = "http://ns.adobe.com/xap/1.0/\0"sv;
  int exif = 0, xmp = 0;
  for (const jpeg_marker_struct* m = info.marker_list; m != nullptr; m = m->next) {
    const Bytes data(m->data, m->data_length);
    const auto begins = [&](std::string_view name) {
      return data.size() >= name.size() && std::memcmp(data.data(), name.data(), name.size()) == 0;
    };
    if (m->marker != JPEG_APP0 + 1) continue;
    if (exif == 0 && begins(exif_name)) exif = exif_orientation(data.subspan(exif_name.size()));
    if (xmp == 0 && begins(xmp_name)) xmp = xmp_orientation(data.subspan(xmp_name.size()));
  }
  return exif > 0 ? exif : xmp;
}

/// Coefficients of the whole picture are held where it comes in several scans.
double scan_memory(jpeg_decompress_struct& info) {
  double bytes = static_cast<double>(info.image_width) * 64;  // rows in progress
  if (jpeg_has_multiple_scans(&info) == FALSE) return bytes;
  for (int c = 0; c < info.num_components; ++c) {
    const jpeg_component_info& component = info.comp_info[c];
    bytes += static_cast<double>(component.width_in_blocks + 8) *
             static_cast<double>(component.height_in_blocks + 8) * sizeof(JBLOCK);
  }
  return bytes;
}

/// Of a file that ended without its end marker: is a scan missing?
bool incomplete(const jpeg_decompress_struct& info) {
  for (int c = 0; c < info.num_components; ++c) {
    if (info.comp_info[c].quant_table == nullptr) return true;  // no scan of this component was begun
    if (info.progressive_mode == FALSE) continue;
    for (int i = 0; i < DCTSIZE2; ++i) {
      if (info.coef_bits[c][i] != 0) return true;  // the last bits of this coefficient never came
    }
  }
  return false;
}

/// Largest reduction (1/8, 1/4, 1/2) that keeps the short side at `wanted` pixels or more.
unsigned scale_eighths(int64_t short_side, int64_t wanted) {
  if (wanted <= 0) return 8;
  for (unsigned eighths : {1U, 2U, 4U}) {
    if ((short_side * eighths + 7) / 8 >= wanted) return eighths;
  }
  return 8;
}

/// One row of CMYK -> RGB. Files hold inks inverted (255 = none), with Adobe's marker or without: every
/// program reads them so.
void convert_cmyk_row(const uint8_t* cmyk, size_t pixels, uint8_t* rgb) {
  for (size_t x = 0; x < pixels; ++x) {
    cmyk_to_rgb(255U - cmyk[4 * x], 255U - cmyk[4 * x + 1], 255U - cmyk[4 * x + 2], 255U - cmyk[4 * x + 3],
                rgb + 3 * x);
  }
}

/// False when libjpeg jumped or the size was refused.
bool read_header(JpegReader& reader, Bytes bytes, const DecodeOptions& options, Decoded& out) {
  if (setjmp(reader.jump) != 0) return false;
  jpeg_decompress_struct& info = reader.info;
  jpeg_create_decompress(&info);
  reader.progress.progress_monitor = on_progress;
  info.progress = &reader.progress;
  jpeg_mem_src(&info, bytes.data(), bytes.size());
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&info, TRUE);
  reader.orientation = marker_orientation(info);
  if (!accept_size(info.image_width, info.image_height, 4, options.limits, out)) return false;
  const bool cmyk = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  info.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
  info.dct_method = JDCT_ISLOW;
  info.scale_num = scale_eighths(std::min(info.image_width, info.image_height), options.min_short_side);
  info.scale_denom = 8;
  jpeg_calc_output_dimensions(&info);
  if (!accept_memory(scan_memory(info), 3, reader.orientation > 1, options, out)) return false;
  info.mem->max_memory_to_use = static_cast<long>(options.limits.max_memory);
  return true;
}

bool read_pixels(JpegReader& reader, Image& image) {
  if (setjmp(reader.jump) != 0) return false;
  jpeg_decompress_struct& info = reader.info;
  jpeg_start_decompress(&info);
  const size_t width = info.output_width;
  const bool cmyk = info.out_color_space == JCS_CMYK;
  while (info.output_scanline < info.output_height) {
    uint8_t* target = image.pixels.data() + info.output_scanline * width * 3;
    JSAMPROW row = cmyk ? reader.row.data() : target;
    jpeg_read_scanlines(&info, &row, 1);
    if (cmyk) convert_cmyk_row(row, width, target);
  }
  // jpeg_finish_decompress forgets the scans, and looks for the end marker in the first place.
  reader.incomplete = incomplete(info);
  jpeg_finish_decompress(&info);
  return true;
}

void report(const JpegReader& reader, Decoded& out) {
  const char* text = reader.warning[0] != 0 ? reader.warning : reader.message;
  if (reader.memory) {
    fail(out, DecodeStatus::memory, text);
  } else if (reader.too_many_scans) {
    fail(out, DecodeStatus::too_large, "more than " + std::to_string(kMaxScans) + " scans");
  } else if (reader.truncated || reader.ended_early) {
    fail(out, DecodeStatus::truncated, reader.truncated ? text : kEndsEarly);
  } else {
    fail(out, reader.unsupported ? DecodeStatus::unsupported : DecodeStatus::corrupt, text);
  }
}

}  // namespace

void decode_jpeg(Bytes bytes, const DecodeOptions& options, Decoded& out) {
  JpegReader reader;
  reader.info.err = jpeg_std_error(&reader.errors);
  reader.errors.error_exit = on_error;
  reader.errors.emit_message = on_message;
  reader.errors.output_message = quiet;
  if (!read_header(reader, bytes, options, out)) {
    if (out.message.empty()) report(reader, out);
    return;
  }
  const auto width = static_cast<size_t>(reader.info.output_width);
  const auto height = static_cast<size_t>(reader.info.output_height);
  out.image.width = static_cast<int64_t>(width);
  out.image.height = static_cast<int64_t>(height);
  out.image.channels = 3;
  out.image.pixels.resize(width * height * 3);
  if (reader.info.out_color_space == JCS_CMYK) reader.row.resize(width * 4);
  if (!read_pixels(reader, out.image) || reader.truncated || reader.corrupt) {
    report(reader, out);
    return;
  }
  if (reader.ended_early) {
    if (reader.incomplete) return fail(out, DecodeStatus::truncated, kEndsEarly);
    out.note = DecodeNote::end_missing;
  }
  finish(out, options, reader.orientation);
}

}  // namespace dino::imaging
