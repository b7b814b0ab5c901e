// SPDX-License-Identifier: Apache-2.0
// Images to patches and back: a block has one patch, whose columns lie together; of an image it touches runs
// of `patch` pixels, whose neighbours other blocks find in the cache.

#include "ops/checks.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/elements.hpp"

namespace dino::cuda {
namespace {

constexpr int kPatchThreads = 128;

/// function(column of the block's patch, element of the images) for each group of N pixels, N divides patch.
template <int N, class Function>
__device__ __forceinline__ void for_pixels(int channels, int height, int width, int patch,
                                           Function&& function) {
  const int across = width / patch;
  const int per_image = height / patch * across;
  const int64_t image = blockIdx.x / static_cast<unsigned>(per_image);
  const int place = static_cast<int>(blockIdx.x % static_cast<unsigned>(per_image));
  const int top = place / across * patch, left = place % across * patch;
  const int area = patch * patch;
  for (int column = static_cast<int>(threadIdx.x) * N; column < channels * area;
       column += kPatchThreads * N) {
    const int channel = column / area, y = column % area / patch, x = column % patch;
    function(column, ((image * channels + channel) * height + top + y) * width + left + x);
  }
}

template <class T, int N>
__global__ void patchify_kernel(const float* images, T* patches, int channels, int height, int width,
                                int patch) {
  T* const to = patches + int64_t{blockIdx.x} * channels * patch * patch;
  for_pixels<N>(channels, height, width, patch, [&](int column, int64_t pixel) {
    float values[N];
    load(images + pixel, values);
    store(to + column, values);
  });
}

template <class T, int N>
__global__ void patchify_backward_kernel(const T* dpatches, float* dimages, int channels, int height,
                                         int width, int patch) {
  const T* const from = dpatches + int64_t{blockIdx.x} * channels * patch * patch;
  for_pixels<N>(channels, height, width, patch, [&](int column, int64_t pixel) {
    float values[N];
    load(from + column, values);
    store(dimages + pixel, values);
  });
}

/// function(Width) of the widest groups that patches of this size are made of.
template <class Function>
void with_pixel_width(int64_t patch, bool is_aligned, Function&& function) {
  if (is_aligned && patch % 4 == 0)
    function(Width<4>{});
  else
    with_width<2>(is_aligned && patch % 2 == 0, function);
}

}  // namespace
}  // namespace dino::cuda

namespace dino::ops {

using namespace cuda;

void CudaBackend::patchify(Stream& stream, ConstTensorView images, int64_t patch, TensorView patches) {
  check::patchify(images, patch, patches);
  with_cuda_act(patches.dtype, [&]<class T>(T) {
    with_pixel_width(patch, aligned({images.data, patches.data}), [&]<int N>(Width<N>) {
      launch("patchify", patchify_kernel<T, N>, {{static_cast<unsigned>(patches.dim(0))}, {kPatchThreads}},
             stream, pointer<float>(images), pointer<T>(patches), images.dim(1), images.dim(2), images.dim(3),
             patch);
    });
  });
}

void CudaBackend::patchify_backward(Stream& stream, ConstTensorView dpatches, int64_t patch,
                                    TensorView dimages) {
  check::patchify(dimages, patch, dpatches);
  with_cuda_act(dpatches.dtype, [&]<class T>(T) {
    with_pixel_width(patch, aligned({dpatches.data, dimages.data}), [&]<int N>(Width<N>) {
      launch("patchify_backward", patchify_backward_kernel<T, N>,
             {{static_cast<unsigned>(dpatches.dim(0))}, {kPatchThreads}}, stream, pointer<T>(dpatches),
             pointer<float>(dimages), dimages.dim(1), dimages.dim(2), dimages.dim(3), patch);
    });
  });
}

}  // namespace dino::ops
