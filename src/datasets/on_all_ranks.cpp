// SPDX-License-Identifier: Apache-2.0
#include "datasets/on_all_ranks.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <span>

#include "base/error.hpp"
#include "base/retry.hpp"
#include "comm/together.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

struct Attempt {
  Dataset dataset;
  RankFailure failure;
  uint64_t hash = 0;  ///< of the records; 0 = failed
};

uint64_t hash_of(const Dataset& dataset) {
  std::string text;
  for (const Record& r : dataset.records)
    text += fmt::format("{}\t{}\t{}\t{}\t{}\n", r.key, r.path, r.offset, r.size, r.label);
  return xxh3(std::as_bytes(std::span(text))) | 1;
}

Attempt attempt(const std::string& reference) {
  Attempt made;
  made.failure = failure_of([&] {
    made.dataset = open_dataset(reference);
    made.hash = hash_of(made.dataset);
  });
  return made;
}

}  // namespace

Dataset open_on_all_ranks(const std::string& reference, const Communicator& world) {
  if (world.size() == 1) return open_dataset(reference);
  Attempt mine = attempt(reference);
  settle(world, world.root() ? mine.failure : RankFailure{});
  uint64_t wanted = mine.hash;
  world.broadcast_span(std::span(&wanted, 1));
  together(world, [&] {
    retrying(reference, [&] {
      if (mine.hash == wanted) return;
      const std::string why =
          mine.failure.message.empty()
              ? fmt::format("{} images, others than rank 0 lists", mine.dataset.records.size())
              : mine.failure.message;
      mine = attempt(reference);
      if (mine.hash != wanted)
        throw IoError(fmt::format(
            "the ranks see different data: {}: {}; check that it is mounted on this node", reference, why));
    });
  });
  return std::move(mine.dataset);
}

}  // namespace dino
