// SPDX-License-Identifier: Apache-2.0
// Losses over rows of up to 262,144 prototypes: a block owns a row, keeps what fits of it in shared memory
// between its two passes, and reads the rest again; of few rows several blocks share each. Sums of rows are
// in f32: each thread adds a part, and the parts are added in pairs.

#include <cfloat>
#include <cmath>

#include "ops/checks.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/elements.hpp"
#include "ops/cuda/kernels.hpp"

namespace dino::cuda {
namespace {

constexpr int kRowThreads = 1024;  ///< most of a block that owns a row

/// kWidth neighbours of a row, 16 bytes or a single number.
template <int kWidth>
using Part = Group<float, kWidth>;

/// use(i, load(i)) of the block's parts i = begin, begin + kWidth, ... < end, each thread every blockDim-th;
/// kBatch loads of a thread are under way together.
template <int kWidth, int kBatch, class Load, class Use>
__device__ __forceinline__ void for_parts(int begin, int end, const Load& load, const Use& use) {
  const int stride = static_cast<int>(blockDim.x) * kWidth;
  for (int i = begin + static_cast<int>(threadIdx.x) * kWidth; i < end; i += stride * kBatch) {
    decltype(load(i)) held[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      if (i + j * stride < end) held[j] = load(i + j * stride);
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      if (i + j * stride < end) use(i + j * stride, held[j]);
  }
}

/// exp(x / temperature) for x <= 0, as 2^(x c) with c = log2(e) / temperature in two parts, of which the
/// product keeps what f32 rounds away. 0 below 2^-126; NaN stays.
class ScaledExp {
 public:
  __device__ __forceinline__ ScaledExp(float c_high, float c_low)
      : high_(c_high), low_(c_low), lowest_(-200.0f / c_high) {}
  __device__ __forceinline__ float operator()(float x) const {
    constexpr float kLn2 = 0.693147180559945f;
    x = x < lowest_ ? lowest_ : x;  // an infinite power has no rest
    const float power = x * high_;
    const float rest = fmaf(x, high_, -power) + x * low_;
    const float y = exp2_fast(power);
    return fmaf(y, rest * kLn2, y);
  }

 private:
  float high_, low_, lowest_;
};

/// Numbers of a row and their targets.
template <int kWidth>
struct Pair {
  Part<kWidth> a, t;
};

/// What a thread knows of its numbers a and their targets t; sums are relative to the largest a.
struct RowSums {
  float top = -FLT_MAX;
  float exps = 0;   ///< of exp((a - top) / temperature)
  float mass = 0;   ///< of t
  float along = 0;  ///< of t (a - top)

  __device__ __forceinline__ void move_top(float to, const ScaledExp& scaled_exp) {
    const float down = top - to;
    exps *= scaled_exp(down);
    along = fmaf(mass, down, along);
    top = to;
  }
  template <int kWidth>
  __device__ __forceinline__ void raise_top(const Part<kWidth>& a, const ScaledExp& scaled_exp) {
    float largest = a.at[0];
    for (int i = 1; i < kWidth; ++i) largest = a.at[i] > largest ? a.at[i] : largest;
    if (largest > top) move_top(largest, scaled_exp);
  }
  template <int kWidth>
  __device__ __forceinline__ void add(const Pair<kWidth>& pair, const ScaledExp& scaled_exp) {
    raise_top(pair.a, scaled_exp);
    for (int l = 0; l < kWidth; ++l) {
      const float below = pair.a.at[l] - top;
      exps += scaled_exp(below);
      mass += pair.t.at[l];
      along = fmaf(pair.t.at[l], below, along);
    }
  }
  /// Over the block's threads, to each of them.
  __device__ __forceinline__ void add_up(const ScaledExp& scaled_exp) {
    move_top(block_max(top), scaled_exp);
    exps = block_sum(exps);
    mass = block_sum(mass);
    along = block_sum(along);
  }
  [[nodiscard]] __device__ __forceinline__ float loss(float inverse_temperature) const {
    return mass * logf(exps) - along * inverse_temperature;
  }
};

/// The gradient of a row's numbers, times its weight.
class RowGradient {
 public:
  __device__ __forceinline__ RowGradient(const RowSums& sums, float factor)
      : top_(sums.top), factor_(factor), of_exp_(factor * sums.mass / sums.exps) {}
  template <int kWidth>
  __device__ __forceinline__ Part<kWidth> operator()(const Pair<kWidth>& pair,
                                                     const ScaledExp& scaled_exp) const {
    Part<kWidth> gradient;
    for (int l = 0; l < kWidth; ++l)
      gradient.at[l] = scaled_exp(pair.a.at[l] - top_) * of_exp_ - factor_ * pair.t.at[l];
    return gradient;
  }

 private:
  float top_, factor_, of_exp_;
};

/// A row of k floats that begins anywhere: parts of kWidth from `head` to `tail`, which lie at multiples of
/// their size, and up to 2 (kWidth - 1) single numbers before and behind, a thread for each.
template <int kWidth>
struct RowSpan {
  int head, tail, k;
  int shift;  ///< so many numbers before head is a multiple of kWidth, as the row would be in shared memory
  __device__ __forceinline__ RowSpan(int64_t row, int k_of_row) : k(k_of_row) {
    const int beyond = static_cast<int>(row * k % kWidth);
    head = beyond == 0 ? 0 : kWidth - beyond;
    if (head > k) head = k;
    tail = head + (k - head) / kWidth * kWidth;
    shift = beyond;
  }
  template <class Load, class Use>
  __device__ __forceinline__ void for_singles(const Load& load, const Use& use) const {
    if constexpr (kWidth > 1) {
      const int thread = static_cast<int>(threadIdx.x);
      const int i = thread < head ? thread : tail + thread - head;
      if (i < k && (thread < head || i >= tail)) use(i, load(Width<1>{}, i));
    }
  }
  /// The end of the parts that shared memory with room for `kept` numbers holds.
  [[nodiscard]] __device__ __forceinline__ int kept_end(int kept) const {
    const int end = head + kept / kWidth * kWidth;
    return end < tail ? end : tail;
  }
};

/// What reads numbers and their targets.
struct PairLoad {
  const float* s;
  const float* t;
  template <int kWidth>
  __device__ __forceinline__ Pair<kWidth> operator()(Width<kWidth>, int i) const {
    return {load_group<kWidth>(s + i), load_group<kWidth>(t + i)};
  }
};

/// One block a row, of which about the first `kept` numbers stay in shared memory between the passes. weight
/// null: no gradient, nothing kept.
template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_rows(float* logits, const float* targets, const float* weight, float* loss, int k, int kept,
                       float inverse_temperature, float c_high, float c_low) {
  constexpr int kBatch = kWidth == 1 ? 4 : 2;
  const int64_t row = blockIdx.x;
  const RowSpan<kWidth> span(row, k);
  float* s = logits + row * k;
  const PairLoad load{s, targets + row * k};
  float* kept_row = kept > 0 ? dynamic_shared<float>() + span.shift : nullptr;
  const int kept_end = span.kept_end(kept);
  const ScaledExp scaled_exp(c_high, c_low);
  const auto load_pair = [&](int i) { return load(Width<kWidth>{}, i); };
  RowSums sums;
  span.for_singles(load, [&](int, const auto& pair) { sums.add(pair, scaled_exp); });
  for_parts<kWidth, kBatch>(span.head, span.tail, load_pair, [&](int i, const Pair<kWidth>& pair) {
    sums.add(pair, scaled_exp);
    if (i < kept_end) store_group(kept_row + i, pair.a);
  });
  sums.add_up(scaled_exp);
  if (threadIdx.x == 0) loss[row] = sums.loss(inverse_temperature);
  if (weight == nullptr) return;
  const RowGradient gradient(sums, weight[row] * inverse_temperature);
  const auto finish = [&](int i, const auto& pair) { store_group(s + i, gradient(pair, scaled_exp)); };
  const auto load_kept = [&](int i) {
    return Pair<kWidth>{load_group<kWidth>(kept_row + i), load_group<kWidth>(load.t + i)};
  };
  span.for_singles(load, finish);
  for_parts<kWidth, kBatch>(span.head, kept_end, load_kept, finish);
  for_parts<kWidth, kBatch>(kept_end, span.tail, load_pair, finish);
}

/// A row of few is shared by `segments` blocks of `length` numbers each (a multiple of 4). This one leaves
/// what it knows of its numbers in parts[row, segment].
template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_segments(const float* logits, const float* targets, RowSums* parts, int k, int segments,
                           int length, float c_high, float c_low) {
  constexpr int kBatch = kWidth == 1 ? 4 : 2;
  const int64_t row = blockIdx.x / segments;
  const int segment = static_cast<int>(blockIdx.x % segments);
  const RowSpan<kWidth> span(row, k);
  const int begin = span.head + segment * length;
  const int end = begin + length < span.tail ? begin + length : span.tail;
  const PairLoad load{logits + row * k, targets + row * k};
  const ScaledExp scaled_exp(c_high, c_low);
  RowSums sums;
  const auto add = [&](int, const auto& pair) { sums.add(pair, scaled_exp); };
  if (segment == 0) span.for_singles(load, add);
  for_parts<kWidth, kBatch>(
      begin, end, [&](int i) { return load(Width<kWidth>{}, i); }, add);
  sums.add_up(scaled_exp);
  if (threadIdx.x == 0) parts[blockIdx.x] = sums;
}

/// Each of those blocks adds the row's parts up in their order, and makes the gradient of its own numbers
/// (weight may be null: none).
template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_gradients(float* logits, const float* targets, const float* weight, const RowSums* parts,
                            float* loss, int k, int segments, int length, float inverse_temperature,
                            float c_high, float c_low) {
  constexpr int kBatch = kWidth == 1 ? 4 : 2;
  const int64_t row = blockIdx.x / segments;
  const int segment = static_cast<int>(blockIdx.x % segments);
  const RowSpan<kWidth> span(row, k);
  const int begin = span.head + segment * length;
  const int end = begin + length < span.tail ? begin + length : span.tail;
  float* s = logits + row * k;
  const PairLoad load{s, targets + row * k};
  const ScaledExp scaled_exp(c_high, c_low);
  RowSums sums;
  for (int p = 0; p < segments; ++p) sums.top = fmaxf(sums.top, parts[row * segments + p].top);
  for (int p = 0; p < segments; ++p) {
    RowSums part = parts[row * segments + p];
    part.move_top(sums.top, scaled_exp);
    sums.exps += part.exps;
    sums.mass += part.mass;
    sums.along += part.along;
  }
  if (segment == 0 && threadIdx.x == 0) loss[row] = sums.loss(inverse_temperature);
  if (weight == nullptr) return;
  const RowGradient gradient(sums, weight[row] * inverse_temperature);
  const auto finish = [&](int i, const auto& pair) { store_group(s + i, gradient(pair, scaled_exp)); };
  if (segment == 0) span.for_singles(load, finish);
  for_parts<kWidth, kBatch>(
      begin, end, [&](int i) { return load(Width<kWidth>{}, i); }, finish);
}

/// One block a row: its largest number, then the exponentials in place.
template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    exp_of_rows(float* x, float* maxima, int k, int kept, float c_high, float c_low) {
  constexpr int kBatch = 4;
  const int64_t row = blockIdx.x;
  const RowSpan<kWidth> span(row, k);
  float* s = x + row * k;
  float* kept_row = kept > 0 ? dynamic_shared<float>() + span.shift : nullptr;
  const int kept_end = span.kept_end(kept);
  const auto load = [&]<int kN>(Width<kN>, int i) { return load_group<kN>(s + i); };
  const auto load_part = [&](int i) { return load(Width<kWidth>{}, i); };
  float largest = -INFINITY;
  const auto raise = [&](const auto& a) {
    for (const float number : a.at) largest = number > largest ? number : largest;
  };
  span.for_singles(load, [&](int, const auto& a) { raise(a); });
  for_parts<kWidth, kBatch>(span.head, span.tail, load_part, [&](int i, const Part<kWidth>& a) {
    raise(a);
    if (i < kept_end) store_group(kept_row + i, a);
  });
  const float top = block_max(largest);
  if (threadIdx.x == 0) maxima[row] = top;
  const ScaledExp scaled_exp(c_high, c_low);
  const auto finish = [&](int i, auto a) {
    for (float& number : a.at) number = scaled_exp(number - top);
    store_group(s + i, a);
  };
  const auto load_kept = [&](int i) { return load_group<kWidth>(kept_row + i); };
  span.for_singles(load, finish);
  for_parts<kWidth, kBatch>(span.head, kept_end, load_kept, finish);
  for_parts<kWidth, kBatch>(kept_end, span.tail, load_part, finish);
}

/// One block a row; what is kept has the centre (or null) taken away already. A centre's numbers lie as the
/// row's do: with kWidth > 1, k is a multiple of it or there is no centre.
template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    softmax_of_rows(float* x, const float* centre, int k, int kept, float c_high, float c_low) {
  constexpr int kBatch = kWidth == 1 ? 4 : 2;
  const int64_t row = blockIdx.x;
  const RowSpan<kWidth> span(row, k);
  float* s = x + row * k;
  float* kept_row = kept > 0 ? dynamic_shared<float>() + span.shift : nullptr;
  const int kept_end = span.kept_end(kept);
  const ScaledExp scaled_exp(c_high, c_low);
  const auto load = [&]<int kN>(Width<kN>, int i) {
    return Pair<kN>{load_group<kN>(s + i), centre == nullptr ? Part<kN>{} : load_group<kN>(centre + i)};
  };
  const auto load_pair = [&](int i) { return load(Width<kWidth>{}, i); };
  const auto shifted = [&]<int kN>(const Pair<kN>& pair) {
    Part<kN> a;
    for (int l = 0; l < kN; ++l) a.at[l] = pair.a.at[l] - pair.t.at[l];
    return a;
  };
  RowSums sums;
  const auto add = [&](const auto& a) {
    sums.raise_top(a, scaled_exp);
    for (const float number : a.at) sums.exps += scaled_exp(number - sums.top);
  };
  span.for_singles(load, [&](int, const auto& pair) { add(shifted(pair)); });
  for_parts<kWidth, kBatch>(span.head, span.tail, load_pair, [&](int i, const Pair<kWidth>& pair) {
    const Part<kWidth> a = shifted(pair);
    add(a);
    if (i < kept_end) store_group(kept_row + i, a);
  });
  const float top = block_max(sums.top);
  sums.move_top(top, scaled_exp);
  const float share = 1.0f / block_sum(sums.exps);
  const auto finish = [&](int i, auto a) {
    for (float& number : a.at) number = scaled_exp(number - top) * share;
    store_group(s + i, a);
  };
  const auto finish_pair = [&](int i, const auto& pair) { finish(i, shifted(pair)); };
  span.for_singles(load, finish_pair);
  for_parts<kWidth, kBatch>(
      span.head, kept_end, [&](int i) { return load_group<kWidth>(kept_row + i); }, finish);
  for_parts<kWidth, kBatch>(kept_end, span.tail, load_pair, finish_pair);
}

}  // namespace
}  // namespace dino::cuda

namespace dino::ops {
namespace {

using cuda::blocks_for;
using cuda::columns_of;
using cuda::LaunchShape;
using cuda::pointer;

/// Calls function(Width<4>) where matrices begin at a multiple of 16 bytes, so that most of a row can be read
/// so much at a time, else with Width<1>.
template <class Function>
void with_matrix_width(std::initializer_list<const void*> matrices, Function&& function) {
  cuda::with_width<4>(cuda::aligned(matrices), std::forward<Function>(function));
}
/// 1 / temperature for powers of two, in two parts.
struct Base2 {
  explicit Base2(float temperature) {
    const double factor = M_LOG2E / static_cast<double>(temperature);
    high = static_cast<float>(factor);
    low = static_cast<float>(factor - static_cast<double>(high));
  }
  float high, low;
};

/// A block for each row of k numbers, and how many of them it keeps between its passes.
struct RowLaunch {
  RowLaunch(Device device, int64_t rows, int k, int width) {
    // A process has one GPU. Some bytes are for the sums over a block, and for where a row begins.
    static const int64_t room = (cuda::facts(device.index).shared_bytes - 2048) / 4;
    kept = static_cast<int>(std::min<int64_t>(k, room / 4 * 4));
    // Eight parts and more for each thread: below 64k numbers a multiprocessor holds several blocks.
    const int64_t warps = std::clamp<int64_t>(blocks_for(k, int64_t{8} * width * cuda::kWarp), 1,
                                              cuda::kRowThreads / cuda::kWarp);
    shape.grid.x = static_cast<unsigned>(rows);
    shape.block.x = static_cast<unsigned>(warps * cuda::kWarp);
    keep(kept);
  }
  void keep(int count) {
    kept = count;
    shape.shared_bytes = count == 0 ? 0 : static_cast<size_t>(count + 4) * sizeof(float);
  }
  LaunchShape shape;
  int kept = 0;
};

/// Blocks that share a row of k numbers: with fewer rows than half the multiprocessors, what a block would
/// keep in shared memory is worth less than the multiprocessors that had none. Each has enough for its
/// threads.
int segments_of_row(Device device, int64_t rows, int k) {
  constexpr int kLeast = 8192;
  static const int64_t multiprocessors = cuda::facts(device.index).multiprocessors;  // a process has one GPU
  if (2 * rows > multiprocessors) return 1;
  return static_cast<int>(std::clamp<int64_t>(k / kLeast, 1, 2 * multiprocessors / rows));
}

}  // namespace

void CudaBackend::cross_entropy(Stream& stream, TensorView logits, ConstTensorView targets, float temperature,
                                ConstTensorView weight, TensorView loss) {
  check::same_f32({logits, targets});
  const int64_t rows = logits.dim(0);
  const int k = columns_of(logits);
  check::vector(weight, rows, true);
  check::vector(loss, rows, false);
  if (rows == 0) return;
  float* s = pointer<float>(logits);
  const float* t = pointer<float>(targets);
  const Base2 base2(temperature);
  const int segments = segments_of_row(memory_.device(), rows, k);
  if (segments > 1) {
    const int length = static_cast<int>(blocks_for(k, int64_t{4} * segments)) * 4;
    const LaunchShape shape{{static_cast<unsigned>(rows * segments)}, {cuda::kRowThreads}};
    auto* const parts = static_cast<cuda::RowSums*>(
        cuda::cuda_stream(stream).scratch(static_cast<size_t>(rows * segments) * sizeof(cuda::RowSums)));
    with_matrix_width({s, t}, [&]<int kWidth>(cuda::Width<kWidth>) {
      cuda::launch("cross_entropy", cuda::cross_entropy_segments<kWidth>, shape, stream, s, t, parts, k,
                   segments, length, base2.high, base2.low);
      cuda::launch("cross_entropy", cuda::cross_entropy_gradients<kWidth>, shape, stream, s, t,
                   pointer<float>(weight), parts, pointer<float>(loss), k, segments, length,
                   1.0f / temperature, base2.high, base2.low);
    });
    return;
  }
  with_matrix_width({s, t}, [&]<int kWidth>(cuda::Width<kWidth>) {
    RowLaunch to(memory_.device(), rows, k, kWidth);
    if (!weight) to.keep(0);
    cuda::launch("cross_entropy", cuda::cross_entropy_rows<kWidth>, to.shape, stream, s, t,
                 pointer<float>(weight), pointer<float>(loss), k, to.kept, 1.0f / temperature, base2.high,
                 base2.low);
  });
}

void CudaBackend::exp_rows(Stream& stream, TensorView x, float temperature, TensorView maxima) {
  check::matrix(x);
  check::vector(maxima, x.dim(0), false);
  if (x.dim(0) == 0) return;
  const int k = columns_of(x);
  float* data = pointer<float>(x);
  const Base2 base2(temperature);
  with_matrix_width({data}, [&]<int kWidth>(cuda::Width<kWidth>) {
    const RowLaunch to(memory_.device(), x.dim(0), k, kWidth);
    cuda::launch("exp_rows", cuda::exp_of_rows<kWidth>, to.shape, stream, data, pointer<float>(maxima), k,
                 to.kept, base2.high, base2.low);
  });
}

void CudaBackend::softmax_centred(Stream& stream, TensorView x, ConstTensorView centre, float temperature) {
  check::same_f32({x});
  const int k = columns_of(x);
  check::vector(centre, k, true);
  if (x.dim(0) == 0) return;
  float* data = pointer<float>(x);
  const float* shift = pointer<float>(centre);
  const Base2 base2(temperature);
  const bool wide = cuda::aligned({data, shift}) && (k % 4 == 0 || shift == nullptr);
  cuda::with_width<4>(wide, [&]<int kWidth>(cuda::Width<kWidth>) {
    const RowLaunch to(memory_.device(), x.dim(0), k, kWidth);
    cuda::launch("softmax_centred", cuda::softmax_of_rows<kWidth>, to.shape, stream, data, shift, k, to.kept,
                 base2.high, base2.low);
  });
}

}  // namespace dino::ops
