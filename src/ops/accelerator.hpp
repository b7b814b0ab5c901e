// SPDX-License-Identifier: Apache-2.0
#pragma once
// The GPU of this process, in builds that have GPU code and in builds that have none: exactly one of
// ops/cuda/accelerator.cpp and ops/no_cuda/accelerator.cpp is linked (cmake/cuda.cmake).

#include <memory>
#include <string>

#include "ops/ops.hpp"

namespace dino::ops {

/// Which of its GPUs this process uses: its rank on the machine, modulo the number of GPUs. To be called
/// before the first backends(); GPU 0 without.
void choose_gpu(int rank_on_this_machine);
/// The backend of that GPU; null where the build or the machine has none.
[[nodiscard]] Backend* gpu_backend();
/// Why gpu_backend() is null: "this build has no GPU code (preset cuda)", "no NVIDIA driver".
[[nodiscard]] std::string why_no_gpu();
/// Bytes of its memory; 0 without one.
[[nodiscard]] int64_t gpu_memory();
/// Of them what is used now, by whatever uses that GPU; 0 without one.
[[nodiscard]] int64_t gpu_memory_used();
/// Of a process that has one: "GPU 0 (NVIDIA H100 80GB HBM3; driver for CUDA 13.0, runtime 13.0)".
[[nodiscard]] std::string describe_gpu();
/// GPUs that this process sees, whichever it uses.
[[nodiscard]] int gpu_count();
struct GpuFacts {
  std::string name;
  std::string capability;  ///< "9.0"
  std::string versions;    ///< of driver and runtime
  int64_t memory_bytes = 0;
};
[[nodiscard]] GpuFacts gpu_facts(int index);
/// A backend of any of them, for who looks at all. The one of this process is gpu_backend()'s.
[[nodiscard]] std::unique_ptr<Backend> new_gpu_backend(int index);
/// For --version: "cuBLASLt 13.1, NCCL 2.28"; empty in a build without GPU code.
[[nodiscard]] std::string describe_gpu_libraries();

}  // namespace dino::ops
