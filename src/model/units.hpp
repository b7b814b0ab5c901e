// SPDX-License-Identifier: Apache-2.0
#pragma once
// How a model's passes reach parameters: unit by unit, through handles. Who keeps the values, whole or in
// shards over many ranks, is not the model's business: a ParameterStore lends what it has, parallel/ gathers
// a unit when it is asked for and reduces a gradient when it is finished.

#include <cstdint>
#include <string>
#include <utility>

#include "tensor/tensor.hpp"

namespace dino {

class ParameterLayout;

/// Where a parameter lies in its unit; a default one stands for a parameter that the model does not have.
struct ParameterPlace {
  int64_t offset = -1;
  Shape shape;
  [[nodiscard]] bool present() const { return offset >= 0; }
};
/// Of the layout's parameter of this name; not present when there is none.
[[nodiscard]] ParameterPlace place_of(const ParameterLayout& layout, const std::string& name);

/// Who lends a unit's values.
class UnitLender {
 public:
  /// One handle less on the unit.
  virtual void release(int64_t unit) = 0;

 protected:
  ~UnitLender() = default;
};

/// The values of one unit, there until the handle goes. Handles of one unit nest.
class UnitView {
 public:
  UnitView() = default;
  /// `values` f32 [padded]; a lender of nullptr wants no word when the handle goes.
  UnitView(ConstTensorView values, UnitLender* lender, int64_t unit)
      : values_(values), lender_(lender), unit_(unit) {}
  UnitView(UnitView&& other) noexcept
      : values_(std::exchange(other.values_, {})),
        lender_(std::exchange(other.lender_, nullptr)),
        unit_(other.unit_) {}
  UnitView& operator=(UnitView&& other) noexcept {
    std::swap(values_, other.values_);
    std::swap(lender_, other.lender_);
    std::swap(unit_, other.unit_);
    return *this;
  }
  UnitView(const UnitView&) = delete;
  UnitView& operator=(const UnitView&) = delete;
  ~UnitView() {
    if (lender_ != nullptr) lender_->release(unit_);
  }
  /// f32; empty for a parameter that the model does not have.
  [[nodiscard]] ConstTensorView operator()(const ParameterPlace& place) const {
    if (!place.present()) return {};
    return values_.rows(place.offset, place.shape.numel()).reshaped(place.shape);
  }

 private:
  ConstTensorView values_;
  UnitLender* lender_ = nullptr;
  int64_t unit_ = 0;
};

/// A model's parameters.
class UnitWeights {
 public:
  virtual ~UnitWeights() = default;
  [[nodiscard]] virtual const ParameterLayout& layout() const = 0;
  /// The unit will be asked for soon.
  virtual void prefetch(int64_t unit) const = 0;
  [[nodiscard]] virtual UnitView acquire(int64_t unit) const = 0;
};

/// The gradient of one unit, added to by one pass; valid until it is finished.
class UnitGradient {
 public:
  explicit UnitGradient(TensorView values) : values_(values) {}
  /// Of all parameters of the unit.
  [[nodiscard]] ConstTensorView values() const { return values_; }
  /// f32; empty for a parameter that the model does not have.
  [[nodiscard]] TensorView operator()(const ParameterPlace& place) const {
    if (!place.present()) return {};
    return values_.rows(place.offset, place.shape.numel()).reshaped(place.shape);
  }

 private:
  TensorView values_;
};

/// Where a backward pass leaves its gradients.
class UnitGradients {
 public:
  virtual ~UnitGradients() = default;
  [[nodiscard]] virtual UnitGradient gradient(int64_t unit) = 0;
  /// The pass adds nothing more: a reduction over ranks may start.
  virtual void finish_gradient(int64_t unit) = 0;
};

}  // namespace dino
