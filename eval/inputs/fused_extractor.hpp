// SPDX-License-Identifier: Apache-2.0
#pragma once
// Two encoders as one: each sees the picture at its own size with its own normalisation; the second's grid is
// resampled to the first's (bilinear), and tokens are put side by side. Each part of a token is scaled to a
// root mean square of 1, so that the lengths of one encoder's tokens do not drown the other's.

#include <memory>
#include <string>

#include "inputs/extractor.hpp"

namespace dino::eval {

constexpr const char* kFusedFile = "/fused.json";

/// Of a folder with fused.json, which names the two. DataError where it is damaged, or an encoder is not what
/// it was; else as make_extractor.
[[nodiscard]] std::unique_ptr<Extractor> make_fused_extractor(const ModelOptions& options, uint64_t seed);

}  // namespace dino::eval
