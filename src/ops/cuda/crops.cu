// SPDX-License-Identifier: Apache-2.0
// Crops of decoded pictures. Two kernels: the first cuts and resizes, a block for a tile of one crop, and
// leaves bytes; the second has a block for a crop, whose bytes it holds in shared memory where they fit, and
// does all else. The arithmetic is that of imaging/, operation by operation, with every rounding: no product
// and sum are contracted where that could show.

#include <algorithm>

#include "imaging/crop_steps.hpp"
#include "ops/checks.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/elements.hpp"

namespace dino::cuda {
namespace {

// ---- resizing (imaging/resize.cpp)

constexpr int kWeightBits = 22;
constexpr int kTile = 32;  ///< columns and rows of a crop
/// Weights of both directions and what is between the two passes. The static part is beside it: together they
/// stay below what a block may have without being asked for.
constexpr int kTileBytes = 46 << 10;
/// Taps of one output where the reduction is the largest.
constexpr int kMostTaps = 2 * 2 * ops::Backend::kMostReduction + 1;
static_assert(2 * kTile * kMostTaps * 4 + kMostTaps * kTile * 3 <= kTileBytes, "one row of a tile fits");

__device__ __forceinline__ double filter_support(Resampling filter) {
  return filter == Resampling::bicubic ? 2.0 : filter == Resampling::bilinear ? 1.0 : 0.5;
}

__device__ __forceinline__ double filter_weight(Resampling filter, double x) {
  if (filter == Resampling::box) return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
  x = fabs(x);
  if (filter == Resampling::bilinear) return x < 1.0 ? 1.0 - x : 0.0;
  if (x < 1.0) return __dadd_rn(__dmul_rn(__dmul_rn(__dadd_rn(__dmul_rn(1.5, x), -2.5), x), x), 1.0);
  if (x < 2.0) return __dmul_rn(__dadd_rn(__dmul_rn(__dadd_rn(__dmul_rn(x - 5.0, x), 8.0), x), -4.0), -0.5);
  return 0;
}

/// Where one output reads: `count` inputs from `first` on; their filter values add up to `sum`.
struct Taps {
  double center, sum;
  int first, count;
};
/// One direction of a tile: its first output, and how many.
struct Side {
  double scale, shrink;  ///< inputs an output; that, or 1 where it is smaller
  int begin, count, stride;
};
struct TileTaps {
  Taps of[2][kTile];  ///< across, down
};

__device__ __forceinline__ Side side_of(Resampling filter, int in, int out, int tile) {
  Side side;
  side.scale = static_cast<double>(in) / static_cast<double>(out);
  side.shrink = side.scale > 1.0 ? side.scale : 1.0;
  side.begin = tile * kTile;
  side.count = min(kTile, out - side.begin);
  side.stride = static_cast<int>(ceil(filter_support(filter) * side.shrink)) * 2 + 1;
  return side;
}

__device__ __forceinline__ double value_at(Resampling filter, const Side& side, double center, int x) {
  return filter_weight(filter, __dmul_rn(__dadd_rn(static_cast<double>(x) - center, 0.5), 1.0 / side.shrink));
}

__device__ __forceinline__ Taps taps_of(Resampling filter, const Side& side, int in, int i) {
  const double support = filter_support(filter) * side.shrink;
  Taps taps;
  taps.center = __dmul_rn(static_cast<double>(side.begin + i) + 0.5, side.scale);
  taps.first = max(static_cast<int>(__dadd_rn(taps.center, -support) + 0.5), 0);
  taps.count = min(static_cast<int>(__dadd_rn(taps.center, support) + 0.5), in) - taps.first;
  taps.sum = 0;
  for (int k = 0; k < taps.count; ++k) taps.sum += value_at(filter, side, taps.center, taps.first + k);
  return taps;
}

__device__ __forceinline__ int weight_at(Resampling filter, const Side& side, const Taps& taps, int k) {
  double w = value_at(filter, side, taps.center, taps.first + k);
  if (taps.sum != 0.0) w /= taps.sum;
  const double scaled = __dmul_rn(w, 1 << kWeightBits);
  return static_cast<int>(w < 0 ? scaled - 0.5 : scaled + 0.5);
}

__device__ __forceinline__ uint8_t to_8_bits(int sum) {
  const int value = sum >> kWeightBits;
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

/// Horizontal pass of `rows` rows of a box, whose first pixel is `from`, `pitch` bytes a row, into `wide`.
__device__ __forceinline__ void widen_rows(const uint8_t* from, int64_t pitch, int rows, const Side& across,
                                           const Taps* taps, const int* weights, uint8_t* wide) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * across.count; i += kBlock) {
    const int row = i / across.count, x = i % across.count;
    const uint8_t* source = from + row * pitch + int64_t{3} * taps[x].first;
    const int* weight = weights + x * across.stride;
    int r = 1 << (kWeightBits - 1), g = r, b = r;
    for (int k = 0; k < taps[x].count; ++k) {
      r += source[3 * k] * weight[k];
      g += source[3 * k + 1] * weight[k];
      b += source[3 * k + 2] * weight[k];
    }
    wide[3 * i] = to_8_bits(r);
    wide[3 * i + 1] = to_8_bits(g);
    wide[3 * i + 2] = to_8_bits(b);
  }
}

/// A tile of a crop: bytes [size, size, 3] at crop * stride of `resized`, flipped already.
__global__ void resize_crops_kernel(const uint8_t* pixels, const int64_t* pictures, const CropSteps* all,
                                    int filter_number, int size, int64_t stride, uint8_t* resized) {
  const auto filter = static_cast<Resampling>(filter_number);
  const int tiles = (size + kTile - 1) / kTile;
  const int64_t crop = blockIdx.x / static_cast<unsigned>(tiles * tiles);
  const int tile = static_cast<int>(blockIdx.x % static_cast<unsigned>(tiles * tiles));
  const CropSteps& steps = all[crop];
  const int64_t* picture = pictures + int64_t{3} * steps.picture;
  const int64_t pitch = 3 * picture[2];
  const uint8_t* box = pixels + picture[0] + steps.top * pitch + int64_t{3} * steps.left;
  uint8_t* const to = resized + crop * stride;

  const Side across = side_of(filter, steps.width, size, tile % tiles);
  const Side down = side_of(filter, steps.height, size, tile / tiles);
  TileTaps& taps = block_shared<TileTaps>();
  int* const weights_across = dynamic_shared<int>();
  int* const weights_down = weights_across + kTile * across.stride;
  auto* const wide = reinterpret_cast<uint8_t*>(weights_down + kTile * down.stride);
  const int room = (kTileBytes - 4 * kTile * (across.stride + down.stride)) / (3 * across.count);

  const int thread = static_cast<int>(threadIdx.x);
  if (thread < across.count)
    taps.of[0][thread] = taps_of(filter, across, steps.width, thread);
  else if (thread >= kTile && thread < kTile + down.count)
    taps.of[1][thread - kTile] = taps_of(filter, down, steps.height, thread - kTile);
  __syncthreads();
  for (int i = thread; i < across.count * across.stride; i += kBlock) {
    const Taps& of = taps.of[0][i / across.stride];
    const int k = i % across.stride;
    if (k < of.count) weights_across[i] = weight_at(filter, across, of, k);
  }
  for (int i = thread; i < down.count * down.stride; i += kBlock) {
    const Taps& of = taps.of[1][i / down.stride];
    const int k = i % down.stride;
    if (k < of.count) weights_down[i] = weight_at(filter, down, of, k);
  }
  __syncthreads();

  const int samples = 3 * across.count;
  // As many rows of the tile at a time as what they read has room for.
  for (int begin = 0; begin < down.count;) {
    const int first = taps.of[1][begin].first;
    int end = begin + 1, rows = taps.of[1][begin].count;
    while (end < down.count && taps.of[1][end].first + taps.of[1][end].count - first <= room) {
      rows = taps.of[1][end].first + taps.of[1][end].count - first;
      ++end;
    }
    widen_rows(box + first * pitch, pitch, rows, across, taps.of[0], weights_across, wide);
    __syncthreads();
    for (int i = thread; i < (end - begin) * samples; i += kBlock) {
      const int y = begin + i / samples, sample = i % samples;
      const Taps& of = taps.of[1][y];
      const int* weight = weights_down + y * down.stride;
      const uint8_t* source = wide + (of.first - first) * samples + sample;
      int sum = 1 << (kWeightBits - 1);
      for (int k = 0; k < of.count; ++k) sum += source[k * samples] * weight[k];
      const int x = across.begin + sample / 3;
      const int column = steps.flip != 0 ? size - 1 - x : x;
      to[(int64_t{down.begin + y} * size + column) * 3 + sample % 3] = to_8_bits(sum);
    }
    __syncthreads();
    begin = end;
  }
}

// ---- colour (imaging/pixel_kernels_table.hpp, imaging/colour.cpp)

constexpr int kMostCropThreads = 1024;

struct Pixel {
  int r, g, b;
};

__device__ __forceinline__ int luma(const Pixel& p) {
  return static_cast<int>((static_cast<unsigned>(p.r) * 19595u + static_cast<unsigned>(p.g) * 38470u +
                           static_cast<unsigned>(p.b) * 7471u + 0x8000u) >>
                          16);
}

__device__ __forceinline__ int blend(int a, int b, float alpha) {
  const float value = __fadd_rn(static_cast<float>(a), __fmul_rn(alpha, static_cast<float>(b - a)));
  return static_cast<int>(value <= 0.0f ? 0.0f : value >= 255.0f ? 255.0f : value);
}
__device__ __forceinline__ Pixel blend(int gray, const Pixel& p, float alpha) {
  return {blend(gray, p.r, alpha), blend(gray, p.g, alpha), blend(gray, p.b, alpha)};
}

/// PIL's 8-bit HSV and back, the hue moved on by `shift` in between.
__device__ __forceinline__ Pixel turn_hue(const Pixel& p, int shift) {
  const int high = max(max(p.r, p.g), p.b), low = min(min(p.r, p.g), p.b);
  const int spread = high - low;
  int h = 0, s = 0;
  if (spread != 0) {
    const auto range = static_cast<float>(spread);
    const float saturation = range / static_cast<float>(high);
    const float rc = static_cast<float>(high - p.r) / range;
    const float gc = static_cast<float>(high - p.g) / range;
    const float bc = static_cast<float>(high - p.b) / range;
    float sector;
    if (p.r == high)
      sector = bc - gc;
    else if (p.g == high)
      sector = static_cast<float>(2.0 + static_cast<double>(rc) - static_cast<double>(bc));
    else
      sector = static_cast<float>(4.0 + static_cast<double>(gc) - static_cast<double>(rc));
    const double turn = static_cast<double>(sector) / 6.0 + 1.0;
    const auto hue = static_cast<float>(turn >= 1.0 ? turn - 1.0 : turn);
    h = static_cast<int>(__dmul_rn(static_cast<double>(hue), 255.0));
    s = static_cast<int>(__dmul_rn(static_cast<double>(saturation), 255.0));
  }
  h = (h + shift) & 255;
  const double at = static_cast<double>(h) * 6.0 / 255.0;
  const int sector = static_cast<int>(at);
  const double f = static_cast<float>(at - static_cast<double>(sector));
  const double saturation = static_cast<float>(static_cast<double>(s) / 255.0);
  const double value = high;
  const auto part = [&](double of) {
    return static_cast<int>(__dadd_rn(__dmul_rn(value, __dadd_rn(1.0, -__dmul_rn(saturation, of))), 0.5));
  };
  const int least = part(1.0);
  switch (sector) {
    case 1:
      return {part(f), high, least};
    case 2:
      return {least, high, part(1.0 - f)};
    case 3:
      return {least, part(f), high};
    case 4:
      return {part(1.0 - f), least, high};
    case 5:
      return {high, least, part(f)};
    default:  // 0, and 6 at the end of the circle
      return {high, part(1.0 - f), least};
  }
}

/// Pixel i of the block's crop <- change(pixel), by the thread that owns it.
template <class Change>
__device__ __forceinline__ void for_own_pixels(uint8_t* rgb, int pixels, const Change& change) {
  for (int i = static_cast<int>(threadIdx.x); i < pixels; i += static_cast<int>(blockDim.x)) {
    const Pixel p = change(Pixel{rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]});
    rgb[3 * i] = static_cast<uint8_t>(p.r);
    rgb[3 * i + 1] = static_cast<uint8_t>(p.g);
    rgb[3 * i + 2] = static_cast<uint8_t>(p.b);
  }
}

