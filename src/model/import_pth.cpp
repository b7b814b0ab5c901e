// SPDX-License-Identifier: Apache-2.0
// torch.save's archive: a zip of stored members <top>/data.pkl, <top>/data/<key>, <top>/byteorder. torch
// always writes zip64 records; sizes and offsets below come from the file and are checked against it. Before
// 1.6 it wrote pickles and the bytes of the storages one after another.
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
constexpr int64_t kMaxDirectory = int64_t{64} << 20;
constexpr int64_t kMaxExpanded = int64_t{1} << 20;  ///< values that strides of zero may make of fewer
constexpr int64_t kMaxLegacyPickles = int64_t{64} << 20;
constexpr uint64_t kNarrow = 0xffffffffu;  ///< a 32-bit field that says "see the zip64 record"

[[noreturn]] void fail_pth(const std::string& path, const std::string& why) {
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
  /// Null when there is none of that name; DataError for one that is compressed.
  [[nodiscard]] const Member* find(const std::string& name) const {
    if (packed_.contains(name))
      fail_pth(path_, fmt::format("member {} is compressed or encrypted, which torch.save never does",
                                  shown_name(name)));
    const auto found = members_.find(name);
    return found == members_.end() ? nullptr : &found->second;
  }
  /// What stands before "data.pkl" in the name of the first member that ends so; "" = none.
  [[nodiscard]] std::string top() const {
    const std::string end = "/data.pkl";
    for (const auto& [name, member] : members_)
      if (name.ends_with(end)) return name.substr(0, name.size() + 1 - end.size());
    for (const std::string& name : packed_)
      if (name.ends_with(end)) return name.substr(0, name.size() + 1 - end.size());
    return "";
  }
  /// Where a member's bytes start in the file.
  [[nodiscard]] int64_t data_offset(const Member& member) const {
    const std::vector<uint8_t> header = bytes(member.header, 30);
    if (little(header, 0, 4) != 0x04034b50) fail_pth(path_, "a member has no header; copy the file again");
    const auto offset =
        member.header + 30 + static_cast<int64_t>(little(header, 26, 2) + little(header, 28, 2));
    if (member.size > size_ - offset)
      fail_pth(path_, "a member ends past the end of the file; copy the file again");
    return offset;
  }
  [[nodiscard]] std::vector<uint8_t> bytes(int64_t offset, int64_t count) const {
    if (offset < 0 || count < 0 || offset > size_ || count > size_ - offset)
      fail_pth(path_, "the file is cut off; copy it again");
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
        if (place > static_cast<uint64_t>(size_)) fail_pth(path_, "its zip64 record lies outside the file");
        const std::vector<uint8_t> wide = bytes(static_cast<int64_t>(place), 56);
        if (little(wide, 0, 4) != 0x06064b50) fail_pth(path_, "its zip64 record is damaged");
        directory = {little(wide, 48, 8), little(wide, 40, 8), little(wide, 32, 8)};
      }
      return directory;
    }
    fail_pth(
        path_,
        "neither a zip archive nor the format of PyTorch 0.2 to 1.5; it must be saved again by a newer one");
  }

  void read_directory(const Directory& directory) {
    const auto limit = static_cast<uint64_t>(size_);
    if (directory.offset > limit || directory.size > limit - directory.offset)
      fail_pth(path_, "its directory lies outside the file; copy it again");
    if (directory.size > kMaxDirectory) fail_pth(path_, "its directory is implausibly large");
    const std::vector<uint8_t> all =
        bytes(static_cast<int64_t>(directory.offset), static_cast<int64_t>(directory.size));
    size_t at = 0;
    for (uint64_t i = 0; i < directory.count; ++i) at = read_entry(all, at);
  }

  size_t read_entry(std::span<const uint8_t> all, size_t at) {
    if (all.size() - at < 46 || little(all, at, 4) != 0x02014b50) fail_pth(path_, "its directory is damaged");
    const auto name_size = static_cast<size_t>(little(all, at + 28, 2));
    const auto extra_size = static_cast<size_t>(little(all, at + 30, 2));
    const auto comment_size = static_cast<size_t>(little(all, at + 32, 2));
    const size_t end = at + 46 + name_size + extra_size + comment_size;
    if (end > all.size()) fail_pth(path_, "its directory is damaged");
    const std::string name(reinterpret_cast<const char*>(all.data()) + at + 46, name_size);
    // TorchScript compresses its code; tensors never.
    if (little(all, at + 10, 2) != 0 || (little(all, at + 8, 2) & 1) != 0) {
      packed_.insert(name);
      return end;
    }
    uint64_t stored = little(all, at + 24, 4);
    uint64_t packed = little(all, at + 20, 4);
    uint64_t header = little(all, at + 42, 4);
    read_wide(all.subspan(at + 46 + name_size, extra_size), stored, packed, header);
    const auto limit = static_cast<uint64_t>(size_);
    if (stored != packed || header > limit || stored > limit - header)
      fail_pth(path_, fmt::format("member {} lies outside the file; copy it again", shown_name(name)));
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
  std::set<std::string> packed_;
};

