// SPDX-License-Identifier: Apache-2.0
#pragma once
// Options that several commands share.

#include "base/options.hpp"
#include "comm/program.hpp"
#include "extractor.hpp"
#include "feature_file.hpp"

namespace dino::eval {

void add_model_options(OptionTable& table, ModelOptions& model);
/// --heads, part of add_model_options.
void add_heads_option(OptionTable& table, int64_t& heads);
/// `size` says what --size is without the option.
void add_input_options(OptionTable& table, InputOptions& input, FeatureProtocol& protocol,
                       const std::string& size = "as the model was trained");
/// UsageError where --background or --decode-memory cannot be read.
void check_input(const InputOptions& input, const FeatureProtocol& protocol);

/// UsageError when --output is missing.
void require_output(const CommandContext& context, const char* what);

}  // namespace dino::eval
