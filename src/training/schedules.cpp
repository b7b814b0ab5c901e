// SPDX-License-Identifier: Apache-2.0
#include "training/schedules.hpp"

#include <cmath>
#include <numbers>

namespace dino {
namespace {

/// Element i of numpy.linspace(start, stop, count): the last one is exactly `stop`, and a single element is
/// `start`.
double linspace(double start, double stop, int64_t count, int64_t i) {
  if (count <= 1) return start;
  if (i == count - 1) return stop;
  const double step = (stop - start) / static_cast<double>(count - 1);
  return static_cast<double>(i) * step + start;
}

}  // namespace

double CosineSchedule::value(int64_t iteration) const {
  if (iteration >= total) return final_value;
  if (iteration < freeze) return 0;
  if (iteration < freeze + warmup) return linspace(start_warmup, base, warmup, iteration - freeze);
  const double position = static_cast<double>(iteration - freeze - warmup);
  const double length = static_cast<double>(total - freeze - warmup);
  return final_value + 0.5 * (base - final_value) * (1.0 + std::cos(std::numbers::pi * position / length));
}

double LinearWarmup::value(int64_t iteration) const {
  return iteration < warmup ? linspace(from, to, warmup, iteration) : to;
}

}  // namespace dino
