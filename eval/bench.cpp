// SPDX-License-Identifier: Apache-2.0
// Speed of the forward pass on synthetic images, beside what the machine's matrix products reach.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/random.hpp"
#include "base/timing.hpp"
#include "commands.hpp"
#include "model/vit.hpp"
#include "model/weights.hpp"
#include "ops/device_option.hpp"
#include "ops/gemm_rate.hpp"

namespace dino::eval {

namespace {

struct BenchConfig {
  std::string preset = "vits14";
  DeviceChoice device;
  Auto<Precision> precision = Precision::f32;
  int64_t batch = 8, size = 224, repeats = 5;
  bool mixed_sizes = false;
};

Schema<BenchConfig> bench_options() {
  using C = BenchConfig;
  Schema<C> schema;
  schema.add("preset", &C::preset, "Backbone.").choices(vit_preset_names());
  schema.add("batch", &C::batch, "Images per pass and rank.").range(1, 65536);
  schema.add("size", &C::size, "Side of the images in pixels.").range(1, 8192);
  schema.add("mixed-sizes", &C::mixed_sizes, "Images of three sizes in one packed call.");
  add_device(schema, &C::device);
  schema.add("precision", &C::precision, "Arithmetic; tf32 is a GPU's.");
  schema.add("repeats", &C::repeats, "Timed passes.").range(1, 10000);
  return schema;
}

struct Input {
  int64_t batch, side;
  Tensor images;
};

/// Multiplications and additions of one forward pass, 2 per multiply-add; norms and softmax are left out.
double forward_flops(const VitConfig& c, int64_t batch, int64_t side) {
  const auto patches = static_cast<double>((side / c.patch) * (side / c.patch)),
             tokens = patches + 1 + static_cast<double>(c.registers);
  const auto width = static_cast<double>(c.width), hidden = static_cast<double>(c.hidden);
  const double embed = patches * static_cast<double>(c.channels * c.patch * c.patch) * width;
  const double ffn = hidden * width * (c.ffn == FfnKind::swiglu ? 3 : 2);
  const double block = tokens * (4 * width * width + ffn) + 2 * tokens * tokens * width;
  return 2 * static_cast<double>(batch) * (embed + static_cast<double>(c.depth) * block);
}

std::vector<Input> make_inputs(const BenchConfig& config, int64_t patch) {
  std::vector<Input> inputs;
  // Mixed sizes: full, three quarters and half of the side, packed into one call.
  const std::vector<int64_t> parts =
      config.mixed_sizes ? std::vector<int64_t>{4, 3, 2} : std::vector<int64_t>{4};
  for (size_t p = 0; p < parts.size(); ++p) {
    const Range range = even_range(config.batch, static_cast<int>(p), static_cast<int>(parts.size()));
    const int64_t side = std::max(config.size * parts[p] / 4 / patch, int64_t{1}) * patch;
    if (range.size() == 0) continue;
    inputs.push_back({range.size(), side, Tensor({range.size(), 3, side, side})});
    Random random(0, RandomStream::synthetic, p + 2);
    for (float& v : inputs.back().images.f32()) v = random.uniform() * 4 - 2;
  }
  return inputs;
}

ExitCode run_bench(BenchConfig config, CommandContext& context) {
  if (context.common.dry_run) return ExitCode::done;
  const log::Phase phase("bench");
  const VitConfig vit_config = vit_preset(config.preset);
  if (config.size % vit_config.patch != 0)
    throw UsageError(fmt::format("benchmark: --size {}: is not a multiple of the patch side {}; use {}",
                                 config.size, vit_config.patch,
                                 (config.size / vit_config.patch + 1) * vit_config.patch));
  ops::Backend& backend = settle_device(config.device, context.world);
  const Precision precision = precision_here(config.precision, kind_of(config.device));
  const auto backbone = random_backbone(vit_config, static_cast<uint64_t>(context.common.seed));
  const Vit vit(vit_config);
  Workplace place(backend, context.world, precision);
  const Context& device = place.context();
  bring_to_device(*backbone, device);
  const std::vector<Input> inputs = make_inputs(config, vit_config.patch);
  std::vector<CropBatch> crops;
  std::vector<Tensor> images;  // on the device
  double flops = 0;
  for (const Input& input : inputs) {
    images.push_back(Tensor::uninitialised(input.images.shape(), DType::f32, backend.memory()));
    copy(device.stream, images.back(), input.images);
    crops.push_back({images.back(), {}});
    flops += forward_flops(vit_config, input.batch, input.side);
  }
  std::vector<double> seconds;
  for (int64_t r = 0; r < config.repeats + 1; ++r) {
    device.arena.reset();
    context.world.barrier();
    const Stopwatch watch;
    (void)vit.forward(device, backbone->weights, crops, {});
    device.stream.synchronize();
    if (r > 0) seconds.push_back(context.world.max(watch.seconds()));  // the first pass fills caches
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double peak = context.world.sum(ops::gemm_rate(backend, precision));
  const int64_t ranks = context.world.size(), memory = context.world.max(peak_rss_bytes());
  const nlohmann::ordered_json result{
      {"preset", config.preset},
      {"batch", config.batch},
      {"size", config.size},
      {"mixed_sizes", config.mixed_sizes},
      {"device", name_of(kind_of(config.device))},
      {"precision", name_of(precision)},
      {"ranks", ranks},
      {"images_per_second", static_cast<double>(config.batch * ranks) / median},
      {"seconds", median},
      {"flops", flops * static_cast<double>(ranks)},
      {"achieved_gflops", flops * static_cast<double>(ranks) / median * 1e-9},
      {"gemm_peak_gflops", peak},
      {"peak_rss_bytes", memory},
      {"kernels", ops::describe_backend()}};
  if (!context.world.root()) return ExitCode::done;
  log::info(fmt::format("{:.1f} images/s, {:.1f} of {:.1f} GFLOP/s that matrix products reach, {} resident",
                        result["images_per_second"].get<double>(), result["achieved_gflops"].get<double>(),
                        peak, human_bytes(memory)));
  context.result = json_line(result);
  return ExitCode::done;
}

}  // namespace

Command bench_command() {
  Command command;
  command.name = "bench";
  command.summary = "Time the forward pass on synthetic images";
  command.usage = "--preset vits14 --batch 8 --size 224 [--mixed-sizes] --json";
  command.description =
      "Median of several passes after a first one. --mixed-sizes packs images of three sizes into one call. "
      "gemm_peak_gflops is a 1024-cubed product "
      "through the same operator. With several ranks, images and GFLOP/s are summed and the slowest rank's "
      "time counts.";
  command.examples = {{"--preset vits14 --batch 8 --size 224"}};
  command.make = with_options(bench_options(), run_bench);
  return command;
}

}  // namespace dino::eval
