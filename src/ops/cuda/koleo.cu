// SPDX-License-Identifier: Apache-2.0
#include "ops/koleo.hpp"

#include <cmath>
#include <limits>

#include "ops/checks.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/elements.hpp"

namespace dino::cuda {
namespace {

/// The first largest number of some columns; column -1: none that compares.
struct Largest {
  float value = 0;
  int column = -1;

  __device__ __forceinline__ void offer(float other, int at) {
    if (at >= 0 && other == other && (column < 0 || other > value || (other == value && at < column))) {
      value = other;
      column = at;
    }
  }
};
struct LargestOfWarps {
  float value[kBlockWarps];
  int column[kBlockWarps];
};

/// One block a row.
template <int kWidth>
__global__ void __launch_bounds__(kBlock)
    nearest_of_rows(const float* dots, int columns, int64_t first, int64_t* index) {
  const int64_t row = blockIdx.x;
  const float* in = dots + row * columns;
  const int own = static_cast<int>(first + row);
  Largest best;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) * kWidth; i < columns; i += kBlock * kWidth) {
    const Group<float, kWidth> part = load_group<kWidth>(in + i);
    for (int l = 0; l < kWidth; ++l) best.offer(part.at[l], i + l == own ? -1 : i + l);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const float value = __shfl_xor_sync(kAllLanes, best.value, step);
    const int column = __shfl_xor_sync(kAllLanes, best.column, step);
    best.offer(value, column);
  }
  LargestOfWarps& shared = block_shared<LargestOfWarps>();
  if (threadIdx.x % kWarp == 0) {
    shared.value[threadIdx.x / kWarp] = best.value;
    shared.column[threadIdx.x / kWarp] = best.column;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kBlockWarps; ++warp) best.offer(shared.value[warp], shared.column[warp]);
  index[row] = best.column >= 0 ? best.column : own == 0 ? 1 : 0;
}

/// Of anchor a, one warp each, where it or its neighbour is an own row: distances[a] = |x_a - x_nn(a) + eps|
/// and scales[a] = `share` times the slope of its term, 0 below the resolution.
template <int kWidth>
__global__ void __launch_bounds__(kBlock)
    anchor_terms(const float* x, const int64_t* neighbours, int total, int d, int first, int own,
                 double share, double* distances, double* scales) {
  const int anchor = static_cast<int>(global_thread() / kWarp);
  if (anchor >= total) return;
  const auto neighbour = static_cast<int>(neighbours[anchor]);
  const auto is_own = [=](int row) { return row >= first && row < first + own; };
  if (!is_own(anchor) && !is_own(neighbour)) return;
  const float* a = x + static_cast<int64_t>(anchor) * d;
  const float* b = x + static_cast<int64_t>(neighbour) * d;
  double squares = 0;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) % kWarp * kWidth; i < d; i += kWarp * kWidth) {
    float of_a[kWidth], of_b[kWidth];
    load(a + i, of_a);
    load(b + i, of_b);
    for (int l = 0; l < kWidth; ++l) {
      const float difference = of_a[l] - of_b[l] + ops::kKoleoEps;
      squares = fma(static_cast<double>(difference), static_cast<double>(difference), squares);
    }
  }
  const double distance = sqrt(warp_sum(squares));
  if (threadIdx.x % kWarp != 0) return;
  distances[anchor] = distance;
  scales[anchor] = distance < ops::kKoleoResolution
                       ? 0.0
                       : -share / ((distance + static_cast<double>(ops::kKoleoEps)) * distance);
}

/// loss += the own anchors' terms / total, by one block.
__global__ void __launch_bounds__(kBlock)
    add_anchor_losses(const double* distances, int first, int own, int total, double* loss) {
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < own; i += kBlock) {
    const double d = distances[first + i];
    // NaN stays: it is not below the resolution.
    sum -= log((d < ops::kKoleoResolution ? ops::kKoleoResolution : d) + static_cast<double>(ops::kKoleoEps));
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) *loss += sum / static_cast<double>(total);
}

/// Anchors that a row collects terms of, found among kBlock neighbours, ascending.
struct FoundAnchors {
  int count[kBlockWarps];
  int at[kBlock];
};

