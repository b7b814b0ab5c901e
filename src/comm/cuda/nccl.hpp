// SPDX-License-Identifier: Apache-2.0
#pragma once
// The few calls of NCCL that this project makes, without its types. nccl.cpp carries them out; the executor
// in tests/simt carries out the same calls over MPI. A failed call throws MpiError with NCCL's words. None
// of them blocks: what takes long is `working` until state() says otherwise, and until then nothing else is
// asked of that group. One thread makes all calls, on all ranks in the same order.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "comm/communicator.hpp"
#include "tensor/cuda/device.hpp"

namespace dino::cuda::nccl {

/// A group of ranks, each with a GPU of its own.
using GroupHandle = struct GroupTag*;

/// Whether the build has NCCL and it can be used; else `why` says why not.
[[nodiscard]] bool available(std::string& why);

/// Names a group that begins; made by one rank and brought to the others.
using UniqueId = std::array<std::byte, 128>;
[[nodiscard]] UniqueId unique_id();

/// Begins a group of the communicator's ranks, in their order, each with the GPU that its thread uses.
[[nodiscard]] GroupHandle begin_group(const Communicator& comm, const UniqueId& id);
/// The same among the ranks of `part`, which comes from a split of the group's communicator by `colour`
/// (>= 0).
[[nodiscard]] GroupHandle begin_part(GroupHandle group, const Communicator& part, int colour);

enum class State : uint8_t { working, ready, failed };
/// Of the group's last call and of what is under way; `why` receives what failed.
[[nodiscard]] State state(GroupHandle group, std::string& why);
/// Nothing is under way. On all ranks of the group.
void end_group(GroupHandle group) noexcept;
/// Whatever is under way ends, done or not: kernels of collectives stop waiting for ranks that are gone.
void abort_group(GroupHandle group) noexcept;

// All of it is enqueued on the stream. Addresses are of the GPU; sizes are the same on all ranks.

/// `all` has a part of `part_bytes` for each rank, this rank's at its place; afterwards every rank has all.
void all_gather(GroupHandle group, StreamHandle stream, void* all, size_t part_bytes);
/// Rank r gets `bytes` bytes from send + r * send_stride; what rank r sends here goes to receive + r * bytes.
/// What a rank would send to itself need not arrive.
void all_to_all(GroupHandle group, StreamHandle stream, const void* send, size_t send_stride, void* receive,
                size_t bytes);
/// In place. Only what does not depend on the order: minima and maxima of f32, f64 and i64, sums of i64.
void all_reduce(GroupHandle group, StreamHandle stream, void* values, size_t count, DType dtype, ReduceOp op);

/// "NCCL 2.28.9", or why there is none.
[[nodiscard]] std::string describe();

}  // namespace dino::cuda::nccl
