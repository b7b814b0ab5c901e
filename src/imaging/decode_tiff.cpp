// SPDX-License-Identifier: Apache-2.0
// TIFF through libtiff, tile by tile or strip by strip: the first page as 8-bit RGB or RGBA. What photographs
// do not have (more than 8 bits, floating point, bands that are no colour) is read as it was meant; see
// range_of.
#include "imaging/decoders.hpp"

#if DINO_HAVE_TIFF
#include <tiffio.h>

#include <cstring>
#include <memory>

#include "imaging/tiff_samples.hpp"

namespace dino::imaging {
namespace {

struct FreeTiff {
  void operator()(TIFF* tiff) const { TIFFClose(tiff); }
};
struct FreeOptions {
  void operator()(TIFFOpenOptions* options) const { TIFFOpenOptionsFree(options); }
};

/// The file in memory, as libtiff reads it, and the first error it reported.
struct Source {
  Bytes bytes;
  uint64_t position = 0;
  std::string error;
};

tmsize_t read_source(thandle_t handle, void* target, tmsize_t size) {
  auto& source = *static_cast<Source*>(handle);
  if (source.position >= source.bytes.size() || size <= 0) return 0;
  const size_t count = std::min<size_t>(static_cast<size_t>(size), source.bytes.size() - source.position);
  std::memcpy(target, source.bytes.data() + source.position, count);
  source.position += count;
  return static_cast<tmsize_t>(count);
}

toff_t seek_source(thandle_t handle, toff_t offset, int whence) {
  auto& source = *static_cast<Source*>(handle);
  if (whence == SEEK_SET) source.position = offset;
  if (whence == SEEK_CUR) source.position += offset;
  if (whence == SEEK_END) source.position = source.bytes.size() + offset;
  return source.position;
}

int map_source(thandle_t handle, void** base, toff_t* size) {
  auto& source = *static_cast<Source*>(handle);
  *base = const_cast<uint8_t*>(source.bytes.data());  // opened for reading: libtiff does not write to it
  *size = source.bytes.size();
  return 1;
}

int on_error(TIFF* /*tiff*/, void* user, const char* /*module*/, const char* format, va_list arguments) {
  auto& source = *static_cast<Source*>(user);
  if (source.error.empty()) {
    char text[200];
    std::vsnprintf(text, sizeof(text), format, arguments);
    source.error = text;
    for (char& c : source.error) {
      if (static_cast<unsigned char>(c) < ' ') c = ' ';
    }
  }
  return 1;  // nothing is printed
}

int on_warning(TIFF* /*tiff*/, void* /*user*/, const char* /*module*/, const char* /*format*/,
               va_list /*arguments*/) {
  return 1;
}

using TiffFile = std::unique_ptr<TIFF, FreeTiff>;

TiffFile open_tiff(Source& source, int64_t max_memory) {
  const std::unique_ptr<TIFFOpenOptions, FreeOptions> options(TIFFOpenOptionsAlloc());
  if (!options) return nullptr;
  TIFFOpenOptionsSetMaxSingleMemAlloc(options.get(), std::max<int64_t>(max_memory, 1));
  TIFFOpenOptionsSetErrorHandlerExtR(options.get(), on_error, &source);
  TIFFOpenOptionsSetWarningHandlerExtR(options.get(), on_warning, &source);
  const auto no_write = [](thandle_t, void*, tmsize_t) -> tmsize_t { return 0; };
  const auto no_close = [](thandle_t) { return 0; };
  const auto size = [](thandle_t handle) -> toff_t { return static_cast<Source*>(handle)->bytes.size(); };
  const auto unmap = [](thandle_t, void*, toff_t) {};
  return TiffFile(TIFFClientOpenExt("image", "r", &source, read_source, no_write, seek_source, no_close, size,
                                    map_source, unmap, options.get()));
}

void report(const Source& source, Decoded& out) {
  const std::string& text = source.error;
  const auto says = [&](const char* words) { return text.find(words) != std::string::npos; };
  if (says("memory") || says("Memory")) return fail(out, DecodeStatus::memory, text);
  // "Read error at scanline 4; got 17 bytes, expected 30", "Not enough data", "Premature end", ...
  const bool truncated = says("bytes, expected") || says("ot enough data") || says("remature") ||
                         says("Cannot read") || says("end of file") || says("EOF") || says("beyond") ||
                         says("annot handle zero");
  fail(out, truncated ? DecodeStatus::truncated : DecodeStatus::corrupt,
       text.empty() ? "the TIFF file is broken" : text);
}

uint16_t field16(TIFF* tiff, uint32_t tag, uint16_t missing) {
  uint16_t value = missing;
  return TIFFGetField(tiff, tag, &value) != 0 ? value : missing;
}

int orientation_of(TIFF* tiff) {
  const uint16_t stored = field16(tiff, TIFFTAG_ORIENTATION, 0);
  if (stored >= 1 && stored <= 8) return stored;
  uint32_t size = 0;
  const uint8_t* packet = nullptr;
  if (TIFFGetField(tiff, TIFFTAG_XMLPACKET, &size, &packet) == 0 || packet == nullptr) return 1;
  return xmp_orientation(Bytes(packet, size));
}

/// Declared by the tags of the format's own type, or by the older ones of 16 bits.
void read_declared_range(TIFF* tiff, TiffLayout& l) {
  double low = 0, high = 0;
  if (TIFFGetField(tiff, TIFFTAG_SMINSAMPLEVALUE, &low) != 0 &&
      TIFFGetField(tiff, TIFFTAG_SMAXSAMPLEVALUE, &high) != 0) {
    l.declared = {low, high};
  } else if (l.format == SampleFormat::unsigned_integer && field16(tiff, TIFFTAG_MAXSAMPLEVALUE, 0) > 0) {
    l.declared = {static_cast<double>(field16(tiff, TIFFTAG_MINSAMPLEVALUE, 0)),
                  static_cast<double>(field16(tiff, TIFFTAG_MAXSAMPLEVALUE, 0))};
  }
  // GDAL's value of pixels that are none, as text.
  constexpr uint32_t kNoData = 42113;
  uint32_t count = 0;
  const char* text = nullptr;
  if (TIFFFindField(tiff, kNoData, TIFF_ANY) != nullptr &&
      TIFFFieldDataType(TIFFFindField(tiff, kNoData, TIFF_ANY)) == TIFF_ASCII &&
      TIFFGetField(tiff, kNoData, &count, &text) != 0 && text != nullptr && count > 0) {
    const std::string value(text, strnlen(text, count));
    char* end = nullptr;
    const double number = std::strtod(value.c_str(), &end);
    if (end != value.c_str()) l.no_data = number;
  }
}

/// Which sample is the alpha, if any: the first that ExtraSamples calls so. A fourth sample of RGB that
/// nothing is said about is taken for one, as Pillow does.
void find_alpha(TIFF* tiff, TiffLayout& l) {
  uint16_t count = 0;
  const uint16_t* types = nullptr;
  if (TIFFGetField(tiff, TIFFTAG_EXTRASAMPLES, &count, &types) == 0 || types == nullptr) count = 0;
  const int first = l.samples - count;
  for (int i = 0; i < count && l.alpha < 0; ++i) {
    if (types[i] != EXTRASAMPLE_ASSOCALPHA && types[i] != EXTRASAMPLE_UNASSALPHA) continue;
    l.alpha = first + i;
    l.premultiplied = types[i] == EXTRASAMPLE_ASSOCALPHA;
  }
  if (count == 0 && l.kind == TiffKind::rgb && l.samples == 4) l.alpha = 3;
  if (l.alpha < l.colours()) l.alpha = -1;
}

void read_palette(TIFF* tiff, TiffLayout& l) {
  uint16_t* columns[3] = {};
  if (TIFFGetField(tiff, TIFFTAG_COLORMAP, &columns[0], &columns[1], &columns[2]) == 0) return;
  const size_t entries = size_t{1} << l.bits;
  bool wide = false;  // some programs write 8 bits where 16 belong
  for (const uint16_t* column : columns) {
    for (size_t i = 0; i < entries; ++i) wide = wide || column[i] > 255;
  }
  l.palette.resize(entries);
  for (size_t i = 0; i < entries; ++i) {
    for (size_t c = 0; c < 3; ++c) {
      l.palette[i][c] = static_cast<uint8_t>(wide ? columns[c][i] >> 8 : columns[c][i]);
    }
  }
}

bool read_format(TIFF* tiff, TiffLayout& l) {
  l.bits = field16(tiff, TIFFTAG_BITSPERSAMPLE, 1);
  switch (field16(tiff, TIFFTAG_SAMPLEFORMAT, SAMPLEFORMAT_UINT)) {
    case SAMPLEFORMAT_UINT:
    case SAMPLEFORMAT_VOID:
      l.format = SampleFormat::unsigned_integer;
      return (l.bits >= 1 && l.bits <= 16) || l.bits == 32 || l.bits == 64;
    case SAMPLEFORMAT_INT:
      l.format = SampleFormat::signed_integer;
      return l.bits == 8 || l.bits == 16 || l.bits == 32 || l.bits == 64;
    case SAMPLEFORMAT_IEEEFP:
      l.format = SampleFormat::floating;
      return l.bits == 16 || l.bits == 32 || l.bits == 64;
    default:
      return false;
  }
}

/// False when there is no rule for such pixels.
bool read_layout(TIFF* tiff, TiffLayout& l) {
  uint32_t width = 0, height = 0;
  TIFFGetField(tiff, TIFFTAG_IMAGEWIDTH, &width);
  TIFFGetField(tiff, TIFFTAG_IMAGELENGTH, &height);
  l.width = width, l.height = height;
  l.samples = field16(tiff, TIFFTAG_SAMPLESPERPIXEL, 1);
  l.separate = field16(tiff, TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG) == PLANARCONFIG_SEPARATE;
  if (!read_format(tiff, l)) return false;
  const uint16_t compression = field16(tiff, TIFFTAG_COMPRESSION, COMPRESSION_NONE);
  const bool fax = compression == COMPRESSION_CCITTRLE || compression == COMPRESSION_CCITTFAX3 ||
                   compression == COMPRESSION_CCITTFAX4;
  const uint16_t guess = l.samples >= 3 ? PHOTOMETRIC_RGB
                         : fax          ? PHOTOMETRIC_MINISWHITE
                                        : PHOTOMETRIC_MINISBLACK;
  switch (field16(tiff, TIFFTAG_PHOTOMETRIC, guess)) {
    case PHOTOMETRIC_MINISWHITE:
      l.inverted = true;
      [[fallthrough]];
    case PHOTOMETRIC_MINISBLACK:
      l.kind = TiffKind::gray;
      find_alpha(tiff, l);
      // Bands of which none is called anything: the first three are shown, as viewers do.
      if (l.samples >= 3 && l.alpha < 0) l.kind = TiffKind::rgb;
      break;
    case PHOTOMETRIC_RGB:
      l.kind = TiffKind::rgb;
      find_alpha(tiff, l);
      break;
    case PHOTOMETRIC_PALETTE:
      l.kind = TiffKind::palette;
      if (l.bits > 8 || l.format != SampleFormat::unsigned_integer) return false;
      read_palette(tiff, l);
      find_alpha(tiff, l);
      return !l.palette.empty();
    case PHOTOMETRIC_SEPARATED:
      l.kind = TiffKind::cmyk;
      find_alpha(tiff, l);
      break;
    case PHOTOMETRIC_CIELAB:
    case PHOTOMETRIC_ICCLAB:
      l.kind = TiffKind::lab;
      l.signed_ab = field16(tiff, TIFFTAG_PHOTOMETRIC, guess) == PHOTOMETRIC_CIELAB;
      if (l.bits != 8 && l.bits != 16) return false;
      break;
    case PHOTOMETRIC_YCBCR:
      if (compression == COMPRESSION_JPEG && l.bits == 8 && l.samples == 3 && !l.separate) {
        TIFFSetField(tiff, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
        l.kind = TiffKind::rgb;
        break;
      }
      [[fallthrough]];
    case PHOTOMETRIC_LOGL:
    case PHOTOMETRIC_LOGLUV:
      l.kind = TiffKind::converted;
      return true;
    default:
      return false;
  }
  read_declared_range(tiff, l);
  return l.samples >= l.colours();
}

/// Bytes of one tile or strip, of all planes.
double chunk_bytes(TIFF* tiff, const TiffLayout& l) {
  const uint64_t one = TIFFIsTiled(tiff) != 0 ? TIFFTileSize64(tiff) : TIFFStripSize64(tiff);
  return static_cast<double>(one) * (l.separate ? l.samples : 1);
}

/// Calls `visit(x, y, count, rows)` for every row of every tile or strip; rows[i] is where plane i (or the
/// only one) begins. False when libtiff cannot read one.
template <class Visit>
bool for_each_row(TIFF* tiff, const TiffLayout& l, std::vector<uint8_t>& buffer, const Visit& visit) {
  const bool tiled = TIFFIsTiled(tiff) != 0;
  const int planes = l.separate ? l.samples : 1;
  uint32_t across = static_cast<uint32_t>(l.width), down = 0;
  if (tiled) {
    TIFFGetField(tiff, TIFFTAG_TILEWIDTH, &across);
    TIFFGetField(tiff, TIFFTAG_TILELENGTH, &down);
  } else {
    TIFFGetFieldDefaulted(tiff, TIFFTAG_ROWSPERSTRIP, &down);
    down = static_cast<uint32_t>(std::min<int64_t>(down, l.height));
  }
  const tmsize_t size = tiled ? TIFFTileSize(tiff) : TIFFStripSize(tiff);
  const tmsize_t stride = tiled ? TIFFTileRowSize(tiff) : TIFFScanlineSize(tiff);
  if (across == 0 || down == 0 || size <= 0 || stride <= 0) return false;
  buffer.resize(static_cast<size_t>(size) * static_cast<size_t>(planes));
  std::vector<const uint8_t*> rows(static_cast<size_t>(planes));
  for (int64_t y = 0; y < l.height; y += down) {
    const int64_t height = std::min<int64_t>(down, l.height - y);
    for (int64_t x = 0; x < l.width; x += across) {
      for (int plane = 0; plane < planes; ++plane) {
        uint8_t* to = buffer.data() + static_cast<size_t>(plane) * static_cast<size_t>(size);
        const auto at_x = static_cast<uint32_t>(x), at_y = static_cast<uint32_t>(y);
        const auto at_plane = static_cast<uint16_t>(plane);
        const tmsize_t wanted = tiled ? size : std::min<tmsize_t>(size, height * stride);
        const tmsize_t read =
            tiled ? TIFFReadEncodedTile(tiff, TIFFComputeTile(tiff, at_x, at_y, 0, at_plane), to, size)
                  : TIFFReadEncodedStrip(tiff, TIFFComputeStrip(tiff, at_y, at_plane), to, wanted);
        if (read != wanted || wanted < height * stride) return false;
      }
      for (int64_t row = 0; row < height; ++row) {
        for (size_t plane = 0; plane < rows.size(); ++plane) {
          rows[plane] = buffer.data() + plane * static_cast<size_t>(size) +
                        static_cast<size_t>(row) * static_cast<size_t>(stride);
        }
        visit(x, y + row, std::min<int64_t>(across, l.width - x), rows);
      }
    }
  }
  return true;
}

/// YCbCr that is not JPEG's, LogLuv: libtiff has their conversions.
bool read_converted(TIFF* tiff, Image& image) {
  TIFFSetField(tiff, TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT);  // it is applied later
  const auto width = static_cast<uint32_t>(image.width), height = static_cast<uint32_t>(image.height);
  std::vector<uint32_t> raster(size_t{width} * height);
  if (TIFFReadRGBAImageOriented(tiff, width, height, raster.data(), ORIENTATION_TOPLEFT, 1) == 0)
    return false;
  for (size_t i = 0; i < raster.size(); ++i) {
    image.pixels[3 * i] = static_cast<uint8_t>(TIFFGetR(raster[i]));
    image.pixels[3 * i + 1] = static_cast<uint8_t>(TIFFGetG(raster[i]));
    image.pixels[3 * i + 2] = static_cast<uint8_t>(TIFFGetB(raster[i]));
  }
  return true;
}

bool read_samples(TIFF* tiff, const TiffLayout& l, Decoded& out) {
  std::vector<uint8_t> buffer;
  SampleRange range = range_of(l);
  if (range.measure) {
    Measured measured;
    if (!for_each_row(tiff, l, buffer, [&](int64_t, int64_t, int64_t count, const auto& rows) {
          measure_row(l, rows, count, measured);
        })) {
      return false;
    }
    range = range_of(l, measured);
  }
  out.note = range.note != DecodeNote::none ? range.note
             : l.has_extra_bands()          ? DecodeNote::extra_bands
                                            : DecodeNote::none;
  RowConverter converter(l, range);
  return for_each_row(tiff, l, buffer, [&](int64_t x, int64_t y, int64_t count, const auto& rows) {
    converter.convert(rows, count, out.image.at(x, y));
  });
}

}  // namespace

void decode_tiff(Bytes bytes, const DecodeOptions& options, Decoded& out) {
  Source source{bytes, 0, {}};
  const TiffFile tiff = open_tiff(source, options.limits.max_memory);
  if (!tiff) return report(source, out);
  TiffLayout l;
  const bool known = read_layout(tiff.get(), l);
  if (!accept_size(l.width, l.height, l.alpha >= 0 ? 4 : 3, options.limits, out)) return;
  const uint16_t compression = field16(tiff.get(), TIFFTAG_COMPRESSION, COMPRESSION_NONE);
  if (!known || TIFFIsCODECConfigured(compression) == 0) {
    return fail(out, DecodeStatus::unsupported,
                "TIFF with " + std::to_string(l.samples) + " samples of " + std::to_string(l.bits) +
                    " bits, photometric interpretation " +
                    std::to_string(field16(tiff.get(), TIFFTAG_PHOTOMETRIC, 0)) + ", compression " +
                    std::to_string(compression));
  }
  const int orientation = orientation_of(tiff.get());
  const int64_t channels = l.alpha >= 0 ? 4 : 3;
  double held = chunk_bytes(tiff.get(), l) + 64.0 * static_cast<double>(l.width);
  // A raster beside the picture; JPEG may hold all coefficients of a tile or strip.
  if (l.kind == TiffKind::converted)
    held += 4.0 * static_cast<double>(l.width) * static_cast<double>(l.height);
  if (compression == COMPRESSION_JPEG || compression == COMPRESSION_OJPEG) held *= 3;
  if (!accept_memory(held, channels, orientation > 1, options, out)) return;
  out.image = Image{l.width, l.height, channels, {}};
  out.image.pixels.resize(static_cast<size_t>(l.width * l.height * channels));
  const bool read = l.kind == TiffKind::converted ? read_converted(tiff.get(), out.image)
                                                  : read_samples(tiff.get(), l, out);
  if (!read) return report(source, out);
  finish(out, options, orientation);
}

}  // namespace dino::imaging

#else

namespace dino::imaging {
void decode_tiff(Bytes /*bytes*/, const DecodeOptions& /*options*/, Decoded& out) {
  fail(out, DecodeStatus::unsupported, "this build reads no TIFF; install libtiff-dev and build again");
}
}  // namespace dino::imaging
#endif
