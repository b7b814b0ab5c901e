// SPDX-License-Identifier: Apache-2.0
#pragma once
// The machine and the command behind a number, for the provenance of results.

#include <cstdint>
#include <string>

namespace dino {

[[nodiscard]] std::string cpu_model();     ///< "model name" of /proc/cpuinfo; "unknown" where it has none
[[nodiscard]] int64_t cpu_cores();         ///< logical cores of this node that are online
[[nodiscard]] std::string command_line();  ///< of this process, quoted for a shell; empty where /proc is not

}  // namespace dino
