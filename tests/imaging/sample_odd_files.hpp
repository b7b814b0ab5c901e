// SPDX-License-Identifier: Apache-2.0
#pragma once
// TIFF and BMP files of any kind, and JPEG with parts taken out.

#include <bit>
#include <cstring>
#include <utility>

#include "imaging/sample_files.hpp"

namespace dino::test {

inline void put_le(Bytes& b, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) b.push_back(static_cast<uint8_t>(value >> 8 * i));
}

struct TiffTag {
  uint16_t tag = 0, type = 3;  ///< 2 text, 3 u16, 4 u32, 11 f32, 12 f64
  std::vector<double> values;
};

struct TiffSpec {
  uint32_t width = 1, height = 1;
  uint16_t samples = 1, bits = 8, photometric = 1, format = 1, planar = 1;
  std::vector<TiffTag> more;
};

/// Little-endian, one strip (or one per plane) with `pixels` as they are.
inline Bytes make_tiff(const TiffSpec& spec, const Bytes& pixels) {
  const uint32_t strips = spec.planar == 2 ? spec.samples : 1;
  const auto size = static_cast<double>(pixels.size() / strips);
  const std::vector<double> bits(spec.samples, spec.bits), formats(spec.samples, spec.format),
      sizes(strips, size);
  std::vector<TiffTag> tags = {{256, 4, {double(spec.width)}},
                               {257, 4, {double(spec.height)}},
                               {258, 3, bits},
                               {259, 3, {1}},
                               {262, 3, {double(spec.photometric)}},
                               {273, 4, sizes},
                               {277, 3, {double(spec.samples)}},
                               {278, 4, {double(spec.height)}},
                               {279, 4, sizes},
                               {284, 3, {double(spec.planar)}},
                               {339, 3, formats}};
  for (const TiffTag& tag : spec.more) tags.push_back(tag);
  std::sort(tags.begin(), tags.end(), [](const TiffTag& a, const TiffTag& b) { return a.tag < b.tag; });
  const auto width = [](uint16_t type) {
    return type == 12 ? 8 : type == 4 || type == 11 ? 4 : type == 3 ? 2 : 1;
  };
  const size_t body = 8 + 2 + 12 * tags.size() + 4;
  size_t room = 0;
  for (const TiffTag& t : tags)
    room += t.values.size() * width(t.type) > 4 ? t.values.size() * width(t.type) : 0;
  Bytes out = bytes_of("II*"), extra;
  put_le(out, 0, 1), put_le(out, 8, 4), put_le(out, tags.size(), 2);
  for (TiffTag& t : tags) {
    if (t.tag == 273)
      for (size_t i = 0; i < strips; ++i) t.values[i] = static_cast<double>(body + room) + size * double(i);
    Bytes data;
    for (const double v : t.values) {
      if (t.type == 12) put_le(data, std::bit_cast<uint64_t>(v), 8);
      if (t.type == 11) put_le(data, std::bit_cast<uint32_t>(static_cast<float>(v)), 4);
      if (t.type <= 4) put_le(data, static_cast<uint64_t>(v), width(t.type));
    }
    put_le(out, t.tag, 2), put_le(out, t.type, 2), put_le(out, t.values.size(), 4);
    if (data.size() > 4) {
      put_le(out, body + extra.size(), 4);
      extra.insert(extra.end(), data.begin(), data.end());
    } else {
      data.resize(4);
      out.insert(out.end(), data.begin(), data.end());
    }
  }
  put_le(out, 0, 4);
  out.insert(out.end(), extra.begin(), extra.end());
  out.insert(out.end(), pixels.begin(), pixels.end());
  return out;
}

template <class T>
Bytes raw(const std::vector<T>& values) {
  Bytes out(values.size() * sizeof(T));
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

/// `header` bytes of information; the rest of it after `masks` is 0.
inline Bytes make_odd_bmp(int32_t width, int32_t height, uint16_t bits, uint32_t compression,
                          const Bytes& pixels, const Bytes& palette = {},
                          const std::vector<uint32_t>& masks = {}, uint32_t header = 40) {
  Bytes info;
  put_le(info, header, 4), put_le(info, static_cast<uint32_t>(width), 4);
  put_le(info, static_cast<uint32_t>(height), 4), put_le(info, 1, 2), put_le(info, bits, 2);
  put_le(info, compression, 4), put_le(info, pixels.size(), 4), put_le(info, 0, 8);
  put_le(info, palette.size() / 4, 4), put_le(info, 0, 4);
  for (const uint32_t mask : masks) put_le(info, mask, 4);
  if (info.size() < header) info.resize(header);
  Bytes b = bytes_of("BM");
  put_le(b, 0, 8), put_le(b, 14 + info.size() + palette.size(), 4);
  for (const Bytes* part : std::initializer_list<const Bytes*>{&info, &palette, &pixels})
    b.insert(b.end(), part->begin(), part->end());
  return b;
}

/// The JPEG without its segments of one kind (0xee: Adobe's marker).
inline Bytes without_segment(const Bytes& jpeg, uint8_t marker) {
  Bytes out(jpeg.begin(), jpeg.begin() + 2);
  for (size_t at = 2; at + 4 <= jpeg.size();) {
    const size_t length = 2 + (static_cast<size_t>(jpeg[at + 2]) << 8 | jpeg[at + 3]);
    if (jpeg[at + 1] == 0xda) {  // the scan: the rest as it is
      out.insert(out.end(), jpeg.begin() + static_cast<std::ptrdiff_t>(at), jpeg.end());
      break;
    }
    if (jpeg[at + 1] != marker)
      out.insert(out.end(), jpeg.begin() + static_cast<std::ptrdiff_t>(at),
                 jpeg.begin() + static_cast<std::ptrdiff_t>(at + length));
    at += length;
  }
  return out;
}

/// Where the last scan begins.
inline size_t last_scan(const Bytes& jpeg) {
  size_t found = 0;
  for (size_t at = 0; at + 1 < jpeg.size(); ++at) {
    if (jpeg[at] == 0xff && jpeg[at + 1] == 0xda) found = at;
  }
  return found;
}

inline std::string xmp_packet(int orientation) {
  return "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:Description tiff:Orientation=\"" +
         std::to_string(orientation) + "\"/></x:xmpmeta>";
}

/// An iTXt chunk's data that holds XMP.
inline Bytes xmp_chunk(int orientation) {
  Bytes data = bytes_of("XML:com.adobe.xmp");
  data.insert(data.end(), 5, 0);
  const Bytes text = bytes_of(xmp_packet(orientation));
  data.insert(data.end(), text.begin(), text.end());
  return data;
}

}  // namespace dino::test
