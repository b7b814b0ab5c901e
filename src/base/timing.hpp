// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace dino {

/// Wall-clock seconds since construction or the last restart.
class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  void restart() { start_ = std::chrono::steady_clock::now(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

[[nodiscard]] int64_t steady_ms();                        ///< of a clock that only runs forwards
[[nodiscard]] int64_t peak_rss_bytes();                   ///< VmHWM of this process
[[nodiscard]] int64_t current_rss_bytes();                ///< VmRSS of this process
[[nodiscard]] int64_t page_faults();                      ///< of this process so far, without input or output
[[nodiscard]] std::string utc_now();                      ///< 2026-01-31T23:59:59Z
[[nodiscard]] std::string human_bytes(int64_t bytes);     ///< "1.5 GiB"
[[nodiscard]] std::string human_seconds(double seconds);  ///< "1 h 02 min", "3.4 s"

}  // namespace dino
