// SPDX-License-Identifier: Apache-2.0
#include "inputs/compared_pair.hpp"

#include <algorithm>

#include "base/signals.hpp"
#include "base/working.hpp"
#include "vectors/embeddings.hpp"

namespace dino::eval {

Tensor unit_features(const FeatureSet& set) {
  const int64_t width = set.columns.width();
  Tensor out = Tensor::uninitialised({set.rows, width});
  std::copy_n(set.features.as<float>(), set.rows * width, out.as<float>());
  normalize_rows(out.as<float>(), set.rows, width);
  return out;
}

Card compared_card(const char* first_name, const FeatureSet& first, const char* second_name,
                   const FeatureSet& second) {
  const auto part = [](const FeatureSet& set) {
    return Card()
        .set("data", dataset_name(set.data))
        .set("images", set.rows)
        .set("keys", keys_hash(set.keys).substr(0, 16));
  };
  return Card()
      .set(first_name, part(first))
      .set(second_name, part(second))
      .set("features", first.protocol.card());
}

Plan compared_plan(const FeatureSet& asked) {
  Plan plan;
  plan.model = asked.model;
  plan.data = asked.data;
  return plan;
}

void in_pieces(const Communicator& world, Range mine, int64_t bank, const std::function<void(Range)>& work) {
  const int64_t piece = std::max<int64_t>(64, int64_t{10'000'000'000} / std::max<int64_t>(1, bank));
  for (int64_t begin = mine.begin; begin < mine.end && !stop_requested(); begin += piece) {
    work({begin, std::min(begin + piece, mine.end)});
    still_working();
  }
  if (world.any(stop_requested())) throw_stopped();
}

}  // namespace dino::eval
