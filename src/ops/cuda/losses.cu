// SPDX-License-Identifier: Apache-2.0
// Rows of up to 262,144 prototypes: a block owns a row, keeps what fits of it in shared memory between its
// two passes, and reads the rest again. Sums of rows are in f32: each thread adds a part, and the parts are
// added in pairs.

#include <cfloat>
#include <cmath>
#include <limits>

#include "ops/checks.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/elements.hpp"

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
};

/// Numbers of a row and their targets.
template <int kWidth>
struct Pair {
  Part<kWidth> a, t;
};

/// One block a row, of which the first `kept` numbers (a multiple of 4, or all) stay in shared memory between
/// the passes. weight null: no gradient, nothing kept.
template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_rows(float* logits, const float* targets, const float* weight, float* loss, int k, int kept,
                       float inverse_temperature, float c_high, float c_low) {
  using Numbers = Part<kWidth>;
  constexpr int kBatch = kWidth == 1 ? 4 : 2;
  const int64_t row = blockIdx.x;
  float* s = logits + row * k;
  const float* t = targets + row * k;
  float* kept_row = kept > 0 ? dynamic_shared<float>() : nullptr;
  const ScaledExp scaled_exp(c_high, c_low);
  const auto load_pair = [&](int i) {
    return Pair<kWidth>{load_group<kWidth>(s + i), load_group<kWidth>(t + i)};
  };
  RowSums sums;
  for_parts<kWidth, kBatch>(0, k, load_pair, [&](int i, const Pair<kWidth>& pair) {
    sums.raise_top(pair.a, scaled_exp);
    for (int l = 0; l < kWidth; ++l) {
      const float below = pair.a.at[l] - sums.top;
      sums.exps += scaled_exp(below);
      sums.mass += pair.t.at[l];
      sums.along = fmaf(pair.t.at[l], below, sums.along);
    }
    if (i < kept) store_group(kept_row + i, pair.a);
  });
  const float top = block_max(sums.top);
  sums.move_top(top, scaled_exp);
  const float exps = block_sum(sums.exps);
  const float mass = block_sum(sums.mass);
  const float along = block_sum(sums.along);
  if (threadIdx.x == 0) loss[row] = mass * logf(exps) - along * inverse_temperature;
  if (weight == nullptr) return;
  const float factor = weight[row] * inverse_temperature;
  const float of_exp = factor * mass / exps;
  const auto finish = [&](int i, const Pair<kWidth>& pair) {
    Numbers gradient;
    for (int l = 0; l < kWidth; ++l)
      gradient.at[l] = scaled_exp(pair.a.at[l] - top) * of_exp - factor * pair.t.at[l];
    store_group(s + i, gradient);
  };
  const auto load_kept = [&](int i) {
    return Pair<kWidth>{load_group<kWidth>(kept_row + i), load_group<kWidth>(t + i)};
  };
  for_parts<kWidth, kBatch>(0, kept, load_kept, finish);
  for_parts<kWidth, kBatch>(kept, k, load_pair, finish);
}

/// One block a row: its largest number, then the exponentials in place.
template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    exp_of_rows(float* x, float* maxima, int k, int kept, float c_high, float c_low) {
  using Numbers = Part<kWidth>;
  constexpr int kBatch = 4;
  const int64_t row = blockIdx.x;
  float* s = x + row * k;
  float* kept_row = kept > 0 ? dynamic_shared<float>() : nullptr;
  const auto load = [&](int i) { return load_group<kWidth>(s + i); };
  float largest = -INFINITY;
  for_parts<kWidth, kBatch>(0, k, load, [&](int i, const Numbers& a) {
    for (int l = 0; l < kWidth; ++l) largest = a.at[l] > largest ? a.at[l] : largest;
    if (i < kept) store_group(kept_row + i, a);
  });
  const float top = block_max(largest);
  if (threadIdx.x == 0) maxima[row] = top;
  const ScaledExp scaled_exp(c_high, c_low);
  const auto finish = [&](int i, Numbers a) {
    for (int l = 0; l < kWidth; ++l) a.at[l] = scaled_exp(a.at[l] - top);
    store_group(s + i, a);
  };
  const auto load_kept = [&](int i) { return load_group<kWidth>(kept_row + i); };
  for_parts<kWidth, kBatch>(0, kept, load_kept, finish);
  for_parts<kWidth, kBatch>(kept, k, load, finish);
}

