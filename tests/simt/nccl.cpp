// SPDX-License-Identifier: Apache-2.0
// What stands in for comm/cuda/nccl.cpp: MPI. The ranks meet when the operation is enqueued, which all of
// them do in the same order; what comes of it arrives when the stream's turn comes, and until then the
// memory that it belongs in holds bytes of 0xff.
#include "comm/cuda/nccl.hpp"

#include <cstring>
#include <utility>
#include <vector>

#include "comm/mpi_check.hpp"
#include "simt/device.hpp"

namespace dino::cuda::nccl {

struct GroupTag {
  MPI_Comm comm;
  int rank, size;
};

namespace {

using simt::device_memory;

GroupHandle group_of(const Communicator& comm) {
  return new GroupTag{comm.handle(), comm.rank(), comm.size()};
}

/// What the stream holds before is done when the ranks meet.
std::vector<std::byte> read(StreamHandle stream, const void* data, size_t bytes) {
  simt::run_all(stream);
  const auto* begin = static_cast<const std::byte*>(device_memory().open(data, bytes));
  return {begin, begin + bytes};
}

void deliver(StreamHandle stream, void* to, std::vector<std::byte> bytes) {
  std::memset(device_memory().open(to, bytes.size()), 0xff, bytes.size());
  const double seconds = simt::pace().message + simt::pace().message_byte * static_cast<double>(bytes.size());
  simt::enqueue(
      stream,
      [to, kept = std::move(bytes)] {
        std::memcpy(device_memory().open(to, kept.size()), kept.data(), kept.size());
      },
      seconds);
}

int counted(size_t n) {
  DINO_CHECK(n <= size_t{1} << 30, "a message of more than a gibibyte");
  return static_cast<int>(n);
}

MPI_Datatype type_of(DType dtype) {
  return dtype == DType::f32 ? MPI_FLOAT : dtype == DType::f64 ? MPI_DOUBLE : MPI_INT64_T;
}

}  // namespace

bool available(std::string&) {
  return true;
}
UniqueId unique_id() {
  return {};
}
GroupHandle begin_group(const Communicator& comm, const UniqueId&) {
  return group_of(comm);
}
GroupHandle begin_part(GroupHandle, const Communicator& part, int) {
  return group_of(part);
}
State state(GroupHandle, std::string&) {
  return State::ready;
}
void end_group(GroupHandle group) noexcept {
  delete group;
}
void abort_group(GroupHandle group) noexcept {
  delete group;
}

void all_gather(GroupHandle group, StreamHandle stream, void* all, size_t part_bytes) {
  std::vector<std::byte> parts = read(stream, all, part_bytes * static_cast<size_t>(group->size));
  mpi::check(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, parts.data(), counted(part_bytes), MPI_BYTE,
                           group->comm),
             "all_gather");
  deliver(stream, all, std::move(parts));
}

void all_to_all(GroupHandle group, StreamHandle stream, const void* send, size_t send_stride, void* receive,
                size_t bytes) {
  const auto ranks = static_cast<size_t>(group->size);
  std::vector<std::byte> sent, received(bytes * ranks);
  for (size_t r = 0; r < ranks; ++r) {
    const std::vector<std::byte> part =
        read(stream, static_cast<const std::byte*>(send) + r * send_stride, bytes);
    sent.insert(sent.end(), part.begin(), part.end());
  }
  mpi::check(MPI_Alltoall(sent.data(), counted(bytes), MPI_BYTE, received.data(), counted(bytes), MPI_BYTE,
                          group->comm),
             "all_to_all");
  // A rank's own part need not arrive.
  std::memset(received.data() + static_cast<size_t>(group->rank) * bytes, 0xff, bytes);
  deliver(stream, receive, std::move(received));
}

void all_reduce(GroupHandle group, StreamHandle stream, void* values, size_t count, DType dtype,
                ReduceOp op) {
  DINO_CHECK(op != ReduceOp::sum || dtype == DType::i64, "a sum whose order is NCCL's");
  std::vector<std::byte> all = read(stream, values, count * size_of(dtype));
  mpi::check(MPI_Allreduce(MPI_IN_PLACE, all.data(), counted(count), type_of(dtype), mpi::operation_of(op),
                           group->comm),
             "all_reduce");
  deliver(stream, values, std::move(all));
}

std::string describe() {
  return "collectives over MPI";
}

}  // namespace dino::cuda::nccl
