// SPDX-License-Identifier: Apache-2.0
#include "ops/accelerator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "comm/cuda/nccl_collective.hpp"
#include "ops/cuda/blas.hpp"
#include "ops/cuda/cuda_backend.hpp"

namespace dino::ops {
namespace {

int chosen_rank = 0;

}  // namespace

void choose_gpu(int rank_on_this_machine) {
  chosen_rank = rank_on_this_machine;
}

Backend* gpu_backend() {
  static const std::unique_ptr<CudaBackend> backend = [] {
    const int count = cuda::device_count();
    return count == 0 ? nullptr : std::make_unique<CudaBackend>(chosen_rank % count);
  }();
  return backend.get();
}

std::string why_no_gpu() {
  std::string why;
  return cuda::device_count(&why) == 0 ? why : "";
}

int64_t gpu_memory() {
  Backend* const gpu = gpu_backend();
  return gpu == nullptr ? 0 : cuda::facts(gpu->memory().device().index).memory_bytes;
}

std::string describe_gpu() {
  Backend* const gpu = gpu_backend();
  if (gpu == nullptr) return "";
  const int index = gpu->memory().device().index;
  const cuda::DeviceFacts facts = cuda::facts(index);
  return fmt::format("GPU {} ({}; {})", index, facts.name, facts.versions);
}

std::string describe_gpu_libraries() {
  return cuda::describe_blas() + ", " + cuda::describe_nccl();
}

std::unique_ptr<Stream> CudaBackend::new_stream() {
  return std::make_unique<cuda::CudaStream>(memory_);
}

std::unique_ptr<Collective> CudaBackend::new_collective(const Communicator& comm) {
  return cuda::make_nccl_collective(comm, memory_);
}

}  // namespace dino::ops
