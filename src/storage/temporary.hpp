// SPDX-License-Identifier: Apache-2.0
#pragma once
// Files that are made under names which nobody can foresee, so that no link planted there leads them
// elsewhere.

#include <string>
#include <string_view>

namespace dino {

/// "PATH.tmp.<node>.<pid>.<random>": never used before, and it tells whose it is.
[[nodiscard]] std::string temporary_name(const std::string& path);
[[nodiscard]] std::string random_hex(int digits);
/// A new file (O_EXCL, O_NOFOLLOW), open for reading and writing; messages name `shown`. IoError.
[[nodiscard]] int create_new_file(const std::string& path, const std::string& shown);
/// Opens with O_NOFOLLOW and O_CLOEXEC added to `flags`; a link in the place of the file is an IoError.
[[nodiscard]] int open_without_links(const std::string& path, int flags);
/// Is this the name of a temporary file, by this program or one of its earlier versions?
[[nodiscard]] bool is_temporary(std::string_view name);
/// May its writer still be at work? True only for processes of this node that live.
[[nodiscard]] bool has_live_writer(std::string_view name);
/// Removes the temporaries of `path` that killed writers left beside it. Never throws.
void remove_leftovers_of(const std::string& path) noexcept;

/// Marks one process among all of all nodes and times.
struct ProcessMark {
  std::string host, boot, space;  ///< boot id; namespace of process ids
  long pid = 0;
  long long started = 0;  ///< clock ticks after the boot
};
[[nodiscard]] const ProcessMark& own_process();
enum class Life { alive, dead, unknown };
/// Unknown for processes of other nodes and namespaces.
[[nodiscard]] Life life_of(const ProcessMark& process);

}  // namespace dino
