// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.hpp"
#include "report/axis.hpp"
#include "report/html.hpp"
#include "report/plot.hpp"

namespace dino::report {

namespace {

constexpr double kWidth = 520, kHeight = 270, kLeft = 52, kRight = 512, kTop = 10, kBottom = 228;
constexpr size_t kShades = 3;

struct Point {
  double x, y;
};

bool drawable(double x, double y, bool log_y) {
  return std::isfinite(x) && std::isfinite(y) && (!log_y || y > 0);
}

/// Runs of points between gaps (a NaN ends a run). Long runs keep the smallest and the largest value of every
/// bucket, so that spikes stay visible.
std::vector<std::vector<Point>> runs_of(const Series& series, bool log_y) {
  std::vector<std::vector<Point>> runs(1);
  const size_t n = std::min(series.x.size(), series.y.size());
  for (size_t i = 0; i < n; ++i) {
    if (drawable(series.x[i], series.y[i], log_y))
      runs.back().push_back({series.x[i], series.y[i]});
    else if (!runs.back().empty())
      runs.emplace_back();
  }
  if (runs.back().empty()) runs.pop_back();
  constexpr size_t kBuckets = 360;
  for (auto& run : runs) {
    if (run.size() <= 2 * kBuckets) continue;
    std::vector<Point> thin = {run.front()};
    for (size_t b = 0; b < kBuckets; ++b) {
      const auto begin = run.begin() + static_cast<int64_t>(b * run.size() / kBuckets);
      const auto end = run.begin() + static_cast<int64_t>((b + 1) * run.size() / kBuckets);
      const auto [low, high] =
          std::minmax_element(begin, end, [](const Point& p, const Point& q) { return p.y < q.y; });
      thin.push_back(low < high ? *low : *high);
      if (low != high) thin.push_back(low < high ? *high : *low);
    }
    thin.push_back(run.back());
    run = std::move(thin);
  }
  return runs;
}

/// Means over buckets of a long, noisy run; its raw curve is drawn faintly behind.
std::vector<Point> smoothed(const Series& series, bool log_y) {
  constexpr size_t kBuckets = 64;
  std::vector<Point> points;
  for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i)
    if (drawable(series.x[i], series.y[i], log_y)) points.push_back({series.x[i], series.y[i]});
  std::vector<Point> means;
  for (size_t b = 0; b < kBuckets; ++b) {
    const size_t begin = b * points.size() / kBuckets, end = (b + 1) * points.size() / kBuckets;
    Point mean{0, 0};
    for (size_t i = begin; i < end; ++i) {
      mean.x += points[i].x / static_cast<double>(end - begin);
      mean.y += points[i].y / static_cast<double>(end - begin);
    }
    means.push_back(mean);
  }
  return means;
}

std::string axes(const Axis& x, const Axis& y, const LinePlot& plot) {
  std::string out;
  for (const double tick : y.ticks()) {
    const std::string at = px(y.pixel(tick));
    out +=
        fmt::format("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" />", kLeft, kRight, at, at);
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", kLeft - 7,
                       px(y.pixel(tick) + 4), y.label(tick));
  }
  out += fmt::format("<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" />", kLeft, kRight,
                     kBottom, kBottom);
  for (const double tick : x.ticks())
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>", px(x.pixel(tick)),
                       kBottom + 17, x.label(tick));
  out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", kRight, kHeight - 6,
                     escape(plot.x_label));
  return out;
}

/// The colour of a series, as CSS: its own, grey for a baseline, else a shade by its place.
std::string paint(const LinePlot& plot, size_t place) {
  const Series& series = plot.series[place];
  if (!series.colour.empty()) return escape(series.colour);
  return series.dashed ? "var(--muted)" : fmt::format("var(--t{})", place % kShades + 1);
}

/// Shades are told apart by dashes too.
std::string dashes(const LinePlot& plot, size_t place) {
  const Series& series = plot.series[place];
  if (series.dashed) return " dashed";
  return series.colour.empty() && place % kShades > 0 ? fmt::format(" shade{}", place % kShades + 1) : "";
}

