// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "imaging/decode_options.hpp"

namespace dino::eval {

namespace {

void declare_backbone(Schema<ModelOptions>& schema) {
  schema.add("heads", &ModelOptions::heads, "Attention heads, where the weights do not tell (0: they do).")
      .range(0, 1024);
  add_device(schema, &ModelOptions::device);
  schema.add("precision", &ModelOptions::precision, "Arithmetic of the forward pass; tf32 is a GPU's.");
}

}  // namespace

Schema<ModelOptions> model_options() {
  using C = ModelOptions;
  Schema<C> schema;
  schema.section("model");
  schema
      .add("weights", &C::weights,
           "Weights reference; random:<preset or weights> for fresh weights of the same shape; raw-pixels.")
      .required();
  schema.add("name", &C::name, "The model's name in results (default: from the reference).");
  schema.add("which", &C::which, "Network of a checkpoint that holds both.");
  declare_backbone(schema);
  return schema;
}

Schema<ModelOptions> backbone_options() {
  Schema<ModelOptions> schema;
  declare_backbone(schema);
  return schema;
}

Schema<InputOptions> input_options(const std::string& size) {
  using C = InputOptions;
  Schema<C> schema;
  schema.section("input");
  schema.add("size", &C::size, "Side of the square input in pixels (auto: " + size + ", else 224).")
      .range(1, 8192);
  schema
      .add("resize", &C::resize,
           "Shorter side before the central crop (0: as the model was trained, else size * 256 / 224; where "
           "it is padded: size).")
      .range(0, 16384);
  schema.add("pad", &C::pad,
             "Pad to a square with the background colour instead of cropping (sprites, icons; auto: as the "
             "model was trained).");
  schema.add(
      "background", &C::background,
      "Colour R,G,B behind transparent pixels and padding; auto: white, or black behind what white would "
      "hide; model: as the model was trained, else auto.");
  return schema;
}

Schema<FeatureProtocol> limit_options() {
  using C = FeatureProtocol;
  Schema<C> schema;
  schema.section("input");
  schema.add("max-pixels", &C::max_pixels, "Leave out images above this many pixels.").range(1, 1e12);
  add_decode_memory(schema, &C::decode_memory);
  return schema;
}

void declare_extraction(Schema<FeaturesConfig>& schema) {
  using C = FeaturesConfig;
  schema.add(&C::input, input_options()).add(&C::protocol, limit_options());
  schema.section("features");
  schema.add("tokens", &C::protocol, &FeatureProtocol::tokens, "Class tokens, mean patch token, or both.");
  schema.add("layers", &C::protocol, &FeatureProtocol::layers, "Class tokens of this many last blocks.")
      .range(1, 1000);
  schema.add("batch", &C::batch, "Images per forward pass.").range(1, 4096);
}

ExitCode report_rows(CommandContext& context, const std::vector<std::string>& lines) {
  context.result = fmt::format("{{\"results\":[{}]}}", fmt::join(lines, ","));
  return ExitCode::done;
}

}  // namespace dino::eval
