// SPDX-License-Identifier: Apache-2.0
#include "vector_commands.hpp"

#include <fmt/format.h>

namespace dino {
EmbeddingStore open_rows(const std::string& reference, const Communicator& comm, const std::string& remedy) {
  EmbeddingStore store;
  together(comm, [&] { store = EmbeddingStore::open(reference); });
  store.verify(comm, remedy);
  return store;
}

LocalRows load_rows(const std::string& reference, bool normalized, const Communicator& comm,
                    const std::string& remedy) {
  LocalRows local;
  const EmbeddingStore store = open_rows(reference, comm, remedy);
  together(comm, [&] {
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
