// SPDX-License-Identifier: Apache-2.0
// All files below a folder, in an order that does not depend on the file system's.
#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <set>

#include "base/error.hpp"
#include "base/retry.hpp"
#include "base/working.hpp"
#include "datasets/dataset_builder.hpp"
#include "datasets/tar_samples.hpp"

namespace dino {
namespace {

struct CloseFolder {
  void operator()(DIR* folder) const { ::closedir(folder); }
};

using FolderId = std::pair<dev_t, ino_t>;

/// Real folders first, then those behind links, in the order of their names: a folder is entered once,
/// however many links lead to it, so that links in a circle or across end.
class Walk {
 public:
  Walk(const std::string& root, std::vector<std::string>& faults, bool links)
      : root_(root), faults_(faults), links_(links) {}

  FolderFiles run() {
    visit("");
    while (!linked_.empty()) {
      std::sort(linked_.begin(), linked_.end());
      for (const std::string& link : std::exchange(linked_, {})) visit(link);
    }
    std::sort(out_.files.begin(), out_.files.end(),
              [](const FoundFile& a, const FoundFile& b) { return a.relative < b.relative; });
    return std::move(out_);
  }

 private:
  void visit(const std::string& relative) {
    const std::string path = relative.empty() ? root_ : root_ + "/" + relative;
    struct stat status {};
    const auto folder = open_listed(path, status);
    if (!folder) {
      faults_.push_back(fmt::format("{}: cannot read the folder: {}", path, std::strerror(errno)));
      return;
    }
    if (!entered_.emplace(status.st_dev, status.st_ino).second) {
      if (!relative.empty())
        faults_.push_back(fmt::format("{}: a link to a folder that is read already: not read again", path));
      return;
    }
    out_.folders.push_back(path);
    for (const auto& [name, type] : entries_of(folder.get(), path)) {
      work_point();
      if (name[0] == '.' || is_desktop_file(name))
        ++out_.hidden;
      else
        classify(relative.empty() ? name : relative + "/" + name, type);
    }
  }

  /// Null where the rights do not suffice; a folder that fails, or that is gone since its parent was read, is
  /// a fault of the file system.
  static std::unique_ptr<DIR, CloseFolder> open_listed(const std::string& path, struct stat& status) {
    return retrying(path, [&] {
      std::unique_ptr<DIR, CloseFolder> folder(::opendir(path.c_str()));
      const bool there = folder && ::fstat(::dirfd(folder.get()), &status) == 0;
      if (!there && (is_passing_fault(errno) || errno == ENOENT))
        throw IoError(
            fmt::format("cannot read the folder: {}: {}; check its file system", path, std::strerror(errno)));
      return there ? std::move(folder) : nullptr;
    });
  }

  static std::vector<std::pair<std::string, unsigned char>> entries_of(DIR* folder, const std::string& path) {
    return retrying(path, [&] {
      std::vector<std::pair<std::string, unsigned char>> entries;
      ::rewinddir(folder);
      errno = 0;
      while (const dirent* entry = ::readdir(folder)) {
        const std::string name = entry->d_name;
        if (!name.empty() && name != "." && name != "..") entries.emplace_back(name, entry->d_type);
        errno = 0;
      }
      if (errno != 0)
        throw IoError(
            fmt::format("cannot read the folder: {}: {}; check its file system", path, std::strerror(errno)));
      return entries;
    });
  }

  static bool ask(const std::string& path, struct stat& status, int (*call)(const char*, struct stat*)) {
    return retrying(path, [&] {
      if (call(path.c_str(), &status) == 0) return true;
      if (is_passing_fault(errno)) throw_errno("cannot stat", path);
      return false;
    });
  }

  void classify(const std::string& relative, unsigned char type) {
    const std::string path = root_ + "/" + relative;
    struct stat status {};
    if (type == DT_UNKNOWN && ask(path, status, ::lstat)) {  // some file systems do not tell
      if (S_ISREG(status.st_mode)) type = DT_REG;
      if (S_ISDIR(status.st_mode)) type = DT_DIR;
      if (S_ISLNK(status.st_mode)) type = DT_LNK;
    }
    if (type == DT_LNK) {
      if (!links_) return;
      if (!ask(path, status, ::stat)) {
        faults_.push_back(fmt::format("{}: cannot follow the link: {}", path, std::strerror(errno)));
        return;
      }
      if (S_ISDIR(status.st_mode)) {
        linked_.push_back(relative);
        return;
      }
      type = S_ISREG(status.st_mode) ? DT_REG : DT_UNKNOWN;
    }
    if (type == DT_DIR)
      visit(relative);
    else if (type == DT_REG)
      out_.files.push_back({relative});
    else
      ++out_.hidden;  // pipes, sockets and devices
  }

  const std::string& root_;
  std::vector<std::string>& faults_;
  bool links_;
  std::set<FolderId> entered_;
  std::vector<std::string> linked_;  ///< links to folders, to be entered after the real ones
  FolderFiles out_;
};

}  // namespace

FolderFiles walk_folder(const std::string& root, std::vector<std::string>& faults, bool follow_links) {
  const auto before = static_cast<std::ptrdiff_t>(faults.size());
  FolderFiles found = Walk(root, faults, follow_links).run();
  std::sort(faults.begin() + before, faults.end());
  return found;
}

}  // namespace dino