/// The gray level that contrast blends with: the mean, rounded.
__device__ __forceinline__ int mean_luma(const uint8_t* rgb, int pixels) {
  int64_t sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < pixels; i += static_cast<int>(blockDim.x))
    sum += luma({rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]});
  const double mean = static_cast<double>(block_sum(sum)) / static_cast<double>(pixels);
  return static_cast<int>(mean + 0.5);
}

__device__ __forceinline__ void change_colours(const CropSteps& steps, uint8_t* rgb, int pixels) {
  for (int i = 0; i < kColourSteps; ++i) {
    const float factor = steps.factor[i];
    switch (steps.colour[i]) {
      case ColourStep::none:
        break;
      case ColourStep::brightness:
        for_own_pixels(rgb, pixels, [&](const Pixel& p) { return blend(0, p, factor); });
        break;
      case ColourStep::contrast: {
        const int level = mean_luma(rgb, pixels);
        for_own_pixels(rgb, pixels, [&](const Pixel& p) { return blend(level, p, factor); });
        break;
      }
      case ColourStep::saturation:
        for_own_pixels(rgb, pixels, [&](const Pixel& p) { return blend(luma(p), p, factor); });
        break;
      case ColourStep::hue: {
        const int shift = static_cast<int>(factor);
        for_own_pixels(rgb, pixels, [&](const Pixel& p) { return turn_hue(p, shift); });
        break;
      }
    }
  }
  if (steps.grayscale != 0)
    for_own_pixels(rgb, pixels, [&](const Pixel& p) {
      const int gray = luma(p);
      return Pixel{gray, gray, gray};
    });
}

