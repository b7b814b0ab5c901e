// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the kinds of data references share: collecting records with label names, then numbering them.

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "datasets/dataset.hpp"
#include "datasets/record_list_writer.hpp"
#include "datasets/tar_samples.hpp"

namespace dino {

/// One file below a root.
struct FoundFile {
  std::string relative;  ///< below the root, with '/'
};

struct FolderFiles {
  std::vector<FoundFile> files;      ///< byte-wise by path
  std::vector<std::string> folders;  ///< the root, and those below it that were read
  int64_t hidden = 0;                ///< names that begin with a dot, what desktops leave, pipes and devices
};

/// All files below `root`. Links are followed, but a folder is read once, whatever leads to it; folders that
/// may not be read and links that lead nowhere become faults. IoError when the file system fails.
[[nodiscard]] FolderFiles walk_folder(const std::string& root, std::vector<std::string>& faults,
                                      bool follow_links = true);

[[nodiscard]] std::string base_name(std::string_view path);
[[nodiscard]] std::string lower_extension(std::string_view path);  ///< without the dot
[[nodiscard]] std::string without_extension(
    std::string_view path);  ///< cuts at the last dot of the base name
[[nodiscard]] bool is_image_extension(std::string_view extension);
/// Bytes of a name before what can be read as an extension: letters and digits, not digits alone (a scan
/// named 0.05 has none).
[[nodiscard]] size_t key_length(std::string_view path);
/// The extension that the first bytes of a file tell, or empty when they are of no image.
[[nodiscard]] std::string extension_by_content(const std::string& path);

class DatasetBuilder {
 public:
  /// With a `list`, the records of every tar go to it as soon as they are known, and finish() leaves none
  /// here: what is kept does not grow with the number of tars' members.
  explicit DatasetBuilder(std::string reference, RecordListWriter* list = nullptr);
  /// `label` is empty when unknown.
  void add(Record record, std::string label);
  /// A record whose label is its folder: the first part of `folder`, or the one below a train/ or val/.
  void add_in_folder(Record record, std::string_view folder);
  /// All images of a tar; the label is the text of the .cls sidecar; where the tar has none and
  /// `folders_are_labels`, the first folder of the key. `path` may lead to a compressed tar.
  void add_tar(const std::string& path, const std::string& prefix, bool folders_are_labels = true);
  /// A file that is no image and was passed over: counted, and told in one line.
  void pass_over(std::string_view name);
  void pass_over_hidden(int64_t count) { hidden_ += count; }
  void fault(std::string line) { dataset_.faults.push_back(std::move(line)); }
  /// Of the list, where there is one (list_sources.hpp): what decides on the records, before it is read.
  void add_source(const std::string& path);
  void set_uncertain();
  /// The names of labels that are given as numbers, 0, 1, ...
  void name_classes(std::vector<std::string> names) { names_ = std::move(names); }
  [[nodiscard]] Dataset& dataset() { return dataset_; }
  /// Of a record that is here: a name, or the folder of one added by add_in_folder.
  [[nodiscard]] const std::string& label(size_t record) const;
  /// Makes keys unique and labels into indices. DataError when there is no record; RepeatedKeys.
  [[nodiscard]] Dataset finish();

 private:
  enum class LabelKind : uint8_t { name, number, folder };
  struct Label {
    std::string text;
    LabelKind kind = LabelKind::name;
  };
  void add_with_label(Record record, std::string text, LabelKind kind);
  [[nodiscard]] int32_t label_number(std::string text, LabelKind kind);
  void pass_on();
  void add_tar_members(const std::string& tar, const std::string& shown, const std::string& prefix,
                       bool folders_are_labels);
  void say_tar_faults(const std::string& shown, const std::vector<TarMember>& members,
                      const TarSamples& samples, const std::vector<TarFault>& faults);
  void read_classes(const PosixFile& file, const std::string& shown, const std::vector<TarMember>& members,
                    const TarSamples& samples, size_t first);
  void say_passed_over();
  void make_keys_unique();
  void settle_folders();
  /// The class of each of labels_.
  [[nodiscard]] std::vector<int32_t> number_labels();

  Dataset dataset_;  ///< until finish(), Record::label is a place in labels_
  RecordListWriter* list_;
  int64_t first_ = 0, passed_on_ = 0;  ///< records of the list before this reference, and of it there
  std::vector<Label> labels_;          ///< those that occur
  std::unordered_map<std::string, int32_t> label_numbers_;  ///< by kind and text
  std::vector<std::string> names_;
  std::map<std::string, int64_t> passed_;  ///< by extension
  std::string first_passed_;
  int64_t hidden_ = 0;
};

/// A class text: without byte order mark and spaces, numbers without leading zeros. Empty, with `fault` set,
/// for UTF-16.
[[nodiscard]] std::string class_text(std::string_view text, std::string& fault);
[[nodiscard]] std::string trimmed_text(std::string_view text);

/// The data set NAME[/SPLIT] of share/datasets/, or nothing when no such name is defined there.
[[nodiscard]] std::optional<Dataset> open_named_dataset(const std::string& reference);
[[nodiscard]] std::vector<std::string> dataset_names();
/// $DINO_DATA, else ~/.cache/dinohpc.
[[nodiscard]] std::string data_dir();
/// A file that is made below data_dir() from what was referred to: an unpacked tar, a prepared set.
[[nodiscard]] bool is_copy(const std::string& path);

}  // namespace dino