/// One block a row; what is kept has the centre (or null) taken away already.
template <int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    softmax_of_rows(float* x, const float* centre, int k, int kept, float c_high, float c_low) {
  using Numbers = Part<kWidth>;
  constexpr int kBatch = kWidth == 1 ? 4 : 2;
  const int64_t row = blockIdx.x;
  float* s = x + row * k;
  float* kept_row = kept > 0 ? dynamic_shared<float>() : nullptr;
  const ScaledExp scaled_exp(c_high, c_low);
  const auto load_pair = [&](int i) {
    return Pair<kWidth>{load_group<kWidth>(s + i),
                        centre == nullptr ? Numbers{} : load_group<kWidth>(centre + i)};
  };
  const auto shifted = [&](const Pair<kWidth>& pair) {
    Numbers a;
    for (int l = 0; l < kWidth; ++l) a.at[l] = pair.a.at[l] - pair.t.at[l];
    return a;
  };
  RowSums sums;
  for_parts<kWidth, kBatch>(0, k, load_pair, [&](int i, const Pair<kWidth>& pair) {
    const Numbers a = shifted(pair);
    sums.raise_top(a, scaled_exp);
    for (int l = 0; l < kWidth; ++l) sums.exps += scaled_exp(a.at[l] - sums.top);
    if (i < kept) store_group(kept_row + i, a);
  });
  const float top = block_max(sums.top);
  sums.move_top(top, scaled_exp);
  const float share = 1.0f / block_sum(sums.exps);
  const auto finish = [&](int i, Numbers a) {
    for (int l = 0; l < kWidth; ++l) a.at[l] = scaled_exp(a.at[l] - top) * share;
    store_group(s + i, a);
  };
  for_parts<kWidth, kBatch>(
      0, kept, [&](int i) { return load_group<kWidth>(kept_row + i); }, finish);
  for_parts<kWidth, kBatch>(kept, k, load_pair,
                            [&](int i, const Pair<kWidth>& pair) { finish(i, shifted(pair)); });
}

__global__ void exp_from_reference(float* x, const float* reference, double temperature, int64_t n) {
  const double shift = static_cast<double>(*reference);
  for (int64_t i = global_thread(); i < n; i += global_threads())
    x[i] = static_cast<float>(exp((static_cast<double>(x[i]) - shift) / temperature));
}

// ---- sums over rows and columns of a matrix [rows, k]

/// Rows of a matrix, 32 columns of each, on their way to the warp that adds them up.
struct RowTile {
  static constexpr int kRows = 64;
  float x[kRows][kWarp];
  float weight[kRows];
};
struct RowTiles {
  RowTile at[2];
};

/// One block for 32 columns: all threads fetch rows, the first warp adds them up one behind the other, a
/// column a lane, so that a sum does not depend on how rows are split over calls.
template <int kWidth>
__global__ void __launch_bounds__(kBlock)
    add_rows_in_order(const float* x, const float* weight, int64_t rows, int k, float* out) {
  constexpr int kLanes = kWarp / kWidth;  // threads of a row
  constexpr int kRowsAtOnce = kBlock / kLanes;
  constexpr int kFetches = RowTile::kRows / kRowsAtOnce;
  RowTiles& tiles = block_shared<RowTiles>();
  const int thread = static_cast<int>(threadIdx.x);
  const int begin = static_cast<int>(blockIdx.x) * kWarp;
  const int row_of_thread = thread / kLanes, column_of_thread = thread % kLanes * kWidth;
  const bool inside = begin + column_of_thread < k;
  Part<kWidth> fetched[kFetches];
  float fetched_weight = 1;
  const auto fetch = [&](int64_t first) {
#pragma unroll
    for (int j = 0; j < kFetches; ++j) {
      const int64_t row = first + j * kRowsAtOnce + row_of_thread;
      fetched[j] = Part<kWidth>{};
      if (inside && row < rows) fetched[j] = load_group<kWidth>(x + row * k + begin + column_of_thread);
    }
    if (weight != nullptr && thread < RowTile::kRows && first + thread < rows)
      fetched_weight = weight[first + thread];
  };
  const bool adds = thread < kWarp && begin + thread < k;
  float sum = adds ? out[begin + thread] : 0.0f;
  fetch(0);
  int buffer = 0;
  for (int64_t first = 0; first < rows; first += RowTile::kRows) {
    RowTile& tile = tiles.at[buffer];
#pragma unroll
    for (int j = 0; j < kFetches; ++j)
      store_group(&tile.x[j * kRowsAtOnce + row_of_thread][column_of_thread], fetched[j]);
    if (thread < RowTile::kRows) tile.weight[thread] = fetched_weight;
    // The one barrier is enough: who fills this tile again has met the adding warp at the next tile's.
    __syncthreads();
    fetch(first + RowTile::kRows);
    if (thread < kWarp) {
      const int64_t left = rows - first;
      if (left >= RowTile::kRows) {
#pragma unroll 16
        for (int r = 0; r < RowTile::kRows; ++r) sum = fmaf(tile.x[r][thread], tile.weight[r], sum);
      } else {
        for (int r = 0; r < static_cast<int>(left); ++r) sum = fmaf(tile.x[r][thread], tile.weight[r], sum);
      }
    }
    buffer ^= 1;
  }
  if (adds) out[begin + thread] = sum;
}

