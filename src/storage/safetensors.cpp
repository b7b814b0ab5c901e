// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.hpp"
#include "base/half.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "storage/array_file.hpp"
#include "storage/files.hpp"
#include "storage/posix_file.hpp"

namespace dino {
namespace {

using nlohmann::json;

/// 100,000 tensors fit. The reference implementation takes 100 MB, which JSON makes some GB of.
constexpr uint64_t kMaxHeader = uint64_t{16} << 20;
constexpr int64_t kMaxValues = 1'500'000;

[[noreturn]] void fail_safetensors(const std::string& path, const std::string& why) {
  throw DataError(fmt::format("bad .safetensors file: {}: {}", path, why));
}

int64_t item_size(const std::string& dtype) {
  for (const char* name : {"F64", "I64", "U64"})
    if (dtype == name) return 8;
  for (const char* name : {"F32", "I32", "U32"})
    if (dtype == name) return 4;
  for (const char* name : {"F16", "BF16", "I16", "U16"})
    if (dtype == name) return 2;
  for (const char* name : {"I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"})
    if (dtype == name) return 1;
  return 0;
}

/// A non-negative integer below 2^63, or -1.
int64_t integer(const json& value) {
  if (!value.is_number_unsigned()) return -1;
  const auto wide = value.get<uint64_t>();
  return wide >> 63 != 0 ? -1 : static_cast<int64_t>(wide);
}

/// Names come from outside and go into one-line messages.
std::string shown_key(const std::string& name) {
  return json_ascii(name.substr(0, 200));
}

SafetensorsFile::Entry parse_entry(const std::string& path, const std::string& name, const json& value,
                                   int64_t data_at, int64_t data_bytes) {
  SafetensorsFile::Entry entry;
  if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string() ||
      !value.contains("shape") || !value["shape"].is_array() || !value.contains("data_offsets") ||
      !value["data_offsets"].is_array() || value["data_offsets"].size() != 2)
    fail_safetensors(path, fmt::format("tensor {} lacks dtype, shape or data_offsets", shown_key(name)));
  entry.dtype = value["dtype"].get<std::string>();
  int64_t bytes = item_size(entry.dtype);
  if (bytes == 0)
    fail_safetensors(
        path, fmt::format("tensor {} has the unknown dtype {}", shown_key(name), shown_key(entry.dtype)));
  bool overflow = value["shape"].size() > 32;
  for (const json& dim : value["shape"]) {
    const int64_t n = integer(dim);
    if (n < 0)
      fail_safetensors(path, fmt::format("tensor {} has a dimension that is not a size", shown_key(name)));
    overflow |= __builtin_mul_overflow(bytes, n, &bytes);
    entry.shape.push_back(n);
  }
  const int64_t begin = integer(value["data_offsets"][0]), end = integer(value["data_offsets"][1]);
  if (begin < 0 || end < begin || end > data_bytes)
    fail_safetensors(path,
                     fmt::format("tensor {} lies outside the file (its {} bytes of data); copy it again",
                                 shown_key(name), data_bytes));
  if (overflow || end - begin != bytes)
    fail_safetensors(path, fmt::format("tensor {} has {} bytes, its shape and dtype need {}", shown_key(name),
                                       end - begin, overflow ? "over 2^63" : std::to_string(bytes)));
  entry.begin = data_at + begin;
  entry.end = data_at + end;
  return entry;
}

Shape folded_shape(const std::vector<int64_t>& dims) {
  std::vector<int64_t> folded;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (i < static_cast<size_t>(Shape::kMaxRank))
      folded.push_back(dims[i]);
    else
      folded.back() *= dims[i];
  }
  return Shape(std::span<const int64_t>(folded));
}

