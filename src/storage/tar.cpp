// SPDX-License-Identifier: Apache-2.0
#include "storage/tar.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "base/error.hpp"
#include "base/text.hpp"
#include "storage/files.hpp"
#include "storage/posix_file.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

constexpr int64_t kBlock = 512;
/// pax headers beyond this are not read; it also bounds what a broken one can allocate.
constexpr int64_t kMaxMetadata = 1 << 20;

// POSIX ustar header: field offset and length.
struct Field {
  size_t at, length;
};
constexpr Field kName{0, 100}, kMode{100, 8}, kOwner{108, 8}, kGroup{116, 8}, kSize{124, 12}, kTime{136, 12},
    kChecksum{148, 8}, kType{156, 1}, kLink{157, 100}, kMagic{257, 8}, kPrefix{345, 155};

using Header = std::array<char, kBlock>;

std::string text_of(const Header& header, Field field) {
  const char* begin = header.data() + field.at;
  return {begin, strnlen(begin, field.length)};
}

/// Octal text, or GNU base-256 (first bit set). Nothing when it is neither, negative, or beyond int64.
std::optional<int64_t> number_of(const Header& header, Field field) {
  const auto* p = reinterpret_cast<const unsigned char*>(header.data()) + field.at;
  if ((p[0] & 0x80u) != 0) {
    if (p[0] != 0x80u) return std::nullopt;
    uint64_t value = 0;
    for (size_t i = 1; i < field.length; ++i) {
      if (value >> 55 != 0) return std::nullopt;
      value = value << 8 | p[i];
    }
    return static_cast<int64_t>(value);
  }
  size_t i = 0;
  while (i < field.length && p[i] == ' ') ++i;
  int64_t value = 0;
  size_t digits = 0;
  for (; i < field.length && p[i] >= '0' && p[i] <= '7'; ++i, ++digits) value = value * 8 + (p[i] - '0');
  if (i < field.length && p[i] != '\0' && p[i] != ' ') return std::nullopt;
  return value;
}

int64_t checksum_of(const Header& header) {
  int64_t sum = 0;
  for (size_t i = 0; i < header.size(); ++i) {
    const bool in_checksum = i >= kChecksum.at && i < kChecksum.at + kChecksum.length;
    sum += in_checksum ? ' ' : static_cast<unsigned char>(header[i]);
  }
  return sum;
}

int64_t padded(int64_t size) {
  return (size + kBlock - 1) / kBlock * kBlock;
}

/// What GNU long-name and pax members say about the next member.
struct Overrides {
  std::string name, link;
  int64_t name_bytes = 0;
  std::optional<int64_t> size;
  bool sparse = false;
};

/// pax records: "<length> <key>=<value>\n". False when they are malformed.
bool parse_pax(std::string_view text, Overrides& next) {
  while (!text.empty() && text.front() != '\0') {
    size_t length = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
    const auto digits = static_cast<size_t>(end - text.data());
    if (error != std::errc() || digits + 3 > length || length > text.size() || text[digits] != ' ' ||
        text[length - 1] != '\n')
      return false;
    const std::string_view record = text.substr(digits + 1, length - digits - 2);
    const size_t equals = record.find('=');
    if (equals == std::string_view::npos) return false;
    const std::string_view key = record.substr(0, equals), value = record.substr(equals + 1);
    if (key.starts_with("GNU.sparse.")) next.sparse = true;
    if (key == "path") {
      const std::string_view path = value.substr(0, value.find('\0'));
      next.name = std::string(path.substr(0, kMaxName));
      next.name_bytes = static_cast<int64_t>(path.size());
    }
    if (key == "linkpath")
      next.link = std::string(value.substr(0, std::min<size_t>(value.find('\0'), kMaxName)));
    if (key == "size") {
      int64_t size = -1;
      const auto parsed = std::from_chars(value.data(), value.data() + value.size(), size);
      if (parsed.ec != std::errc() || parsed.ptr != value.data() + value.size() || size < 0) return false;
      next.size = size;
    }
    text.remove_prefix(length);
  }
  return true;
}

std::string member_name(const Header& header) {
  std::string name = text_of(header, kName);
  const bool ustar = std::memcmp(header.data() + kMagic.at, "ustar\0", 6) == 0;
  const std::string prefix = ustar ? text_of(header, kPrefix) : std::string();
  return prefix.empty() ? name : prefix + "/" + name;
}

