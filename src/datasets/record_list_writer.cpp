// SPDX-License-Identifier: Apache-2.0
#include "datasets/record_list_writer.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "base/error.hpp"
#include "base/file_mapping.hpp"
#include "base/working.hpp"
#include "datasets/dataset_builder.hpp"
#include "datasets/record_list_format.hpp"
#include "storage/files.hpp"
#include "storage/posix_file.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

constexpr size_t kBuffered = size_t{1} << 20;

/// What messages call a file that has no name.
std::string shown_in(const std::string& folder) {
  return (folder.empty() ? "" : folder + ": ") + "the list of images";
}

[[noreturn]] void fail(const char* what, const std::string& shown) {
  throw IoError(fmt::format("cannot {}: {}: {}", what, shown, std::strerror(errno)));
}

/// A file without a name in `folder`, or in memory where it is empty or does not let one be made.
int nameless_file(const std::string& folder) {
  if (!folder.empty()) {
    if (const int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); fd >= 0) return fd;
    try {  // not every file system has those
      const std::string path = temporary_name(folder + "/list");
      const int fd = create_new_file(path, path);
      ::unlink(path.c_str());
      return fd;
    } catch (const IoError&) {
      // A folder that cannot be written in is told of when the run is begun.
    }
  }
  const int fd = ::memfd_create("dino-list", MFD_CLOEXEC);
  if (fd < 0) fail("write", shown_in(folder));
  return fd;
}

}  // namespace

/// A file that grows at its end.
class RecordListWriter::Part {
 public:
  explicit Part(const std::string& folder) : shown_(shown_in(folder)), fd_(nameless_file(folder)) {}
  ~Part() {
    if (fd_ >= 0) ::close(fd_);
  }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  void put(const void* data, size_t bytes) {
    buffer_.append(static_cast<const char*>(data), bytes);
    bytes_ += static_cast<int64_t>(bytes);
    if (buffer_.size() >= kBuffered) flush();
  }
  void put_text(std::string_view text) {
    const auto length = static_cast<uint32_t>(text.size());
    put(&length, sizeof length);
    put(text.data(), text.size());
  }
  void flush() {
    write_fully(fd_, buffer_.data(), static_cast<int64_t>(buffer_.size()), shown_);
    crc_ = crc32c(std::as_bytes(std::span(buffer_)), crc_);
    buffer_.clear();
  }
  /// Gives every piece of the file to `use`.
  template <class Use>
  void each_piece(const Use& use) {
    flush();
    std::string piece(kBuffered, '\0');
    for (int64_t done = 0; done < bytes_;) {
      const ssize_t got = ::pread(fd_, piece.data(), piece.size(), done);
      if (got <= 0) fail("read", shown_);
      use(piece.data(), static_cast<size_t>(got));
      done += got;
    }
  }
  [[nodiscard]] int64_t bytes() const { return bytes_; }
  [[nodiscard]] uint32_t crc() const { return crc_; }  ///< of what was flushed
  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] int leave() { return std::exchange(fd_, -1); }

 private:
  std::string shown_;
  int fd_;
  std::string buffer_;
  int64_t bytes_ = 0;
  uint32_t crc_ = 0;
};

RecordListWriter::RecordListWriter(std::string folder)
    : folder_(std::move(folder)),
      file_(std::make_unique<Part>(folder_)),
      rows_(std::make_unique<Part>(folder_)),
      keys_(std::make_unique<Part>(folder_)) {
  // The header comes last, when all of it is known; the checksum is of what follows.
  const RecordListHeader blank;
  write_fully(file_->fd(), &blank, sizeof blank, shown_in(folder_));
}

RecordListWriter::~RecordListWriter() = default;

int64_t RecordListWriter::add_path(const std::string& path) {
  if (path_at_ >= 0 && path == path_) return path_at_;
  path_ = path;
  path_at_ = file_->bytes();
  file_->put_text(path);
  if (is_copy(path)) copies_.push_back(path);
  return path_at_;
}

