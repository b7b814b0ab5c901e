// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <string_view>

namespace dino {

/// DINO_MPI=off: this process is the only one, and MPI is not started. For machines that have no MPI to
/// start, where a copied program finds its libraries alone.
[[nodiscard]] inline bool runs_without_mpi() {
  const char* text = std::getenv("DINO_MPI");
  return text != nullptr && std::string_view(text) == "off";
}

}  // namespace dino
