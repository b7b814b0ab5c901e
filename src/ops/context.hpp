// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a model computes with: passed to whatever computes, never global.

#include <memory>

#include "comm/collective.hpp"
#include "ops/observer.hpp"
#include "ops/ops.hpp"
#include "ops/precision.hpp"
#include "tensor/arena.hpp"

namespace dino {

struct Context {
  ops::Backend& ops;
  Stream& stream;    ///< operators, and the copies that they wait for
  Stream& transfer;  ///< copies beside them
  Collective& collective;
  Arena& arena;  ///< of `stream`
  Precision precision = Precision::f32;
  Observer* observer = nullptr;  ///< null: nobody looks

  /// Of activations and products.
  [[nodiscard]] DType act() const { return dtype_of(precision); }
  /// The same with another arena, for tensors of another life time.
  [[nodiscard]] Context with(Arena& other) const {
    return {ops, stream, transfer, collective, other, precision, observer};
  }
  void observe(const std::string& module, const char* tensor, ConstTensorView values,
               ObservedRows rows) const {
    if (observer != nullptr && values) observer->saw(stream, module, tensor, values, rows);
  }
};

/// The view itself where it has the dtype, else a copy in the arena.
[[nodiscard]] ConstTensorView in_dtype(const Context& c, ConstTensorView view, DType dtype);
/// The view itself where it is of the context's device, else a copy in the arena.
[[nodiscard]] ConstTensorView device_view(const Context& c, ConstTensorView view);
/// The view itself where it is the host's and the stream's work is done; else a copy in `buffer`. Complete
/// when the call returns.
[[nodiscard]] ConstTensorView host_view(const Context& c, ConstTensorView view, Tensor& buffer);

/// Owns the streams, the arena and the collective of one context on one device.
class Workplace {
 public:
  /// Collective over the communicator.
  Workplace(ops::Backend& backend, const Communicator& comm, Precision precision);
  /// With a collective of the caller's, for devices whose memory MPI cannot reach.
  Workplace(ops::Backend& backend, std::unique_ptr<Collective> collective, Precision precision);
  [[nodiscard]] Context& context() { return context_; }

 private:
  std::unique_ptr<Stream> stream_, transfer_;
  std::unique_ptr<Collective> collective_;
  Arena arena_;
  Context context_;
};

}  // namespace dino