std::string legend(const LinePlot& plot) {
  if (plot.series.size() < 2) return {};  // the title says what a lone curve is
  std::string out = "<ul class=\"legend\">";
  for (size_t s = 0; s < plot.series.size(); ++s)
    out += fmt::format(
        "<li><svg viewBox=\"0 0 22 8\" aria-hidden=\"true\"><path class=\"line{}\" style=\"stroke:{}\" "
        "d=\"M1 4H21\" /></svg>{}</li>",
        dashes(plot, s), paint(plot, s), escape(plot.series[s].name));
  return out + "</ul>";
}

std::string curve(const LinePlot& plot, size_t place, const Axis& x, const Axis& y) {
  const Series& series = plot.series[place];
  const bool log_y = plot.log_y;
  const std::string colour = paint(plot, place), classes = dashes(plot, place);
  std::string path, dots;
  const auto runs = runs_of(series, log_y);
  size_t points = 0;
  for (const auto& run : runs) points += run.size();
  for (const auto& run : runs) {
    for (size_t i = 0; i < run.size(); ++i)
      path += fmt::format("{}{} {}", i == 0 ? "M" : "L", px(x.pixel(run[i].x)), px(y.pixel(run[i].y)));
    // A lone point draws no line; few points are measurements and are marked as such.
    if (run.size() == 1 || (points <= 16 && !series.dashed))
      for (const Point& p : run)
        dots += fmt::format(
            "<circle cx=\"{}\" cy=\"{}\" r=\"3\" style=\"fill:{}\"><title>{}: {}, "
            "{}</title></circle>",
            px(x.pixel(p.x)), px(y.pixel(p.y)), colour, escape(series.name), short_number(p.x, 7),
            short_number(p.y, 5));
  }
  if (path.empty()) return {};
  std::string mean;
  constexpr size_t kLong = 320;
  if (points > kLong && !series.dashed) {
    const auto means = smoothed(series, log_y);
    for (size_t i = 0; i < means.size(); ++i)
      mean += fmt::format("{}{} {}", i == 0 ? "M" : "L", px(x.pixel(means[i].x)), px(y.pixel(means[i].y)));
    mean = fmt::format("<path class=\"line{}\" style=\"stroke:{}\" d=\"{}\" />", classes, colour, mean);
  }
  return fmt::format("<path class=\"line{}{}\" style=\"stroke:{}\" d=\"{}\"><title>{}</title></path>{}\n",
                     mean.empty() ? classes : "", mean.empty() ? "" : " raw", colour, path,
                     escape(series.name), mean + dots);
}

}  // namespace

std::string line_plot(const LinePlot& plot) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  double x_low = inf, x_high = -inf, y_low = inf, y_high = -inf;
  for (const Series& series : plot.series)
    for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i)
      if (drawable(series.x[i], series.y[i], plot.log_y)) {
        x_low = std::min(x_low, series.x[i]);
        x_high = std::max(x_high, series.x[i]);
        y_low = std::min(y_low, series.y[i]);
        y_high = std::max(y_high, series.y[i]);
      }
  std::string out = "<figure class=\"plot\"><figcaption><b>" + escape(plot.title) + "</b>";
  if (!plot.y_label.empty()) out += ", " + escape(plot.y_label) + (plot.log_y ? " (log scale)" : "");
  out += legend(plot) + "</figcaption>";
  out += fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">", kWidth, kHeight,
                     escape(plot.title + (plot.y_label.empty() ? "" : ", " + plot.y_label)));
  if (!(x_low <= x_high))
    return out + fmt::format(
                     "<text class=\"empty\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">no "
                     "values</text></svg></figure>\n",
                     kWidth / 2, kHeight / 2);
  if (!plot.log_y && y_high > y_low) {
    const double margin = 0.04 * (y_high - y_low);
    // A quantity that is never negative keeps zero as its floor.
    y_low = y_low >= 0 && y_low < 2 * margin ? 0 : y_low - margin;
    y_high += margin;
  }
  const Axis x(x_low, x_high, kLeft, kRight, false, 6);
  const Axis y(y_low, y_high, kBottom, kTop, plot.log_y, 5);
  out += axes(x, y, plot);
  for (size_t s = 0; s < plot.series.size(); ++s) out += curve(plot, s, x, y);
  return out + "</svg></figure>\n";
}

}  // namespace dino::report
