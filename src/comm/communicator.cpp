// SPDX-License-Identifier: Apache-2.0
#include "comm/communicator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <climits>
#include <exception>
#include <utility>

#include "base/error.hpp"
#include "comm/mpi_check.hpp"
#include "comm/ordered_sum.hpp"
#include "comm/watchdog.hpp"

namespace dino {
namespace {

using mpi::check;
using mpi::ControlScope;
using mpi::in_chunks;
using mpi::kSmallSumBytes;
using mpi::kSumBufferBytes;
using mpi::message_bytes;
using mpi::operation_of;
using mpi::sum_in_rank_order;

int64_t message_limit = int64_t{1} << 30;
/// Of the main thread, the only one that calls MPI.
OperationUse control;

bool mpi_running() {
  int initialised = 0;
  int finalised = 0;
  MPI_Initialized(&initialised);
  MPI_Finalized(&finalised);
  return initialised != 0 && finalised == 0;
}

template <class T>
void plain_all_reduce(MPI_Comm comm, std::span<T> values, MPI_Datatype type, MPI_Op op) {
  in_chunks(static_cast<int64_t>(values.size()), sizeof(T), [&](int64_t begin, int count) {
    const ControlScope scope("all_reduce", count * static_cast<int64_t>(sizeof(T)));
    check(MPI_Allreduce(MPI_IN_PLACE, values.data() + begin, count, type, op, comm), "all_reduce");
  });
}

/// Sends piece r of `values` (ranks * piece elements) to rank r; sums what came here into `out`.
template <class T>
void exchange_and_sum(MPI_Comm comm, int ranks, const T* values, int64_t piece, std::vector<T>& receive,
                      MPI_Datatype type, T* out) {
  receive.resize(static_cast<size_t>(piece * ranks));
  const ControlScope scope("all_reduce", piece * ranks * static_cast<int64_t>(sizeof(T)));
  check(MPI_Alltoall(values, static_cast<int>(piece), type, receive.data(), static_cast<int>(piece), type,
                     comm),
        "all_reduce");
  sum_in_rank_order(receive.data(), ranks, piece, out);
}

template <class T>
void ordered_sum(MPI_Comm comm, int ranks, std::span<T> values, MPI_Datatype type) {
  const auto n = static_cast<int64_t>(values.size());
  const auto width = static_cast<int64_t>(sizeof(T));
  std::vector<T> receive;
  if (n * width * ranks <= std::min(kSmallSumBytes, message_bytes())) {
    receive.resize(static_cast<size_t>(n * ranks));
    const ControlScope scope("all_reduce", n * width);
    check(MPI_Allgather(values.data(), static_cast<int>(n), type, receive.data(), static_cast<int>(n), type,
                        comm),
          "all_reduce");
    sum_in_rank_order(receive.data(), ranks, n, values.data());
    return;
  }
  // Blocks of ranks * piece elements: each rank sums one piece and everyone gathers the pieces back.
  const int64_t block_limit =
      std::max<int64_t>(1, std::min(kSumBufferBytes, message_bytes()) / (width * ranks));
  std::vector<T> mine;
  for (int64_t begin = 0; begin < n;) {
    const int64_t left = n - begin;
    const int64_t piece = std::min(block_limit, (left + ranks - 1) / ranks);
    const int64_t block = std::min(left, piece * ranks);
    std::vector<T> padded;
    T* data = values.data() + begin;
    if (block < piece * ranks) {
      padded.assign(static_cast<size_t>(piece * ranks), T{});
      std::copy_n(data, block, padded.begin());
      data = padded.data();
    }
    mine.resize(static_cast<size_t>(piece));
    exchange_and_sum(comm, ranks, data, piece, receive, type, mine.data());
    const ControlScope scope("all_reduce", piece * width);
    check(
        MPI_Allgather(mine.data(), static_cast<int>(piece), type, data, static_cast<int>(piece), type, comm),
        "all_reduce");
    if (!padded.empty()) std::copy_n(padded.begin(), block, values.data() + begin);
    begin += block;
  }
}

}  // namespace

namespace mpi {

void check(int code, const char* operation) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw MpiError(fmt::format("MPI failed: {}: {}; look at the network and at the other ranks", operation,
                             std::string_view(text, static_cast<size_t>(length))));
}

void ControlScope::count(int64_t calls, int64_t bytes, double seconds) {
  control += {calls, bytes, seconds};
}

int64_t message_bytes() {
  return message_limit;
}

MPI_Op operation_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return MPI_SUM;
    case ReduceOp::min:
      return MPI_MIN;
    case ReduceOp::max:
      return MPI_MAX;
  }
  return MPI_OP_NULL;
}

}  // namespace mpi

const OperationUse& control_use() {
  return control;
}

void set_message_bytes(int64_t bytes) {
  DINO_CHECK(bytes >= 64 && bytes <= INT_MAX, "message size");
  message_limit = bytes;
}

Range even_range(int64_t n, int rank, int ranks) {
  const int64_t base = n / ranks;
  const int64_t extra = n % ranks;
  const int64_t begin = rank * base + std::min<int64_t>(rank, extra);
  return {begin, begin + base + (rank < extra ? 1 : 0)};
}

Communicator::Communicator(MPI_Comm comm, bool owned) : comm_(comm), owned_(owned) {
  if (comm_ == MPI_COMM_NULL) return;
  check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "set_errhandler");
  check(MPI_Comm_rank(comm_, &rank_), "comm_rank");
  check(MPI_Comm_size(comm_, &size_), "comm_size");
}

Communicator Communicator::world() {
  return {mpi_running() ? MPI_COMM_WORLD : MPI_COMM_NULL, false};
}

