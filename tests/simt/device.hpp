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

/// What work takes by the clock of the executor's GPU, on which streams run beside one another and nothing
/// else takes time: a timed event is passed when all before it has run.
struct Pace {
  double launch = 2e-6, thread = 1e-9;          ///< seconds of a kernel, and of each of its threads
  double copy = 2e-6, byte = 1e-11;             ///< of a copy, a fill or a product, and of each of its bytes
  double message = 1e-5, message_byte = 1e-10;  ///< of a collective
};
void set_pace(const Pace& wanted);
[[nodiscard]] const Pace& pace();

/// The stream runs it when its turn comes; it takes so many seconds of the GPU's clock.
void enqueue(cuda::StreamHandle stream, std::function<void()> work, double seconds);
/// Runs all that is enqueued on the stream, and what that waits for.
void run_all(cuda::StreamHandle stream);

}  // namespace dino::simt
