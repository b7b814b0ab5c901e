// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "ops/cpu/cpu_backend.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {

std::span<Backend* const> backends() {
  static CpuBackend cpu;
  static ReferenceBackend reference;
  static const std::array<Backend*, 2> all{&cpu, &reference};
  return all;
}

Backend& backend_named(std::string_view name) {
  for (Backend* backend : backends())
    if (name == backend->name()) return *backend;
  DINO_CHECK(false, "no backend is named " + std::string(name));
  return *backends().front();
}

}  // namespace dino::ops