/// dx of an own row and kBlock * kWidth columns, by one block. A sum is rounded after each term, in the order
/// of the anchors, so that the gradient does not depend on which rows are one's own.
template <int kWidth>
__global__ void __launch_bounds__(kBlock)
    anchor_gradients(const float* x, const int64_t* neighbours, int total, int d, int first, int across,
                     const double* scales, float* dx) {
  FoundAnchors& found = block_shared<FoundAnchors>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const auto own_row = static_cast<int>(blockIdx.x / static_cast<unsigned>(across));
  const int row = first + own_row;
  const int column =
      (static_cast<int>(blockIdx.x % static_cast<unsigned>(across)) * kBlock + thread) * kWidth;
  float gradient[kWidth] = {};
  for (int begin = 0; begin < total; begin += kBlock) {
    const int anchor = begin + thread;
    const bool collects = anchor < total && (anchor == row || neighbours[anchor] == row);
    const unsigned votes = __ballot_sync(kAllLanes, collects);
    if (lane == 0) found.count[warp] = __popc(votes);
    __syncthreads();
    int before = 0, count = 0;
    for (int w = 0; w < kBlockWarps; ++w) {
      if (w < warp) before += found.count[w];
      count += found.count[w];
    }
    if (collects) found.at[before + __popc(votes & ((1u << lane) - 1))] = anchor;
    __syncthreads();
    for (int i = 0; i < count && column < d; ++i) {
      const int a = found.at[i];
      const auto b = static_cast<int>(neighbours[a]);
      const double scale = scales[a];
      if (scale == 0) continue;
      float of_a[kWidth], of_b[kWidth];
      load(x + static_cast<int64_t>(a) * d + column, of_a);
      load(x + static_cast<int64_t>(b) * d + column, of_b);
      for (int l = 0; l < kWidth; ++l) {
        const double term = scale * static_cast<double>(of_a[l] - of_b[l] + ops::kKoleoEps);
        if (a == row) gradient[l] = static_cast<float>(static_cast<double>(gradient[l]) + term);
        if (b == row) gradient[l] = static_cast<float>(static_cast<double>(gradient[l]) - term);
      }
    }
  }
  if (column < d) store(dx + static_cast<int64_t>(own_row) * d + column, gradient);
}

}  // namespace
}  // namespace dino::cuda

namespace dino::ops {
namespace {

using cuda::blocks_for;
using cuda::pointer;

int as_int(int64_t n) {
  DINO_CHECK(n <= std::numeric_limits<int>::max() / 2, std::to_string(n) + " rows or columns");
  return static_cast<int>(n);
}

}  // namespace

void CudaBackend::nearest_other(Stream& stream, ConstTensorView dots, int64_t first, TensorView index) {
  check::nearest_other(dots, first, index);
  const float* in = pointer<float>(dots);
  const int columns = as_int(dots.dim(1));
  const bool packs = columns % 4 == 0 && cuda::aligned({in});
  cuda::launch("nearest_other", packs ? cuda::nearest_of_rows<4> : cuda::nearest_of_rows<1>,
               {{static_cast<unsigned>(dots.dim(0))}, {cuda::kBlock}}, stream, in, columns, first,
               pointer<int64_t>(index));
}

void CudaBackend::koleo(Stream& stream, ConstTensorView x, ConstTensorView neighbours, int64_t first,
                        double weight, TensorView loss, TensorView dx) {
  check::koleo(x, neighbours, first, loss, dx);
  const int total = as_int(x.dim(0)), own = as_int(dx.dim(0)), d = as_int(x.dim(1));
  if (own == 0) return;
  const float* in = pointer<float>(x);
  const int64_t* nearest = pointer<int64_t>(neighbours);
  auto* distances = static_cast<double*>(
      cuda::cuda_stream(stream).scratch(2 * static_cast<size_t>(total) * sizeof(double)));
  double* scales = distances + total;
  float* out = pointer<float>(dx);
  cuda::with_width<4>(d % 4 == 0 && cuda::aligned({in, out}), [&]<int kWidth>(cuda::Width<kWidth>) {
    cuda::launch("koleo distances", cuda::anchor_terms<kWidth>,
                 {{blocks_for(total, cuda::kBlockWarps)}, {cuda::kBlock}}, stream, in, nearest, total, d,
                 first, own, weight / static_cast<double>(total), distances, scales);
    const unsigned across = blocks_for(d, int64_t{cuda::kBlock} * kWidth);
    cuda::launch("koleo gradient", cuda::anchor_gradients<kWidth>,
                 {{static_cast<unsigned>(own) * across}, {cuda::kBlock}}, stream, in, nearest, total, d,
                 first, across, scales, out);
  });
  cuda::launch("koleo loss", cuda::add_anchor_losses, {{1}, {cuda::kBlock}}, stream, distances, first, own,
               total, pointer<double>(loss));
}

}  // namespace dino::ops
