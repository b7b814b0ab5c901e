// SPDX-License-Identifier: Apache-2.0
#pragma once
// The crops of a step where it computes: those that the loader made, or, on a GPU, made there of the pictures
// that the loader brought.

#include <array>
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
  /// Pictures of the set that is given next, sent beside the step that computes (StepBatch::meanwhile); what
  /// was not sent so, give() sends.
  void send(const CropSet& set);
  /// Of the device: pictures of two steps, and the crops.
  [[nodiscard]] int64_t bytes() const;
  /// The same set with the crops last given on the host: itself where they are, else `buffer`.
  [[nodiscard]] const CropSet& on_host(const CropSet& set, CropSet& buffer) const;

 private:
  /// Where crops of one size come from.
  struct Sources {
    Tensor pictures, steps;
  };
  /// What is sent of one step. There are two: one is filled while the crops of the other are made and used.
  struct Place {
    int64_t step = -1;  ///< -1: free
    Tensor pixels;      ///< the pictures, one behind the other
    Sources global, local;
    Event sent;
    Event made;  ///< the crops: nothing reads the pictures any more
  };
  using FirstBytes = std::unordered_map<const Image*, int64_t>;
  [[nodiscard]] FirstBytes send_pictures(const CropSet& set, Tensor& pixels);
  void send_sources(const std::vector<CropSource>& sources, const FirstBytes& first, Sources& to);
  void make(const Place& place, const Sources& sources, const AugmentConfig& augment, int64_t size,
            Tensor& crops);

  const Context& c_;
  std::array<Place, 2> places_;
  size_t next_ = 0;
  Tensor global_, local_;  ///< crops
};

/// What is ready of the next step.
void send_upcoming(DataLoader& loader, StepCrops& crops);

}  // namespace dino::pretrain
