// SPDX-License-Identifier: Apache-2.0
// nccl.hpp over NCCL, or over nothing where the build found none.
#include "comm/cuda/nccl.hpp"

#include "base/error.hpp"

#if !defined(DINO_HAVE_NCCL)

namespace dino::cuda::nccl {

bool available(std::string& why) {
  why = "this build has no NCCL";
  return false;
}
// available() has said no.
UniqueId unique_id() {
  throw InternalError("no NCCL");
}
GroupHandle begin_group(const Communicator&, const UniqueId&) {
  throw InternalError("no NCCL");
}
GroupHandle begin_part(GroupHandle, const Communicator&, int) {
  throw InternalError("no NCCL");
}
State state(GroupHandle, std::string&) {
  return State::failed;
}
void end_group(GroupHandle) noexcept {}
void abort_group(GroupHandle) noexcept {}
void all_gather(GroupHandle, StreamHandle, void*, size_t) {}
void all_to_all(GroupHandle, StreamHandle, const void*, size_t, void*, size_t) {}
void all_reduce(GroupHandle, StreamHandle, void*, size_t, DType, ReduceOp) {}
std::string describe() {
  return "no NCCL";
}

}  // namespace dino::cuda::nccl

#else

#include <fmt/format.h>
#include <nccl.h>

#include <chrono>
#include <cstring>
#include <thread>

namespace dino::cuda::nccl {

/// `comm` is filled by NCCL, which may be later than the call: of a part when its parent is ready.
struct GroupTag {
  ncclComm_t comm = nullptr;
  GroupHandle parent = nullptr;  ///< while it makes this part
  int rank = 0, ranks = 1;
};

namespace {

/// A rank that is gone does not come to an orderly end; the others do not wait for it longer than this.
constexpr auto kEndPatience = std::chrono::seconds(10);

std::string text_of(ncclResult_t code, ncclComm_t comm) {
  std::string text = ncclGetErrorString(code);
  const char* const last = ncclGetLastError(comm);
  if (last != nullptr && *last != '\0') text += fmt::format(" ({})", last);
  return text;
}

void check(ncclResult_t code, const char* operation, ncclComm_t comm = nullptr) {
  if (code == ncclSuccess || code == ncclInProgress) return;
  throw MpiError(
      fmt::format("NCCL failed: {}: {}; NCCL_DEBUG=WARN tells more, DINO_NCCL=off goes through MPI",
                  operation, text_of(code, comm)));
}

ncclConfig_t config() {
  ncclConfig_t settings = NCCL_CONFIG_INITIALIZER;
  settings.blocking = 0;
  return settings;
}

cudaStream_t native(StreamHandle stream) {
  return reinterpret_cast<cudaStream_t>(stream);
}

ncclDataType_t type_of(DType dtype) {
  if (dtype == DType::f32) return ncclFloat32;
  if (dtype == DType::f64) return ncclFloat64;
  DINO_CHECK(dtype == DType::i64, std::string("a reduction by NCCL of ") + name_of(dtype));
  return ncclInt64;
}

ncclRedOp_t operation_of(ReduceOp op) {
  return op == ReduceOp::sum ? ncclSum : op == ReduceOp::min ? ncclMin : ncclMax;
}

ncclResult_t code_of(ncclComm_t comm) {
  ncclResult_t code = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm, &code);
  return asked == ncclSuccess ? code : asked;
}

std::string version() {
  int code = 0;
  static_cast<void>(ncclGetVersion(&code));
  return fmt::format("{}.{}.{}", code / 10000, code % 10000 / 100, code % 100);
}

}  // namespace

bool available(std::string&) {
  return true;
}

UniqueId unique_id() {
  static_assert(sizeof(ncclUniqueId) == sizeof(UniqueId));
  ncclUniqueId id;
  check(ncclGetUniqueId(&id), "unique id");
  UniqueId bytes;
  std::memcpy(bytes.data(), &id, sizeof id);
  return bytes;
}