/// Index beyond the border, mirrored without repeating the edge; any distance.
__device__ __forceinline__ int mirrored(int i, int n) {
  if (i >= 0 && i < n) return i;
  if (n == 1) return 0;
  const int period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < n ? i : period - i;
}

/// Of a blurred level: to the nearest, halves to the even one.
__device__ __forceinline__ int to_level(float sum) {
  const float rounded = __fadd_rn(__fadd_rn(sum, 12582912.0f), -12582912.0f);
  return static_cast<int>(rounded < 0.0f ? 0.0f : rounded > 255.0f ? 255.0f : rounded);
}

/// What becomes of a level of a channel in the end.
struct Endings {
  float of[3][256];
};

/// Rows [begin, begin + rows) blurred, with their endings, into the planes of `out`; `lines` f32 [rows, 3
/// size] is between the passes.
__device__ __forceinline__ void blur_rows(const CropSteps& steps, const uint8_t* rgb, int size, int begin,
                                          int rows, float* lines, const Endings& endings, float* out) {
  constexpr int kHalf = kBlurKernel / 2;
  const int row = 3 * size, step = static_cast<int>(blockDim.x);
  float weights[kBlurKernel];
  for (int k = 0; k < kBlurKernel; ++k) weights[k] = steps.blur[k];
  for (int i = static_cast<int>(threadIdx.x); i < rows * row; i += step) {
    const int y = begin + i / row, sample = i % row;
    float sum = 0;
    for (int k = 0; k < kBlurKernel; ++k)
      sum = __fadd_rn(
          sum, __fmul_rn(weights[k], static_cast<float>(rgb[mirrored(y + k - kHalf, size) * row + sample])));
    lines[i] = sum;
  }
  __syncthreads();
  const int plane = rows * size;
  for (int i = static_cast<int>(threadIdx.x); i < 3 * plane; i += step) {
    const int channel = i / plane, y = i % plane / size, x = i % plane % size;
    const float* line = lines + y * row + channel;
    float sum = 0;
    for (int k = 0; k < kBlurKernel; ++k)
      sum = __fadd_rn(sum, __fmul_rn(weights[k], line[3 * mirrored(x + k - kHalf, size)]));
    out[(channel * size + begin + y) * size + x] = endings.of[channel][to_level(sum)];
  }
  __syncthreads();
}

