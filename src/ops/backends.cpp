// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "ops/accelerator.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {

std::span<Backend* const> backends() {
  static CpuBackend cpu;
  static ReferenceBackend reference;
  static const std::vector<Backend*> all = [] {
    std::vector<Backend*> list{&cpu};
    if (Backend* gpu = gpu_backend()) list.push_back(gpu);
    list.push_back(&reference);
    return list;
  }();
  return all;
}

std::unique_ptr<Collective> Backend::new_collective(const Communicator& comm) {
  return make_mpi_collective(comm);
}

Backend& backend_named(std::string_view name) {
  for (Backend* backend : backends())
    if (name == backend->name()) return *backend;
  DINO_CHECK(false, "no backend is named " + std::string(name));
  return *backends().front();
}

}  // namespace dino::ops
