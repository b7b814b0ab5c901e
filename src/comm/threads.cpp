// SPDX-License-Identifier: Apache-2.0
#include "comm/threads.hpp"

#include <dlfcn.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "comm/mpi_check.hpp"

namespace dino {
namespace {

int remembered = 0;

int threads_from_environment() {
  const char* text = std::getenv("OMP_NUM_THREADS");  // "4", or "4,2" for nested regions
  return text == nullptr ? 0 : static_cast<int>(std::clamp(std::strtol(text, nullptr, 10), 0L, 4096L));
}

cpu_set_t affinity() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) CPU_SET(0, &mask);
  return mask;
}

/// Ranks of this node that may run on one of this rank's cores, this one included. A launcher that binds
/// gives each rank cores of its own (1); one that does not gives all the same cores.
int ranks_sharing(const cpu_set_t& mine, const Communicator& world) {
  if (world.size() == 1) return 1;
  MPI_Comm node = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split_type(world.handle(), MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
             "split_type");
  int ranks = 1;
  mpi::check(MPI_Comm_size(node, &ranks), "comm_size");
  std::vector<cpu_set_t> masks(static_cast<size_t>(ranks));
  mpi::check(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, masks.data(), sizeof mine, MPI_BYTE, node),
             "all_gather");
  mpi::check(MPI_Comm_free(&node), "comm_free");
  int sharing = 0;
  for (const cpu_set_t& other : masks) {
    cpu_set_t common;
    CPU_AND(&common, &mine, &other);
    sharing += CPU_COUNT(&common) > 0 ? 1 : 0;
  }
  return std::max(sharing, 1);
}

}  // namespace

int choose_threads(int64_t requested, const Communicator& world) {
  if (requested > 0) return static_cast<int>(requested);
  const cpu_set_t mask = affinity();
  const int sharing = ranks_sharing(mask, world);  // collective, so before a variable that may differ by node
  if (const int threads = threads_from_environment(); threads > 0) return threads;
  return std::max(1, CPU_COUNT(&mask) / sharing);
}

void set_threads(int threads) {
  remembered = threads;
  // Looked up at run time: comm does not link OpenMP, the programs that compute do.
  using Set = void (*)(int);
  for (const char* name : {"omp_set_num_threads", "openblas_set_num_threads"}) {
    if (const auto set = reinterpret_cast<Set>(dlsym(RTLD_DEFAULT, name)); set != nullptr) set(threads);
  }
}

int chosen_threads(int64_t requested) {
  if (requested > 0) return static_cast<int>(requested);
  if (remembered > 0) return remembered;
  return choose_threads(0, Communicator::self());
}

}  // namespace dino
