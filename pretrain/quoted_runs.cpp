// SPDX-License-Identifier: Apache-2.0
#include "quoted_runs.hpp"

#include <fmt/format.h>

#include <array>

#include "base/json.hpp"
#include "resources.hpp"

namespace dino::pretrain {
namespace {

StepShape shape_of(const char* preset, const char* crops, double drop_path, int64_t prototypes,
                   int64_t bottleneck) {
  StepShape shape;
  shape.preset = preset;
  shape.crops = crops;
  shape.drop_path = drop_path;
  shape.prototypes = prototypes;
  shape.bottleneck = bottleneck;
  return shape;
}

}  // namespace

std::span<const QuotedRun> quoted_runs() {
  static const std::array<QuotedRun, 5> runs{{
      {"ViT-g/14", "A100-40", "DINOv2 model card: 22,016 GPU hours, 625,000 steps of 3,072", 24.2, 121,
       shape_of("vitg14", "2x224,8x98", 0.4, 131072, 384)},
      {"ViT-L/14", "A100", "DINOv2 README: 3.3 days on 96 GPUs", 70, 94,
       shape_of("vitl14_scratch", "2x224,8x98", 0.4, 131072, 384)},
      {"ViT-L/16 short", "A100", "DINOv2 README: about a day on 32 GPUs", 92.6, 105,
       shape_of("vitl16", "2x224,8x96", 0.3, 65536, 256)},
      {"DINOv3 ViT-L", "H100", "DINOv3 README: 14 hours on 32 GPUs, batch 2,048", 158, 0, {}},
      {"DINOv3 7B", "H100", "DINOv3: 61,440 GPU hours", 18.5, 0, {}},
  }};
  return runs;
}

double counted_images_per_second(const QuotedRun& run) {
  const TrainConfig config = train_config(run.shape);
  return run.tflops * 1e12 /
         flops_per_image(make_training_config(config), config.global_size, config.local_size);
}

nlohmann::ordered_json quoted_rows() {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const QuotedRun& run : quoted_runs()) {
    nlohmann::ordered_json row{{"name", run.name},
                               {"hardware", run.hardware},
                               {"images_per_second", run.images_per_second},
                               {"source", run.source}};
    if (run.tflops > 0) {
      row["gflops"] = run.tflops * 1e3;
      row["counted_images_per_second"] = counted_images_per_second(run);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string quoted_text() {
  std::string text = "quoted of others, images/s of a GPU:\n";
  for (const QuotedRun& run : quoted_runs()) {
    const std::string at = run.tflops > 0 ? fmt::format("at {:.0f} TFLOP/s, by which plan counts {:.1f}",
                                                        run.tflops, counted_images_per_second(run))
                                          : "no rate quoted";
    text += fmt::format("  {:<15} {:<8} {:>6.1f}  {:<40}  {}\n", run.name, run.hardware,
                        run.images_per_second, at, run.source);
  }
  return text;
}

}  // namespace dino::pretrain