bool all_zero(const Header& header) {
  return std::all_of(header.begin(), header.end(), [](char c) { return c == 0; });
}

/// Names are cut where messages quote them.
std::string shown(const std::string& name) {
  return printable_name(name.substr(0, 120)) + (name.size() > 120 ? "..." : "");
}

class Scanner {
 public:
  Scanner(const std::string& path, std::vector<TarFault>& faults) : file_(path), faults_(faults) {}

  std::vector<TarMember> run() {
    std::array<uint8_t, 8> first{};
    const int64_t got = file_.read_some(0, first.data(), first.size());
    const std::string_view compression = compression_of({first.data(), static_cast<size_t>(got)});
    if (file_.size() == 0) {
      fail("the file is empty");
    } else if (!compression.empty()) {
      fail(fmt::format("the file is compressed ({}): its members cannot be read in place", compression));
    } else {
      while (step()) {
      }
    }
    return std::move(members_);
  }

 private:
  /// Reads one header at offset_; false at the end or at a fault.
  bool step() {
    Header header{};
    const int64_t got = file_.read_some(offset_, header.data(), kBlock);
    if (got == 0) return fail("no end marker: the archive was cut off between two members");
    if (got < kBlock) return fail(fmt::format("truncated header: {} of 512 bytes", got));
    if (all_zero(header)) return next_archive();
    if (!valid(header)) return fail("bad header checksum");
    auto size = number_of(header, kSize);
    if (!size) return fail("member size is negative or not a number");
    const char type = header[kType.at];
    const bool metadata = type == 'L' || type == 'K' || type == 'x' || type == 'X' || type == 'g';
    if (!metadata && next_.size) size = next_.size;
    // Links and folders have no data, whatever their size field says.
    if (type >= '1' && type <= '6') size = 0;
    const int64_t begin = offset_ + kBlock;
    TarMember member{member_name(header), 0, offset_, begin, *size};
    member.name_bytes = static_cast<int64_t>(member.name.size());
    if (!metadata && next_.name_bytes > 0) {
      if (!next_.name.empty()) member.name = next_.name;
      member.name_bytes = next_.name_bytes;
    }
    if (*size > file_.size() - begin)
      return fail(fmt::format("truncated member {}: {} of {} bytes", shown(member.name), file_.size() - begin,
                              *size));
    if (metadata) {
      if (!read_metadata(type, begin, *size)) return false;
    } else {
      take(header, std::move(member));
      next_ = {};
    }
    offset_ = begin + (type == 'S' ? sparse_map_size(header, begin) : 0) + padded(*size);
    return true;
  }

  /// Two zero blocks end an archive, zeros up to the tape's record may follow; but archives that were joined
  /// with `cat` have more behind them.
  bool next_archive() {
    std::vector<char> chunk(size_t{1} << 16);
    const int64_t end = offset_;
    for (int64_t at = offset_;; at += static_cast<int64_t>(chunk.size())) {
      const int64_t got = file_.read_some(at, chunk.data(), static_cast<int64_t>(chunk.size()));
      const auto* stop = chunk.data() + got;
      const auto* found =
          std::find_if(static_cast<const char*>(chunk.data()), stop, [](char c) { return c != 0; });
      if (found == stop && got < static_cast<int64_t>(chunk.size())) return false;
      if (found == stop) continue;
      offset_ = (at + (found - chunk.data())) / kBlock * kBlock;
      break;
    }
    Header header{};
    if (file_.read_some(offset_, header.data(), kBlock) < kBlock || !valid(header))
      return fail(
          fmt::format("{} bytes of other data behind the end marker at {}", file_.size() - offset_, end));
    faults_.push_back({offset_,
                       fmt::format("joined archives: another one begins behind the end marker at {}, where "
                                   "other readers stop",
                                   end),
                       false});
    return true;
  }