GroupHandle begin_group(const Communicator& comm, const UniqueId& id) {
  ncclUniqueId native_id;
  std::memcpy(&native_id, id.data(), sizeof native_id);
  auto* const group = new GroupTag{nullptr, nullptr, comm.rank(), comm.size()};
  ncclConfig_t settings = config();
  try {
    check(ncclCommInitRankConfig(&group->comm, group->ranks, native_id, group->rank, &settings), "init");
  } catch (...) {
    abort_group(group);
    throw;
  }
  return group;
}

GroupHandle begin_part(GroupHandle parent, const Communicator& part, int colour) {
  auto* const group = new GroupTag{nullptr, parent, part.rank(), part.size()};
  ncclConfig_t settings = config();
  settings.splitShare = 1;  // all of them on one stream: what they hold can be the same
  try {
    check(ncclCommSplit(parent->comm, colour, group->rank, &group->comm, &settings), "split", parent->comm);
  } catch (...) {
    group->parent = nullptr;
    abort_group(group);
    throw;
  }
  return group;
}

State state(GroupHandle group, std::string& why) {
  if (group->parent != nullptr) {
    const State made = state(group->parent, why);
    if (made != State::ready) return made;
    group->parent = nullptr;
  }
  const ncclResult_t code = code_of(group->comm);
  if (code == ncclSuccess) return State::ready;
  if (code == ncclInProgress) return State::working;
  why = text_of(code, group->comm);
  return State::failed;
}

void end_group(GroupHandle group) noexcept {
  if (group == nullptr) return;
  bool ended = group->comm != nullptr && group->parent == nullptr;
  if (ended) {
    ncclResult_t code = ncclCommFinalize(group->comm);
    const auto deadline = std::chrono::steady_clock::now() + kEndPatience;
    while ((code == ncclInProgress || code == ncclSuccess) &&
           (code = code_of(group->comm)) == ncclInProgress && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    ended = code == ncclSuccess;
  }
  if (!ended) {
    abort_group(group);
    return;
  }
  static_cast<void>(ncclCommDestroy(group->comm));
  delete group;
}

void abort_group(GroupHandle group) noexcept {
  if (group == nullptr) return;
  if (group->comm != nullptr) static_cast<void>(ncclCommAbort(group->comm));
  delete group;
}

void all_gather(GroupHandle group, StreamHandle stream, void* all, size_t part_bytes) {
  const auto* const part = static_cast<const std::byte*>(all) + static_cast<size_t>(group->rank) * part_bytes;
  check(ncclAllGather(part, all, part_bytes, ncclUint8, group->comm, native(stream)), "all_gather",
        group->comm);
}

void all_to_all(GroupHandle group, StreamHandle stream, const void* send, size_t send_stride, void* receive,
                size_t bytes) {
  check(ncclGroupStart(), "all_to_all");
  ncclResult_t failed = ncclSuccess;
  const auto keep = [&](ncclResult_t code) {
    if (failed == ncclSuccess && code != ncclInProgress) failed = code;
  };
  // Each rank begins with its neighbour, so that not all of them send to rank 0 first.
  for (int step = 1; step < group->ranks; ++step) {
    const int to = (group->rank + step) % group->ranks;
    const int from = (group->rank - step + group->ranks) % group->ranks;
    keep(ncclSend(static_cast<const std::byte*>(send) + static_cast<size_t>(to) * send_stride, bytes,
                  ncclUint8, to, group->comm, native(stream)));
    keep(ncclRecv(static_cast<std::byte*>(receive) + static_cast<size_t>(from) * bytes, bytes, ncclUint8,
                  from, group->comm, native(stream)));
  }
  const ncclResult_t ended = ncclGroupEnd();
  check(failed, "all_to_all", group->comm);
  check(ended, "all_to_all", group->comm);
}

void all_reduce(GroupHandle group, StreamHandle stream, void* values, size_t count, DType dtype,
                ReduceOp op) {
  check(ncclAllReduce(values, values, count, type_of(dtype), operation_of(op), group->comm, native(stream)),
        "all_reduce", group->comm);
}

std::string describe() {
  return "NCCL " + version();
}

}  // namespace dino::cuda::nccl

#endif
