// SPDX-License-Identifier: Apache-2.0
#pragma once
// The crops of a step where it computes: those that the loader made, or, on a GPU, made there of the pictures
// that the loader brought.

#include <unordered_map>
#include <vector>

#include "data_loader.hpp"
#include "ops/context.hpp"
#include "training/step.hpp"

namespace dino::pretrain {

class StepCrops {
 public:
  explicit StepCrops(const Context& context) : c_(context) {}
  /// Gives `batch` the crops of `set`, of a loader with these settings. They are valid until the next call,
  /// and what `set` holds as long as the loader says. Pictures go to a GPU by the context's transfer stream,
  /// beside what is left of the last step; operators wait for them.
  void give(const CropSet& set, const AugmentConfig& augment, StepBatch& batch);
  /// The same set with the crops last given on the host: itself where they are, else `buffer`.
  [[nodiscard]] const CropSet& on_host(const CropSet& set, CropSet& buffer) const;

 private:
  /// Crops of one size.
  struct Group {
    Tensor pictures, steps, crops;
  };
  void upload_pictures(const CropSet& set);
  void make(const std::vector<CropSource>& sources, const AugmentConfig& augment, int64_t size, Group& group);

  const Context& c_;
  Group global_, local_;
  Tensor pixels_;                                    ///< the pictures of the step, one behind the other
  std::unordered_map<const Image*, int64_t> first_;  ///< bytes of them
  Event made_;                                       ///< the crops: nothing reads the pictures any more
};

}  // namespace dino::pretrain
