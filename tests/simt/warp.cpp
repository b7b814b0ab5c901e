// SPDX-License-Identifier: Apache-2.0
// What the lanes of a warp do together: the last one to arrive does it for all.
#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>

#include "base/half.hpp"
#include "simt/block.hpp"

namespace dino::simt {
namespace {

struct Shuffled {
  uint64_t value;
  Shuffle how;
  int lane, width;
};

template <class T>
const T& brought(const Meeting& meeting, unsigned lane) {
  return *static_cast<const T*>(meeting.brought[lane]);
}

/// The lane that `lane` reads; itself where that lies outside of its segment of `width` lanes.
unsigned source_lane(unsigned lane, const Shuffled& s) {
  const int own = static_cast<int>(lane), first = own & -s.width, last = first + s.width - 1;
  switch (s.how) {
    case Shuffle::from:
      return static_cast<unsigned>(first + (s.lane & (s.width - 1)));
    case Shuffle::exchange: {
      const int from = own ^ s.lane;
      return static_cast<unsigned>(from <= last ? from : own);
    }
    case Shuffle::up:
      return static_cast<unsigned>(own - s.lane >= first ? own - s.lane : own);
    case Shuffle::down:
      return static_cast<unsigned>(own + s.lane <= last ? own + s.lane : own);
  }
  return lane;
}

void do_shuffle(Meeting& meeting) {
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if ((meeting.mask >> lane & 1) == 0) continue;
    const unsigned from = source_lane(lane, brought<Shuffled>(meeting, lane));
    if ((meeting.mask >> from & 1) == 0)
      Executor::instance().fail(
          meeting.lanes[lane],
          fmt::format("reads lane {} in a shuffle whose mask is {:#x}", from, meeting.mask));
    meeting.lanes[lane].result = brought<Shuffled>(meeting, from).value;
  }
}

void do_ballot(Meeting& meeting) {
  unsigned votes = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if ((meeting.mask >> lane & 1) != 0 && brought<bool>(meeting, lane)) votes |= 1u << lane;
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if ((meeting.mask >> lane & 1) != 0) meeting.lanes[lane].result = votes;
}

void do_order(Meeting& meeting) {
  Executor::instance().order_lanes(meeting);
}

float widened(uint32_t half, bf16) {
  return std::bit_cast<float>(half << 16);
}
float widened(uint32_t half, f16) {
  return half_to_float(static_cast<uint16_t>(half));
}

/// The fragments are those of ops/cuda/instructions.hpp.
template <class T>
void do_multiply(Meeting& meeting) {
  constexpr size_t kRows = 16, kColumns = 8, kInner = 16;
  std::array<std::array<float, kInner>, kRows> a;
  std::array<std::array<float, kColumns>, kInner> b;
  const auto low = [](uint32_t word) { return widened(word & 0xffffu, T{}); };
  const auto high = [](uint32_t word) { return widened(word >> 16, T{}); };
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const size_t g = lane / 4, t = lane % 4;
    const auto& of_lane = brought<Fragments>(meeting, lane);
    for (size_t i = 0; i < 4; ++i) {
      float* const at = &a[g + i % 2 * 8][2 * t + i / 2 * 8];
      at[0] = low(of_lane.a[i]);
      at[1] = high(of_lane.a[i]);
    }
    for (size_t i = 0; i < 2; ++i) {
      b[2 * t + 8 * i][g] = low(of_lane.b[i]);
      b[2 * t + 8 * i + 1][g] = high(of_lane.b[i]);
    }
  }
  std::array<std::array<float, kColumns>, kRows> product{};
  for (size_t row = 0; row < kRows; ++row)
    for (size_t k = 0; k < kInner; ++k)
      for (size_t column = 0; column < kColumns; ++column) product[row][column] += a[row][k] * b[k][column];
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const size_t g = lane / 4, t = lane % 4;
    float* const d = brought<Fragments>(meeting, lane).d;
    d[0] += product[g][2 * t];
    d[1] += product[g][2 * t + 1];
    d[2] += product[g + 8][2 * t];
    d[3] += product[g + 8][2 * t + 1];
  }
}

template <bool kTransposed>
void do_load_matrices(Meeting& meeting) {
  for (unsigned i = 0; i < 4; ++i) {
    std::array<std::array<uint16_t, 8>, 8> matrix;
    for (unsigned r = 0; r < 8; ++r) {
      const void* row = brought<MatrixRow>(meeting, 8 * i + r).row;
      if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
        Executor::instance().fail(meeting.lanes[8 * i + r],
                                  "gives a row to ldmatrix that is not 16-byte aligned");
      Executor::instance().check(meeting.lanes[8 * i + r], row, 16, Access::read, meeting.at);
      std::memcpy(matrix[r].data(), row, 16);
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      const size_t g = lane / 4, t = lane % 4;
      const uint32_t low = kTransposed ? matrix[2 * t][g] : matrix[g][2 * t];
      const uint32_t high = kTransposed ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
      brought<MatrixRow>(meeting, lane).words[i] = low | high << 16;
    }
  }
}

constexpr unsigned kAllLanes = 0xffffffffu;

}  // namespace

void warp_barrier(unsigned mask, const std::source_location& at) {
  Executor::instance().meet(mask, do_order, "__syncwarp", nullptr, at);
}

uint64_t shuffle(unsigned mask, uint64_t value, Shuffle how, int lane, int width,
                 const std::source_location& at) {
  Executor& executor = Executor::instance();
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    executor.fail("shuffles by a width that is no power of 2");
  const Shuffled mine{value, how, lane, width};
  executor.meet(mask, do_shuffle, "a shuffle", &mine, at);
  return executor.current().result;
}

unsigned ballot(unsigned mask, bool predicate, const std::source_location& at) {
  Executor& executor = Executor::instance();
  executor.meet(mask, do_ballot, "a vote", &predicate, at);
  return static_cast<unsigned>(executor.current().result);
}

void multiply_bf16(const Fragments& fragments, const std::source_location& at) {
  Executor::instance().meet(kAllLanes, do_multiply<bf16>, "mma", &fragments, at);
}
void multiply_f16(const Fragments& fragments, const std::source_location& at) {
  Executor::instance().meet(kAllLanes, do_multiply<f16>, "mma", &fragments, at);
}

void load_matrices(const MatrixRow& row, bool transposed, const std::source_location& at) {
  Executor::instance().meet(kAllLanes, transposed ? do_load_matrices<true> : do_load_matrices<false>,
                            "ldmatrix", &row, at);
}

// ---- asynchronous copies

void copy_async(void* to, const void* from, size_t bytes, const std::source_location& at) {
  Executor& executor = Executor::instance();
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes != 0)
    executor.fail(fmt::format("copies asynchronously between addresses that are no multiples of {} ({})",
                              bytes, text_of(at)));
  const PendingCopy copy{static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes, at};
  executor.begin_copy(copy);
  executor.current().uncommitted.push_back(copy);
}

void copy_commit() {
  Thread& thread = Executor::instance().current();
  thread.committed.push_back(std::move(thread.uncommitted));
  thread.uncommitted.clear();
}

void copy_wait(int latest) {
  Executor& executor = Executor::instance();
  std::vector<std::vector<PendingCopy>>& groups = executor.current().committed;
  const auto kept = static_cast<size_t>(latest);
  if (groups.size() <= kept) return;
  const auto end = groups.end() - static_cast<std::ptrdiff_t>(kept);
  for (auto group = groups.begin(); group != end; ++group)
    for (const PendingCopy& copy : *group) executor.end_copy(copy);
  groups.erase(groups.begin(), end);
}

}  // namespace dino::simt
