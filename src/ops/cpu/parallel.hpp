// SPDX-License-Identifier: Apache-2.0
#pragma once
// How operators split their work over OpenMP threads.

#include <algorithm>
#include <initializer_list>

#include "base/half.hpp"
#include "ops/cpu/kernels.hpp"
#include "ops/cpu/scratch.hpp"
#include "tensor/tensor.hpp"

namespace dino::ops {

/// Below this many elements in all, waking threads costs more than they save.
constexpr int64_t kSerialElements = 1 << 14;

/// function(T{}) with the activations' type.
template <class Function>
void with_act(DType dtype, Function&& function) {
  if (dtype == DType::bf16)
    function(bf16{});
  else if (dtype == DType::f16)
    function(f16{});
  else
    function(float{});
}

/// function(i) for i in [0, count), each touching about `cost` elements.
template <class Function>
void parallel_for(int64_t count, int64_t cost, Function&& function) {
#pragma omp parallel for schedule(static) if (count * cost > kSerialElements && count > 1)
  for (int64_t i = 0; i < count; ++i) function(i);
}

/// function(begin, count) over blocks of a flat array.
template <class Function>
void for_blocks(int64_t n, int64_t block, Function&& function) {
  parallel_for((n + block - 1) / block, block,
               [&](int64_t i) { function(i * block, std::min(block, n - i * block)); });
}

/// Column sums over rows in a fixed order: chunks of kChunkRows rows go in parallel, each into partial sums
/// of its own (`sums` of them, `width` wide), which are then added in the order of the chunks.
/// chunk(first_row, rows, float* partial[0..sums))
template <class Function>
void chunked_column_sums(int64_t rows, int64_t width, std::initializer_list<float*> totals,
                         Function&& chunk) {
  thread_local Scratch scratch;
  const auto sums = static_cast<int64_t>(totals.size());
  const int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
  float* partials = scratch.floats(chunks * sums * width);
  parallel_for(chunks, kChunkRows * width, [&](int64_t i) {
    float* mine = partials + i * sums * width;
    std::fill_n(mine, sums * width, 0.0f);
    chunk(i * kChunkRows, std::min(kChunkRows, rows - i * kChunkRows), mine);
  });
  for (int64_t i = 0; i < chunks; ++i) {
    const float* from = partials + i * sums * width;
    for (float* total : totals) {
      if (total != nullptr) kernels().f32.add_scaled(total, from, nullptr, 1.0f, width);
      from += width;
    }
  }
}

}  // namespace dino::ops
