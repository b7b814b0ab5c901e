// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the address sanitizer is told; nothing in builds without it.

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace dino::testing {

#if defined(__SANITIZE_ADDRESS__)
inline void poison(const void* begin, size_t bytes) {
  __asan_poison_memory_region(begin, bytes);
}
inline void unpoison(const void* begin, size_t bytes) {
  __asan_unpoison_memory_region(begin, bytes);
}
/// Around a jump to another stack; `fake_stack` is kept by what is left, or null if nobody comes back to it.
inline void leave_stack(void** fake_stack, const void* bottom, size_t bytes) {
  __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
}
inline void arrive_on_stack(void* fake_stack, const void** from_bottom, size_t* from_bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, from_bottom, from_bytes);
}
#else
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
inline void leave_stack(void**, const void*, size_t) {}
inline void arrive_on_stack(void*, const void**, size_t*) {}
#endif

}  // namespace dino::testing
