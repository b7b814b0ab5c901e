// SPDX-License-Identifier: Apache-2.0
#pragma once
// RUN/<stage>/started.json, failed.json and done.json: what a stage says of itself. They are the truth about
// it; but an empty, cut off or foreign file says nothing.

#include <cstdint>
#include <optional>
#include <string>

namespace dino {

struct Marker {
  int64_t job = 0;  ///< of Slurm; 0 without
  int64_t restarts = 0;
  int64_t exit_code = 0;
  std::string time;  ///< 2026-01-31T23:59:59Z
};

[[nodiscard]] std::string marker_path(const std::string& run, const std::string& stage,
                                      const std::string& file);
/// Nothing when the file is not there, or is not this stage's marker.
[[nodiscard]] std::optional<Marker> read_marker(const std::string& run, const std::string& stage,
                                                const std::string& file);
void write_marker(const std::string& run, const std::string& stage, const std::string& file,
                  const Marker& marker);

/// Held by the stage's script under `dino-jobs local`.
[[nodiscard]] std::string stage_lock(const std::string& run, const std::string& stage);

/// Has the stage ended well?
[[nodiscard]] bool is_done(const std::string& run, const std::string& stage);
/// A done.json that does not say so; people should hear of it.
[[nodiscard]] bool has_broken_done(const std::string& run, const std::string& stage);

}  // namespace dino
