// SPDX-License-Identifier: Apache-2.0
#pragma once
// Options that several commands share.

#include "base/options.hpp"
#include "comm/program.hpp"
#include "inputs/extractor.hpp"
#include "inputs/feature_file.hpp"
#include "inputs/features.hpp"

namespace dino::eval {

/// --weights, --name, --which and backbone_options().
[[nodiscard]] Schema<ModelOptions> model_options();
/// What holds for every backbone of a command: --heads, --device, --precision.
[[nodiscard]] Schema<ModelOptions> backbone_options();
/// `size` says what --size is without the option.
[[nodiscard]] Schema<InputOptions> input_options(const std::string& size = "as the model was trained");
/// Which images are left out.
[[nodiscard]] Schema<FeatureProtocol> limit_options();
/// Input, tokens and batch of everything that extracts features.
void declare_extraction(Schema<FeaturesConfig>& schema);

/// The rows that a command added to RESULTS become its result.
ExitCode report_rows(CommandContext& context, const std::vector<std::string>& lines);

}  // namespace dino::eval
