// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a kernel's accesses to shared and device memory are checked against. The kernels' sources are compiled
// with the calls of the thread sanitizer (watch_calls.cpp receives them), which no other code is; in builds
// with the address sanitizer there are none, and that one watches device memory.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace dino::simt {

#if defined(DINO_SANITIZE)
inline constexpr bool kWatched = false;
#else
inline constexpr bool kWatched = true;
#endif

/// When a thread does something: stamps of one warp order what its lanes do between two barriers of the
/// block.
struct Moment {
  uint32_t epoch = 0;               ///< counts barriers and blocks
  uint32_t stamp = 0;               ///< counts __syncwarps of the warp
  uint32_t all = 0;                 ///< what any lane did at an earlier stamp is ordered before
  const uint32_t* lanes = nullptr;  ///< and what lane i did before lanes[i]
  uint16_t thread = 0;              ///< of the block
};

enum class Access : uint8_t { read, write };
enum class Fault : uint8_t { none, outside, never_written, pending, written, was_read };

/// Who last wrote and read each byte of shared memory. Bytes go in pairs: single ones are not checked for
/// races.
class SharedShadow {
 public:
  explicit SharedShadow(size_t bytes);
  SharedShadow(const SharedShadow&) = delete;
  SharedShadow& operator=(const SharedShadow&) = delete;
  /// Nothing of it may be touched.
  void close(size_t offset, size_t bytes);
  void open(size_t offset, size_t bytes);
  /// What is older has not been written in this block.
  void begin_block(uint32_t epoch) { first_epoch_ = epoch; }
  /// `other` receives the thread that the access collides with.
  [[nodiscard]] Fault access(size_t offset, size_t bytes, Access access, const Moment& now, unsigned& other);
  /// An asynchronous copy begins: nobody may touch the bytes until it is waited for.
  [[nodiscard]] Fault begin_copy(size_t offset, size_t bytes, const Moment& now, unsigned& other);
  /// By an operation that may meet others of its kind.
  [[nodiscard]] Fault touch_atomically(size_t offset, size_t bytes, const Moment& now);
  /// Written now, whatever was there before.
  void write(size_t offset, size_t bytes, const Moment& now);

 private:
  static constexpr uint32_t kClosed = 0xffffffffu, kPending = 0xfffffffeu;
  struct Cell {
    uint32_t write_epoch = kClosed, write_stamp = 0;
    uint32_t read_epoch = 0, read_stamp = 0;
    uint32_t read_lanes = 0;
    uint16_t writer = 0, read_warp = 0;
  };
  // These run for every two bytes that a kernel touches.
  [[gnu::always_inline]] [[nodiscard]] static Fault collision(const Cell& cell, Access access,
                                                              const Moment& now, unsigned& other);
  [[gnu::always_inline]] static void note_read(Cell& cell, const Moment& now);
  template <class Each>
  void each(size_t offset, size_t bytes, Each&& function) {
    for (size_t i = offset / 2; i < (offset + bytes + 1) / 2; ++i) function(cells_[i]);
  }
  Cell* cells_;
  size_t bytes_;
  uint32_t first_epoch_ = 0;
};

/// Which bytes of device memory are allocated, and who of a launch last wrote and read them.
class DeviceShadow {
 public:
  explicit DeviceShadow(size_t bytes);
  DeviceShadow(const DeviceShadow&) = delete;
  DeviceShadow& operator=(const DeviceShadow&) = delete;
  void allocated(size_t offset, size_t bytes) { mark(offset, bytes, true); }
  void released(size_t offset, size_t bytes) { mark(offset, bytes, false); }
  /// From this epoch on; nothing orders the blocks of a launch.
  void begin_launch(uint32_t epoch) { first_of_launch_ = first_of_block_ = epoch, ordered_ = false; }
  void begin_block(uint32_t epoch) { first_of_block_ = epoch; }
  /// Blocks of this launch wait for each other by means that are not looked at.
  void blocks_meet() { ordered_ = true; }
  [[nodiscard]] bool is_allocated(size_t offset, size_t bytes) const;
  /// `other` receives the thread that the access collides with, or kAnotherBlock.
  [[nodiscard]] Fault access(size_t offset, size_t bytes, Access access, const Moment& now, unsigned& other);
  static constexpr unsigned kAnotherBlock = 0xffffffffu;

 private:
  static constexpr size_t kUnit = 64;
  struct Cell {
    uint32_t write_epoch, read_epoch;
    uint16_t writer, write_stamp;
    uint16_t reader, read_stamp;  ///< a thread, and what follows
  };
  static constexpr uint16_t kThread = 0x3ff, kSeveralBlocks = 0x2000, kSeveralLanes = 0x4000,
                            kSeveralWarps = 0x8000;
  void mark(size_t offset, size_t bytes, bool live);
  [[nodiscard]] bool is_before(uint16_t stamp, unsigned lane, const Moment& now) const;
  [[gnu::always_inline]] [[nodiscard]] Fault collision(const Cell& cell, Access access, const Moment& now,
                                                       unsigned& other) const;
  [[gnu::always_inline]] void note_read(Cell& cell, const Moment& now) const;
  uint8_t* valid_;  ///< of each unit of 64 bytes, how many of the first are allocated
  Cell* cells_;     ///< of each pair of bytes
  uint32_t first_of_launch_ = 0, first_of_block_ = 0;
  bool ordered_ = false;
};

[[nodiscard]] std::string text_of(Fault fault);
/// "file.cu:12", of the code that a call returned to.
[[nodiscard]] std::string source_line(const void* code);

}  // namespace dino::simt
