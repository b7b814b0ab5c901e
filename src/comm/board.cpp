// SPDX-License-Identifier: Apache-2.0
#include "comm/board.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>

#include "base/timing.hpp"
#include "comm/mpi_check.hpp"

namespace dino {
namespace {

/// Written by one rank. A reader may meet a row that is half-way between two states; it is read
/// again until the version is even and stays the same.
struct Row {
  std::atomic<uint32_t> version;
  std::atomic<int32_t> left, stop;
  int32_t rank, pid;
  uint64_t processes;  ///< the namespace in which `pid` means something
  int64_t since_ms, beat_ms;
  char phase[48], operation[32], detail[256];
};

struct Board {
  Row* rows = nullptr;
  int mine = 0, count = 0;
  bool sees_processes = false;  ///< false across process-id namespaces
};

/// Set once by the main thread and read by the watching one; never freed, since that outlives everything.
std::atomic<const Board*> opened{nullptr};

Board board() {
  const Board* b = opened.load();
  return b == nullptr ? Board{} : *b;
}

/// Containers may give every rank process ids of its own.
uint64_t process_namespace() {
  struct stat status {};
  return ::stat("/proc/self/ns/pid", &status) == 0 ? static_cast<uint64_t>(status.st_ino) : 0;
}

bool alive(int pid) {
  return ::kill(pid, 0) == 0 || errno != ESRCH;
}

void copy_text(char* to, size_t size, std::string_view text) {
  const size_t n = std::min(text.size(), size - 1);
  std::memcpy(to, text.data(), n);
  to[n] = '\0';
}

/// The rows of this node in memory that all its ranks map; null where that fails on any of them.
Row* map_rows(MPI_Comm node, int rank, int count) {
  char name[64] = "";
  const size_t bytes = sizeof(Row) * static_cast<size_t>(count);
  int fd = -1;
  if (rank == 0) {
    copy_text(name, sizeof name, fmt::format("/dino-{}-{:x}", ::getpid(), steady_ms()));
    fd = ::shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0 && ::ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
      ::close(fd);
      fd = -1;
    }
  }
  mpi::check(MPI_Bcast(name, sizeof name, MPI_CHAR, 0, node), "broadcast");
  if (rank != 0) fd = ::shm_open(name, O_RDWR | O_CLOEXEC, 0600);
  void* memory = fd < 0 ? MAP_FAILED : ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (fd >= 0) ::close(fd);
  int mapped = memory != MAP_FAILED ? 1 : 0;
  mpi::check(MPI_Allreduce(MPI_IN_PLACE, &mapped, 1, MPI_INT, MPI_MIN, node), "all_reduce");
  if (rank == 0) ::shm_unlink(name);  // the mappings stay; a killed job leaves no name behind
  return mapped != 0 ? static_cast<Row*>(memory) : nullptr;
}

Whereabouts read_row(const Row& row, bool sees_processes) {
  Row copy{};
  for (int attempt = 0; attempt < 100; ++attempt) {
    const uint32_t before = row.version.load();
    copy.rank = row.rank, copy.pid = row.pid, copy.since_ms = row.since_ms, copy.beat_ms = row.beat_ms;
    std::memcpy(copy.phase, row.phase, sizeof copy.phase);
    std::memcpy(copy.operation, row.operation, sizeof copy.operation);
    std::memcpy(copy.detail, row.detail, sizeof copy.detail);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (before % 2 == 0 && row.version.load() == before) break;
  }
  Whereabouts w;
  w.rank = copy.rank;
  w.phase.assign(copy.phase, ::strnlen(copy.phase, sizeof copy.phase));
  w.operation.assign(copy.operation, ::strnlen(copy.operation, sizeof copy.operation));
  w.detail.assign(copy.detail, ::strnlen(copy.detail, sizeof copy.detail));
  const int64_t now = steady_ms();
  w.operation_seconds = static_cast<double>(now - copy.since_ms) / 1000.0;
  w.silent_seconds = static_cast<double>(now - copy.beat_ms) / 1000.0;
  w.left = row.left.load() != 0;
  w.dead = sees_processes && !w.left && !alive(copy.pid);
  return w;
}

}  // namespace

void open_board(const Communicator& world) {
  if (world.size() == 1) return;
  MPI_Comm node = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split_type(world.handle(), MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
             "split_type");
  Board fresh;
  mpi::check(MPI_Comm_rank(node, &fresh.mine), "comm_rank");
  mpi::check(MPI_Comm_size(node, &fresh.count), "comm_size");
  fresh.rows = map_rows(node, fresh.mine, fresh.count);
  if (fresh.rows != nullptr) {
    Row& row = fresh.rows[fresh.mine];
    row.rank = world.rank();
    row.pid = ::getpid();
    row.processes = process_namespace();
    row.since_ms = row.beat_ms = steady_ms();
  }
  mpi::check(MPI_Barrier(node), "barrier");
  if (fresh.rows != nullptr) {
    fresh.sees_processes = true;
    for (int i = 0; i < fresh.count; ++i)
      fresh.sees_processes = fresh.sees_processes && fresh.rows[i].processes == process_namespace();
  }
  mpi::check(MPI_Comm_free(&node), "comm_free");
  opened = new Board(fresh);
}

void write_board(const char* phase, const char* operation, const std::string& detail, int64_t since_ms) {
  const Board b = board();
  if (b.rows == nullptr) return;
  static std::mutex one_writer;
  const std::lock_guard lock(one_writer);
  Row& row = b.rows[b.mine];
  row.version.fetch_add(1);
  row.since_ms = since_ms;
  row.beat_ms = steady_ms();
  copy_text(row.phase, sizeof row.phase, phase);
  copy_text(row.operation, sizeof row.operation, operation == nullptr ? "" : operation);
  copy_text(row.detail, sizeof row.detail, detail);
  row.version.fetch_add(1);
}

bool share_stop_request(bool mine) {
  const Board b = board();
  if (b.rows == nullptr) return mine;
  // One word for the whole node, in the first row.
  if (mine) b.rows[0].stop = 1;
  return mine || b.rows[0].stop.load() != 0;
}

void leave_board() {
  const Board b = board();
  if (b.rows != nullptr) b.rows[b.mine].left = 1;
}

std::vector<Whereabouts> read_board() {
  const Board b = board();
  std::vector<Whereabouts> others;
  for (int i = 1; b.rows != nullptr && i < b.count; ++i)
    others.push_back(read_row(b.rows[(b.mine + i) % b.count], b.sees_processes));
  return others;
}

std::vector<Whereabouts> dead_neighbours() {
  const Board b = board();
  std::vector<Whereabouts> dead;
  for (int i = 1; b.rows != nullptr && b.sees_processes && i < b.count; ++i) {
    Whereabouts next = read_row(b.rows[(b.mine + i) % b.count], true);
    if (!next.dead) break;
    dead.push_back(std::move(next));
  }
  return dead;
}

}  // namespace dino
