// SPDX-License-Identifier: Apache-2.0
#pragma once
// What decided on a list of records: the files and folders that were read for it, as they were. While they
// are unchanged a later start has the same list and need not read them again.

#include <cstdint>
#include <string>
#include <vector>

namespace dino {

struct ListSource {
  std::string path;
  int64_t bytes = -1;  ///< -1: there is nothing of that name
  /// Nanoseconds since 1970: of the content, and of the content, the rights or the name.
  int64_t modified = 0, changed = 0;
  [[nodiscard]] bool operator==(const ListSource&) const = default;
};

/// The file or folder as it is now; links are followed.
[[nodiscard]] ListSource look_at(const std::string& path);
/// One line, and back. DataError where the text is none.
[[nodiscard]] std::string text_of(const ListSource& source);
[[nodiscard]] ListSource source_of(const std::string& text);

/// Collects the sources of a list that is being made.
class ListSources {
 public:
  /// To be called before the path is read. A source that changed in the last two seconds may change once more
  /// without another time on it (some file systems count whole seconds): then nothing is certain.
  void add(const std::string& path);
  /// A file that this process has made itself.
  void add_own(const std::string& path) { sources_.push_back(look_at(path)); }
  /// Something decided that cannot be looked at again cheaply: a later start reads everything anew.
  void set_uncertain() { certain_ = false; }
  /// Empty where nothing is certain.
  [[nodiscard]] std::vector<std::string> texts() const;

 private:
  std::vector<ListSource> sources_;
  bool certain_ = true;
};

}  // namespace dino
