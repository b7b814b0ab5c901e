// SPDX-License-Identifier: Apache-2.0
// The calls that the compiler puts before each access of code compiled with -fsanitize=thread. Nothing is
// linked with the thread sanitizer's own library.
#include <cstddef>
#include <cstdint>

#include "simt/block.hpp"

// NOLINTBEGIN(bugprone-reserved-identifier)

using dino::simt::Access;
using dino::simt::Executor;
using dino::simt::kWatched;

#define WATCH(address, bytes, access) Executor::watch(address, bytes, access, __builtin_return_address(0))
#define WATCHED_SIZE(n)                      \
  void __tsan_read##n(void* at) {            \
    WATCH(at, n, Access::read);              \
  }                                          \
  void __tsan_write##n(void* at) {           \
    WATCH(at, n, Access::write);             \
  }                                          \
  void __tsan_unaligned_read##n(void* at) {  \
    WATCH(at, n, Access::read);              \
  }                                          \
  void __tsan_unaligned_write##n(void* at) { \
    WATCH(at, n, Access::write);             \
  }

/// Host code of the same files counts references and guards statics; one thread runs it.
#define ATOMICS(bits, T)                                                                            \
  T __tsan_atomic##bits##_load(const volatile T* at, int) {                                         \
    return *at;                                                                                     \
  }                                                                                                 \
  void __tsan_atomic##bits##_store(volatile T* at, T x, int) {                                      \
    *at = x;                                                                                        \
  }                                                                                                 \
  T __tsan_atomic##bits##_exchange(volatile T* at, T x, int order) {                                \
    return __atomic_exchange_n(at, x, order);                                                       \
  }                                                                                                 \
  T __tsan_atomic##bits##_fetch_add(volatile T* at, T x, int order) {                               \
    return __atomic_fetch_add(at, x, order);                                                        \
  }                                                                                                 \
  T __tsan_atomic##bits##_fetch_sub(volatile T* at, T x, int order) {                               \
    return __atomic_fetch_sub(at, x, order);                                                        \
  }                                                                                                 \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* at, T* expected, T x, int, int) {   \
    return __atomic_compare_exchange_n(at, expected, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }

#if !defined(DINO_SANITIZE)
extern "C" {
void __tsan_init();
void __tsan_func_entry(void* code);
void __tsan_func_exit();
void __tsan_vptr_update(void** at, void* x);
void __tsan_vptr_read(void** at);
void __tsan_read_range(void* at, size_t bytes);
void __tsan_write_range(void* at, size_t bytes);

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* at, size_t bytes) {
  WATCH(at, bytes, Access::read);
}
void __tsan_write_range(void* at, size_t bytes) {
  WATCH(at, bytes, Access::write);
}
WATCHED_SIZE(1)
WATCHED_SIZE(2)
WATCHED_SIZE(4)
WATCHED_SIZE(8)
WATCHED_SIZE(16)
ATOMICS(8, uint8_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
}
#endif

// NOLINTEND(bugprone-reserved-identifier)
