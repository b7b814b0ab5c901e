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

int64_t gpu_memory_used() {
  Backend* const gpu = gpu_backend();
  if (gpu == nullptr) return 0;
  cuda::use_device(gpu->memory().device().index);
  return cuda::used_bytes();
}

std::string describe_gpu() {
  Backend* const gpu = gpu_backend();
  if (gpu == nullptr) return "";
  const int index = gpu->memory().device().index;
  const cuda::DeviceFacts facts = cuda::facts(index);
  return fmt::format("GPU {} ({}; {})", index, facts.name, facts.versions);
}

int gpu_count() {
  return cuda::device_count();
}

GpuFacts gpu_facts(int index) {
  const cuda::DeviceFacts facts = cuda::facts(index);
  return {facts.name, fmt::format("{}.{}", facts.major, facts.minor), facts.versions, facts.memory_bytes};
}

std::unique_ptr<Backend> new_gpu_backend(int index) {
  return std::make_unique<CudaBackend>(index);
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
