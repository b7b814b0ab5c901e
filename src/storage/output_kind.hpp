// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include <string>

namespace dino {

/// What the commands keep in an output folder of their own.
namespace output_kind {
inline constexpr std::string_view curation = "a curation", training = "a training run",
                                  results = "evaluation results", chain = "a chain",
                                  aligned = "an aligned text tower",
                                  none = "";  ///< files that belong to nothing else
}  // namespace output_kind

/// UsageError when `folder` holds what another kind of command keeps there: its files would get mixed with
/// these, or be replaced.
void refuse_other_output(const std::string& folder, std::string_view kind);

}  // namespace dino
