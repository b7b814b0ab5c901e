// SPDX-License-Identifier: Apache-2.0
#pragma once
// The records of data references as one file that is mapped: what a process keeps of it in memory does not
// grow with the number of records, and all processes of a node share what the system keeps: the pages that a
// record lies in are given up once it is read. A disk that fails under a mapping, or a file that is cut while
// it is mapped, ends the process with 74 (base/file_mapping.hpp); a hard network mount waits.
//
// The file, in the machine's byte order: a header of 80 bytes (magic, version, counts, CRC32C of all that
// follows it and of itself), the heap of texts (each behind its length), one row of 40 bytes a record
// (offset, size, places of its texts in the heap, label, flags), then the reference, the classes, the
// faults and the sources (list_sources.hpp) as texts. In all some 60 bytes a record and its key, and the path
// where a file holds no other.

#include <cstdint>
#include <string>
#include <vector>

#include "base/file_mapping.hpp"
#include "datasets/dataset.hpp"
#include "datasets/list_sources.hpp"

namespace dino {

/// The first bytes of the file.
struct RecordListHeader {
  char magic[8] = {};
  uint32_t version = 0, row_bytes = 0;
  int64_t heap_bytes = 0, records = 0, note_bytes = 0, classes = 0, faults = 0, sources = 0;
  uint64_t hash = 0;         ///< see RecordList::hash
  uint32_t content_crc = 0;  ///< of all that follows the header
  uint32_t header_crc = 0;   ///< of the header before this
  [[nodiscard]] bool operator==(const RecordListHeader&) const = default;
  [[nodiscard]] int64_t content_bytes() const;
};
static_assert(sizeof(RecordListHeader) == 80);

class RecordList {
 public:
  RecordList() = default;  ///< of nothing
  /// Maps a file and compares all of it with its checksums. DataError "damaged list of images: PATH: why;
  /// ..."; MissingInputError, IoError.
  [[nodiscard]] static RecordList open(const std::string& path);
  /// The same, but of the checksums the header's alone: the caller compares the content.
  [[nodiscard]] static RecordList open_unchecked(const std::string& path);
  /// Takes an open file that this process has written; messages name `shown`.
  [[nodiscard]] static RecordList adopt(int fd, const std::string& shown);
  ~RecordList();
  RecordList(RecordList&& other) noexcept;
  RecordList& operator=(RecordList&& other) noexcept;

  [[nodiscard]] int64_t count() const { return header_.records; }
  /// The record of this index. Thread-safe.
  [[nodiscard]] Record at(int64_t index) const;
  [[nodiscard]] std::string reference() const;  ///< the references, joined by ", "
  [[nodiscard]] std::vector<std::string> classes() const;
  [[nodiscard]] std::vector<std::string> faults() const;
  /// What the records were listed from, the references first; empty where that cannot be looked at again.
  [[nodiscard]] std::vector<ListSource> sources() const;
  /// XXH3 of "KEY\tSIZE\n" of all records: the same images have it, wherever they lie.
  [[nodiscard]] uint64_t hash() const { return header_.hash; }
  [[nodiscard]] const RecordListHeader& header() const { return header_; }

  /// Commits a copy of the file.
  void commit_to(const std::string& path) const;

 private:
  [[nodiscard]] std::string text_at(int64_t& offset, int64_t end) const;
  [[nodiscard]] std::vector<std::string> notes(int64_t first, int64_t count) const;
  void read_header();
  [[noreturn]] void damaged(const std::string& why) const;
  void release() noexcept;

  std::string path_;
  int fd_ = -1;
  FileMapping map_;
  int64_t bytes_ = 0;
  RecordListHeader header_;
};

}  // namespace dino