template <class T>
T load(const unsigned char* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

float to_float(const std::string& dtype, const unsigned char* p) {
  if (dtype == "F16") return half_to_float(load<uint16_t>(p));
  if (dtype == "BF16") return std::bit_cast<float>(static_cast<uint32_t>(load<uint16_t>(p)) << 16);
  if (dtype == "F64") return static_cast<float>(load<double>(p));
  if (dtype == "I64") return static_cast<float>(load<int64_t>(p));
  if (dtype == "I32") return static_cast<float>(load<int32_t>(p));
  return static_cast<float>(*p);  // U8, BOOL
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  const PosixFile file(path);
  unsigned char prefix[8] = {};
  if (file.read_some(0, prefix, 8) < 8) fail_safetensors(path, "it is shorter than its 8-byte prefix");
  const auto length = load<uint64_t>(prefix);
  if (length > kMaxHeader || static_cast<int64_t>(length) > file.size() - 8)
    fail_safetensors(path, fmt::format("its header of {} bytes does not fit into the file of {}; is it one?",
                                       length, file.size()));
  std::string text(length, '\0');
  file.read_exactly(8, text.data(), static_cast<int64_t>(length));
  // A repeated name would make two readers see two different tensors.
  std::vector<std::string> names;
  int64_t values = 0;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (++values > kMaxValues) fail_safetensors(path, "its header has implausibly many values");
    if (depth > 8) fail_safetensors(path, "its header is nested too deeply");
    if (depth == 1 && event == json::parse_event_t::key) names.push_back(parsed.get<std::string>());
    return true;
  };
  json header;
  try {
    header = json::parse(text, watch);
  } catch (const json::exception&) {
    fail_safetensors(path, "its header is not JSON");
  }
  if (!header.is_object()) fail_safetensors(path, "its header is not a JSON object");
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end())
    fail_safetensors(path, fmt::format("tensor {} is listed twice", shown_key(*twice)));
  SafetensorsFile result;
  result.path_ = path;
  const int64_t data_at = 8 + static_cast<int64_t>(length);
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__" && value.is_object())
      for (const auto& [key, entry] : value.items())
        if (entry.is_string()) result.metadata_.emplace(key, entry.get<std::string>());
    if (name != "__metadata__")
      result.entries_.emplace(name, parse_entry(path, name, value, data_at, file.size() - data_at));
  }
  std::vector<std::pair<int64_t, std::string>> order;
  for (const auto& [name, entry] : result.entries_)
    if (entry.end > entry.begin) order.emplace_back(entry.begin, name);
  std::sort(order.begin(), order.end());
  for (size_t i = 1; i < order.size(); ++i)
    if (result.entries_[order[i - 1].second].end > order[i].first)
      fail_safetensors(path, fmt::format("tensors {} and {} overlap", shown_key(order[i - 1].second),
                                         shown_key(order[i].second)));
  return result;
}

Tensor SafetensorsFile::read_f32(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) fail_safetensors(path_, fmt::format("it has no tensor {}", shown_key(name)));
  const Entry& entry = found->second;
  bool known = false;
  for (const char* dtype : {"F32", "F16", "BF16", "F64", "I64", "I32", "U8", "BOOL"})
    known |= entry.dtype == dtype;
  if (!known)
    fail_safetensors(
        path_, fmt::format("tensor {} of {} cannot be converted to float32", shown_key(name), entry.dtype));
  const PosixFile file(path_);
  Tensor tensor(folded_shape(entry.shape));
  if (entry.dtype == "F32") {
    file.read_exactly(entry.begin, tensor.as<float>(), entry.end - entry.begin);
    return tensor;
  }
  const int64_t item = item_size(entry.dtype);
  constexpr int64_t kStep = 1 << 16;
  std::vector<unsigned char> buffer(static_cast<size_t>(std::min(kStep * item, entry.end - entry.begin)));
  float* out = tensor.as<float>();
  for (int64_t done = 0; done < tensor.numel(); done += kStep) {
    const int64_t n = std::min(kStep, tensor.numel() - done);
    file.read_exactly(entry.begin + done * item, buffer.data(), n * item);
    for (int64_t i = 0; i < n; ++i) out[done + i] = to_float(entry.dtype, buffer.data() + i * item);
  }
  return tensor;
}

void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, ConstTensorView>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  auto sorted = tensors;
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  json header = json::object();
  header["__metadata__"] = {{"format", "pt"}};
  for (const auto& [key, value] : metadata) header["__metadata__"][key] = value;
  int64_t offset = 0;
  for (const auto& [name, tensor] : sorted) {
    DINO_CHECK(tensor.dtype == DType::f32 && !header.contains(name),
               "safetensors: f32 tensors of distinct names");
    std::vector<int64_t> shape;
    for (int i = 0; i < tensor.shape.rank(); ++i) shape.push_back(tensor.shape[i]);
    const int64_t end = offset + 4 * tensor.numel();
    header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = json_line(header);
  text.append((8 - text.size() % 8) % 8, ' ');  // tensors start at a multiple of 8
  const uint64_t length = text.size();
  std::vector<std::pair<const void*, int64_t>> pieces = {{&length, 8},
                                                         {text.data(), static_cast<int64_t>(length)}};
  for (const auto& [name, tensor] : sorted) pieces.emplace_back(tensor.data, 4 * tensor.numel());
  commit_file(path, [&](const std::string& temporary) { write_file_pieces(temporary, path, pieces); });
}

}  // namespace dino
