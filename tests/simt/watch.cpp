// SPDX-License-Identifier: Apache-2.0
#include "simt/watch.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>

#include "base/error.hpp"

// Where this program begins in memory; the linker's.
extern "C" const char __executable_start;

namespace dino::simt {
namespace {

constexpr unsigned kWarp = 32;
constexpr uint16_t kSeveralWarps = 0xffff;

/// Zeros, of which only what is touched takes memory.
void* sparse(size_t bytes) {
  void* const data =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw_errno("map", "the shadow of a memory");
  return data;
}

/// Whether what a lane of the same warp did at `stamp` is ordered before now.
bool is_before(uint32_t stamp, unsigned lane, const Moment& now) {
  return stamp < now.all || stamp < now.lanes[lane];
}

}  // namespace

// ---- shared memory

SharedShadow::SharedShadow(size_t bytes) : cells_(new Cell[bytes / 2]), bytes_(bytes) {}

void SharedShadow::close(size_t offset, size_t bytes) {
  each(offset, bytes, [](Cell& cell) { cell = {}; });
}

void SharedShadow::open(size_t offset, size_t bytes) {
  each(offset, bytes, [](Cell& cell) { cell.write_epoch = 0; });
}

inline Fault SharedShadow::collision(const Cell& cell, Access access, const Moment& now, unsigned& other) {
  const unsigned warp = now.thread / kWarp, lane = now.thread % kWarp;
  if (cell.write_epoch == now.epoch && cell.writer != now.thread) {
    other = cell.writer;
    if (other / kWarp != warp || !is_before(cell.write_stamp, other % kWarp, now)) return Fault::written;
  }
  if (access == Access::read || cell.read_epoch != now.epoch) return Fault::none;
  if (cell.read_warp != warp) {
    other = cell.read_warp == kSeveralWarps ? now.thread : cell.read_warp * kWarp;
    return Fault::was_read;
  }
  const uint32_t others = cell.read_lanes & ~(1u << lane);
  for (uint32_t left = others; left != 0; left &= left - 1) {
    const auto reader = static_cast<unsigned>(std::countr_zero(left));
    if (is_before(cell.read_stamp, reader, now)) continue;
    other = warp * kWarp + reader;
    return Fault::was_read;
  }
  return Fault::none;
}

inline void SharedShadow::note_read(Cell& cell, const Moment& now) {
  const auto warp = static_cast<uint16_t>(now.thread / kWarp);
  const uint32_t lane = 1u << (now.thread % kWarp);
  if (cell.read_epoch != now.epoch || (cell.read_warp == warp && cell.read_stamp < now.all)) {
    cell.read_epoch = now.epoch;
    cell.read_stamp = now.stamp;
    cell.read_warp = warp;
    cell.read_lanes = lane;
  } else if (cell.read_warp == warp) {
    cell.read_lanes |= lane;
  } else {
    cell.read_warp = kSeveralWarps;
  }
}

Fault SharedShadow::access(size_t offset, size_t bytes, Access access, const Moment& now, unsigned& other) {
  if (offset + bytes > bytes_) return Fault::outside;
  Fault fault = Fault::none;
  each(offset, bytes, [&](Cell& cell) {
    if (cell.write_epoch == kClosed) {
      fault = Fault::outside;
    } else if (cell.write_epoch == kPending) {
      fault = Fault::pending;
      other = cell.writer;
    } else if (access == Access::read && cell.write_epoch < first_epoch_) {
      fault = Fault::never_written;
    } else if (bytes > 1) {
      const Fault collided = collision(cell, access, now, other);
      if (collided != Fault::none) fault = collided;
    }
    if (fault != Fault::none) return;
    if (access == Access::read) {
      note_read(cell, now);
    } else {
      cell.write_epoch = now.epoch;
      cell.write_stamp = now.stamp;
      cell.writer = now.thread;
    }
  });
  return fault;
}

Fault SharedShadow::begin_copy(size_t offset, size_t bytes, const Moment& now, unsigned& other) {
  const Fault fault = access(offset, bytes, Access::write, now, other);
  if (fault == Fault::none) each(offset, bytes, [](Cell& cell) { cell.write_epoch = kPending; });
  return fault;
}

Fault SharedShadow::touch_atomically(size_t offset, size_t bytes, const Moment& now) {
  if (offset + bytes > bytes_) return Fault::outside;
  Fault fault = Fault::none;
  each(offset, bytes, [&](const Cell& cell) {
    if (cell.write_epoch == kClosed)
      fault = Fault::outside;
    else if (cell.write_epoch == kPending)
      fault = Fault::pending;
    else if (cell.write_epoch < first_epoch_)
      fault = Fault::never_written;
  });
  if (fault == Fault::none) write(offset, bytes, now);
  return fault;
}

void SharedShadow::write(size_t offset, size_t bytes, const Moment& now) {
  each(offset, bytes, [&](Cell& cell) {
    cell.write_epoch = now.epoch;
    cell.write_stamp = now.stamp;
    cell.writer = now.thread;
  });
}

// ---- device memory

DeviceShadow::DeviceShadow(size_t bytes)
    : valid_(static_cast<uint8_t*>(sparse(bytes / kUnit))),
      cells_(static_cast<Cell*>(sparse(bytes / 2 * sizeof(Cell)))) {}

void DeviceShadow::mark(size_t offset, size_t bytes, bool live) {
  DINO_CHECK(offset % kUnit == 0, "an allocation that is not aligned");
  for (size_t begin = 0; begin < bytes; begin += kUnit)
    valid_[(offset + begin) / kUnit] = live ? static_cast<uint8_t>(std::min(kUnit, bytes - begin)) : 0;
}

bool DeviceShadow::is_allocated(size_t offset, size_t bytes) const {
  for (size_t left = bytes, at = offset; left > 0;) {
    const size_t within = at % kUnit, count = std::min(kUnit - within, left);
    if (valid_[at / kUnit] < within + count) return false;
    at += count;
    left -= count;
  }
  return true;
}

bool DeviceShadow::is_before(uint16_t stamp, unsigned lane, const Moment& now) const {
  // Of stamps, the lower halves: they are compared while they are not far from each other.
  const auto older = [stamp](uint32_t than) {
    return than != 0 && static_cast<int16_t>(stamp - static_cast<uint16_t>(than)) < 0;
  };
  return older(now.all) || older(now.lanes[lane]);
}

inline Fault DeviceShadow::collision(const Cell& cell, Access access, const Moment& now,
                                     unsigned& other) const {
  const unsigned warp = now.thread / kWarp;
  if (cell.write_epoch >= first_of_launch_ && cell.write_epoch < first_of_block_) {
    other = kAnotherBlock;
    return Fault::written;
  }
  if (cell.write_epoch == now.epoch && cell.writer != now.thread) {
    other = cell.writer;
    if (other / kWarp != warp || !is_before(cell.write_stamp, other % kWarp, now)) return Fault::written;
  }
  if (access == Access::read || cell.read_epoch < first_of_launch_) return Fault::none;
  if (cell.read_epoch < first_of_block_ || (cell.reader & kSeveralBlocks) != 0) {
    other = kAnotherBlock;
    return Fault::was_read;
  }
  if (cell.read_epoch != now.epoch) return Fault::none;
  const unsigned reader = cell.reader & kThread;
  const bool several = (cell.reader & (kSeveralLanes | kSeveralWarps)) != 0;
  if (!several && reader == now.thread) return Fault::none;
  other = several ? now.thread : reader;
  if ((cell.reader & kSeveralWarps) != 0 || reader / kWarp != warp) return Fault::was_read;
  return is_before(cell.read_stamp, reader % kWarp, now) ? Fault::none : Fault::was_read;
}

inline void DeviceShadow::note_read(Cell& cell, const Moment& now) const {
  const unsigned reader = cell.reader & kThread;
  const bool of_launch = cell.read_epoch >= first_of_launch_;
  const bool blocks = of_launch && (cell.read_epoch < first_of_block_ || (cell.reader & kSeveralBlocks) != 0);
  if (cell.read_epoch != now.epoch) {
    cell.reader = static_cast<uint16_t>(now.thread | (blocks ? kSeveralBlocks : 0));
  } else if ((cell.reader & kSeveralWarps) != 0 || reader == now.thread) {
  } else if (reader / kWarp != now.thread / kWarp) {
    cell.reader |= kSeveralWarps;
  } else {
    const uint16_t lanes = is_before(cell.read_stamp, reader % kWarp, now) ? 0 : kSeveralLanes;
    cell.reader = static_cast<uint16_t>(now.thread | lanes | (blocks ? kSeveralBlocks : 0));
  }
  cell.read_epoch = now.epoch;
  cell.read_stamp = static_cast<uint16_t>(now.stamp);
}

Fault DeviceShadow::access(size_t offset, size_t bytes, Access access, const Moment& now, unsigned& other) {
  if (!is_allocated(offset, bytes)) return Fault::outside;
  if (ordered_ || bytes == 1) return Fault::none;
  for (size_t i = offset / 2; i < (offset + bytes + 1) / 2; ++i) {
    Cell& cell = cells_[i];
    const Fault fault = collision(cell, access, now, other);
    if (fault != Fault::none) return fault;
    if (access == Access::read) {
      note_read(cell, now);
      continue;
    }
    cell.write_epoch = now.epoch;
    cell.writer = now.thread;
    cell.write_stamp = static_cast<uint16_t>(now.stamp);
  }
  return Fault::none;
}

// ---- words

std::string text_of(Fault fault) {
  switch (fault) {
    case Fault::none:
      return "";
    case Fault::outside:
      return "that are not allocated";
    case Fault::never_written:
      return "that nobody has written";
    case Fault::pending:
      return "of an asynchronous copy that was not waited for, begun by";
    case Fault::written:
      return "written, with nothing in between that orders the two, by";
    case Fault::was_read:
      return "read, with nothing in between that orders the two, by";
  }
  return "";
}

std::string source_line(const void* code) {
  // The call is before the place to which it returns.
  const auto offset = static_cast<const char*>(code) - &__executable_start - 1;
  std::string program(4096, '\0');
  program.resize(
      static_cast<size_t>(std::max<ssize_t>(0, readlink("/proc/self/exe", program.data(), program.size()))));
  const std::string command = fmt::format("addr2line -e '{}' {:#x} 2>/dev/null", program, offset);
  std::string line(1024, '\0');
  FILE* const output = popen(command.c_str(), "r");
  if (output == nullptr) return fmt::format("code at {:#x}", offset);
  const bool got = std::fgets(line.data(), static_cast<int>(line.size()), output) != nullptr;
  pclose(output);
  if (!got || line.front() == '?') return fmt::format("code at {:#x}", offset);
  line.resize(line.find_first_of("\n", 0));
  if (const size_t note = line.find(" (discriminator"); note != std::string::npos) line.resize(note);
  return line.substr(line.rfind('/') + 1);
}

}  // namespace dino::simt
