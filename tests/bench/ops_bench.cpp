// SPDX-License-Identifier: Apache-2.0
// Rates of the operators that decide the training speed, at the shapes of ViT-S/14 (and some of ViT-L), on
// the CPU or a GPU. Not a test: build the target ops_bench and run it on a quiet machine, e.g.
// OMP_NUM_THREADS=1.
//   ops_bench [--backend cpu|cuda] [GROUP]

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/random.hpp"
#include "base/timing.hpp"
#include "exact/ordered_gemm.hpp"
#include "imaging/augment.hpp"
#include "ops/accelerator.hpp"
#include "ops/ops.hpp"

namespace {

using namespace dino;

ops::Backend* chosen = nullptr;
/// What the card reaches in this run, GFLOP/s of bf16 products and GB/s of copies; 0 on a CPU.
double card_gemm = 0, card_copy = 0;

ops::Backend& ops() {
  return *chosen;
}

bool on_gpu() {
  return chosen == ops::gpu_backend();
}

Stream& stream() {
  static const std::unique_ptr<Stream> instance = ops().new_stream();
  return *instance;
}

/// Zeros.
Tensor tensor(Shape shape, DType dtype = DType::f32) {
  return Tensor(shape, dtype, ops().memory());
}

Tensor placed(const Tensor& host) {
  Tensor there = Tensor::uninitialised(host.shape(), host.dtype(), ops().memory());
  copy(stream(), there, host);
  stream().synchronize();
  return there;
}

template <class T>
Tensor placed(const std::vector<T>& values) {
  Tensor host(Shape{static_cast<int64_t>(values.size())}, DType::i64);
  std::copy(values.begin(), values.end(), host.as<T>());
  return placed(host);
}

/// A million numbers of [-.5, .5), again and again.
Tensor random_tensor(Shape shape, DType dtype = DType::f32, bool positive = false) {
  constexpr size_t kDrawn = size_t{1} << 20;
  static const std::vector<float> drawn = [] {
    std::vector<float> values(kDrawn);
    Random random(1, RandomStream::synthetic, 0);
    for (float& v : values) v = random.uniform() - 0.5f;
    return values;
  }();
  Tensor x(shape);
  for (size_t i = 0; i < x.f32().size(); ++i) x.f32()[i] = drawn[i % kDrawn];
  if (positive)
    for (float& v : x.f32()) v = std::max(v, 0.0f) * 6e-5f;
  Tensor there = placed(x);
  if (dtype == DType::f32) return there;
  Tensor y = tensor(shape, dtype);
  ops().convert(stream(), there, y);
  stream().synchronize();
  return y;
}

/// Processor time, so that other work on the machine matters less. With several threads it is their sum.
double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// The best of several repetitions, as others share the machine.
double seconds_on_cpu(const std::function<void()>& run) {
  double best = 1e9;
  Stopwatch total;
  for (int i = 0; i < 30 && (i < 5 || total.seconds() < 0.6); ++i) {
    const double start = processor_seconds();
    run();
    best = std::min(best, processor_seconds() - start);
  }
  return best;
}

/// Of one call, where calls follow each other as in a step: the best of batches of some 20 ms.
double seconds_on_gpu(const std::function<void()>& run) {
  double best = 1e9;
  for (int calls = 1, i = 0; i < 6; ++i) {
    stream().synchronize();
    const Stopwatch watch;
    for (int c = 0; c < calls; ++c) run();
    stream().synchronize();
    best = std::min(best, watch.seconds() / calls);
    calls = std::clamp(static_cast<int>(0.02 / best), 1, 2000);
  }
  return best;
}

/// Of one call; bytes are those that have to be read and written once.
struct Work {
  double flops = 0, bytes = 0;
};

double elements(std::initializer_list<int64_t> sizes) {
  double product = 1;
  for (const int64_t size : sizes) product *= static_cast<double>(size);
  return product;
}

void measure(const std::string& what, Work work, const std::function<void()>& run) {
  run();
  const double seconds = on_gpu() ? seconds_on_gpu(run) : seconds_on_cpu(run);
  std::printf("%-46s %9.3f ms %10.1f GF/s %8.1f GB/s", what.c_str(), seconds * 1e3,
              work.flops / seconds / 1e9, work.bytes / seconds / 1e9);
  if (card_gemm > 0)
    std::printf(" %5.1f %% %5.1f %%", 1e-7 * work.flops / seconds / card_gemm,
                1e-7 * work.bytes / seconds / card_copy);
  std::printf("\n");
}

/// Every other number is to be seen beside these two.
void card() {
  constexpr int64_t kSide = 8192;
  {
    const Tensor x = random_tensor({kSide, kSide}, DType::bf16),
                 w = random_tensor({kSide, kSide}, DType::bf16);
    Tensor y = tensor({kSide, kSide}, DType::bf16);
    const double seconds =
        seconds_on_gpu([&] { ops().linear(stream(), x, w, {}, ops::Activation::none, y, {}); });
    card_gemm = 2e-9 * elements({kSide, kSide, kSide}) / seconds;
  }
  constexpr int64_t kBytes = int64_t{1} << 30;
  const Tensor from = tensor({kBytes}, DType::u8);
  Tensor to = tensor({kBytes}, DType::u8);
  card_copy = 2e-9 * static_cast<double>(kBytes) / seconds_on_gpu([&] { copy(stream(), to, from); });
  std::printf("card: bf16 product 8192x8192x8192 %.1f TFLOP/s, copy of 1 GiB %.1f GB/s (read and written)\n",
              card_gemm / 1e3, card_copy);
  std::printf("the last columns: shares of these two\n");
}

void linear(int64_t m, int64_t n, int64_t k, DType act) {
  // In a GPU's steps the weights have been converted once.
  const DType weights = on_gpu() ? act : DType::f32;
  const Tensor x = random_tensor({m, k}, act), w = random_tensor({n, k}, weights), b = random_tensor({n}),
               dy = random_tensor({m, n}, act);
  Tensor y = tensor({m, n}, act), pre = tensor({m, n}, act), dx = tensor({m, k}, act), dw = tensor({n, k}),
         db = tensor({n});
  const auto width = static_cast<double>(size_of(act)), of_w = static_cast<double>(size_of(weights));
  const double in = width * elements({m, k}), out = width * elements({m, n});
  const Work work{2 * elements({m, n, k}), in + out + of_w * elements({n, k})};
  const Work with_pre{work.flops, work.bytes + out};
  const Work of_weights{work.flops, in + out + 8 * elements({n, k})};
  const std::string shape =
      " " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + " " + name_of(act);
  measure("linear" + shape, work, [&] { ops().linear(stream(), x, w, b, ops::Activation::none, y, {}); });
  measure("linear gelu" + shape, work,
          [&] { ops().linear(stream(), x, w, b, ops::Activation::gelu, y, {}); });
  measure("linear gelu pre" + shape, with_pre,
          [&] { ops().linear(stream(), x, w, b, ops::Activation::gelu, y, pre); });
  measure("backward input" + shape, work, [&] { ops().linear_backward_input(stream(), dy, w, dx, false); });
  measure("backward weight" + shape, of_weights,
          [&] { ops().linear_backward_weight(stream(), dy, x, dw, db); });
  measure("gelu backward" + shape, {0, 3 * out}, [&] { ops().gelu_backward(stream(), dy, pre, y, {}); });
  measure("gelu backward with bias" + shape, {0, 3 * out},
          [&] { ops().gelu_backward(stream(), dy, pre, y, db); });
}

void attention(int64_t count, int64_t length, int64_t heads, DType act) {
  const int64_t model = 64 * heads, rows = count * length;
  std::vector<int64_t> starts;
  for (int64_t s = 0; s <= count; ++s) starts.push_back(s * length);
  const Tensor list = placed(starts), qkv = random_tensor({rows, 3 * model}, act),
               dout = random_tensor({rows, model}, act);
  Tensor out = tensor({rows, model}, act), lse = tensor({heads, rows}), dqkv = tensor({rows, 3 * model}, act);
  const ops::Sequences sequences{list, rows, length};
  const double flops = 4 * elements({rows, length, model});
  const double row = static_cast<double>(size_of(act)) * elements({rows, model}),
               of_lse = 4 * elements({heads, rows});
  const std::string shape = " " + std::to_string(count) + " x " + std::to_string(length) + " x " +
                            std::to_string(heads) + " " + name_of(act);
  measure("attention" + shape, {flops, 4 * row + of_lse},
          [&] { ops().attention(stream(), qkv, sequences, heads, 0.125f, out, lse); });
  measure("attention backward" + shape, {2.5 * flops, 8 * row + of_lse},
          [&] { ops().attention_backward(stream(), dout, qkv, out, lse, sequences, heads, 0.125f, dqkv); });
}

/// As many tokens in sequences of three lengths, and the memory of a GPU that forward and backward take
/// beside what goes into them: linear in the tokens, where a matrix of scores is quadratic.
void attention_lengths(DType act) {
  constexpr int64_t kHeads = 16;
  constexpr std::pair<int64_t, int64_t> kCountAndLength[] = {{64, 257}, {12, 1370}, {4, 4097}};
  for (const auto& [count, length] : kCountAndLength) {
    const int64_t before = ops::gpu_memory_used();
    attention(count, length, kHeads, act);
    // Scratch and what the driver rounds up stay; tensors of the call are gone.
    const int64_t rows = count * length, width = static_cast<int64_t>(size_of(act));
    const int64_t made = rows * kHeads * (4 * 64 * width + 4);  // out, three gradients, log-sum-exp
    std::printf("memory %lld x %lld x %lld %s: %.1f MB\n", static_cast<long long>(count),
                static_cast<long long>(length), static_cast<long long>(kHeads), name_of(act),
                1e-6 * static_cast<double>(made + std::max<int64_t>(0, ops::gpu_memory_used() - before)));
  }
}

void rows(int64_t m, int64_t d, DType act) {
  const Tensor x = random_tensor({m, d}), gamma = random_tensor({d}), dy = random_tensor({m, d}, act);
  Tensor y = tensor({m, d}, act), mean = tensor({m}), rstd = tensor({m}), dx = tensor({m, d}),
         dgamma = tensor({d}), dbeta = tensor({d}), out = tensor({m, d});
  const double f32 = 4 * elements({m, d}), narrow = static_cast<double>(size_of(act)) * elements({m, d});
  const std::string type = " " + std::to_string(m) + "x" + std::to_string(d) + " " + name_of(act);
  measure("layer norm" + type, {0, f32 + narrow},
          [&] { ops().layer_norm(stream(), x, gamma, gamma, 1e-6f, y, mean, rstd); });
  measure("layer norm backward" + type, {0, 3 * f32 + narrow},
          [&] { ops().layer_norm_backward(stream(), dy, x, gamma, mean, rstd, {}, dx, dgamma, dbeta); });
  measure("scaled index add" + type, {0, 2 * f32 + narrow},
          [&] { ops().scaled_index_add(stream(), out, dy, gamma, 1, {}); });
  measure("scaled index add backward" + type, {0, f32 + 2 * narrow},
          [&] { ops().scaled_index_add_backward(stream(), x, dy, gamma, 1, {}, y, dgamma); });
  measure("residual layer norm" + type, {0, 2 * f32 + 2 * narrow}, [&] {
    ops().residual_layer_norm(stream(), x, dy, gamma, gamma, gamma, 1e-6f, out, y, mean, rstd);
  });
  Tensor dscale = tensor({d});
  measure("residual layer norm backward" + type, {0, 3 * f32 + 3 * narrow}, [&] {
    ops().residual_layer_norm_backward(stream(), dy, x, dy, gamma, gamma, mean, rstd, dx, y, dscale, dgamma,
                                       dbeta);
  });
}

void losses(int64_t r) {
  const int64_t k = 65536;
  Tensor logits = random_tensor({r, k}), loss = tensor({r}), sums = tensor({k}), largest = tensor({1});
  const Tensor targets = random_tensor({r, k}), weight = random_tensor({r});
  const double all = 4 * elements({r, k});
  const std::string shape = " " + std::to_string(r) + "x65536";
  measure("cross entropy" + shape, {0, 3 * all},
          [&] { ops().cross_entropy(stream(), logits, targets, 0.1f, weight, loss); });
  measure("softmax" + shape, {0, 2 * all}, [&] { ops().softmax_centred(stream(), logits, {}, 0.1f); });
  measure("column sums" + shape, {0, all},
          [&] { ops().weighted_column_sums(stream(), logits, weight, sums); });
  measure("exp rows" + shape, {0, 2 * all}, [&] { ops().exp_rows(stream(), logits, 0.1f, loss); });
  const Tensor positive = random_tensor({r, k}, DType::f32, true);
  Tensor counts = tensor({2 * k}), entropy = tensor({1}, DType::f64), square = tensor({1}, DType::f64);
  measure("target statistics" + shape, {0, all},
          [&] { ops().target_statistics(stream(), positive, counts, entropy); });
  measure("sum of squares" + shape, {0, all}, [&] { ops().sum_of_squares(stream(), logits, square); });
  measure("weighted sum" + shape, {0, 2 * all},
          [&] { ops().weighted_sum(stream(), logits, targets, 1, square); });
  measure("maximum" + shape, {0, all}, [&] { ops().maximum(stream(), logits, largest); });
  Tensor m = tensor({r, k}), v = tensor({r, k}), one = tensor({1});
  fill(stream(), one, 1);
  measure("adamw" + shape, {0, 7 * all}, [&] {
    ops().adamw(stream(), logits, targets, m, v, {1e-3f, 0.9f, 0.999f, 1e-8f, 0.1f, 3}, one, one, {});
  });
  Tensor average = tensor({r, k});
  measure("adamw with average" + shape, {0, 9 * all}, [&] {
    ops().adamw(stream(), logits, targets, m, v, {1e-3f, 0.9f, 0.999f, 1e-8f, 0.1f, 3, 0.99f}, one, one,
                average);
  });
  measure("ema" + shape, {0, 3 * all}, [&] { ops().ema(stream(), m, targets, 0.99f, one); });
}

void prototypes() {
  const int64_t k = 65536, d = 256;
  const Tensor g = random_tensor({k}), v = random_tensor({k, d}), dw = random_tensor({k, d});
  Tensor w = tensor({k, d}), dg = tensor({k}), dv = tensor({k, d});
  const double all = 4 * elements({k, d});
  measure("weight norm 65536x256", {0, 2 * all}, [&] { ops().weight_norm(stream(), g, v, w); });
  measure("weight norm backward 65536x256", {0, 4 * all},
          [&] { ops().weight_norm_backward(stream(), g, v, dw, dg, dv); });
}

/// Positions of a 37 x 37 table on a 16 x 16 grid: four taps an axis.
void positions() {
  const int64_t cells = 256, taps = 16, d = 1024;
  std::vector<int64_t> starts, columns;
  for (int64_t i = 0; i <= cells; ++i) starts.push_back(i * taps);
  for (int64_t e = 0; e < cells * taps; ++e) columns.push_back(e * 37 % 1369);
  const Tensor first = placed(starts), column = placed(columns), x = random_tensor({1369, d}),
               weights = random_tensor({cells * taps});
  Tensor out = tensor({cells, d});
  const ops::SparseRows matrix{first, column, weights};
  measure("sparse rows 256 of 16, 1024", {2 * elements({cells, taps, d}), 4 * elements({1369 + cells, d})},
          [&] { ops().sparse_rows(stream(), matrix, x, out, false); });
}

void koleo() {
  const int64_t n = 1024, d = 1024;
  const Tensor x = random_tensor({n, d}), dots = random_tensor({n, n});
  Tensor nearest = tensor({n}, DType::i64), loss = tensor({1}, DType::f64), dx = tensor({n, d});
  measure("nearest other 1024", {0, 4 * elements({n, n})},
          [&] { ops().nearest_other(stream(), dots, 0, nearest); });
  measure("koleo 1024x1024", {0, 8 * elements({n, d})},
          [&] { ops().koleo(stream(), x, nearest, 0, 0.1, loss, dx); });
}

/// All augmentations, of pictures of 500 x 375 pixels.
void crops(int64_t images, int64_t each, int64_t size, CropKind kind) {
  constexpr int64_t kWidth = 500, kHeight = 375, kBytes = 3 * kWidth * kHeight;
  const int64_t count = images * each;
  Tensor pixels({images * kBytes}, DType::u8), pictures({images, 3}, DType::i64),
      steps({count * static_cast<int64_t>(sizeof(CropSteps))}, DType::u8),
      out = tensor({count, 3, size, size});
  double read = 0;
  for (int64_t i = 0; i < images * kBytes; ++i)
    pixels.as<uint8_t>()[i] = static_cast<uint8_t>(i * 2654435761 >> 12);
  for (int64_t i = 0; i < images; ++i) {
    const std::array picture = {i * kBytes, kHeight, kWidth};
    std::copy(picture.begin(), picture.end(), pictures.as<int64_t>() + 3 * i);
  }
  for (int64_t i = 0; i < count; ++i) {
    Random random(1, RandomStream::synthetic, static_cast<uint64_t>(i));
    CropSteps drawn = draw_crop(kWidth, kHeight, kind, {}, random);
    drawn.picture = static_cast<int32_t>(i / each);
    read += 3 * elements({drawn.height, drawn.width});
    std::memcpy(steps.as<uint8_t>() + i * static_cast<int64_t>(sizeof(drawn)), &drawn, sizeof(drawn));
  }
  const Tensor of_pixels = placed(pixels), of_pictures = placed(pictures), of_steps = placed(steps);
  measure("crops " + std::to_string(count) + " of " + std::to_string(size) + " pixels",
          {0, read + 12 * elements({count, size, size})}, [&] {
            ops().augment_crops(stream(), of_pixels, of_pictures, of_steps, Resampling::bicubic, {}, out);
          });
}

/// The CPU's alone.
void ordered(int64_t m, int64_t n, int64_t k) {
  const Tensor a = random_tensor({m, k}), b = random_tensor({n, k});
  Tensor c({m, n});
  measure("ordered_gemm " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k),
          {2 * elements({m, n, k}), 4 * (elements({m, k}) + elements({n, k}) + elements({m, n}))},
          [&] { exact::ordered_gemm_nt(m, n, k, a.as<float>(), k, b.as<float>(), k, c.as<float>(), n); });
}

