// SPDX-License-Identifier: Apache-2.0
// torch.save's archive: a zip of stored members <top>/data.pkl, <top>/data/<key>, <top>/byteorder. torch
// always writes zip64 records; sizes and offsets below come from the file and are checked against it.
#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <limits>
#include <set>

#include "base/half.hpp"
#include "model/pickle.hpp"
#include "model/tensor_source.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr int64_t kMaxPickle = int64_t{256} << 20;
constexpr uint64_t kNarrow = 0xffffffffu;  ///< a 32-bit field that says "see the zip64 record"

[[noreturn]] void fail(const std::string& path, const std::string& why) {
  throw DataError(fmt::format("bad .pth file: {}: {}", path, why));
}

uint64_t little(std::span<const uint8_t> bytes, size_t at, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) value |= static_cast<uint64_t>(bytes[at + i]) << (8 * i);
  return value;
}

struct Member {
  int64_t header = 0, size = 0;  ///< of the local header; of the data
};

class ZipArchive {
 public:
  explicit ZipArchive(std::string path) : path_(std::move(path)), size_(file_size(path_)) {
    read_directory(find_end());
  }
  [[nodiscard]] const std::map<std::string, Member>& members() const { return members_; }
  /// Where a member's bytes start in the file.
  [[nodiscard]] int64_t data_offset(const Member& member) const {
    const std::vector<uint8_t> header = bytes(member.header, 30);
    if (little(header, 0, 4) != 0x04034b50) fail(path_, "a member has no header; copy the file again");
    const auto offset =
        member.header + 30 + static_cast<int64_t>(little(header, 26, 2) + little(header, 28, 2));
    if (member.size > size_ - offset)
      fail(path_, "a member ends past the end of the file; copy the file again");
    return offset;
  }
  [[nodiscard]] std::vector<uint8_t> bytes(int64_t offset, int64_t count) const {
    if (offset < 0 || count < 0 || offset > size_ || count > size_ - offset)
      fail(path_, "the file is cut off; copy it again");
    return read_bytes(path_, offset, count);
  }

 private:
  struct Directory {
    uint64_t offset = 0, size = 0, count = 0;
  };

  Directory find_end() const {
    const int64_t tail_size = std::min<int64_t>(size_, 65535 + 22);
    const std::vector<uint8_t> tail = bytes(size_ - tail_size, tail_size);
    for (int64_t at = tail_size - 22; at >= 0; --at) {
      const auto i = static_cast<size_t>(at);
      if (little(tail, i, 4) != 0x06054b50) continue;
      Directory directory{little(tail, i + 16, 4), little(tail, i + 12, 4), little(tail, i + 10, 2)};
      if (at >= 20 && little(tail, i - 20, 4) == 0x07064b50) {
        const uint64_t place = little(tail, i - 12, 8);
        if (place > static_cast<uint64_t>(size_)) fail(path_, "its zip64 record lies outside the file");
        const std::vector<uint8_t> wide = bytes(static_cast<int64_t>(place), 56);
        if (little(wide, 0, 4) != 0x06064b50) fail(path_, "its zip64 record is damaged");
        directory = {little(wide, 48, 8), little(wide, 40, 8), little(wide, 32, 8)};
      }
      return directory;
    }
    fail(path_, "not a zip archive; files of PyTorch before 1.6 must be saved again by a newer one");
  }

  void read_directory(const Directory& directory) {
    const auto limit = static_cast<uint64_t>(size_);
    if (directory.offset > limit || directory.size > limit - directory.offset)
      fail(path_, "its directory lies outside the file; copy it again");
    const std::vector<uint8_t> all =
        bytes(static_cast<int64_t>(directory.offset), static_cast<int64_t>(directory.size));
    size_t at = 0;
    for (uint64_t i = 0; i < directory.count; ++i) at = read_entry(all, at);
  }

  size_t read_entry(std::span<const uint8_t> all, size_t at) {
    if (all.size() - at < 46 || little(all, at, 4) != 0x02014b50) fail(path_, "its directory is damaged");
    const auto name_size = static_cast<size_t>(little(all, at + 28, 2));
    const auto extra_size = static_cast<size_t>(little(all, at + 30, 2));
    const auto comment_size = static_cast<size_t>(little(all, at + 32, 2));
    const size_t end = at + 46 + name_size + extra_size + comment_size;
    if (end > all.size()) fail(path_, "its directory is damaged");
    const std::string name(reinterpret_cast<const char*>(all.data()) + at + 46, name_size);
    if (little(all, at + 10, 2) != 0 || (little(all, at + 8, 2) & 1) != 0)
      fail(path_, fmt::format("member {} is compressed or encrypted, which torch.save never does", name));
    uint64_t stored = little(all, at + 24, 4);
    uint64_t packed = little(all, at + 20, 4);
    uint64_t header = little(all, at + 42, 4);
    read_wide(all.subspan(at + 46 + name_size, extra_size), stored, packed, header);
    const auto limit = static_cast<uint64_t>(size_);
    if (stored != packed || header > limit || stored > limit - header)
      fail(path_, fmt::format("member {} lies outside the file; copy it again", name));
    members_[name] = {static_cast<int64_t>(header), static_cast<int64_t>(stored)};
    return end;
  }

