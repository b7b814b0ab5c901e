// SPDX-License-Identifier: Apache-2.0
#include "mapped/memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>

#include "base/error.hpp"
#include "mapped/sanitizer.hpp"

namespace dino::testing {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kNoRoom = SIZE_MAX;

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

size_t round_up(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

size_t bytes_of(const ConstTensorView& view) {
  return static_cast<size_t>(view.numel()) * size_of(view.dtype);
}

}  // namespace

MappedMemory::MappedMemory(size_t reserve, Device device)
    : reserve_(round_up(reserve, kPage)), device_(device) {
  file_ = memfd_create("dino_mapped_memory", MFD_CLOEXEC);
  if (file_ < 0 || ftruncate(file_, static_cast<off_t>(reserve_)) != 0) throw_errno("create", "memory file");
  const auto map = [&] {
    void* at = mmap(nullptr, reserve_, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file_, 0);
    if (at == MAP_FAILED) throw_errno("map", "memory file");
    return static_cast<std::byte*>(at);
  };
  closed_ = map();
  open_ = map();
}

MappedMemory::~MappedMemory() {
  DINO_CHECK(blocks_.empty() || std::uncaught_exceptions() > 0, "the memory dies before what is made in it");
  munmap(closed_, reserve_);
  munmap(open_, reserve_);
  close(file_);
}

size_t MappedMemory::find_room(size_t bytes) const {
  for (const size_t from : {next_, size_t{0}}) {
    size_t at = from;
    for (auto block = blocks_.lower_bound(from); block != blocks_.end(); ++block) {
      if (block->second.pages_begin >= at + bytes) return at;
      at = block->second.pages_end;
    }
    if (at + bytes <= reserve_) return at;
  }
  return kNoRoom;
}

void* MappedMemory::allocate(size_t bytes) {
  const std::lock_guard lock(mutex_);
  // Whole pages, the allocation at their end, and the guard page.
  const size_t rounded = round_up(std::max<size_t>(bytes, 1), kAlignment), used = round_up(rounded, kPage);
  const size_t begin = find_room(used + kPage);
  if (begin == kNoRoom) return nullptr;
  if (mprotect(open_ + begin, used, PROT_READ | PROT_WRITE) != 0) return nullptr;
  next_ = begin + used + kPage;
  const size_t first = begin + used - rounded;
  std::memset(open_ + begin, 0xff, used);
  poison(open_ + begin, used - rounded);
  poison(open_ + first + bytes, rounded - bytes);
  blocks_[first] = {bytes, begin, next_};
  return closed_ + first;
}

void MappedMemory::release(void* data, size_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  // What throws here ends the program, as the host's free() does.
  const auto block = blocks_.find(static_cast<size_t>(static_cast<std::byte*>(data) - closed_));
  DINO_CHECK(block != blocks_.end(), "released twice, or never allocated");
  DINO_CHECK(block->second.bytes == bytes, "released with another size");
  const size_t begin = block->second.pages_begin, used = block->second.pages_end - kPage - begin;
  unpoison(open_ + begin, used);
  DINO_CHECK(mprotect(open_ + begin, used, PROT_NONE) == 0, "mprotect");
  DINO_CHECK(fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(begin),
                       static_cast<off_t>(used)) == 0,
             "fallocate");
  blocks_.erase(block);
}

void MappedMemory::zero(void* data, size_t bytes) {
  std::memset(open(data, bytes), 0, bytes);
}

void* MappedMemory::open(const void* data, size_t bytes) const {
  const auto* address = static_cast<const std::byte*>(data);
  DINO_CHECK(address >= closed_ && address < closed_ + reserve_, "not an address of the device");
  const auto offset = static_cast<size_t>(address - closed_);
  const std::lock_guard lock(mutex_);
  auto block = blocks_.upper_bound(offset);
  DINO_CHECK(block != blocks_.begin(), "memory of the device that is not allocated");
  --block;
  const size_t end = block->first + block->second.bytes;
  DINO_CHECK(offset <= end && bytes <= end - offset,
             fmt::format("bytes [{}, {}) of an allocation of {}, or memory that was released",
                         offset - block->first, offset - block->first + bytes, block->second.bytes));
  return open_ + offset;
}

TensorView MappedMemory::open(TensorView view) const {
  if (!view) return view;
  DINO_CHECK(view.device == device(), "a tensor of another device");
  return {open(view.data, bytes_of(view)), view.shape, view.dtype, {}};
}

ConstTensorView MappedMemory::open(ConstTensorView view) const {
  return open(TensorView{const_cast<void*>(view.data), view.shape, view.dtype, view.device});
}

ops::Sequences MappedMemory::open(const ops::Sequences& sequences) const {
  return {open(sequences.starts), sequences.rows, sequences.longest};
}

ops::SparseRows MappedMemory::open(const ops::SparseRows& matrix) const {
  return {open(matrix.starts), open(matrix.columns), open(matrix.weights)};
}

}  // namespace dino::testing
