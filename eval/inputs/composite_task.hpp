// SPDX-License-Identifier: Apache-2.0
#pragma once
// What tasks on composites of cut-outs have in common: options, input and card.

#include "inputs/image_batches.hpp"
#include "task.hpp"

namespace dino::eval {

struct CompositeConfig {
  Auto<int64_t> chosen_size;
  int64_t size = 0;  ///< settled
  int64_t batch = 16, limit = 500;
  DecodeMemory decode_memory;
};
[[nodiscard]] Schema<CompositeConfig> composite_schema();
template <class C>
[[nodiscard]] Schema<C> composite_options(CompositeConfig C::*images) {
  Schema<C> schema;
  schema.add(images, composite_schema());
  return schema;
}

struct CompositeInput {
  Plan plan;  ///< without protocols
  Card card;  ///< data, size and background
  std::string reference;
  std::vector<Record> records;
  Extractor* extractor = nullptr;
  CompositeOptions options;
};
/// The input --data, and the encoder on squares of `config.size`. Settles the size. Collective.
[[nodiscard]] CompositeInput composite_input(TaskRun& run, CompositeConfig& config);
/// DataError where not one image was good.
void require_composites(const CompositeInput& input, size_t good);

}  // namespace dino::eval
