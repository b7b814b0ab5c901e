// SPDX-License-Identifier: Apache-2.0
#pragma once
// Per-iteration schedules of the reference (CosineScheduler, linear temperature warm-up), in f64.

#include <cstdint>

namespace dino {

/// freeze zeros, then a linear warm-up (numpy.linspace, end point included) from start to base, then a cosine
/// to final over what is left; value(i >= total) = final.
struct CosineSchedule {
  double base = 0, final_value = 0;
  int64_t total = 0, warmup = 0;
  double start_warmup = 0;
  int64_t freeze = 0;
  [[nodiscard]] double value(int64_t iteration) const;
};

/// Linear from `from` to `to` over `warmup` iterations (numpy.linspace), then constant.
struct LinearWarmup {
  double from = 0.04, to = 0.07;
  int64_t warmup = 0;
  [[nodiscard]] double value(int64_t iteration) const;
};

}  // namespace dino