Communicator Communicator::self() {
  return {mpi_running() ? MPI_COMM_SELF : MPI_COMM_NULL, false};
}

Communicator Communicator::alike(int ranks) {
  Communicator all(MPI_COMM_NULL, false);
  all.size_ = ranks;
  return all;
}

Communicator::Communicator(Communicator&& other) noexcept
    : comm_(std::exchange(other.comm_, MPI_COMM_NULL)),
      owned_(std::exchange(other.owned_, false)),
      rank_(std::exchange(other.rank_, 0)),
      size_(std::exchange(other.size_, 1)) {}

Communicator& Communicator::operator=(Communicator&& other) noexcept {
  std::swap(comm_, other.comm_);
  std::swap(owned_, other.owned_);
  std::swap(rank_, other.rank_);
  std::swap(size_, other.size_);
  return *this;
}

Communicator::~Communicator() {
  // MPI_Comm_free is collective: other ranks may not be unwinding, so an exception leaks the handle instead.
  if (owned_ && comm_ != MPI_COMM_NULL && std::uncaught_exceptions() == 0 && mpi_running())
    MPI_Comm_free(&comm_);
}

void Communicator::barrier() const {
  if (size_ == 1) return;
  const ControlScope scope("barrier", 0);
  check(MPI_Barrier(comm_), "barrier");
}

void Communicator::all_reduce(std::span<float> values, ReduceOp op) const {
  if (size_ == 1) return;
  if (op == ReduceOp::sum)
    ordered_sum(comm_, size_, values, MPI_FLOAT);
  else
    plain_all_reduce(comm_, values, MPI_FLOAT, operation_of(op));
}

void Communicator::all_reduce(std::span<double> values, ReduceOp op) const {
  if (size_ == 1) return;
  if (op == ReduceOp::sum)
    ordered_sum(comm_, size_, values, MPI_DOUBLE);
  else
    plain_all_reduce(comm_, values, MPI_DOUBLE, operation_of(op));
}

void Communicator::all_reduce(std::span<int64_t> values, ReduceOp op) const {
  if (size_ == 1) return;
  plain_all_reduce(comm_, values, MPI_INT64_T, operation_of(op));
}

int64_t Communicator::sum(int64_t value) const {
  all_reduce(std::span(&value, 1), ReduceOp::sum);
  return value;
}

int64_t Communicator::max(int64_t value) const {
  all_reduce(std::span(&value, 1), ReduceOp::max);
  return value;
}

double Communicator::sum(double value) const {
  all_reduce(std::span(&value, 1), ReduceOp::sum);
  return value;
}

double Communicator::max(double value) const {
  all_reduce(std::span(&value, 1), ReduceOp::max);
  return value;
}

bool Communicator::any(bool value) const {
  return max(static_cast<int64_t>(value)) != 0;
}

int64_t Communicator::exclusive_scan(int64_t value) const {
  if (size_ == 1) return 0;
  const ControlScope scope("exclusive_scan", sizeof(int64_t));
  int64_t below = 0;
  check(MPI_Exscan(&value, &below, 1, MPI_INT64_T, MPI_SUM, comm_), "exclusive_scan");
  return rank_ == 0 ? 0 : below;  // MPI leaves rank 0's result undefined
}

void Communicator::broadcast(std::span<std::byte> bytes, int root) const {
  if (size_ == 1) return;
  in_chunks(static_cast<int64_t>(bytes.size()), 1, [&](int64_t begin, int count) {
    const ControlScope scope("broadcast", count);
    check(MPI_Bcast(bytes.data() + begin, count, MPI_BYTE, root, comm_), "broadcast");
  });
}

void Communicator::broadcast(std::string& text, int root) const {
  auto length = static_cast<int64_t>(text.size());
  broadcast(std::as_writable_bytes(std::span(&length, 1)), root);
  text.resize(static_cast<size_t>(length));
  broadcast(std::as_writable_bytes(std::span(text)), root);
}

std::vector<std::string> Communicator::all_gather_strings(const std::string& text) const {
  std::vector<int64_t> counts;
  const std::vector<std::byte> all = all_gather(std::as_bytes(std::span(text)), &counts);
  std::vector<std::string> texts;
  const char* at = reinterpret_cast<const char*>(all.data());
  for (const int64_t count : counts) {
    texts.emplace_back(at, static_cast<size_t>(count));
    at += count;
  }
  return texts;
}

Communicator Communicator::split(int colour, int key) const {
  if (comm_ == MPI_COMM_NULL) return self();
  const WatchdogScope scope("split");
  MPI_Comm part = MPI_COMM_NULL;
  check(MPI_Comm_split(comm_, colour, key, &part), "split");
  return {part, true};
}

namespace {

/// Where each rank runs.
std::vector<std::string> node_names(const Communicator& comm) {
  std::array<char, MPI_MAX_PROCESSOR_NAME> name{};
  int length = 0;
  MPI_Get_processor_name(name.data(), &length);
  return comm.all_gather_strings(std::string(name.data(), static_cast<size_t>(length)));
}

}  // namespace

int ranks_of_node(const Communicator& comm) {
  if (comm.size() == 1) return 1;
  const std::vector<std::string> all = node_names(comm);
  return static_cast<int>(std::count(all.begin(), all.end(), all[static_cast<size_t>(comm.rank())]));
}

int rank_on_node(const Communicator& comm) {
  if (comm.size() == 1) return 0;
  const std::vector<std::string> all = node_names(comm);
  const auto own = all.begin() + comm.rank();
  return static_cast<int>(std::count(all.begin(), own, *own));
}

}  // namespace dino