/// Of rows between the passes: whole packs.
constexpr int64_t line_floats(int64_t rows, int64_t size) {
  return (3 * rows * size + 3) / 4 * 4;
}

/// A crop of `resized`, to out f32 [crops,3,size,size]. Dynamic shared memory: f32 [rows, 3 size], then,
/// where `kept`, the crop's bytes.
__global__ void __launch_bounds__(kMostCropThreads)
    colour_crops_kernel(uint8_t* resized, const CropSteps* all, int size, int64_t stride, int rows, bool kept,
                        float mean_r, float mean_g, float mean_b, float deviation_r, float deviation_g,
                        float deviation_b, float* out) {
  const CropSteps& steps = all[blockIdx.x];
  const int pixels = size * size;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  uint8_t* rgb = resized + blockIdx.x * stride;
  float* const lines = dynamic_shared<float>();
  out += int64_t{blockIdx.x} * 3 * pixels;

  if (kept) {
    // Whole packs; the last one's filling is nobody's.
    auto* const copy = reinterpret_cast<uint8_t*>(lines + line_floats(rows, size));
    for (int64_t i = int64_t{16} * thread; i < 3 * pixels; i += int64_t{16} * threads)
      store_pack(copy + i, load_pack(rgb + i));
    rgb = copy;
  }
  Endings& endings = block_shared<Endings>();
  for (int i = thread; i < 3 * 256; i += threads) {
    const int channel = i / 256;
    int level = i % 256;
    if (steps.solarize != 0 && level >= kSolarizeThreshold) level = 255 - level;
    const float mean = channel == 0 ? mean_r : channel == 1 ? mean_g : mean_b;
    const float deviation = channel == 0 ? deviation_r : channel == 1 ? deviation_g : deviation_b;
    endings.of[channel][i % 256] = (static_cast<float>(level) / 255.0f - mean) / deviation;
  }
  __syncthreads();

  change_colours(steps, rgb, pixels);
  __syncthreads();
  if (steps.blur[kBlurKernel / 2] > 0) {
    for (int begin = 0; begin < size; begin += rows)
      blur_rows(steps, rgb, size, begin, min(rows, size - begin), lines, endings, out);
  } else {
    for (int i = thread; i < 3 * pixels; i += threads) {
      const int channel = i / pixels;
      out[i] = endings.of[channel][rgb[3 * (i % pixels) + channel]];
    }
  }
}

}  // namespace
}  // namespace dino::cuda