constexpr int kSegment = 4096;     ///< columns that a block of row_products adds up
constexpr int kRowsOfProduct = 2;  ///< rows of such a block, which share the vector's numbers

/// partial[r, s] = sum over segment s of x[r, k] u[k]: the same for any number of rows.
template <int kWidth>
__global__ void __launch_bounds__(kBlock)
    row_products(const float* x, const float* u, int64_t rows, int k, int segments, float* partial) {
  constexpr int kSteps = kSegment / (kBlock * kWidth);
  constexpr int kBatch = kSteps < 4 ? kSteps : 4;
  const int segment = static_cast<int>(blockIdx.x % segments);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x / segments) * kRowsOfProduct;
  const bool second = first_row + 1 < rows;
  const float* upper = x + first_row * k;
  const float* lower = second ? upper + k : upper;
  const int begin = segment * kSegment + static_cast<int>(threadIdx.x) * kWidth;
  float sums[kRowsOfProduct] = {};
  for (int step = 0; step < kSteps; step += kBatch) {
    Part<kWidth> a[kBatch] = {}, b[kBatch] = {}, c[kBatch] = {};
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = begin + (step + j) * kBlock * kWidth;
      if (i >= k) break;
      a[j] = load_group<kWidth>(upper + i);
      b[j] = load_group<kWidth>(lower + i);
      c[j] = load_group<kWidth>(u + i);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      for (int l = 0; l < kWidth; ++l) {
        sums[0] = fmaf(a[j].at[l], c[j].at[l], sums[0]);
        sums[1] = fmaf(b[j].at[l], c[j].at[l], sums[1]);
      }
  }
  for (int r = 0; r < kRowsOfProduct; ++r) {
    const float sum = block_sum(sums[r]);
    if (threadIdx.x == 0 && first_row + r < rows) partial[(first_row + r) * segments + segment] = sum;
  }
}

__global__ void add_segments(const float* partial, int64_t rows, int segments, float* out) {
  const int64_t row = global_thread();
  if (row >= rows) return;
  float sum = 0;
  for (int s = 0; s < segments; ++s) sum += partial[row * segments + s];
  out[row] = sum;
}

constexpr int kRowsOfScale = 8;

/// A block scales kBlock * kWidth columns of kRowsOfScale rows.
template <int kWidth>
__global__ void __launch_bounds__(kBlock)
    scale_matrix(float* x, const float* v, const float* u, int64_t rows, int k, int across) {
  const int column =
      (static_cast<int>(blockIdx.x % across) * kBlock + static_cast<int>(threadIdx.x)) * kWidth;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x / across) * kRowsOfScale;
  if (column >= k) return;
  const Part<kWidth> of_column = load_group<kWidth>(u + column);
  float* at = x + first_row * k + column;
  Part<kWidth> a[kRowsOfScale];
#pragma unroll
  for (int r = 0; r < kRowsOfScale; ++r)
    if (first_row + r < rows) a[r] = load_group<kWidth>(at + static_cast<int64_t>(r) * k);
#pragma unroll
  for (int r = 0; r < kRowsOfScale; ++r) {
    if (first_row + r >= rows) break;
    const float of_row = v[first_row + r];
    for (int l = 0; l < kWidth; ++l) a[r].at[l] = a[r].at[l] * of_row * of_column.at[l];
    store_group(at + static_cast<int64_t>(r) * k, a[r]);
  }
}

}  // namespace
}  // namespace dino::cuda

