// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>

#include "base/error.hpp"
#include "base/half.hpp"
#include "storage/array_file.hpp"
#include "storage/files.hpp"
#include "storage/posix_file.hpp"

namespace dino {
namespace {

constexpr int64_t kMaxNpyHeader = 1 << 20;
constexpr size_t kMaxRank = 32;

[[noreturn]] void fail_npy(const std::string& path, const std::string& why) {
  throw DataError(fmt::format("bad .npy file: {}: {}", path, why));
}

/// The header is a Python dict literal with the keys descr, fortran_order and shape; this reads just that.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& path) : text_(text), path_(path) {}

  void run(NpyInfo& info, bool& fortran) {
    bool has_descr = false, has_order = false, has_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr") {
        if (peek() == '[') fail_npy(path_, "it holds records (a structured dtype); save one plain array");
        info.dtype = string();
        has_descr = true;
      } else if (key == "fortran_order") {
        fortran = boolean();
        has_order = true;
      } else if (key == "shape") {
        info.shape = tuple();
        has_shape = true;
      } else {
        fail_npy(path_, "its header has an unknown key");
      }
      if (!accept(',') && peek() != '}') malformed();
    }
    if (!has_descr || !has_order || !has_shape)
      fail_npy(path_, "its header lacks descr, fortran_order or shape");
  }

 private:
  [[noreturn]] void malformed() const { fail_npy(path_, "its header is malformed"); }
  char peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool accept(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) malformed();
  }
  std::string string() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') malformed();
    const size_t end = text_.find(quote, ++at_);
    if (end == std::string_view::npos) malformed();
    std::string value(text_.substr(at_, end - at_));
    at_ = end + 1;
    return value;
  }
  bool boolean() {
    peek();
    for (const std::string_view word : {"True", "False"})
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return word == "True";
      }
    malformed();
  }
  std::vector<int64_t> tuple() {
    std::vector<int64_t> dims;
    expect('(');
    while (!accept(')')) {
      int64_t dim = 0;
      peek();
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), dim);
      if (error != std::errc()) malformed();
      if (dim < 0) fail_npy(path_, fmt::format("its shape has a negative dimension {}", dim));
      at_ = static_cast<size_t>(end - text_.data());
      if (text_.substr(at_).starts_with("L")) ++at_;  // Python 2
      dims.push_back(dim);
      if (dims.size() > kMaxRank) fail_npy(path_, "its shape has too many dimensions");
      if (!accept(',') && peek() != ')') malformed();
    }
    return dims;
  }

  std::string_view text_;
  const std::string& path_;
  size_t at_ = 0;
};

/// Bytes of one element, from "<f4" and the like.
int64_t item_size(const std::string& dtype, const std::string& path) {
  int64_t size = 0;
  if (dtype.size() >= 3 && std::string_view("<>|=").find(dtype[0]) != std::string_view::npos) {
    const char* end = dtype.data() + dtype.size();
    const auto parsed = std::from_chars(dtype.data() + 2, end, size);
    if (parsed.ec == std::errc() && parsed.ptr == end && size > 0 && size <= (1 << 20))
      return dtype[1] == 'U' ? 4 * size : size;
  }
  fail_npy(path, "its dtype is unknown");
}

}  // namespace