  /// The zip64 extra field holds, in this order, those of the three values that do not fit into 32 bits.
  static void read_wide(std::span<const uint8_t> extra, uint64_t& stored, uint64_t& packed,
                        uint64_t& header) {
    for (size_t at = 0; at + 4 <= extra.size();) {
      const auto size = static_cast<size_t>(little(extra, at + 2, 2));
      const size_t end = std::min(at + 4 + size, extra.size());
      if (little(extra, at, 2) == 1) {
        size_t value = at + 4;
        for (uint64_t* field : {&stored, &packed, &header}) {
          if (*field != kNarrow || value + 8 > end) continue;
          *field = little(extra, value, 8);
          value += 8;
        }
      }
      at = end;
    }
  }

  std::string path_;
  int64_t size_;
  std::map<std::string, Member> members_;
};

struct StorageType {
  const char* name;
  int64_t bytes;
  float (*convert)(const uint8_t*);
};

template <class T>
T load(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

constexpr StorageType kStorageTypes[] = {
    {"FloatStorage", 4, [](const uint8_t* p) { return load<float>(p); }},
    {"DoubleStorage", 8, [](const uint8_t* p) { return static_cast<float>(load<double>(p)); }},
    {"HalfStorage", 2, [](const uint8_t* p) { return half_to_float(load<uint16_t>(p)); }},
    {"BFloat16Storage", 2,
     [](const uint8_t* p) { return std::bit_cast<float>(static_cast<uint32_t>(load<uint16_t>(p)) << 16); }},
};

/// Elements of a tensor, -1 for sizes that no file can hold.
int64_t elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) {
    if (dim < 0 || (dim > 0 && count > std::numeric_limits<int64_t>::max() / 16 / dim)) return -1;
    count *= dim;
  }
  return count;
}

bool is_contiguous(const PickledTensor& tensor) {
  int64_t expected = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.stride[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

struct PthFile {
  ZipArchive archive;
  std::string path, top;
  std::map<std::string, PickledTensor> tensors;

  [[nodiscard]] Tensor read(const std::string& name) const {
    const PickledTensor& tensor = tensors.at(name);
    const StorageType* type = nullptr;
    for (const StorageType& known : kStorageTypes)
      if (tensor.type == known.name) type = &known;
    if (type == nullptr) fail(path, fmt::format("{} is a {}, not floating point", name, tensor.type));
    const auto member = archive.members().find(top + "data/" + tensor.storage);
    if (member == archive.members().end()) fail(path, fmt::format("the data of {} are missing", name));
    const int64_t count = elements(tensor.shape);
    if (tensor.shape.size() > Shape::kMaxRank || tensor.stride.size() != tensor.shape.size() || count < 0 ||
        tensor.offset < 0)
      fail(path, fmt::format("{} has impossible sizes", name));
    if (!is_contiguous(tensor)) fail(path, fmt::format("{} is not contiguous; save a contiguous copy", name));
    if (tensor.offset > member->second.size / type->bytes ||
        count > member->second.size / type->bytes - tensor.offset)
      fail(path, fmt::format("{} needs more values than its data hold", name));
    const std::vector<uint8_t> raw =
        archive.bytes(archive.data_offset(member->second) + tensor.offset * type->bytes, count * type->bytes);
    Tensor result{Shape(tensor.shape)};
    float* out = result.as<float>();
    for (int64_t i = 0; i < count; ++i) out[i] = type->convert(raw.data() + i * type->bytes);
    return result;
  }
};

}  // namespace

TensorSource open_pth(const std::string& path) {
  ZipArchive archive(path);
  std::string top;
  for (const auto& [name, member] : archive.members())
    if (name.ends_with("/data.pkl")) top = name.substr(0, name.size() - std::strlen("data.pkl"));
  const auto pickle = archive.members().find(top + "data.pkl");
  if (top.empty() || pickle == archive.members().end())
    fail(path, "the archive has no data.pkl, so torch.save did not write it");
  if (pickle->second.size > kMaxPickle) fail(path, "its pickle is implausibly large");
  if (const auto order = archive.members().find(top + "byteorder"); order != archive.members().end()) {
    const std::vector<uint8_t> text =
        archive.bytes(archive.data_offset(order->second), std::min<int64_t>(order->second.size, 16));
    if (std::string(text.begin(), text.end()) != "little") fail(path, "its numbers are not little endian");
  }
  const std::vector<uint8_t> bytes = archive.bytes(archive.data_offset(pickle->second), pickle->second.size);
  auto file = std::make_shared<PthFile>(PthFile{std::move(archive), path, top, {}});
  for (PickledTensor& tensor : read_pickled_tensors(bytes, path)) {
    const std::string name = tensor.name;
    file->tensors.emplace(name, std::move(tensor));
  }
  TensorSource source;
  source.path = path;
  for (const auto& [name, tensor] : file->tensors) source.shapes.emplace(name, tensor.shape);
  source.read = [file](const std::string& name) { return file->read(name); };
  return source;
}

}  // namespace dino
