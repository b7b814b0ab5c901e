// SPDX-License-Identifier: Apache-2.0
#include "vector_commands.hpp"

#include <fmt/format.h>

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

EmbeddingStore open_rows(const std::string& reference, const Communicator& comm, const std::string& remedy) {
  EmbeddingStore store;
  settle(comm, [&] { store = EmbeddingStore::open(reference); });
  store.verify(comm, remedy);
  return store;
}

LocalRows load_rows(const std::string& reference, bool normalized, const Communicator& comm,
                    const std::string& remedy) {
  LocalRows local;
  const EmbeddingStore store = open_rows(reference, comm, remedy);
  settle(comm, [&] {
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

}  // namespace dino
