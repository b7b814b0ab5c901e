// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include "imaging/decode_options.hpp"

namespace dino::eval {

void add_model_options(OptionTable& table, ModelOptions& model) {
  table.section("model");
  table
      .add("weights", &model.weights,
           "Weights reference; random:<preset or weights> for fresh weights of the same shape; raw-pixels.")
      .required();
  table.add("name", &model.name, "The model's name in results (default: from the reference).");
  table.add("which", &model.which, "Network of a checkpoint that holds both.")
      .choices({"teacher", "student"});
  add_heads_option(table, model.heads);
  table.add("precision", &model.precision, "Arithmetic of the forward pass.")
      .choices({"auto", "fp32", "bf16"});
}

void add_heads_option(OptionTable& table, int64_t& heads) {
  table.add("heads", &heads, "Attention heads, where the weights do not tell (0: they do).").range(0, 1024);
}

void add_input_options(OptionTable& table, InputOptions& input, FeatureProtocol& protocol,
                       const std::string& size) {
  table.section("input");
  table.add("size", &input.size, "Side of the square input in pixels (auto: " + size + ", else 224).")
      .range(1, 8192);
  table
      .add("resize", &input.resize,
           "Shorter side before the central crop (0: as the model was trained, else size * 256 / 224; where "
           "it is padded: size).")
      .range(0, 16384);
  table.add("pad", &input.pad,
            "Pad to a square with the background colour instead of cropping (sprites, icons; auto: as the "
            "model was trained).");
  table.add("max-pixels", &protocol.max_pixels, "Leave out images above this many pixels.").range(1, 1e12);
  add_decode_memory(table, &protocol.decode_memory);
  table.add(
      "background", &input.background,
      "Colour R,G,B behind transparent pixels and padding; auto: white, or black behind what white would "
      "hide; model: as the model was trained, else auto.");
}

void check_input(const InputOptions& input, const FeatureProtocol& protocol) {
  if (input.background != "model") (void)parse_background(input.background);
  (void)parse_decode_memory(protocol.decode_memory);
}

void require_output(const CommandContext& context, const char* what) {
  if (context.common.output.empty())
    throw UsageError("reading options: --output: is missing; name the " + std::string(what));
}

}  // namespace dino::eval
