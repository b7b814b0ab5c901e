// SPDX-License-Identifier: Apache-2.0
#pragma once
// Whether a run's health log shows a collapse, in words. What a step can measure is capped by its batch: 32
// rows reach 32 prototypes of 65,536, tell at most ln 32 nats, and span at most 16 directions. A verdict
// therefore follows from the information and the effective rank as shares of what the batch allows, and never
// from the usage of prototypes.

#include <cstdint>
#include <string>
#include <vector>

namespace dino {

/// The largest values that one step's statistics can take. NaN where what they follow from is not known.
struct HealthLimits {
  double information = 0;      ///< ln of the smaller of rows and prototypes
  double prototype_usage = 0;  ///< min(1, rows / prototypes)
  double effective_rank = 0;   ///< the smallest of images, kRankRows and width
};
/// Of a batch of images in two global views each; 0 = not known.
[[nodiscard]] HealthLimits health_limits(int64_t batch, int64_t prototypes, int64_t width);

/// One value per logged step; NaN where a line lacks it, empty where all do.
struct HealthHistory {
  std::vector<double> step, information, teacher_entropy, prototype_usage, effective_rank;
  int64_t batch = 0, prototypes = 0, width = 0;  ///< 0 = not known
  double warmup = 0;                             ///< steps of the learning-rate warm-up
  /// One value per online k-NN: accuracy by class tokens, of so many images.
  std::vector<double> knn_step{}, knn_accuracy{}, knn_images{};
};
/// From RUN/metrics.jsonl up to a step; lines that are no JSON (one may be cut by a kill) are passed over.
[[nodiscard]] HealthHistory read_health_history(const std::string& path, double last_step);

struct CollapseVerdict {
  enum class Level : uint8_t { good, attention, problem } level = Level::attention;
  std::string title, why;
};
[[nodiscard]] const char* name_of(CollapseVerdict::Level level);
/// A run whose online k-NN has fallen below its best by more than two standard errors of a difference between
/// shares of so many images is told where downstream peaked; where nothing else is wrong, that is the title.
[[nodiscard]] CollapseVerdict judge_collapse(const HealthHistory& history);

}  // namespace dino
