// SPDX-License-Identifier: Apache-2.0
#pragma once
// A training step by its sizes alone, without images: what bench times and plan counts.

#include <string>

#include "base/options.hpp"
#include "train_config.hpp"

namespace dino::pretrain {

struct StepShape {
  std::string preset = "vits14", crops = "2x224,8x98";
  DeviceChoice device;
  Auto<Precision> precision;
  Precision reduce_precision = Precision::f32;
  int64_t batch = 8, prototypes = 65536, bottleneck = 256, head_hidden = 2048;
  double drop_path = 0;
  SplitConfig split;
};
[[nodiscard]] Schema<StepShape> shape_options();
/// Complete but for the data: the published settings.
[[nodiscard]] TrainConfig train_config(const StepShape& shape);

}  // namespace dino::pretrain
