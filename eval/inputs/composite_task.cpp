// SPDX-License-Identifier: Apache-2.0
#include "inputs/composite_task.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "imaging/decode_options.hpp"

namespace dino::eval {

Schema<CompositeConfig> composite_schema() {
  using C = CompositeConfig;
  Schema<C> schema;
  schema.section("images");
  schema.add("limit", &C::limit, "At most this many images, spread evenly; 0 = all.").range(0, 1e9);
  schema
      .add("size", &C::chosen_size, "Side of the input in pixels (auto: as the model was trained, else 224).")
      .range(8, 4096);
  schema.add("batch", &C::batch, "Images per forward pass.").range(1, 4096);
  add_decode_memory(schema, &C::decode_memory);
  return schema;
}

CompositeInput composite_input(TaskRun& run, CompositeConfig& config) {
  CompositeInput out;
  Dataset dataset = run.images("data");
  out.reference = dataset.reference;
  FeatureProtocol protocol;
  InputOptions input;
  input.size = config.chosen_size;
  input.pad = input.silent = true;
  out.extractor = &run.encoder(input, protocol);
  config.size = protocol.size;
  if (config.size % out.extractor->patch_side() != 0)
    throw UsageError(fmt::format("{}: --size {}: is not a multiple of the patch side {}; choose another",
                                 run.info.name, config.size, out.extractor->patch_side()));
  out.records = spread_records(std::move(dataset.records), config.limit);
  out.options = {config.size, config.batch, config.decode_memory.bytes, static_cast<uint64_t>(run.seed)};
  std::vector<std::string> keys;
  for (const Record& record : out.records) keys.push_back(record.key);
  out.card.set("data", Card()
                           .set("data", dataset_name(out.reference))
                           .set("images", static_cast<int64_t>(keys.size()))
                           .set("keys", keys_hash(keys).substr(0, 16)));
  out.card.set("size", config.size)
      .set("crop", "pad to square")
      .set("patch", out.extractor->patch_side())
      .set("background", "drawn per image from the seed")
      .set("seed", run.seed)
      .set("features", "patch tokens of the last block");
  out.plan.model = out.extractor->identity();
  out.plan.data = out.reference;
  return out;
}

void require_composites(const CompositeInput& input, size_t good) {
  if (good == 0)
    throw DataError(
        fmt::format("reading cut-outs: {}: holds no image with a partly transparent alpha "
                    "channel; give cut-outs (PNG or WebP with alpha)",
                    input.reference));
}

}  // namespace dino::eval
