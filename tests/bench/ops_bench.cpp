// SPDX-License-Identifier: Apache-2.0
// Rates of the operators that decide the training speed, at the shapes of ViT-S/14 (and one of ViT-L). Not a
// test: build the target ops_bench and run it on a quiet machine, e.g. OMP_NUM_THREADS=1.

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/random.hpp"
#include "base/timing.hpp"
#include "exact/ordered_gemm.hpp"
#include "ops/ops.hpp"

namespace {

using namespace dino;

ops::Backend& ops() {
  return *ops::backends().front();
}

Stream& stream() {
  static const std::unique_ptr<Stream> instance = ops().new_stream();
  return *instance;
}

Tensor random_tensor(Shape shape, DType dtype = DType::f32) {
  Tensor x(shape);
  Random random(1, RandomStream::synthetic, 0);
  for (float& v : x.f32()) v = random.uniform() - 0.5f;
  if (dtype == DType::f32) return x;
  Tensor y(shape, dtype);
  ops().convert(stream(), x, y);
  return y;
}

/// Processor time, so that other work on the machine matters less. With several threads it is their sum.
double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// The best of several repetitions, as others share the machine.
void measure(const std::string& what, double work, const char* unit, const std::function<void()>& run) {
  run();
  double best = 1e9;
  Stopwatch total;
  for (int i = 0; i < 30 && (i < 5 || total.seconds() < 0.6); ++i) {
    const double start = processor_seconds();
    run();
    best = std::min(best, processor_seconds() - start);
  }
  std::printf("%-46s %8.2f ms %8.1f %s\n", what.c_str(), best * 1e3, work / best / 1e9, unit);
}

void linear(int64_t m, int64_t n, int64_t k, DType act) {
  const Tensor x = random_tensor({m, k}, act), w = random_tensor({n, k}), b = random_tensor({n}),
               dy = random_tensor({m, n}, act);
  Tensor y({m, n}, act), pre({m, n}, act), dx({m, k}, act), dw({n, k}), db({n});
  const double work = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  const std::string shape =
      " " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + " " + name_of(act);
  measure("linear" + shape, work, "GF/s",
          [&] { ops().linear(stream(), x, w, b, ops::Activation::none, y, {}); });
  measure("linear gelu" + shape, work, "GF/s",
          [&] { ops().linear(stream(), x, w, b, ops::Activation::gelu, y, {}); });
  measure("linear gelu pre" + shape, work, "GF/s",
          [&] { ops().linear(stream(), x, w, b, ops::Activation::gelu, y, pre); });
  measure("backward input" + shape, work, "GF/s",
          [&] { ops().linear_backward_input(stream(), dy, w, dx, false); });
  measure("backward weight" + shape, work, "GF/s",
          [&] { ops().linear_backward_weight(stream(), dy, x, dw, db); });
  measure("gelu backward" + shape, static_cast<double>(m * n), "G/s",
          [&] { ops().gelu_backward(stream(), dy, pre, y); });
}

void attention(int64_t count, int64_t length, DType act) {
  const int64_t heads = 6, model = 384;
  std::vector<int64_t> starts;
  for (int64_t s = 0; s <= count; ++s) starts.push_back(s * length);
  const Tensor qkv = random_tensor({count * length, 3 * model}, act),
               dout = random_tensor({count * length, model}, act);
  Tensor out({count * length, model}, act), lse({heads, count * length}),
      dqkv({count * length, 3 * model}, act);
  const auto total = static_cast<int64_t>(starts.size());
  const ops::Sequences sequences{view_of(starts.data(), Shape{total}), count * length, length};
  const double work = 4.0 * static_cast<double>(count * length) * static_cast<double>(length * model);
  const std::string shape = " " + std::to_string(count) + " x " + std::to_string(length) + " " + name_of(act);
  measure("attention" + shape, work, "GF/s",
          [&] { ops().attention(stream(), qkv, sequences, heads, 0.125f, out, lse); });
  measure("attention backward" + shape, 2.5 * work, "GF/s",
          [&] { ops().attention_backward(stream(), dout, qkv, out, lse, sequences, heads, 0.125f, dqkv); });
}

void rows(DType act) {
  const int64_t m = 2056, d = 384;
  const Tensor x = random_tensor({m, d}), gamma = random_tensor({d}), dy = random_tensor({m, d}, act);
  Tensor y({m, d}, act), mean({m}), rstd({m}), dx({m, d}), dgamma({d}), dbeta({d}), out({m, d});
  const auto work = static_cast<double>(m * d);
  const std::string type = std::string(" 2056x384 ") + name_of(act);
  measure("layer norm" + type, work, "G/s",
          [&] { ops().layer_norm(stream(), x, gamma, gamma, 1e-6f, y, mean, rstd); });
  measure("layer norm backward" + type, work, "G/s",
          [&] { ops().layer_norm_backward(stream(), dy, x, gamma, mean, rstd, dx, dgamma, dbeta); });
  measure("scaled index add" + type, work, "G/s",
          [&] { ops().scaled_index_add(stream(), out, dy, gamma, 1, {}); });
  measure("scaled index add backward" + type, work, "G/s",
          [&] { ops().scaled_index_add_backward(stream(), x, dy, gamma, 1, {}, y, dgamma); });
}

void losses() {
  const int64_t r = 64, k = 65536;
  Tensor logits = random_tensor({r, k}), loss({r}), sums({k});
  const Tensor targets = random_tensor({r, k}), weight = random_tensor({r});
  const auto work = static_cast<double>(r * k);
  measure("cross entropy 64x65536", work, "G/s",
          [&] { ops().cross_entropy(stream(), logits, targets, 0.1f, weight, loss); });
  measure("softmax 64x65536", work, "G/s", [&] { ops().softmax_centred(stream(), logits, {}, 0.1f); });
  measure("column sums 64x65536", work, "G/s",
          [&] { ops().weighted_column_sums(stream(), logits, weight, sums); });
  measure("exp rows 64x65536", work, "G/s", [&] { ops().exp_rows(stream(), logits, 0.1f, loss); });
  Tensor positive = random_tensor({r, k}), counts({2 * k}), entropy({1}, DType::f64), square({1}, DType::f64);
  for (float& t : positive.f32()) t = std::max(t, 0.0f) * 6e-5f;
  measure("target statistics 64x65536", work, "G/s",
          [&] { ops().target_statistics(stream(), positive, counts, entropy); });
  measure("sum of squares", work, "G/s", [&] { ops().sum_of_squares(stream(), logits, square); });
  measure("weighted sum", work, "G/s", [&] { ops().weighted_sum(stream(), logits, targets, 1, square); });
  measure("maximum", work, "G/s", [&] { ops().maximum(stream(), logits, loss.view().rows(0, 1)); });
  Tensor m({r, k}), v({r, k}), one({1});
  one.as<float>()[0] = 1;
  measure("adamw", work, "G/s", [&] {
    ops().adamw(stream(), logits, targets, m, v, {1e-3f, 0.9f, 0.999f, 1e-8f, 0.1f, 3}, one, one);
  });
  measure("ema", work, "G/s", [&] { ops().ema(stream(), m, targets, 0.99f, one); });
}

void prototypes() {
  const int64_t k = 65536, d = 256;
  const Tensor g = random_tensor({k}), v = random_tensor({k, d}), dw = random_tensor({k, d});
  Tensor w({k, d}), dg({k}), dv({k, d});
  const auto work = static_cast<double>(k * d);
  measure("weight norm 65536x256", work, "G/s", [&] { ops().weight_norm(stream(), g, v, w); });
  measure("weight norm backward 65536x256", work, "G/s",
          [&] { ops().weight_norm_backward(stream(), g, v, dw, dg, dv); });
}

/// Positions of a 37 x 37 table on a 16 x 16 grid: four taps an axis.
void positions() {
  const int64_t cells = 256, taps = 16, d = 1024;
  std::vector<int64_t> starts, columns;
  for (int64_t i = 0; i <= cells; ++i) starts.push_back(i * taps);
  for (int64_t e = 0; e < cells * taps; ++e) columns.push_back(e * 37 % 1369);
  const Tensor x = random_tensor({1369, d}), weights = random_tensor({cells * taps});
  Tensor out({cells, d});
  const ops::SparseRows matrix{view_of(starts.data(), Shape{cells + 1}),
                               view_of(columns.data(), Shape{cells * taps}), weights};
  measure("sparse rows 256 of 16, 1024", static_cast<double>(cells * taps * d), "G/s",
          [&] { ops().sparse_rows(stream(), matrix, x, out, false); });
}

void koleo() {
  const int64_t n = 1024, d = 1024;
  const Tensor x = random_tensor({n, d}), dots = random_tensor({n, n});
  Tensor nearest({n}, DType::i64), loss({1}, DType::f64), dx({n, d});
  measure("nearest other 1024", static_cast<double>(n * n), "G/s",
          [&] { ops().nearest_other(stream(), dots, 0, nearest); });
  measure("koleo 1024x1024", static_cast<double>(n * d), "G/s",
          [&] { ops().koleo(stream(), x, nearest, 0, 0.1, loss, dx); });
}

void ordered(int64_t m, int64_t n, int64_t k) {
  const Tensor a = random_tensor({m, k}), b = random_tensor({n, k});
  Tensor c({m, n});
  measure("ordered_gemm " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k),
          2.0 * static_cast<double>(m * n) * static_cast<double>(k), "GF/s",
          [&] { exact::ordered_gemm_nt(m, n, k, a.as<float>(), k, b.as<float>(), k, c.as<float>(), n); });
}

}  // namespace

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "";
  std::printf("%s\n", ops::describe_backend().c_str());
  for (const DType act : {DType::f32, DType::bf16}) {
    if (only.empty() || only == "linear")
      linear(2056, 1536, 384, act), linear(2056, 384, 1536, act), linear(4112, 4096, 1024, act);
    if (only.empty() || only == "attention") attention(8, 257, act), attention(32, 50, act);
    if (only.empty() || only == "rows") rows(act);
  }
  if (only.empty() || only == "losses") losses();
  if (only.empty() || only == "prototypes") prototypes();
  if (only.empty() || only == "positions") positions();
  if (only.empty() || only == "koleo") koleo();
  if (only.empty() || only == "ordered")
    ordered(1024, 1024, 512), ordered(256, 64, 768), ordered(1024, 1024, 64);
}