/// A step of some images per pass on a CPU, of a batch of 64 on a GPU: 2 x 257 tokens each of two crops of
/// 224 pixels, 50 of one of 98.
void measure_group(const std::string& only) {
  const auto asked = [&](const char* group) { return only.empty() || only == group; };
  const int64_t images = on_gpu() ? 128 : 8, tokens = images * 257;
  for (const DType act : {DType::f32, DType::bf16}) {
    if (asked("linear")) {
      linear(tokens, 1536, 384, act), linear(tokens, 384, 1536, act);
      linear(on_gpu() ? tokens : 4112, 4096, 1024, act);
    }
    if (asked("attention")) {
      attention(images, 257, 6, act), attention(4 * images, 50, 6, act);
      if (on_gpu())
        attention(images, 257, 16, act), attention(16, 1370, 16, act), attention(4, 4097, 16, act);
    }
    if (asked("rows")) rows(tokens, 384, act);
  }
  if (only == "attention-lengths") attention_lengths(DType::bf16);
  if (asked("losses")) losses(on_gpu() ? 1024 : 64);
  if (asked("prototypes")) prototypes();
  if (asked("positions")) positions();
  if (asked("koleo")) koleo();
  if (asked("crops")) {
    const int64_t pictures = on_gpu() ? 64 : 4;
    crops(pictures, 2, 224, CropKind::global1), crops(pictures, 8, 98, CropKind::local);
  }
  if (asked("ordered") && !on_gpu()) ordered(1024, 1024, 512), ordered(256, 64, 768), ordered(1024, 1024, 64);
}

}  // namespace

int main(int argc, char** argv) {
  std::string backend = "cpu", group;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--backend") == 0 && i + 1 < argc)
      backend = argv[++i];
    else
      group = argv[i];
  }
  for (ops::Backend* const one : ops::backends())
    if (backend == one->name()) chosen = one;
  if (chosen == nullptr) {
    const std::string why = backend == "cuda" ? ops::why_no_gpu() : "there is no such backend";
    std::fprintf(stderr, "ops_bench: error: no backend: %s: %s\n", backend.c_str(), why.c_str());
    return 64;
  }
  std::printf("%s\n", on_gpu() ? ops::describe_gpu().c_str() : ops::describe_backend().c_str());
  if (on_gpu()) card();
  measure_group(group);
}
