// SPDX-License-Identifier: Apache-2.0
#pragma once
// What settings are chosen from: the images' sizes, the machine, and the settings of earlier starts.

#include <string>

#include "auto_settings.hpp"
#include "comm/program.hpp"
#include "datasets/record_list.hpp"

namespace dino::pretrain {

/// Medians over up to 64 images that are evenly spread over the data, from their headers. `list` is
/// read on rank 0 alone. Collective; the same on all ranks.
[[nodiscard]] ImageFacts survey_images(const RecordList& list, const Communicator& comm);
/// Cores of all ranks and their rate, and the memory that is free on the fullest node (cgroup limits count),
/// by rank; where GPUs compute, their rate by measurement, spread over the cores, and the smallest one's
/// memory. Collective; the same on all ranks.
[[nodiscard]] MachineFacts survey_machine(const CommandContext& context, const DeviceChoice& device,
                                          Precision precision);
/// Bytes that this process may still take: of the machine, and of its control groups.
[[nodiscard]] int64_t free_memory();
/// Takes the settings that are still `auto` from RUN/config.ini, where an earlier start of the run left them,
/// but those that follow the machine. False where there is none. Collective.
bool take_from_run(TrainConfig& config, const std::string& run, const Communicator& comm);

}  // namespace dino::pretrain