namespace dino::ops {
namespace {

using cuda::blocks_for;
using cuda::LaunchShape;
using cuda::pointer;

/// Columns of a matrix, as kernels count them.
int columns_of(ConstTensorView x) {
  DINO_CHECK(x.dim(1) <= std::numeric_limits<int>::max() / 2, x.shape.str() + " is too wide");
  return static_cast<int>(x.dim(1));
}

/// Calls function(Width<4>) where all rows of k floats can be read 16 bytes at a time, else with Width<1>.
template <class Function>
void with_row_width(int k, std::initializer_list<const void*> rows, Function&& function) {
  cuda::with_width<4>(k % 4 == 0 && cuda::aligned(rows), std::forward<Function>(function));
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
    // A process has one GPU. Some bytes are for the sums over a block.
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
    shape.shared_bytes = static_cast<size_t>(count) * sizeof(float);
  }
  LaunchShape shape;
  int kept = 0;
};

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
  with_row_width(k, {s, t}, [&]<int kWidth>(cuda::Width<kWidth>) {
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
  with_row_width(k, {data}, [&]<int kWidth>(cuda::Width<kWidth>) {
    const RowLaunch to(memory_.device(), x.dim(0), k, kWidth);
    cuda::launch("exp_rows", cuda::exp_of_rows<kWidth>, to.shape, stream, data, pointer<float>(maxima), k,
                 to.kept, base2.high, base2.low);
  });
}

void CudaBackend::exp_relative(Stream& stream, TensorView x, ConstTensorView reference, float temperature) {
  check::same_f32({x});
  check::scalar(reference, DType::f32);
  const unsigned blocks = std::min(blocks_for(x.numel(), cuda::kBlock), 1024u);
  cuda::launch("exp_relative", cuda::exp_from_reference, {{blocks}, {cuda::kBlock}}, stream,
               pointer<float>(x), pointer<float>(reference), static_cast<double>(temperature), x.numel());
}

void CudaBackend::weighted_column_sums(Stream& stream, ConstTensorView x, ConstTensorView weight,
                                       TensorView out) {
  check::same_f32({x});
  const int k = columns_of(x);
  check::vector(weight, x.dim(0), true);
  check::vector(out, k, false);
  if (x.dim(0) == 0) return;
  const float* in = pointer<float>(x);
  with_row_width(k, {in}, [&]<int kWidth>(cuda::Width<kWidth>) {
    cuda::launch("weighted_column_sums", cuda::add_rows_in_order<kWidth>,
                 {{blocks_for(k, cuda::kWarp)}, {cuda::kBlock}}, stream, in, pointer<float>(weight), x.dim(0),
                 k, pointer<float>(out));
  });
}

void CudaBackend::matrix_vector(Stream& stream, ConstTensorView x, ConstTensorView u, TensorView out) {
  check::same_f32({x});
  const int64_t rows = x.dim(0);
  const int k = columns_of(x);
  check::vector(u, k, false);
  check::vector(out, rows, false);
  if (rows == 0) return;
  const unsigned segments = std::max(blocks_for(k, cuda::kSegment), 1u);
  const float* in = pointer<float>(x);
  const float* vector = pointer<float>(u);
  float* to = pointer<float>(out);
  const size_t partial_bytes = static_cast<size_t>(rows) * segments * sizeof(float);
  float* partial = segments == 1 ? to : static_cast<float*>(cuda::cuda_stream(stream).scratch(partial_bytes));
  with_row_width(k, {in, vector}, [&]<int kWidth>(cuda::Width<kWidth>) {
    cuda::launch("matrix_vector", cuda::row_products<kWidth>,
                 {{blocks_for(rows, cuda::kRowsOfProduct) * segments}, {cuda::kBlock}}, stream, in, vector,
                 rows, k, segments, partial);
  });
  if (segments == 1) return;
  cuda::launch("matrix_vector sums", cuda::add_segments, {{blocks_for(rows, cuda::kBlock)}, {cuda::kBlock}},
               stream, partial, rows, segments, to);
}

void CudaBackend::scale_rows_columns(Stream& stream, TensorView x, ConstTensorView v, ConstTensorView u) {
  check::same_f32({x});
  const int64_t rows = x.dim(0);
  const int k = columns_of(x);
  check::vector(v, rows, false);
  check::vector(u, k, false);
  float* data = pointer<float>(x);
  const float* columns = pointer<float>(u);
  with_row_width(k, {data, columns}, [&]<int kWidth>(cuda::Width<kWidth>) {
    const unsigned across = blocks_for(k, int64_t{cuda::kBlock} * kWidth);
    cuda::launch("scale_rows_columns", cuda::scale_matrix<kWidth>,
                 {{across * blocks_for(rows, cuda::kRowsOfScale)}, {cuda::kBlock}}, stream, data,
                 pointer<float>(v), columns, rows, k, across);
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
  with_row_width(k, {data, shift}, [&]<int kWidth>(cuda::Width<kWidth>) {
    const RowLaunch to(memory_.device(), x.dim(0), k, kWidth);
    cuda::launch("softmax_centred", cuda::softmax_of_rows<kWidth>, to.shape, stream, data, shift, k, to.kept,
                 base2.high, base2.low);
  });
}

}  // namespace dino::ops
