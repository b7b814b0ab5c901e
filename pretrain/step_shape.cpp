// SPDX-License-Identifier: Apache-2.0
#include "step_shape.hpp"

#include <cstdio>

#include "auto_settings.hpp"
#include "base/error.hpp"
#include "precision_options.hpp"
#include "split_options.hpp"

namespace dino::pretrain {
namespace {

struct CropPlan {
  int64_t global_size = 0, local_count = 0, local_size = 0;
};

/// "2x224,8x98" or "2x224".
CropPlan parse_crops(const std::string& text) {
  CropPlan plan;
  int64_t count = 0;
  int matched = 0;
  const int fields = std::sscanf(text.c_str(), "%ldx%ld%n,%ldx%ld%n", &count, &plan.global_size, &matched,
                                 &plan.local_count, &plan.local_size, &matched);
  if ((fields != 2 && fields != 4) || static_cast<size_t>(matched) != text.size() || count != 2 ||
      plan.global_size <= 0 || plan.local_count < 0) {
    throw UsageError("bad crops: --crops: '" + text +
                     "' is not of the form 2x224,8x98 (two global crops, then the locals)");
  }
  return plan;
}

}  // namespace

Schema<StepShape> shape_options() {
  using C = StepShape;
  Schema<C> schema;
  schema.add("preset", &C::preset, "Backbone.").choices(vit_preset_names());
  schema.add("batch", &C::batch, "Images per step over all ranks.").range(1, 1e6);
  add_device(schema, &C::device);
  add_precision(schema);
  schema.add(&C::split, split_options());
  schema.add("crops", &C::crops, "Crops: 2x<global side>[,<locals>x<local side>].");
  schema.add("prototypes", &C::prototypes, "Prototypes of each head.").range(2, 1 << 24);
  schema.add("bottleneck", &C::bottleneck, "Bottleneck of the heads.").range(2, 8192);
  schema.add("head-hidden", &C::head_hidden, "Hidden width of the heads.").range(2, 65536);
  schema.add("drop-path", &C::drop_path, "Stochastic depth rate.").range(0, 0.95);
  return schema;
}

TrainConfig train_config(const StepShape& shape) {
  const CropPlan plan = parse_crops(shape.crops);
  TrainConfig config;
  config.preset = shape.preset;
  config.device = shape.device;
  config.precision = shape.precision;
  config.reduce_precision = shape.reduce_precision;
  config.batch = shape.batch;
  config.prototypes = shape.prototypes;
  config.bottleneck = shape.bottleneck;
  config.head_hidden = shape.head_hidden;
  config.drop_path = shape.drop_path;
  config.split = shape.split;
  config.steps = 1000;
  config.warmup = 10;
  config.global_size = plan.global_size;
  config.local_count = plan.local_count;
  config.local_size = plan.local_count > 0 ? plan.local_size : vit_preset(shape.preset).patch;
  choose_published(config);
  return config;
}

}  // namespace dino::pretrain
