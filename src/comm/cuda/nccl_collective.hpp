// SPDX-License-Identifier: Apache-2.0
#pragma once
// Collectives among GPUs.

#include <memory>
#include <string>

#include "comm/collective.hpp"
#include "tensor/cuda/device.hpp"

namespace dino::cuda {

/// Over NCCL, bootstrapped over MPI, on a stream of its own, which what is split off shares. Where two ranks
/// share a GPU, NCCL is not in the build, or DINO_NCCL=off says so, staged through the host and MPI, which is
/// logged. Collective. The memory outlives it.
///
/// Sums of floats keep the contract of comm/collective.hpp to the bit, the same as over MPI: NCCL moves each
/// rank's numbers to the rank that sums them (grouped sends and receives), a kernel adds them in rank order
/// in f64 and rounds once, and of all_reduce the sums are gathered. A ring moves as many bytes, and rounds at
/// every hop in an order that hangs on NCCL's choice of rings.
///
/// An operation that a stream waits for costs the host nothing: use() counts as waiting what the host itself
/// has waited for, and, told by its clock (Stream::clock), how long a stream stood still.
[[nodiscard]] std::unique_ptr<Collective> make_nccl_collective(const Communicator& comm, CudaMemory& memory);

/// Staged through the host: for tensors of `memory`, over a collective of the host's. The host waits in each
/// operation until its stream has come to it.
[[nodiscard]] std::unique_ptr<Collective> make_staged_collective(std::unique_ptr<Collective> host,
                                                                 CudaMemory& memory);

/// For --version: "NCCL 2.28.9".
[[nodiscard]] std::string describe_nccl();

}  // namespace dino::cuda
