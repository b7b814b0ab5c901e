// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cctype>
#include <vector>

#include "report/html.hpp"

namespace dino::report {

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        // Control characters are not allowed in HTML text and would hide in a page; they show as U+FFFD.
        if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t')
          out += "\xEF\xBF\xBD";
        else
          out += c;
    }
  }
  return out;
}

std::string escape_markdown(std::string_view text) {
  const auto in_word = [&](size_t i) {
    return i < text.size() && std::isalnum(static_cast<unsigned char>(text[i])) != 0;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += ' ';
    } else if (c == '<' || c == '>' || c == '&') {
      out += escape(text.substr(i, 1));  // raw HTML is markup too
    } else {
      // An underscore after a letter opens nothing: near_duplicate stays readable.
      const bool plain = c == '_' && i > 0 && in_word(i - 1);
      if (!plain && std::string_view("\\`*_[]|~").find(c) != std::string_view::npos) out += '\\';
      out += c;
    }
  }
  return out;
}

namespace {

std::string base64(std::span<const uint8_t> bytes) {
  static const char* alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t left = bytes.size() - i;
    const uint32_t word = static_cast<uint32_t>(bytes[i]) << 16 |
                          (left > 1 ? static_cast<uint32_t>(bytes[i + 1]) << 8 : 0U) |
                          (left > 2 ? static_cast<uint32_t>(bytes[i + 2]) : 0U);
    out += alphabet[word >> 18];
    out += alphabet[word >> 12 & 63];
    out += left > 1 ? alphabet[word >> 6 & 63] : '=';
    out += left > 2 ? alphabet[word & 63] : '=';
  }
  return out;
}

}  // namespace

std::string data_uri(const Image& image) {
  // Photographs above this size would make the page several times larger as PNG.
  constexpr int64_t kLargePicture = 96 * 1024;
  if (image.channels == 3 && image.width * image.height > kLargePicture)
    return "data:image/jpeg;base64," + base64(encode_jpeg(image, 85));
  const std::vector<uint8_t> png = encode_png(image);
  // So would many small ones. Drawings and maps, which PNG packs well, keep every pixel.
  constexpr size_t kSmallFile = 6 * 1024;
  if (image.channels == 3 && png.size() > kSmallFile)
    if (const std::vector<uint8_t> jpeg = encode_jpeg(image, 85); 2 * jpeg.size() < png.size())
      return "data:image/jpeg;base64," + base64(jpeg);
  return "data:image/png;base64," + base64(png);
}

}  // namespace dino::report
