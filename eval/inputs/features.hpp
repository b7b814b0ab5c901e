// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "comm/communicator.hpp"
#include "inputs/extractor.hpp"
#include "inputs/prepared_images.hpp"

namespace dino::eval {

struct FeaturesConfig {
  ModelOptions model;
  std::string data;
  InputOptions input;
  FeatureProtocol protocol;  ///< size, resize, pad and background are settled by `input` and the weights
  bool store_patches = false;
  int64_t batch = 32;  ///< images per forward pass; results do not depend on it beyond rounding
  int64_t seed = 0;
  std::shared_ptr<PreparedImages> prepared;  ///< of several models on the same images; may be empty
};

struct FeaturesOutcome {
  bool stopped = false;
  int64_t rows = 0, skipped = 0;
  ModelIdentity model;
};

/// Collective. Batches are fixed by the order of the records and dealt to the ranks in turn, a faulty image
/// keeps its place as zeros until its row is left out: so every batch holds the same images for any number of
/// ranks, and the file has the same bytes.
FeaturesOutcome write_features(const Communicator& world, FeaturesConfig config, const std::string& output);

/// True when the record's group falls into the wanted split.
[[nodiscard]] bool in_split(const Record& record, Split split, double test_fraction);
/// Uniform in [0, 1) from a text, the same everywhere: the hash that splits use.
[[nodiscard]] double unit_hash(const std::string& text);

}  // namespace dino::eval
