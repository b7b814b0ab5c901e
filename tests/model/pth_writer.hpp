// SPDX-License-Identifier: Apache-2.0
#pragma once
// Builds archives as torch.save does, byte by byte, so that broken ones can be made too.

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace dino {

template <class T>
std::string bytes_of(T value, size_t count = sizeof(T)) {
  std::string text(sizeof value, '\0');
  std::memcpy(text.data(), &value, sizeof value);
  return text.substr(0, count);
}

/// Opcodes of a pickle in protocol 2.
class PickleWriter {
 public:
  PickleWriter& raw(const std::string& bytes) {
    text_ += bytes;
    return *this;
  }
  PickleWriter& string(const std::string& value) {
    return raw("X" + bytes_of(static_cast<uint32_t>(value.size())) + value);
  }
  PickleWriter& integer(int64_t value) { return raw("J" + bytes_of(static_cast<int32_t>(value))); }
  PickleWriter& global(const std::string& module, const std::string& name) {
    return raw("c" + module + "\n" + name + "\n");
  }
  PickleWriter& integers(const std::vector<int64_t>& values) {
    raw("(");
    for (const int64_t value : values) integer(value);
    return raw("t");
  }
  /// A float tensor over the storage `key` of `numel` elements.
  PickleWriter& tensor(const std::string& key, int64_t numel, const std::vector<int64_t>& shape,
                       const std::vector<int64_t>& stride, int64_t offset = 0,
                       const std::string& type = "FloatStorage") {
    global("torch._utils", "_rebuild_tensor_v2").raw("((").string("storage").global("torch", type);
    string(key).string("cpu").integer(numel).raw("tQ").integer(offset).integers(shape).integers(stride);
    return raw("\x89").global("collections", "OrderedDict").raw(")RtR");
  }
  [[nodiscard]] std::string finish() const { return "\x80\x02" + text_ + "."; }

 private:
  std::string text_;
};

/// A zip of stored members; with zip64 records where asked, as torch writes them.
class ZipWriter {
 public:
  void add(const std::string& name, const std::string& content, uint16_t method = 0) {
    const auto size = static_cast<uint32_t>(content.size());
    const std::string common = bytes_of(uint16_t{0}) + bytes_of(method) + bytes_of(uint32_t{0}) +
                               bytes_of(uint32_t{0}) + bytes_of(size) + bytes_of(size) +
                               bytes_of(static_cast<uint16_t>(name.size()));
    members_.push_back({name, common, static_cast<uint64_t>(data_.size()), size});
    // torch pads with an extra field so that data are aligned to 64 bytes.
    const std::string padding = "FB" + bytes_of(uint16_t{10}) + std::string(10, 'Z');
    data_ += bytes_of(uint32_t{0x04034b50}) + bytes_of(uint16_t{20}) + common +
             bytes_of(static_cast<uint16_t>(padding.size())) + name + padding + content;
  }
  [[nodiscard]] std::string finish(bool zip64) const {
    std::string directory;
    for (const Member& m : members_) {
      std::string common = m.common;
      std::string extra;
      if (zip64) {
        common.replace(12, 8, std::string(8, '\xff'));
        extra = bytes_of(uint16_t{1}) + bytes_of(uint16_t{24}) + bytes_of(uint64_t{m.size}) +
                bytes_of(uint64_t{m.size}) + bytes_of(m.offset);
      }
      const auto offset = zip64 ? 0xffffffffu : static_cast<uint32_t>(m.offset);
      directory += bytes_of(uint32_t{0x02014b50}) + bytes_of(uint16_t{20}) + bytes_of(uint16_t{20}) + common +
                   bytes_of(static_cast<uint16_t>(extra.size())) + bytes_of(uint16_t{0}) +
                   bytes_of(uint16_t{0}) + bytes_of(uint16_t{0}) + bytes_of(uint32_t{0}) + bytes_of(offset) +
                   m.name + extra;
    }
    std::string file = data_ + directory;
    const auto count = static_cast<uint64_t>(members_.size());
    if (zip64)
      file += bytes_of(uint32_t{0x06064b50}) + bytes_of(uint64_t{44}) + bytes_of(uint16_t{45}) +
              bytes_of(uint16_t{45}) + bytes_of(uint32_t{0}) + bytes_of(uint32_t{0}) + bytes_of(count) +
              bytes_of(count) + bytes_of(uint64_t{directory.size()}) + bytes_of(uint64_t{data_.size()}) +
              bytes_of(uint32_t{0x07064b50}) + bytes_of(uint32_t{0}) +
              bytes_of(uint64_t{data_.size() + directory.size()}) + bytes_of(uint32_t{1});
    const auto narrow_count = zip64 ? uint16_t{0xffff} : static_cast<uint16_t>(count);
    return file + bytes_of(uint32_t{0x06054b50}) + bytes_of(uint32_t{0}) + bytes_of(narrow_count) +
           bytes_of(narrow_count) + bytes_of(zip64 ? 0xffffffffu : static_cast<uint32_t>(directory.size())) +
           bytes_of(zip64 ? 0xffffffffu : static_cast<uint32_t>(data_.size())) + bytes_of(uint16_t{0});
  }

 private:
  struct Member {
    std::string name, common;
    uint64_t offset = 0;
    uint32_t size = 0;
  };
  std::string data_;
  std::vector<Member> members_;
};

}  // namespace dino
