// SPDX-License-Identifier: Apache-2.0
#include "storage/output_folder.hpp"

#include <filesystem>
#include <string>
#include <system_error>

#include "base/error.hpp"
#include "comm/last_words.hpp"
#include "comm/together.hpp"
#include "storage/temporary.hpp"

namespace dino {

namespace {

namespace fs = std::filesystem;

/// What writers that were killed left in the folder and the folders in it. Nobody else writes there, for the
/// lock is held, but a rank of a job that is still dying may.
void remove_temporaries(const std::string& folder, int depth) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_symlink(ignored)) continue;
    if (depth > 0 && it->is_directory(ignored)) remove_temporaries(it->path().string(), depth - 1);
    const std::string name = it->path().filename().string();
    if (it->is_regular_file(ignored) && is_temporary(name) && !has_live_writer(name))
      fs::remove(it->path(), ignored);
  }
}

}  // namespace

std::unique_ptr<FolderLock> lock_output_folder(const CommandContext& context, std::string_view kind) {
  const std::string& folder = context.common.output;
  if (folder.empty()) throw UsageError("no output: --output: it is not given; name the folder to write to");
  std::unique_ptr<FolderLock> lock;
  together(context.world, [&] {
    if (!context.world.root()) return;
    // Who has the folder comes first: a running job explains what lies in it. A refused folder is not
    // touched.
    if (!FolderLock::is_held(folder)) refuse_other_output(folder, kind);
    lock = std::make_unique<FolderLock>(folder);
    clear_error_files();
    remove_temporaries(folder, 2);  // OUT/work/ingest/
  });
  return lock;
}

}  // namespace dino
