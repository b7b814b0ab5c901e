// SPDX-License-Identifier: Apache-2.0
#pragma once
// The executor's GPU: its memory and its queues, as the stand-ins of the wrappers see them.

#include <cstdint>
#include <functional>

#include "mapped/memory.hpp"
#include "tensor/cuda/runtime.hpp"

namespace dino::simt {

/// What views carry has no access; kernels, copies and collectives open it.
[[nodiscard]] testing::MappedMemory& device_memory();

/// Work of a stream runs as late as events and synchronisation allow. With another seed than 0, some of it
/// runs earlier, in an order that the seed draws: any of these is right for a GPU. Without a call the seed is
/// DINO_SIMT_SEED, or 0.
void set_order(uint64_t seed);

/// The stream runs it when its turn comes.
void enqueue(cuda::StreamHandle stream, std::function<void()> work);
/// Runs all that is enqueued on the stream, and what that waits for.
void run_all(cuda::StreamHandle stream);

}  // namespace dino::simt
