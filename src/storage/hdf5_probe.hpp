// SPDX-License-Identifier: Apache-2.0
#pragma once
// The HDF5 library (1.10.8) can crash, loop or corrupt its memory on a file whose metadata were damaged in
// place. So a file of unknown checksum is first read by another process, whose crash is only a message here.
//
// Why a process of its own that is started with posix_spawn, and not a fork of this one: this one may have
// pages registered with a network adapter, which a fork can tear away from the parent on older kernels, other
// threads that hold locks (OpenMP, MPI's progress), and gigabytes of page tables to copy. The spawned process
// is this program's own executable, so that it cannot be missing or of another version; it never gets as far
// as MPI_Init, has one thread, and forks a child per file, in about a millisecond. It ends when this process
// does, because its socket closes.

#include <string>

namespace dino::h5 {

/// DataError that names the file and the cause if reading it crashes the library or takes it beyond the
/// limits of time or memory. Each state of a file (device, inode, size, time of change) is probed once.
/// Faults that the library reports itself are left to the reader. Call it under a Lock.
void probe(const std::string& path);

/// For main(), before anything else: whether this process was started to read files for another.
[[nodiscard]] bool probe_asked(int argc, char** argv);
/// Serves until the other side closes; the result is for main to return.
int serve_probes();

}  // namespace dino::h5
