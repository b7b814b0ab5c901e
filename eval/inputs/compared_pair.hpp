// SPDX-License-Identifier: Apache-2.0
#pragma once
// Two feature files whose rows are compared with each other.

#include <functional>

#include "task.hpp"

namespace dino::eval {

/// All columns of all rows, L2-normalised: f32 [rows, width].
[[nodiscard]] Tensor unit_features(const FeatureSet& set);

/// The part of the card that describes both data sets and the features.
[[nodiscard]] Card compared_card(const char* first_name, const FeatureSet& first, const char* second_name,
                                 const FeatureSet& second);
/// The numbers speak of the rows of `asked`.
[[nodiscard]] Plan compared_plan(const FeatureSet& asked);

/// Calls `work` with pieces of `mine` that take a few seconds each (`bank` elements are multiplied with every
/// row), and stops between them where that is asked for. Collective: all ranks stop together.
void in_pieces(const Communicator& world, Range mine, int64_t bank, const std::function<void(Range)>& work);

}  // namespace dino::eval
