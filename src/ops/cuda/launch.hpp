// SPDX-License-Identifier: Apache-2.0
#pragma once
// The one way to start a kernel. The triple brackets are not used: the executor of the tests starts kernels
// through the same call.

#include <array>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tensor/cuda/device.hpp"

namespace dino::cuda {

/// Blocks of `block` that cover `n`.
[[nodiscard]] constexpr unsigned blocks_for(int64_t n, int64_t block) {
  return static_cast<unsigned>((n + block - 1) / block);
}

namespace detail {

template <class... P, size_t... I>
void launch(const char* name, void (*kernel)(P...), const LaunchShape& shape, StreamHandle stream,
            std::tuple<P...> values, std::index_sequence<I...>) {
  // The executor opens addresses of the device, which it cannot do where a struct hides them.
  static_assert(((std::is_arithmetic_v<P> || std::is_enum_v<P> || std::is_pointer_v<P>)&&...),
                "arguments of a kernel are numbers and pointers");
  std::array<void*, sizeof...(P)> addresses{&std::get<I>(values)...};
  constexpr std::array<size_t, sizeof...(P)> sizes{sizeof(P)...};
  constexpr std::array<bool, sizeof...(P)> pointers{std::is_pointer_v<P>...};
  KernelCall call{name,
                  reinterpret_cast<const void*>(kernel),
                  addresses.data(),
                  sizes.data(),
                  pointers.data(),
                  sizeof...(P),
                  nullptr};
#if defined(DINO_SIMT)
  call.invoke = [](const void* function, void** arguments) {
    reinterpret_cast<void (*)(P...)>(const_cast<void*>(function))(*static_cast<P*>(arguments[I])...);
  };
#endif
  launch_kernel(call, shape, stream);
}

}  // namespace detail

/// Enqueues the kernel. `name` is for messages. Nothing happens where the grid is empty.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), const LaunchShape& shape, Stream& stream,
            const A&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "one argument for each parameter");
  if (shape.grid.volume() == 0) return;
  detail::launch(name, kernel, shape, cuda_stream(stream).handle(),
                 std::tuple<P...>(static_cast<P>(arguments)...), std::index_sequence_for<P...>());
}

}  // namespace dino::cuda
