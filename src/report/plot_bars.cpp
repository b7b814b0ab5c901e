// SPDX-License-Identifier: Apache-2.0
// Bars, intervals, histograms and the funnel.
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

constexpr double kBarsWidth = 520, kNames = 158, kRow = 24;

/// At most `limit` characters (UTF-8 code points), the rest shown as an ellipsis; the full text goes into the
/// element's title.
std::string shortened(const std::string& text, size_t limit) {
  size_t count = 0, cut = text.size();
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0U) == 0x80U) continue;
    if (++count == limit) cut = i;
  }
  return count <= limit ? text : text.substr(0, cut) + "\xE2\x80\xA6";
}

std::string open_figure(const std::string& title, double height) {
  return fmt::format(
      "<figure class=\"plot\"><figcaption><b>{}</b></figcaption><svg viewBox=\"0 0 {} {}\" role=\"img\" "
      "aria-label=\"{}\">",
      escape(title), kBarsWidth, px(height), escape(title));
}

std::string no_values(std::string out) {
  return std::move(out) + fmt::format(
                              "<text class=\"empty\" x=\"{}\" y=\"20\" text-anchor=\"middle\">no "
                              "values</text></svg></figure>\n",
                              kBarsWidth / 2);
}

std::string row_name(const std::string& name, double y, const char* css_class) {
  return fmt::format("<text class=\"{}\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}<title>{}</title></text>",
                     css_class, kNames - 10, px(y), escape(shortened(name, 20)), escape(name));
}

}  // namespace

std::string bar_plot(const std::string& title, const std::vector<Bar>& bars, bool log_scale) {
  const double height = static_cast<double>(bars.size()) * kRow + 6;
  std::string out = open_figure(title + (log_scale ? " (log scale)" : ""), std::max(height, 34.0));
  double high = 0, low = std::numeric_limits<double>::infinity();
  for (const Bar& bar : bars)
    if (std::isfinite(bar.value) && bar.value > 0) {
      high = std::max(high, bar.value);
      low = std::min(low, bar.value);
    }
  if (bars.empty()) return no_values(std::move(out));
  const double room = kBarsWidth - kNames - 86;
  // On a log scale the smallest bar keeps a visible length: the axis starts at half of it.
  const double base = log_scale && high > 0 ? std::log10(low / 2) : 0;
  const double span = high > 0 ? (log_scale ? std::log10(high) - base : high) : 1;
  for (size_t i = 0; i < bars.size(); ++i) {
    const double value = bars[i].value, top = static_cast<double>(i) * kRow + 4;
    const bool shown = std::isfinite(value) && value > 0;
    const double length = shown ? room * ((log_scale ? std::log10(value) - base : value) / span) : 0;
    out += row_name(bars[i].name, top + 13, "name");
    out += fmt::format(
        "<rect class=\"bar\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"16\" rx=\"1.5\"><title>{}: "
        "{}{}</title></rect>",
        kNames, px(top), px(length), escape(bars[i].name), short_number(value, 6),
        bars[i].note.empty() ? "" : ", " + escape(bars[i].note));
    const std::string text = std::isfinite(value) && value == std::floor(value) && std::abs(value) < 1e15
                                 ? with_commas(static_cast<long long>(value))
                                 : short_number(value);
    out += fmt::format("<text class=\"value\" x=\"{}\" y=\"{}\">{}</text>\n", px(kNames + length + 7),
                       px(top + 13), bars[i].note.empty() ? text : text + " " + escape(bars[i].note));
  }
  return out + "</svg></figure>\n";
}

std::string forest_plot(const std::string& title, const std::vector<Interval>& rows) {
  const double height = static_cast<double>(rows.size()) * kRow + 30;
  std::string out = open_figure(title, std::max(height, 34.0));
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const Interval& row : rows)
    for (const double v : {row.value, row.low, row.high})
      if (std::isfinite(v)) {
        low = std::min(low, v);
        high = std::max(high, v);
      }
  if (!(low <= high)) return no_values(std::move(out));
  const double margin = std::max(0.06 * (high - low), 1e-9),
               bottom = static_cast<double>(rows.size()) * kRow + 4;
  const Axis axis(low - margin, high + margin, kNames, kBarsWidth - 56, false, 5);
  for (const double tick : axis.ticks()) {
    const std::string at = px(axis.pixel(tick));
    out += fmt::format("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"0\" y2=\"{}\" />", at, at, px(bottom));
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>", at, px(bottom + 17),
                       axis.label(tick));
  }
  out += fmt::format("<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" />\n", kNames,
                     kBarsWidth - 56, px(bottom), px(bottom));
  for (size_t i = 0; i < rows.size(); ++i) {
    const Interval& row = rows[i];
    const double y = static_cast<double>(i) * kRow + 15;
    out += row_name(row.name, y + 4, row.reference ? "ref-name" : "name");
    if (!std::isfinite(row.value)) continue;
    const std::string paint = row.colour.empty() ? "var(--bar)" : escape(row.colour);
    const std::string colour =
        fmt::format("{} style=\"stroke:{};fill:{}\"", row.reference ? " class=\"ref\"" : "", paint, paint);
    const std::string text = fmt::format("{:.3f} [{:.3f}, {:.3f}]", row.value, row.low, row.high);
    out += fmt::format("<g{}><title>{}: {}</title>", colour, escape(row.name), text);
    if (std::isfinite(row.low) && std::isfinite(row.high))
      out += fmt::format("<path d=\"M{0} {1}H{2}M{0} {3}V{4}M{2} {3}V{4}\" stroke-width=\"1.6\" />",
                         px(axis.pixel(row.low)), px(y), px(axis.pixel(row.high)), px(y - 4), px(y + 4));
    // Shape as well as colour tells floors from models.
    out += row.reference
               ? fmt::format("<rect x=\"{}\" y=\"{}\" width=\"7\" height=\"7\" />",
                             px(axis.pixel(row.value) - 3.5), px(y - 3.5))
               : fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"4.2\" />", px(axis.pixel(row.value)), px(y));
    out += fmt::format("</g><text class=\"value\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{:.3f}</text>\n",
                       kBarsWidth - 2, px(y + 4), row.value);
  }
  return out + "</svg></figure>\n";
}

