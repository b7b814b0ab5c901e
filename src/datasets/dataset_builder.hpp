// SPDX-License-Identifier: Apache-2.0
#pragma once
// What dataset.cpp and dataset_named.cpp share: collecting records with label names, then numbering them.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/dataset.hpp"

namespace dino {

/// One file below a root.
struct FoundFile {
  std::string relative;  ///< below the root, with '/'
};

/// All files below `root`, byte-wise by path. Hidden names are skipped; links are followed unless they lead
/// back to a folder above, or left out altogether; folders that cannot be read become faults.
[[nodiscard]] std::vector<FoundFile> walk_folder(const std::string& root, std::vector<std::string>& faults,
                                                 bool follow_links = true);

[[nodiscard]] std::string lower_extension(std::string_view path);  ///< without the dot
[[nodiscard]] std::string without_extension(
    std::string_view path);  ///< cuts at the last dot of the base name
[[nodiscard]] bool is_image_extension(std::string_view extension);

class DatasetBuilder {
 public:
  explicit DatasetBuilder(std::string reference) { dataset_.reference = std::move(reference); }
  /// `label` is empty when unknown.
  void add(Record record, std::string label);
  /// All images of a tar; the label is the text of the .cls sidecar, else the first folder of the key.
  void add_tar(const std::string& path, const std::string& prefix);
  void fault(std::string line) { dataset_.faults.push_back(std::move(line)); }
  [[nodiscard]] Dataset& dataset() { return dataset_; }
  [[nodiscard]] std::vector<std::string>& labels() { return labels_; }
  /// Makes keys unique and labels into indices. DataError when there is no record.
  [[nodiscard]] Dataset finish();

 private:
  void make_keys_unique();
  void number_labels();

  Dataset dataset_;
  std::vector<std::string> labels_;  ///< one per record
};

/// The data set NAME[/SPLIT] of share/datasets/, or nothing when no such name is defined there.
[[nodiscard]] std::optional<Dataset> open_named_dataset(const std::string& reference);
[[nodiscard]] std::vector<std::string> dataset_names();
/// $DINO_DATA, else ~/.cache/dinohpc.
[[nodiscard]] std::string data_dir();

}  // namespace dino