NpyInfo read_npy_info(const std::string& path) {
  const PosixFile file(path);
  unsigned char start[12] = {};
  const int64_t got = file.read_some(0, start, sizeof start);
  if (got < 6 || std::memcmp(start, "\x93NUMPY", 6) != 0)
    fail_npy(path, "it does not start with the NumPy magic");
  if (got < 10) fail_npy(path, "it is cut off in the header");
  const int version = start[6];
  if (version < 1 || version > 3) fail_npy(path, fmt::format("its format version {} is unknown", version));
  const int64_t header_at = version == 1 ? 10 : 12;
  int64_t length = start[8] | start[9] << 8;
  if (version > 1) length |= static_cast<int64_t>(start[10]) << 16 | static_cast<int64_t>(start[11]) << 24;
  if (length > kMaxNpyHeader || header_at + length > file.size())
    fail_npy(path,
             fmt::format("its header of {} bytes does not fit into the file of {}", length, file.size()));
  std::string header(static_cast<size_t>(length), '\0');
  file.read_exactly(header_at, header.data(), length);
  NpyInfo info;
  info.data_offset = header_at + length;
  bool fortran = false;
  HeaderParser(header, path).run(info, fortran);
  if (fortran && info.shape.size() > 1)
    fail_npy(path, "it is in Fortran order; save it with numpy.ascontiguousarray");
  int64_t bytes = item_size(info.dtype, path);
  bool overflow = false;
  for (const int64_t dim : info.shape) overflow |= __builtin_mul_overflow(bytes, dim, &bytes);
  if (overflow || bytes > file.size() - info.data_offset)
    fail_npy(path, fmt::format(
                       "its shape ({}) of {} needs {} bytes, the file has {} after the header; copy it again",
                       fmt::join(info.shape, ", "), info.dtype,
                       overflow ? "over 2^63" : std::to_string(bytes), file.size() - info.data_offset));
  return info;
}

void read_npy_rows(const std::string& path, const NpyInfo& info, int64_t begin, int64_t count, float* out) {
  read_npy_rows(PosixFile(path), info, begin, count, out);
}

void read_npy_rows(const PosixFile& file, const NpyInfo& info, int64_t begin, int64_t count, float* out) {
  const std::string& path = file.path();
  const bool half = info.dtype == "<f2";
  if (info.shape.size() != 2 || (!half && info.dtype != "<f4"))
    fail_npy(path, fmt::format("shape ({}) of {}: an N x d array of float32 or float16 is needed",
                               fmt::join(info.shape, ", "), info.dtype));
  if (begin < 0 || count < 0 || begin > info.shape[0] || count > info.shape[0] - begin)
    fail_npy(path, fmt::format("rows {} to {} asked for, it has {}", begin, begin + count, info.shape[0]));
  const int64_t width = info.shape[1];
  const int64_t item = half ? 2 : 4;
  const int64_t at = info.data_offset + begin * width * item;
  if (!half) {
    file.read_exactly(at, out, count * width * item);
    return;
  }
  constexpr int64_t kStep = 1 << 16;
  std::vector<uint16_t> buffer(static_cast<size_t>(std::min(kStep, count * width)));
  for (int64_t done = 0; done < count * width; done += kStep) {
    const int64_t n = std::min(kStep, count * width - done);
    file.read_exactly(at + done * item, buffer.data(), n * item);
    for (int64_t i = 0; i < n; ++i) out[done + i] = half_to_float(buffer[static_cast<size_t>(i)]);
  }
}

void write_npy(const std::string& path, ConstTensorView data) {
  const char* descr = "<f4";
  if (data.dtype == DType::f64) descr = "<f8";
  if (data.dtype == DType::f16) descr = "<f2";
  if (data.dtype == DType::i32) descr = "<i4";
  if (data.dtype == DType::i64) descr = "<i8";
  if (data.dtype == DType::u8) descr = "|u1";
  std::string shape;
  for (int i = 0; i < data.shape.rank(); ++i)
    shape += fmt::format("{}{}", i == 0 ? "" : " ", data.shape[i]) +
             (i + 1 < data.shape.rank() || i == 0 ? "," : "");
  std::string header =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr, shape);
  // NumPy pads so that the data start at a multiple of 64.
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::string start = "\x93NUMPY";
  start += '\x01';
  start += '\0';
  start += static_cast<char>(header.size() & 0xff);
  start += static_cast<char>(header.size() >> 8);
  start += header;
  std::vector<float> widened;
  const void* bytes = data.data;
  auto size = data.numel() * static_cast<int64_t>(size_of(data.dtype));
  if (data.dtype == DType::bf16) {  // NumPy has no bfloat16
    const auto* values = data.as<bf16>();
    for (int64_t i = 0; i < data.numel(); ++i) widened.push_back(static_cast<float>(values[i]));
    bytes = widened.data();
    size = data.numel() * 4;
  }
  commit_file(path, [&](const std::string& temporary) {
    write_file_pieces(temporary, path, {{start.data(), static_cast<int64_t>(start.size())}, {bytes, size}});
  });
}

}  // namespace dino
