// SPDX-License-Identifier: Apache-2.0
#include "comm/threads.hpp"

#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "base/log.hpp"
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

bool is_set(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr && *text != '\0';
}

/// Open MPI's mpirun binds each of one or two ranks to a single core where nobody asked for a binding.
bool bound_by_default() {
  if (!is_set("OMPI_MCA_orte_bound_at_launch")) return false;
  for (const char* asked :
       {"OMPI_MCA_hwloc_base_binding_policy", "OMPI_MCA_hwloc_base_cpu_set", "OMPI_MCA_hwloc_base_cpu_list",
        "OMPI_MCA_rmaps_base_mapping_policy", "OMPI_MCA_orte_rankfile", "OMPI_MCA_rmaps_rank_file_path"})
    if (is_set(asked)) return false;
  return true;
}

/// The launcher's daemon on this node, which has the cores of the job; 0 = none among the ancestors.
pid_t launcher() {
  pid_t pid = ::getppid();
  for (int generation = 0; pid > 1 && generation < 16; ++generation) {
    std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
    std::string line;
    if (!std::getline(stat, line)) return 0;
    const size_t open = line.find('('), close = line.rfind(')');
    if (open == std::string::npos || close == std::string::npos) return 0;
    const std::string name = line.substr(open + 1, close - open - 1);
    for (const char* known : {"mpirun", "mpiexec", "orterun", "orted"})
      if (name == known) return pid;
    pid = static_cast<pid_t>(std::atoi(line.c_str() + std::min(line.size(), close + 4)));
  }
  return 0;
}

/// Gives a rank that is bound by default the cores of its launcher, when it is to use more than it has.
void undo_default_binding(int64_t requested) {
  if (!bound_by_default()) return;
  cpu_set_t all;
  CPU_ZERO(&all);
  const pid_t daemon = launcher();
  if (daemon == 0 || sched_getaffinity(daemon, sizeof all, &all) != 0) return;
  const cpu_set_t mine = affinity();
  const char* local = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  const int ranks = local == nullptr ? 1 : std::max(1, std::atoi(local));
  int wanted = requested > 0 ? static_cast<int>(requested) : threads_from_environment();
  if (wanted == 0) wanted = CPU_COUNT(&all) / ranks;
  if (wanted <= CPU_COUNT(&mine) || CPU_COUNT(&all) <= CPU_COUNT(&mine)) return;
  if (sched_setaffinity(0, sizeof all, &all) != 0) return;
  log::info("mpirun bound this rank to " + std::to_string(CPU_COUNT(&mine)) +
            " core, its default; undone, since it uses more (--bind-to core keeps it)");
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
  undo_default_binding(requested);
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
