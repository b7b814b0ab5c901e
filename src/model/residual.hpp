// SPDX-License-Identifier: Apache-2.0
#pragma once
// The residual stream that the branches of a transformer's blocks read and add to.

#include "ops/context.hpp"

namespace dino {

/// Tokens f32 [rows, D] on their way through the blocks. What a branch over all rows adds stays pending until
/// somebody needs the sum, so that the norm before the next branch adds it on the way
/// (ops::Backend::residual_layer_norm); the bits are those of adding at once.
class Residual {
 public:
  /// Branches add in place, and at once.
  explicit Residual(TensorView tokens) : x_(tokens) {}
  /// What a branch over all rows read stays as it is and where it is: the sum goes to a new tensor of the
  /// arena. Outputs of branches live as long as the tokens.
  [[nodiscard]] static Residual keeping_inputs(TensorView tokens);
  /// In place, but later. `out` act [rows, D] is where such branches leave their outputs, which are read when
  /// the next branch begins; empty: theirs live until then.
  [[nodiscard]] static Residual deferring(TensorView tokens, TensorView out);

  /// The sum of all so far; made if need be.
  [[nodiscard]] TensorView settled(const Context& c);
  /// Where a branch over all rows leaves its output; empty: in a tensor of its own.
  [[nodiscard]] TensorView out() const { return out_; }
  /// Where the sum that a branch over all rows reads will stand.
  [[nodiscard]] TensorView next(const Context& c) const;
  /// Layer norm with these parameters of the sum, which `to` = next() gets; y, mean, rstd as in layer_norm.
  void enter(const Context& c, ConstTensorView gamma, ConstTensorView beta, float eps, TensorView to,
             TensorView y, TensorView mean, TensorView rstd);
  /// x += layer_scale * out, for all rows.
  void add(const Context& c, ConstTensorView out, ConstTensorView layer_scale);
  /// The layer scale that is pending is of a unit that goes: it is copied to `to` f32 [D].
  void detach(const Context& c, TensorView to);

 private:
  TensorView x_, out_;
  bool keeps_ = false, defers_ = false;
  bool held_ = false;  ///< a branch read x_, which must not change any more; then something is pending
  ConstTensorView branch_, layer_scale_;  ///< pending
};

}  // namespace dino