std::string histogram(const std::string& title, const std::vector<double>& edges,
                      const std::vector<int64_t>& counts, double marker, bool log_counts) {
  constexpr double left = 52, right = 512, top = 24, bottom = 182, height = 208;
  std::string out = open_figure(title + (log_counts ? " (counts on a log scale)" : ""), height);
  int64_t high = 0;
  for (const int64_t count : counts) high = std::max(high, count);
  if (counts.empty() || edges.size() != counts.size() + 1 || high == 0 || !(edges.back() > edges.front()))
    return no_values(std::move(out));
  const Axis x(edges.front(), edges.back(), left, right, false, 7);
  const Axis y(log_counts ? 0.5 : 0, static_cast<double>(high), bottom, top, log_counts, 4);
  for (const double tick : y.ticks()) {
    out += fmt::format("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" />", left, right,
                       px(y.pixel(tick)), px(y.pixel(tick)));
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", left - 7,
                       px(y.pixel(tick) + 4), y.label(tick));
  }
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] <= 0) continue;
    const double a = x.pixel(edges[i]), b = x.pixel(edges[i + 1]),
                 level = y.pixel(static_cast<double>(counts[i]));
    out += fmt::format(
        "<rect class=\"bar\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{} to {}: {}</title></rect>",
        px(a), px(level), px(std::max(b - a - 1, 0.8)), px(bottom - level), short_number(edges[i]),
        short_number(edges[i + 1]), with_commas(counts[i]));
  }
  out += fmt::format("<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" />", left, right, bottom,
                     bottom);
  for (const double tick : x.ticks())
    out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>", px(x.pixel(tick)),
                       bottom + 17, x.label(tick));
  if (std::isfinite(marker) && marker >= edges.front() && marker <= edges.back()) {
    // The label stands above the bars, on the side that has more room.
    const bool left_half = x.pixel(marker) < (left + right) / 2;
    out += fmt::format(
        "<line class=\"marker\" x1=\"{0}\" x2=\"{0}\" y1=\"{1}\" y2=\"{2}\"><title>threshold "
        "{3}</title></line>"
        "<text class=\"value\" x=\"{4}\" y=\"{5}\" text-anchor=\"{6}\">threshold {3}</text>",
        px(x.pixel(marker)), top - 14, bottom, short_number(marker),
        px(x.pixel(marker) + (left_half ? 6 : -6)), top - 6, left_half ? "start" : "end");
  }
  return out + "</svg></figure>\n";
}

std::string funnel(const std::vector<FunnelStage>& stages) {
  constexpr double row = 34;
  std::string out = open_figure("Images that remain after each stage",
                                std::max(static_cast<double>(stages.size()) * row + 4, 34.0));
  if (stages.empty()) return no_values(std::move(out));
  int64_t all = 1;
  for (const FunnelStage& s : stages) all = std::max(all, s.remaining + s.dropped);
  const double room = kBarsWidth - kNames - 92;
  for (size_t i = 0; i < stages.size(); ++i) {
    const FunnelStage& s = stages[i];
    const double y = static_cast<double>(i) * row + 4;
    const double kept = room * static_cast<double>(s.remaining) / static_cast<double>(all);
    const double lost = room * static_cast<double>(s.dropped) / static_cast<double>(all);
    out += row_name(s.name, y + 16, "name");
    out += fmt::format(
        "<rect class=\"bar\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"24\" rx=\"1.5\"><title>{}: {} "
        "remain</title></rect>",
        kNames, px(y), px(kept), escape(s.name), with_commas(s.remaining));
    if (s.dropped > 0)
      out += fmt::format(
          "<rect class=\"lost\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"24\"><title>{}: {} "
          "dropped</title></rect>",
          px(kNames + kept), px(y), px(std::max(lost, 1.0)), escape(s.name), with_commas(s.dropped));
    const double text = kNames + kept + lost + 8;
    out += fmt::format("<text class=\"value\" x=\"{}\" y=\"{}\">{}</text>", px(text),
                       px(y + (s.dropped > 0 ? 10 : 16)), with_commas(s.remaining));
    if (s.dropped > 0)
      out += fmt::format("<text x=\"{}\" y=\"{}\">\xE2\x88\x92{}</text>", px(text), px(y + 24),
                         with_commas(s.dropped));
    out += "\n";
  }
  return out + "</svg></figure>\n";
}

}  // namespace dino::report