  void take(const Header& header, TarMember member) {
    const char type = header[kType.at];
    const auto leave_out = [&](std::string_view what, std::string_view advice) {
      faults_.push_back(
          {member.header, fmt::format("{} {}: left out; {}", what, shown(member.name), advice)});
    };
    if (type == 'S' || next_.sparse) {
      leave_out("sparse member", "pack it without --sparse");
    } else if (type == '1') {
      take_hard_link(std::move(member), next_.link.empty() ? text_of(header, kLink) : next_.link);
    } else if (type == '2') {
      leave_out("symbolic link", "pack with --dereference");
    } else if (type == '3' || type == '4' || type == '6') {
      leave_out(type == '6' ? "pipe" : "device", "it holds no data");
    } else if (type == 'M') {
      leave_out("continuation of another volume's member", "join the volumes");
    } else if (type == '0' || type == '\0' || type == '7') {
      if (member.name_bytes == 0)
        leave_out("member without a name", "pack it again");
      else if (member.name.back() != '/')
        members_.push_back(std::move(member));
    } else if (type != '5' && type != 'D' && type != 'V') {
      leave_out(fmt::format("member of unknown type '{}'", printable_name({&type, 1})), "pack it again");
    }
  }

  /// GNU tar stores a file that has two names once.
  void take_hard_link(TarMember member, const std::string& target) {
    for (; indexed_ < members_.size(); ++indexed_) index_[members_[indexed_].name] = indexed_;
    const auto found = index_.find(target);
    if (found == index_.end()) {
      faults_.push_back({member.header, fmt::format("hard link {}: left out; there is no member {} before it",
                                                    shown(member.name), shown(target))});
      return;
    }
    faults_.push_back({member.header,
                       fmt::format("hard link {} to {}: other readers may not follow it; pack with "
                                   "--hard-dereference",
                                   shown(member.name), shown(target)),
                       false});
    member.offset = members_[found->second].offset;
    member.size = members_[found->second].size;
    members_.push_back(std::move(member));
  }

  static bool valid(const Header& header) {
    const auto stored = number_of(header, kChecksum);
    return stored && *stored == checksum_of(header);
  }

  /// GNU's old sparse members continue their map in blocks before the data, each saying whether one follows.
  [[nodiscard]] int64_t sparse_map_size(const Header& header, int64_t begin) const {
    constexpr size_t kMoreInHeader = 482, kMoreInBlock = 504;
    int64_t size = 0;
    Header block{};
    for (bool more = header[kMoreInHeader] != 0;
         more && file_.read_some(begin + size, block.data(), kBlock) == kBlock; size += kBlock)
      more = block[kMoreInBlock] != 0;
    return size;
  }

  bool read_metadata(char type, int64_t begin, int64_t size) {
    if (type == 'g') return true;  // global defaults name no member
    const bool pax = type == 'x' || type == 'X';
    if (pax && size > kMaxMetadata) {  // whatever it says, the name is not one
      next_.name_bytes = size;
      return true;
    }
    std::string text(static_cast<size_t>(pax ? size : std::min(size, kMaxName + 1)), '\0');
    file_.read_exactly(begin, text.data(), static_cast<int64_t>(text.size()));
    if (pax) return parse_pax(text, next_) || fail("malformed pax header");
    const size_t end = text.find('\0');
    // A name that goes on beyond what was read ends with a zero byte too.
    const int64_t bytes = end == std::string::npos ? size - 1 : static_cast<int64_t>(end);
    text.resize(std::min({end, text.size(), static_cast<size_t>(kMaxName)}));
    if (type == 'L') {
      next_.name = std::move(text);
      next_.name_bytes = bytes;
    } else {
      next_.link = std::move(text);
    }
    return true;
  }

  bool fail(std::string what) {
    faults_.push_back({offset_, std::move(what)});
    return false;
  }

  PosixFile file_;
  std::vector<TarFault>& faults_;
  int64_t offset_ = 0;
  Overrides next_;
  std::vector<TarMember> members_;
  std::unordered_map<std::string, size_t> index_;  ///< by name, of the first indexed_; made for hard links
  size_t indexed_ = 0;
};

void put_octal(Header& header, Field field, uint64_t value) {
  const std::string digits = fmt::format("{:0{}o}", value, field.length - 1);
  std::memcpy(header.data() + field.at, digits.data(), field.length - 1);
}

void put_checksum(Header& header) {
  const std::string sum = fmt::format("{:06o}", checksum_of(header));
  std::memcpy(header.data() + kChecksum.at, sum.data(), 6);
  header[kChecksum.at + 6] = '\0';
  header[kChecksum.at + 7] = ' ';
}

