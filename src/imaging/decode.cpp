// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string_view>

#include "imaging/decoders.hpp"
#include "imaging/image.hpp"

namespace dino {

const char* name_of(DecodeStatus status) {
  switch (status) {
    case DecodeStatus::ok:
      return "ok";
    case DecodeStatus::not_an_image:
      return "not_an_image";
    case DecodeStatus::truncated:
      return "truncated";
    case DecodeStatus::corrupt:
      return "corrupt";
    case DecodeStatus::too_large:
      return "too_large";
    case DecodeStatus::unsupported:
      return "unsupported";
    case DecodeStatus::memory:
      return "decode_memory";
  }
  return "unknown";
}

const std::vector<std::string>& note_names() {
  static const std::vector<std::string> names = {"none",
                                                 "end_marker_missing",
                                                 "scaled_by_declared_range",
                                                 "scaled_by_unit_range",
                                                 "scaled_by_measured_range",
                                                 "extra_bands_left_out",
                                                 "dark_background"};
  return names;
}

namespace imaging {

void fail(Decoded& out, DecodeStatus status, std::string message) {
  out.status = status;
  out.message = std::move(message);
  out.image = Image{};
}

bool accept_size(int64_t width, int64_t height, int64_t bytes_per_pixel, const DecodeLimits& limits,
                 Decoded& out) {
  out.file_width = width;
  out.file_height = height;
  const std::string size = std::to_string(width) + " x " + std::to_string(height);
  if (width <= 0 || height <= 0) {
    fail(out, DecodeStatus::corrupt, "the header declares " + size + " pixels");
    return false;
  }
  // Both factors stay below 2^32 in every format, so the products of doubles decide safely.
  const double pixels = static_cast<double>(width) * static_cast<double>(height);
  if (pixels > static_cast<double>(limits.max_pixels)) {
    fail(out, DecodeStatus::too_large,
         "the header declares " + size + " pixels, the limit is " + std::to_string(limits.max_pixels));
    return false;
  }
  if (pixels * static_cast<double>(bytes_per_pixel) > static_cast<double>(limits.max_bytes)) {
    fail(out, DecodeStatus::too_large,
         size + " pixels need more than the limit of " + std::to_string(limits.max_bytes) + " bytes");
    return false;
  }
  return true;
}

namespace {

constexpr const char* kNoMemory = "the machine has not enough memory for its pixels; use fewer --threads";

/// GLib ends the process, and some decoders crash, where memory is short: the address space is asked for
/// before they are.
bool obtainable(double bytes) {
  if (bytes < 1 << 20) return true;
  const auto size = static_cast<size_t>(bytes);
  void* probe =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (probe == MAP_FAILED) return false;
  ::munmap(probe, size);
  return true;
}

}  // namespace

bool accept_memory(double decoder, int64_t channels, bool turned, const DecodeOptions& options,
                   Decoded& out) {
  const int64_t shown = options.keep_alpha ? channels : 3;
  int64_t each = channels + (channels == 4 && !options.keep_alpha ? 3 : 0);
  if (turned && options.apply_orientation) each = std::max(each, 2 * shown);
  const double needed = decoder + static_cast<double>(out.file_width) * static_cast<double>(out.file_height) *
                                      static_cast<double>(each);
  if (needed > static_cast<double>(options.limits.max_memory)) {
    const auto mib = [](double bytes) { return std::to_string(static_cast<int64_t>(bytes / 1048576)); };
    fail(out, DecodeStatus::memory,
         "decoding its " + std::to_string(out.file_width) + " x " + std::to_string(out.file_height) +
             " pixels needs " + mib(needed) + " MiB of memory and " +
             mib(std::max(0.0, static_cast<double>(options.limits.max_memory))) +
             " MiB are left beside the file; raise --decode-memory");
    return false;
  }
  if (obtainable(needed)) return true;
  fail(out, DecodeStatus::memory, kNoMemory);
  return false;
}

Image apply_orientation(const Image& image, int orientation) {
  if (orientation <= 1 || orientation > 8) return image;
  const bool swapped = orientation >= 5;
  Image out;
  out.width = swapped ? image.height : image.width;
  out.height = swapped ? image.width : image.height;
  out.channels = image.channels;
  out.pixels.resize(image.pixels.size());
  const int64_t w = image.width, h = image.height;
  for (int64_t y = 0; y < out.height; ++y) {
    for (int64_t x = 0; x < out.width; ++x) {
      int64_t sx = swapped ? y : x, sy = swapped ? x : y;
      switch (orientation) {
        case 2:
          sx = w - 1 - x;
          break;
        case 3:
          sx = w - 1 - x, sy = h - 1 - y;
          break;
        case 4:
          sy = h - 1 - y;
          break;
        case 6:
          sy = h - 1 - x;
          break;
        case 7:
          sx = w - 1 - y, sy = h - 1 - x;
          break;
        case 8:
          sx = w - 1 - y;
          break;
        default:
          break;
      }
      std::memcpy(out.at(x, y), image.at(sx, sy), static_cast<size_t>(image.channels));
    }
  }
  return out;
}

void finish(Decoded& out, const DecodeOptions& options, int orientation) {
  if (out.image.channels == 4 && !options.keep_alpha) {
    out.background = options.background.value_or(Colour{});
    if (!options.background) {
      out.background = visible_background(out.image);
      if (out.background[0] == 0 && out.note == DecodeNote::none) out.note = DecodeNote::dark_background;
    }
    out.image = composite(out.image, out.background);
  } else if (options.background) {
    out.background = *options.background;
  }
  if (options.apply_orientation && orientation > 1) {
    out.image = apply_orientation(out.image, orientation);
    if (orientation >= 5) std::swap(out.file_width, out.file_height);
  }
  out.status = DecodeStatus::ok;
  out.message.clear();
}

namespace {

bool has(Bytes bytes, size_t at, std::string_view magic) {
  return bytes.size() >= at + magic.size() && std::memcmp(bytes.data() + at, magic.data(), magic.size()) == 0;
}

using Decoder = void (*)(Bytes, const DecodeOptions&, Decoded&);
struct Sniffed {
  const char* format = "";
  Decoder decoder = nullptr;
};

/// ISO base media files name their kind in the `ftyp` box (HEIF, AVIF).
Sniffed sniff_ftyp(Bytes bytes) {
  for (const char* brand : {"avif", "avis"}) {
    if (has(bytes, 8, brand)) return {"avif", decode_vips};
  }
  for (const char* brand : {"heic", "heix", "hevc", "mif1", "msf1", "heim", "heis"}) {
    if (has(bytes, 8, brand)) return {"heic", decode_vips};
  }
  return {};
}

Sniffed sniff(Bytes bytes) {
  using namespace std::string_view_literals;
  if (has(bytes, 0, "\xff\xd8\xff"sv)) return {"jpeg", decode_jpeg};
  if (has(bytes, 0, "\x89PNG\r\n\x1a\n"sv)) return {"png", decode_png};
  if (has(bytes, 0, "RIFF"sv) && has(bytes, 8, "WEBP"sv)) return {"webp", decode_webp};
  if (has(bytes, 0, "GIF87a"sv) || has(bytes, 0, "GIF89a"sv)) return {"gif", decode_vips};
  if (has(bytes, 0, "II*\0"sv) || has(bytes, 0, "MM\0*"sv) || has(bytes, 0, "II+\0"sv) ||
      has(bytes, 0, "MM\0+"sv)) {
    return {"tiff", decode_tiff};
  }
  // "BM" alone also begins English text: the size of the information header must be a known one.
  if (has(bytes, 0, "BM"sv) && bytes.size() >= 18 && bytes[15] == 0 && bytes[16] == 0 && bytes[17] == 0 &&
      (bytes[14] == 12 || bytes[14] == 16 || (bytes[14] >= 40 && bytes[14] <= 124))) {
    return {"bmp", decode_bmp};
  }
  if (bytes.size() >= 3 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '6' &&
      (bytes[2] == ' ' || bytes[2] == '\n' || bytes[2] == '\t' || bytes[2] == '\r' || bytes[2] == '#')) {
    static constexpr std::array<const char*, 6> names = {"pbm", "pgm", "ppm", "pbm", "pgm", "ppm"};
    return {names[static_cast<size_t>(bytes[1] - '1')], decode_pnm};
  }
  if (has(bytes, 4, "ftyp"sv)) return sniff_ftyp(bytes);
  if (has(bytes, 0, "\xff\x0a"sv) || has(bytes, 0, "\0\0\0\x0cJXL \r\n\x87\n"sv)) return {"jxl", decode_jxl};
  if (has(bytes, 0, "\0\0\0\x0cjP  \r\n\x87\n"sv) || has(bytes, 0, "\xff\x4f\xff\x51"sv)) {
    return {"jp2", decode_vips};
  }
  return {};
}

}  // namespace
}  // namespace imaging

std::string_view image_extension_of(std::span<const uint8_t> first_bytes) {
  const std::string_view format = imaging::sniff(first_bytes).format;
  // "P1 " and the like also begin English text: a number or a comment must follow.
  if (format.ends_with("m") && format.size() == 3 && format[0] == 'p') {
    const bool number = first_bytes.size() > 3 && ((first_bytes[3] >= '0' && first_bytes[3] <= '9') ||
                                                   first_bytes[3] == '#' || first_bytes[2] == '#');
    return number ? format : std::string_view();
  }
  return format == "jpeg" ? "jpg" : format == "tiff" ? "tif" : format;
}

Decoded decode_image(std::span<const uint8_t> bytes, const DecodeOptions& options) {
  Decoded out;
  if (bytes.empty()) {
    imaging::fail(out, DecodeStatus::not_an_image, "the file is empty");
    return out;
  }
  const imaging::Sniffed sniffed = imaging::sniff(bytes);
  out.format = sniffed.format;
  if (sniffed.decoder == nullptr) {
    imaging::fail(out, DecodeStatus::not_an_image, "the first bytes are of no known image format");
    return out;
  }
  if (static_cast<int64_t>(bytes.size()) > options.limits.max_bytes) {
    imaging::fail(out, DecodeStatus::too_large,
                  "the file has " + std::to_string(bytes.size()) + " bytes, the limit is " +
                      std::to_string(options.limits.max_bytes));
    return out;
  }
  // The file's bytes are held by the thread that decodes them.
  DecodeOptions rest = options;
  rest.limits.max_memory -= static_cast<int64_t>(bytes.size());
  try {
    sniffed.decoder(bytes, rest, out);
  } catch (const std::bad_alloc&) {
    imaging::fail(out, DecodeStatus::memory, imaging::kNoMemory);
  }
  return out;
}

}  // namespace dino
