// SPDX-License-Identifier: Apache-2.0
#include "ops/context.hpp"

namespace dino {

ConstTensorView in_dtype(const Context& c, ConstTensorView view, DType dtype) {
  if (view.dtype == dtype) return view;
  const TensorView converted = c.arena.make(view.shape, dtype);
  c.ops.convert(c.stream, view, converted);
  return converted;
}

ConstTensorView device_view(const Context& c, ConstTensorView view) {
  if (!view || view.device == c.stream.device()) return view;
  const TensorView there = c.arena.make(view.shape, view.dtype);
  copy(c.stream, there, view);
  return there;
}

ConstTensorView host_view(const Context& c, ConstTensorView view, Tensor& buffer) {
  if (view.device.is_host()) {
    c.stream.synchronize();
    return view;
  }
  buffer = Tensor::uninitialised(view.shape, view.dtype);
  copy(c.stream, buffer, view);
  c.stream.synchronize();
  return buffer;
}

Workplace::Workplace(ops::Backend& backend, const Communicator& comm, Precision precision)
    : Workplace(backend, backend.new_collective(comm), precision) {}

Workplace::Workplace(ops::Backend& backend, std::unique_ptr<Collective> collective, Precision precision)
    : stream_(backend.new_stream()),
      transfer_(backend.new_stream()),
      collective_(std::move(collective)),
      arena_(backend.memory()),
      context_{backend, *stream_, *transfer_, *collective_, arena_, precision} {
  stream_->allow_tf32_products(precision == Precision::tf32);
}

}  // namespace dino
