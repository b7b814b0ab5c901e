// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

namespace dino {

[[nodiscard]] const char* version();     ///< "0.1.0"
[[nodiscard]] const char* commit();      ///< short git hash of the build, or "unknown"
[[nodiscard]] const char* build_type();  ///< CMake build type
/// The folder that holds recipes/, datasets/ and report assets: $DINO_SHARE, else <prefix>/share/dinohpc
/// beside the running program's bin/, else the source tree's share/.
[[nodiscard]] std::string share_dir();

}  // namespace dino
