// SPDX-License-Identifier: Apache-2.0
#include "vector_commands.hpp"

#include <fmt/format.h>

#include "storage/output_kind.hpp"
#include "vectors/embeddings.hpp"

namespace dino {
namespace {

/// Runs `work` here and lets all ranks throw what the lowest failing one threw.
void settle(const Communicator& comm, const std::function<void()>& work) {
  std::string failure;
  int code = 0;
  try {
    work();
  } catch (const Error& error) {
    failure = error.what();
    code = static_cast<int>(error.code());
  }
  comm.agree_or_throw(failure, code);
}

}  // namespace

LocalRows load_rows(const std::string& reference, bool normalized, const Communicator& comm) {
  LocalRows local;
  settle(comm, [&] {
    const EmbeddingStore store = EmbeddingStore::open(reference);
    if (store.rows() == 0)
      throw DataError(
          fmt::format("cannot use embeddings: {}: it has no rows; give a file with at least one", reference));
    const Range mine = even_range(store.rows(), comm.rank(), comm.size());
    local.total = store.rows();
    local.first = mine.begin;
    local.width = store.width();
    local.rows = Tensor(Shape{mine.size(), store.width()});
    store.read(mine.begin, mine.size(), local.rows.as<float>());
    if (normalized) normalize_rows(local.rows.as<float>(), mine.size(), store.width());
  });
  return local;
}

void on_root(const Communicator& comm, const std::function<void()>& work) {
  settle(comm, [&] {
    if (comm.root()) work();
  });
}

std::unique_ptr<FolderLock> open_output(const CommandContext& context) {
  const std::string& folder = context.common.output;
  if (folder.empty()) throw UsageError("no output: --output: it is not given; name the folder to write to");
  std::unique_ptr<FolderLock> lock;
  on_root(context.world, [&] {
    make_folders(folder);
    lock = std::make_unique<FolderLock>(folder);
  });
  return lock;
}

std::unique_ptr<FolderLock> open_own_output(const CommandContext& context) {
  on_root(context.world, [&] { refuse_other_output(context.common.output, output_kind::none); });
  return open_output(context);
}

}  // namespace dino
