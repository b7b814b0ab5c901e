// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a training will take, known before its first step: time, memory and disk, from a step that is timed
// and a few images that are loaded.

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "auto_settings.hpp"
#include "comm/program.hpp"
#include "data_loader.hpp"
#include "resources.hpp"

namespace dino::pretrain {

struct Forecast {
  MemoryPlan memory;                              ///< of rank 0, which has the largest share of the batch
  std::optional<DeviceMemoryPlan> device_memory;  ///< of its GPU, where it computes on one
  bool is_timed = false;    ///< false: times are from the nominal rate, since the step does not fit or lasts
  double step_seconds = 0;  ///< with the loading of its images
  double seconds = 0;       ///< of the run, with decoding and checkpoints
  int64_t disk = 0;         ///< bytes in RUN/checkpoints at most
  int64_t parameters = 0;
  std::vector<std::string> chosen;  ///< "preset vit_demo", ...: what was not given
};

struct ForecastQuestion {
  const RecordList& list;  ///< read on rank 0 alone
  const ImageFacts& images;
  const MachineFacts& machine;
  bool only_quickly = false;  ///< a dry run: nothing is timed that takes minutes
};

/// Times a step and chooses the steps that are still `auto`; everything else is chosen. Collective.
[[nodiscard]] Forecast make_forecast(TrainConfig& config, const ForecastQuestion& question,
                                     const CommandContext& context);
/// The lines that a user reads before the first step.
[[nodiscard]] std::vector<std::string> describe(const Forecast& forecast, const TrainConfig& config,
                                                const ForecastQuestion& question);
/// The `bytes` object of metrics.jsonl and --json.
[[nodiscard]] nlohmann::ordered_json bytes_object(const MemoryPlan& memory);
/// The `device_bytes` object, likewise.
[[nodiscard]] nlohmann::ordered_json device_bytes_object(const DeviceMemoryPlan& memory);

}  // namespace dino::pretrain
