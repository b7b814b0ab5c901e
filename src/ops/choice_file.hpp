// SPDX-License-Identifier: Apache-2.0
#pragma once
// Choices that are made once for a machine and found again by later runs.

#include <map>
#include <optional>
#include <string>

namespace dino::ops {

/// A file of lines "<checksum> <key> <value>". It may vanish, be cut off or hold rubbish at any time, and
/// many processes may add to it: a line counts where its checksum is right, and the last one of its key wins.
/// Nothing depends on its being writable.
class ChoiceFile {
 public:
  /// Read here and never again; `path` empty: nothing is found or kept. Broken lines are said once.
  explicit ChoiceFile(std::string path);
  [[nodiscard]] std::optional<std::string> find(const std::string& key) const;
  /// Key and value hold no white space. Found by this object and by later ones.
  void keep(const std::string& key, const std::string& value);

 private:
  std::string path_;
  std::map<std::string, std::string> choices_;
};

/// "<user's cache folder>/dinohpc/<name>", by $XDG_CACHE_HOME or $HOME; empty without either. The folder may
/// be missing.
[[nodiscard]] std::string cache_path(const std::string& name);

}  // namespace dino::ops