namespace dino::ops {

using namespace cuda;

namespace {

/// How the second kernel uses a block's shared memory.
struct CropLaunch {
  CropLaunch(Device device, int64_t count, int64_t size, int64_t stride) {
    constexpr int64_t kMostRows = 16;
    // A process has one GPU. Some bytes are static.
    static const int64_t room = cuda::facts(device.index).shared_bytes - 4096;
    constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
    const int64_t line = 3 * size * kFloat;
    kept = stride + line <= room;
    rows = std::clamp<int64_t>((room - (kept ? stride : 0)) / line, 1, std::min(kMostRows, size));
    const int64_t warps =
        std::clamp<int64_t>(blocks_for(size * size, int64_t{4} * kWarp), 1, cuda::kMostCropThreads / kWarp);
    shape.grid.x = static_cast<unsigned>(count);
    shape.block.x = static_cast<unsigned>(warps * kWarp);
    shape.shared_bytes = static_cast<size_t>(kFloat * line_floats(rows, size) + (kept ? stride : 0));
  }
  LaunchShape shape;
  int64_t rows;  ///< blurred at a time
  bool kept;     ///< the crop's bytes are in shared memory
};

}  // namespace

void CudaBackend::augment_crops(Stream& stream, ConstTensorView pixels, ConstTensorView pictures,
                                ConstTensorView crops, Resampling filter, const Normalisation& normalisation,
                                TensorView out) {
  check::augment_crops(pixels, pictures, crops, out);
  const int64_t count = out.dim(0), size = out.dim(2);
  const int64_t stride = (3 * size * size + 15) / 16 * 16;
  const int64_t tiles = blocks_for(size, kTile);
  auto* const resized =
      static_cast<uint8_t*>(cuda_stream(stream).scratch(static_cast<size_t>(count * stride)));
  const auto* const steps = reinterpret_cast<const CropSteps*>(pointer<uint8_t>(crops));
  launch("resize_crops", resize_crops_kernel,
         {{static_cast<unsigned>(count * tiles * tiles)}, {kBlock}, kTileBytes}, stream,
         pointer<uint8_t>(pixels), pointer<int64_t>(pictures), steps, static_cast<int>(filter), size, stride,
         resized);
  const CropLaunch second(out.device, count, size, stride);
  const auto& [mean, deviation] = normalisation;
  launch("colour_crops", colour_crops_kernel, second.shape, stream, resized, steps, size, stride, second.rows,
         second.kept, mean[0], mean[1], mean[2], deviation[0], deviation[1], deviation[2],
         pointer<float>(out));
}

}  // namespace dino::ops
