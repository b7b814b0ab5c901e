// SPDX-License-Identifier: Apache-2.0
#pragma once
// The process that reads HDF5 files of unknown content for another one; see hdf5_remote.hpp for why.

namespace dino::h5 {

/// The word after the program's name that asks for it, and the descriptor of its socket.
inline constexpr const char* kServe = "--serve-hdf5";
inline constexpr int kControl = 0;

/// For main(), before anything else: whether this process was started to read files for another.
[[nodiscard]] bool serves_hdf5(int argc, char** argv);
/// Serves until the other side closes; the result is for main to return.
int serve_hdf5();

}  // namespace dino::h5
