// SPDX-License-Identifier: Apache-2.0
#pragma once
// Collectives among GPUs.

#include <memory>
#include <string>

#include "comm/collective.hpp"
#include "tensor/cuda/device.hpp"

namespace dino::cuda {

/// Over NCCL, bootstrapped over MPI, on a stream of its own; where two ranks share a GPU, or NCCL is not in
/// the build, staged through the host and MPI, which is said once. Collective. The memory outlives it.
[[nodiscard]] std::unique_ptr<Collective> make_nccl_collective(const Communicator& comm, CudaMemory& memory);

/// For --version: "NCCL 2.28.9".
[[nodiscard]] std::string describe_nccl();

}  // namespace dino::cuda