struct ElementType {
  const char* name;   ///< as typed storages are called
  const char* dtype;  ///< as torch.dtype is called
  const char* shown;  ///< as safetensors calls it
  int64_t bytes;
  float (*convert)(const uint8_t*);  ///< null: not floating point
};

template <class T>
T load(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

constexpr ElementType kElementTypes[] = {
    {"FloatStorage", "float32", "F32", 4, [](const uint8_t* p) { return load<float>(p); }},
    {"DoubleStorage", "float64", "F64", 8,
     [](const uint8_t* p) { return static_cast<float>(load<double>(p)); }},
    {"HalfStorage", "float16", "F16", 2, [](const uint8_t* p) { return half_to_float(load<uint16_t>(p)); }},
    {"BFloat16Storage", "bfloat16", "BF16", 2,
     [](const uint8_t* p) { return std::bit_cast<float>(static_cast<uint32_t>(load<uint16_t>(p)) << 16); }},
    {"LongStorage", "int64", "I64", 8, nullptr},
    {"IntStorage", "int32", "I32", 4, nullptr},
    {"ShortStorage", "int16", "I16", 2, nullptr},
    {"CharStorage", "int8", "I8", 1, nullptr},
    {"ByteStorage", "uint8", "U8", 1, nullptr},
    {"BoolStorage", "bool", "BOOL", 1, nullptr},
    {"UntypedStorage", "untyped", "U8", 1, nullptr},
    {"QInt8Storage", "qint8", "I8", 1, nullptr},
    {"QUInt8Storage", "quint8", "U8", 1, nullptr},
    {"QInt32Storage", "qint32", "I32", 4, nullptr},
    {"ComplexFloatStorage", "complex64", "C64", 8, nullptr},
    {"ComplexDoubleStorage", "complex128", "C128", 16, nullptr},
};

const ElementType* element_type(const std::string& type) {
  for (const ElementType& known : kElementTypes)
    if (type == known.name || type == known.dtype) return &known;
  return nullptr;
}

/// Elements of a tensor, -1 for sizes that no file can hold.
int64_t elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) {
    if (dim < 0 || (dim > 0 && count > std::numeric_limits<int64_t>::max() / 16 / dim)) return -1;
    count *= dim;
  }
  return count;
}

/// Distance of the last element from the first, -1 where that is no place in a file.
int64_t extent(const PickledTensor& tensor) {
  int64_t last = 0;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    int64_t step = 0;
    if (tensor.stride[i] < 0 || __builtin_mul_overflow(tensor.shape[i] - 1, tensor.stride[i], &step) ||
        __builtin_add_overflow(last, step, &last))
      return -1;
  }
  return last;
}

/// Bytes of a storage in the file.
struct Place {
  int64_t offset = 0, size = 0;
};

struct PthFile {
  std::string path;
  std::map<std::string, Place> storages;
  std::map<std::string, PickledTensor> tensors;

  /// Any strides: a channels_last copy, a transposed view, a slice of a larger tensor.
  [[nodiscard]] Tensor read(const std::string& name) const {
    const PickledTensor& tensor = tensors.at(name);
    const ElementType* type = element_type(tensor.type);
    if (type == nullptr || type->convert == nullptr)
      fail_pth(path,
               fmt::format("{} is of {}, not floating point", shown_name(name), shown_name(tensor.type)));
    const auto storage = storages.find(tensor.storage);
    if (storage == storages.end())
      fail_pth(path, fmt::format("the data of {} are missing", shown_name(name)));
    const int64_t count = elements(tensor.shape);
    const int64_t there = storage->second.size / type->bytes;
    if (tensor.shape.size() > Shape::kMaxRank || count < 0 || tensor.offset < 0)
      fail_pth(path, fmt::format("{} has impossible sizes", shown_name(name)));
    if (count == 0) return Tensor{Shape(tensor.shape)};
    const int64_t last = extent(tensor);
    // A file may not ask for much more memory than it takes itself.
    if (last < 0 || tensor.offset >= there || last > there - 1 - tensor.offset ||
        count > std::max(there, kMaxExpanded))
      fail_pth(path, fmt::format("{} needs more values than its data hold", shown_name(name)));
    const std::vector<uint8_t> raw =
        read_bytes(path, storage->second.offset + tensor.offset * type->bytes, (last + 1) * type->bytes);
    if (static_cast<int64_t>(raw.size()) != (last + 1) * type->bytes)
      fail_pth(path, "the file is cut off; copy it again");
    Tensor result{Shape(tensor.shape)};
    std::vector<int64_t> index(tensor.shape.size(), 0);
    float* out = result.as<float>();
    int64_t at = 0;
    for (int64_t i = 0; i < count; ++i) {
      out[i] = type->convert(raw.data() + at * type->bytes);
      for (size_t axis = index.size(); axis-- > 0;) {
        at += tensor.stride[axis];
        if (++index[axis] < tensor.shape[axis]) break;
        at -= tensor.stride[axis] * tensor.shape[axis];
        index[axis] = 0;
      }
    }
    return result;
  }
};

