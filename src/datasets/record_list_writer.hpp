// SPDX-License-Identifier: Apache-2.0
#pragma once
// Writes a list of records (record_list.hpp) as they come, into a file without a name.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/dataset.hpp"
#include "datasets/list_sources.hpp"
#include "datasets/record_list.hpp"
#include "storage/xxh3.hpp"

namespace dino {

class RecordListWriter {
 public:
  /// The file lies in `folder` and vanishes with the process; where none is given, or it cannot be made
  /// there, in memory. Keeps a few MiB in memory of its own.
  explicit RecordListWriter(std::string folder);
  ~RecordListWriter();
  RecordListWriter(const RecordListWriter&) = delete;
  RecordListWriter& operator=(const RecordListWriter&) = delete;

  /// The label may be anything until relabel().
  void add(const Record& record);
  [[nodiscard]] int64_t records() const { return records_; }
  /// Puts `classes[label]` for the label of every record from `first` on.
  void relabel(int64_t first, const std::vector<int32_t>& classes);
  /// Do two records from `first` on have the same key? Sorts 8 bytes a record in a mapped file. True also for
  /// keys whose 64-bit hashes agree.
  [[nodiscard]] bool has_repeated_keys(int64_t first);
  /// What a reference has beside its records.
  void add_reference(const std::string& reference, const std::vector<std::string>& classes,
                     const std::vector<std::string>& faults);
  /// Copies of compressed tars and prepared sets that records lie in: made on the node that lists.
  [[nodiscard]] const std::vector<std::string>& copies() const { return copies_; }
  /// What decides on the records; finish() writes it behind them.
  [[nodiscard]] ListSources& sources() { return sources_; }
  [[nodiscard]] RecordList finish();

 private:
  class Part;
  [[nodiscard]] int64_t add_path(const std::string& path);

  std::string folder_;
  std::unique_ptr<Part> file_;  ///< header and heap, in the end all
  std::unique_ptr<Part> rows_, keys_;
  int64_t records_ = 0, path_at_ = -1;
  std::string path_, reference_;
  std::vector<std::string> classes_, faults_, copies_;
  ListSources sources_;
  Xxh3 hash_;
};

/// Thrown by list_dataset, and caught by who calls it.
struct RepeatedKeys {};

/// open_dataset (dataset.hpp), whose records go to `list`; returns the rest. Tars are listed one after
/// another, so that the memory for it is that of the largest tar, but for what a folder of images and a .txt
/// list hold: some 500 bytes a record until the end. RepeatedKeys when tars hold the same key: then only all
/// keys together can be made unique, and `list` is of no use.
[[nodiscard]] Dataset list_dataset(const std::string& reference, RecordListWriter& list);

/// A data set's records as a list.
[[nodiscard]] RecordList list_of(const Dataset& dataset);

}  // namespace dino