void RecordListWriter::add(const Record& record) {
  RecordRow row;
  row.offset = record.offset;
  row.size = record.size;
  row.label = record.label;
  row.flags = record.key_label ? 1 : 0;
  row.path = add_path(record.path);
  row.texts = file_->bytes();
  for (const std::string* text : {&record.key, &record.extension, &record.group, &record.fault})
    file_->put_text(*text);
  rows_->put(&row, sizeof row);
  const uint64_t key = xxh3(std::as_bytes(std::span(record.key)));
  keys_->put(&key, sizeof key);
  const std::string line = fmt::format("{}\t{}\n", record.key, record.size);
  hash_.update(std::as_bytes(std::span(line)));
  if (++records_ % 4096 == 0) still_working();
}

void RecordListWriter::relabel(int64_t first, const std::vector<int32_t>& classes) {
  rows_->flush();
  std::vector<RecordRow> rows(4096);
  for (int64_t row = first; row < records_;) {
    const auto count = std::min<int64_t>(records_ - row, static_cast<int64_t>(rows.size()));
    const size_t bytes = static_cast<size_t>(count) * sizeof(RecordRow);
    const int64_t at = row * static_cast<int64_t>(sizeof(RecordRow));
    const auto all = static_cast<ssize_t>(bytes);
    if (::pread(rows_->fd(), rows.data(), bytes, at) != all) fail("read", shown_in(folder_));
    for (int64_t i = 0; i < count; ++i) {
      int32_t& label = rows[static_cast<size_t>(i)].label;
      label = classes[static_cast<size_t>(label)];
    }
    if (::pwrite(rows_->fd(), rows.data(), bytes, at) != all) fail("write", shown_in(folder_));
    row += count;
    still_working();
  }
}

bool RecordListWriter::has_repeated_keys(int64_t first) {
  keys_->flush();
  const int64_t bytes = keys_->bytes();
  if (bytes == 0) return false;
  const FileMapping map(keys_->fd(), bytes, FileMapping::Access::write, shown_in(folder_));
  const std::span keys(reinterpret_cast<uint64_t*>(map.data()) + first,
                       static_cast<size_t>(records_ - first));
  std::sort(keys.begin(), keys.end());
  return std::adjacent_find(keys.begin(), keys.end()) != keys.end();
}

void RecordListWriter::add_reference(const std::string& reference, const std::vector<std::string>& classes,
                                     const std::vector<std::string>& faults) {
  classes_.insert(classes_.end(), classes.begin(), classes.end());
  reference_ += (reference_.empty() ? "" : ", ") + reference;
  faults_.insert(faults_.end(), faults.begin(), faults.end());
}

RecordList RecordListWriter::finish() {
  RecordListHeader header;
  std::copy(kRecordListMagic.begin(), kRecordListMagic.end(), header.magic);
  header.version = kRecordListVersion;
  header.row_bytes = sizeof(RecordRow);
  header.records = records_;
  header.heap_bytes = file_->bytes();
  rows_->each_piece([&](const char* data, size_t bytes) { file_->put(data, bytes); });
  rows_.reset();
  keys_.reset();
  const int64_t notes = file_->bytes();
  file_->put_text(reference_);
  std::vector<std::string> sources = sources_.texts();
  for (const auto* texts : {&classes_, &faults_, &sources})
    for (const std::string& text : *texts) file_->put_text(text);
  file_->flush();
  header.note_bytes = file_->bytes() - notes;
  header.classes = static_cast<int64_t>(classes_.size());
  header.faults = static_cast<int64_t>(faults_.size());
  header.sources = static_cast<int64_t>(sources.size());
  header.hash = hash_.value();
  header.content_crc = file_->crc();
  header.header_crc =
      crc32c(std::as_bytes(std::span(&header, 1)).first(sizeof header - sizeof header.header_crc));
  if (::pwrite(file_->fd(), &header, sizeof header, 0) != static_cast<ssize_t>(sizeof header))
    fail("write", shown_in(folder_));
  return RecordList::adopt(file_->leave(), shown_in(folder_));
}

RecordList list_of(const Dataset& dataset) {
  RecordListWriter writer("");
  for (const Record& record : dataset.records) writer.add(record);
  writer.add_reference(dataset.reference, dataset.classes, dataset.faults);
  return writer.finish();
}

}  // namespace dino