TensorSource source_of(PthFile file, PickledFile content) {
  TensorSource source;
  source.path = file.path;
  source.bytes = file_size(file.path);
  source.facts = std::move(content.facts);
  source.opaque = std::move(content.opaque);
  source.classes = std::move(content.classes);
  for (const auto& [name, tensor] : content.tensors) {
    const ElementType* type = element_type(tensor.type);
    source.tensors.emplace(name, TensorInfo{tensor.shape, type == nullptr ? tensor.type : type->shown});
  }
  file.tensors = std::move(content.tensors);
  source.read = [file = std::make_shared<PthFile>(std::move(file))](const std::string& name) {
    return file->read(name);
  };
  return source;
}

/// Before PyTorch 1.6: pickles one after another, then every storage as its element count and its bytes.
TensorSource open_legacy(const std::string& path) {
  const int64_t size = file_size(path);
  LegacyFile legacy = read_legacy_file(read_bytes(path, 0, std::min(size, kMaxLegacyPickles)), path);
  PthFile file{path, {}, {}};
  auto at = static_cast<int64_t>(legacy.end);
  for (const LegacyStorage& storage : legacy.storages) {
    const ElementType* type = element_type(storage.type);
    if (type == nullptr)
      fail_pth(path, fmt::format("it has a {}; it must be saved again", shown_name(storage.type)));
    if (at > size - 8) fail_pth(path, "the file is cut off; copy it again");
    const std::vector<uint8_t> header = read_bytes(path, at, 8);
    const uint64_t count = little(header, 0, 8);
    at += 8;
    if (count > static_cast<uint64_t>(size - at) / static_cast<uint64_t>(type->bytes))
      fail_pth(path, "its data end past the end of the file; copy it again");
    file.storages.emplace(storage.key, Place{at, static_cast<int64_t>(count) * type->bytes});
    at += static_cast<int64_t>(count) * type->bytes;
  }
  return source_of(std::move(file), std::move(legacy.content));
}

TensorSource open_archive(const std::string& path) {
  const ZipArchive archive(path);
  const std::string top = archive.top();
  const Member* pickle = archive.find(top + "data.pkl");
  if (pickle == nullptr) fail_pth(path, "the archive has no data.pkl, so torch.save did not write it");
  if (pickle->size > kMaxPickle) fail_pth(path, "its pickle is implausibly large");
  if (const Member* order = archive.find(top + "byteorder")) {
    const std::vector<uint8_t> text =
        archive.bytes(archive.data_offset(*order), std::min<int64_t>(order->size, 16));
    if (std::string(text.begin(), text.end()) != "little")
      fail_pth(path, "its numbers are not little endian");
  }
  const std::vector<uint8_t> bytes = archive.bytes(archive.data_offset(*pickle), pickle->size);
  PickledFile content = read_pickled_file(bytes, path);
  PthFile file{path, {}, {}};
  for (const auto& [name, tensor] : content.tensors) {
    const Member* member = archive.find(top + "data/" + tensor.storage);
    if (member == nullptr || file.storages.contains(tensor.storage)) continue;
    file.storages.emplace(tensor.storage, Place{archive.data_offset(*member), member->size});
  }
  return source_of(std::move(file), std::move(content));
}

}  // namespace

TensorSource open_pth(const std::string& path) {
  const std::vector<uint8_t> head = read_bytes(path, 0, std::min<int64_t>(file_size(path), 16));
  return is_legacy_file(head) ? open_legacy(path) : open_archive(path);
}

}  // namespace dino
