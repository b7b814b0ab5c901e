// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <filesystem>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "comm/together.hpp"
#include "commands.hpp"
#include "inputs/fused_extractor.hpp"
#include "options.hpp"
#include "storage/files.hpp"
#include "storage/output_folder.hpp"
#include "storage/seal.hpp"

namespace dino::eval {

namespace {

struct FuseConfig {
  ModelOptions model;
  std::vector<std::string> weights;
};

ExitCode run_fuse(FuseConfig config, CommandContext& context) {
  if (config.weights.size() != 2)
    throw UsageError(fmt::format("fusing: --weights: names {} encoder(s); name two", config.weights.size()));
  settle_device(config.model.device, context.world);
  OrderedJson json;
  json["schema"] = 1;
  int64_t width = 0;
  for (const std::string& weights : config.weights) {
    ModelOptions single = config.model;
    single.weights = weights;
    if (weights.starts_with("random:") || weights == "raw-pixels" || path_exists(weights + kFusedFile))
      throw UsageError(
          fmt::format("fusing: --weights {}: is no single encoder with weights of its own", weights));
    const auto extractor = make_extractor(single, 0);
    FeatureProtocol protocol;
    width += extractor->columns(protocol).width();
    json["encoders"].push_back({{"weights", std::filesystem::absolute(weights).lexically_normal().string()},
                                {"sha256", extractor->identity().weights}});
  }
  if (context.common.dry_run) return ExitCode::done;
  const auto lock = lock_output_folder(context, output_kind::none);
  on_root(context.world, [&] {
    write_file_atomically(context.common.output + kFusedFile, sealed_json(json_text(json, 1)));
  });
  if (!context.world.root()) return ExitCode::done;
  log::info(fmt::format("{}: {} numbers an image", context.common.output, width));
  context.result = json_line({{"output", context.common.output}, {"width", width}});
  return ExitCode::done;
}

}  // namespace

Command fuse_command() {
  Command command;
  command.name = "fuse";
  command.summary = "Make one encoder of two";
  command.usage = "--weights A B --output W";
  command.description =
      "W is a weights reference for every command of dino-eval: each encoder sees the picture at its own "
      "size with "
      "its own normalisation, the second's grid of tokens is resampled to the first's, and their tokens are "
      "put side "
      "by side, each part scaled to a root mean square of 1. W names both where they lie, with their "
      "digests, and "
      "holds no copy. Attention is the first's.";
  command.output = "Folder of the fused encoder.";
  command.examples = {{"--weights run ViT-B-32 --output fused"}};
  Schema<FuseConfig> schema;
  schema.section("model");
  schema.add("weights", &FuseConfig::weights, "Two weights references.").required();
  schema.add(&FuseConfig::model, backbone_options());
  command.make = with_options(std::move(schema), run_fuse);
  return command;
}

}  // namespace dino::eval