Header make_header(const std::string& name, int64_t size, char type) {
  Header header{};
  std::memcpy(header.data() + kName.at, name.data(), std::min(name.size(), kName.length));
  put_octal(header, kMode, 0644);
  put_octal(header, kOwner, 0);
  put_octal(header, kGroup, 0);
  put_octal(header, kTime, 0);
  if (size < int64_t{1} << 33) {
    put_octal(header, kSize, static_cast<uint64_t>(size));
  } else {
    header[kSize.at] = static_cast<char>(0x80);
    for (size_t i = 0; i < 8; ++i)
      header[kSize.at + kSize.length - 1 - i] =
          static_cast<char>(static_cast<uint64_t>(size) >> (8 * i) & 0xffu);
  }
  header[kType.at] = type;
  std::memcpy(header.data() + kMagic.at,
              "ustar\0"
              "00",
              kMagic.length);
  put_checksum(header);
  return header;
}

/// Splits a name of 101..256 bytes at a slash into ustar's prefix and name; false when none fits.
bool put_split_name(Header& header, const std::string& name) {
  for (size_t slash = name.find('/'); slash != std::string::npos && slash <= kPrefix.length;
       slash = name.find('/', slash + 1)) {
    if (slash == 0 || name.size() - slash - 1 > kName.length || slash + 1 == name.size()) continue;
    std::memset(header.data() + kName.at, 0, kName.length);
    std::memcpy(header.data() + kName.at, name.data() + slash + 1, name.size() - slash - 1);
    std::memcpy(header.data() + kPrefix.at, name.data(), slash);
    put_checksum(header);
    return true;
  }
  return false;
}

}  // namespace

std::vector<TarMember> scan_tar(const std::string& path, std::vector<TarFault>& faults) {
  return Scanner(path, faults).run();
}

std::string_view compression_of(std::span<const uint8_t> first_bytes) {
  using namespace std::string_view_literals;
  const std::string_view begin(reinterpret_cast<const char*>(first_bytes.data()), first_bytes.size());
  if (begin.starts_with("\x1f\x8b"sv)) return "gzip";
  if (begin.starts_with("\x28\xb5\x2f\xfd"sv)) return "zstd";
  if (begin.starts_with("\xfd"
                        "7zXZ\0"sv))
    return "xz";
  if (begin.starts_with("BZh"sv)) return "bzip2";
  return {};
}

TarWriter::TarWriter(const std::string& path) : path_(path) {
  fd_ = open_without_links(path, O_WRONLY | O_CREAT | O_TRUNC);
}

TarWriter::~TarWriter() {
  if (fd_ >= 0) ::close(fd_);
}

int64_t TarWriter::add(const std::string& name, std::span<const uint8_t> data) {
  const auto size = static_cast<int64_t>(data.size());
  Header header = make_header(name, size, '0');
  if (name.size() > kName.length && !put_split_name(header, name)) {
    const auto bytes = static_cast<int64_t>(name.size()) + 1;
    const Header longer = make_header("././@LongLink", bytes, 'L');
    std::string text = name;
    text.resize(static_cast<size_t>(padded(bytes)), '\0');
    write(longer.data(), longer.size());
    write(text.data(), text.size());
  }
  write(header.data(), header.size());
  const int64_t offset = offset_;
  write(data.data(), data.size());
  const Header zeros{};
  write(zeros.data(), static_cast<size_t>(padded(size) - size));
  return offset;
}

void TarWriter::write(const void* data, size_t size) {
  write_fully(fd_, data, static_cast<int64_t>(size), path_);
  offset_ += static_cast<int64_t>(size);
}

void TarWriter::close() {
  const Header zeros{};
  write(zeros.data(), zeros.size());
  write(zeros.data(), zeros.size());
  const bool synced = ::fsync(fd_) == 0 || errno == EINVAL || errno == ENOTSUP;
  const int fsync_error = errno;
  const bool closed = ::close(std::exchange(fd_, -1)) == 0;
  if (!synced || !closed)
    throw IoError(fmt::format("cannot write: {}: {}", path_,
                              std::system_category().message(synced ? errno : fsync_error)));
}

}  // namespace dino
