// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inline SVG plots with titles for screen readers; colours from CSS variables, so they follow light and dark.

#include <cstdint>
#include <string>
#include <vector>

namespace dino::report {

struct Series {
  std::string name;
  std::vector<double> x, y;
  bool dashed = false;  ///< baselines; in grey unless they have a colour
  /// CSS; empty = one of the shades of a single colour, by place, told apart by their dashes too.
  std::string colour{};
};
struct LinePlot {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  bool log_y = false;
};
[[nodiscard]] std::string line_plot(const LinePlot& plot);

struct Bar {
  std::string name;
  double value = 0;
  std::string note;
};
[[nodiscard]] std::string bar_plot(const std::string& title, const std::vector<Bar>& bars,
                                   bool log_scale = false);

/// Value with interval per row (forest plot).
struct Interval {
  std::string name;
  double value = 0, low = 0, high = 0;
  bool reference = false;  ///< a floor: a square instead of a circle
  std::string colour{};    ///< CSS; empty = the colour of bars
};
[[nodiscard]] std::string forest_plot(const std::string& title, const std::vector<Interval>& rows);

[[nodiscard]] std::string histogram(const std::string& title, const std::vector<double>& edges,
                                    const std::vector<int64_t>& counts, double marker, bool log_counts);

/// The curation funnel: stages with the number that remains after each.
struct FunnelStage {
  std::string name;
  int64_t remaining = 0, dropped = 0;
};
[[nodiscard]] std::string funnel(const std::vector<FunnelStage>& stages);

}  // namespace dino::report
