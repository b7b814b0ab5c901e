// SPDX-License-Identifier: Apache-2.0
#pragma once
// The backend of NVIDIA GPUs: products by cuBLASLt, all else by kernels of this folder. Each family of
// operators is a .cu file, its kernels first, its operators behind them.

#include "ops/overrides.hpp"
#include "tensor/cuda/device.hpp"

namespace dino::ops {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int device) : memory_(device) {}
  [[nodiscard]] const char* name() const override { return "cuda"; }
  [[nodiscard]] cuda::CudaMemory& memory() override { return memory_; }
  [[nodiscard]] std::unique_ptr<Stream> new_stream() override;
  /// Half of an A100's second-level cache; and enough for a product that all multiprocessors share.
  [[nodiscard]] BlockSizes block_sizes() const override {
    return {int64_t{20} << 20, int64_t{512} << 20, 256, 4096};
  }
  [[nodiscard]] std::unique_ptr<Collective> new_collective(const Communicator& comm) override;
  DINO_OPS_OVERRIDES;

 private:
  cuda::CudaMemory memory_;
};

/// Calls function(T{}) with the type of an act tensor's elements.
template <class Function>
void with_cuda_act(DType dtype, Function&& function) {
  if (dtype == DType::bf16)
    function(bf16{});
  else if (dtype == DType::f16)
    function(f16{});
  else
    function(float{});
}

}  // namespace dino::ops
