// SPDX-License-Identifier: Apache-2.0
#include "report/plot.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "report/axis.hpp"
#include "report/markup.hpp"

namespace dino::report {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t i = text.find(what); i != std::string::npos; i = text.find(what, i + 1)) ++n;
  return n;
}

void expect_clean(const std::string& svg) {
  EXPECT_EQ(markup_fault(svg), "") << svg.substr(0, 400);
  EXPECT_EQ(external_reference(svg), "");
  for (const char* word : {"\"nan\"", "\"-nan\"", "\"inf\"", "nan ", "inf "})
    EXPECT_EQ(svg.find(word), std::string::npos) << word;
}

TEST(LinePlot, AGapSplitsTheCurve) {
  LinePlot plot{"loss", "step", "nats", {{"a", {0, 1, 2, 3, 4}, {1, 2, kNan, 3, 4}, false}}, false};
  const std::string svg = line_plot(plot);
  expect_clean(svg);
  const size_t path = svg.rfind("d=\"M");
  const std::string d = svg.substr(path + 3, svg.find('"', path + 3) - path - 3);
  EXPECT_EQ(count(d, "M"), 2U);
  EXPECT_EQ(count(d, "L"), 2U);
}

TEST(LinePlot, EmptyAndUndrawableSeriesSayNoValues) {
  for (const Series& series :
       {Series{}, Series{"n", {1, 2}, {kNan, INFINITY}, false}, Series{"l", {1}, {-1}, false}}) {
    const std::string svg = line_plot({"t", "x", "y", {series}, true});
    expect_clean(svg);
    EXPECT_NE(svg.find("no values"), std::string::npos);
  }
  expect_clean(line_plot({"none", "x", "y", {}, false}));
}

TEST(LinePlot, ASinglePointAndAConstantAreDrawn) {
  const std::string svg = line_plot({"t", "x", "y", {{"a", {5}, {2}, false}, {"b", {5}, {2}, true}}, false});
  expect_clean(svg);
  EXPECT_GE(count(svg, "<circle"), 1U);
}

TEST(LinePlot, LongSeriesKeepTheirSpike) {
  Series series{"spiky", {}, {}, false};
  for (int i = 0; i < 100000; ++i) {
    series.x.push_back(i);
    series.y.push_back(i == 54321 ? 1000.0 : 1.0);
  }
  const std::string svg = line_plot({"t", "step", "y", {series}, false});
  expect_clean(svg);
  EXPECT_EQ(count(svg, "class=\"line raw\""), 1U);  // faint, with its smoothed curve in front
  EXPECT_LT(svg.size(), 30000U);
  // The spike reaches the top of the drawing area; without it, nothing is above the middle.
  const Axis y(0, 1040, 228, 10, false, 5);
  EXPECT_NE(svg.find(" " + px(y.pixel(1000))), std::string::npos);
}

TEST(LinePlot, EscapesNames) {
  const std::string svg = line_plot({"<b>", "x", "y", {{"</svg><script>", {0, 1}, {0, 1}, false}}, false});
  expect_clean(svg);
  EXPECT_EQ(svg.find("<script>"), std::string::npos);
}

TEST(Bars, ValuesDecideLengths) {
  const std::string svg =
      bar_plot("b", {{"one", 10, ""}, {"half", 5, "note"}, {"none", 0, ""}, {"bad", kNan, ""}});
  expect_clean(svg);
  EXPECT_NE(svg.find("width=\"276.0\""), std::string::npos);
  EXPECT_NE(svg.find("width=\"138.0\""), std::string::npos);
  expect_clean(bar_plot("log", {{"a", 1000, ""}, {"b", 1, ""}}, true));
  expect_clean(bar_plot("empty", {}));
}

TEST(Forest, ReferencesDifferInShape) {
  const std::string svg = forest_plot("f", {{"model", 0.8, 0.75, 0.84, false},
                                            {"floor", 0.6, 0.55, 0.66, true},
                                            {"unknown", kNan, kNan, kNan, false}});
  expect_clean(svg);
  EXPECT_EQ(count(svg, "<circle"), 1U);
  EXPECT_EQ(count(svg, "class=\"ref\""), 1U);
  expect_clean(forest_plot("empty", {}));
}

TEST(Histogram, DrawsBarsAndTheThreshold) {
  const std::string svg = histogram("h", {0, 1, 2, 3}, {5, 0, 100}, 1.5, true);
  expect_clean(svg);
  EXPECT_EQ(count(svg, "<rect"), 2U);
  EXPECT_NE(svg.find("threshold 1.5"), std::string::npos);
  EXPECT_EQ(histogram("h", {0, 1}, {3}, kNan, false).find("threshold"), std::string::npos);
  expect_clean(histogram("empty", {}, {}, kNan, false));
  expect_clean(histogram("wrong edges", {0, 1}, {1, 2}, kNan, false));
}

TEST(Funnel, ShowsWhatIsLost) {
  const std::string svg = funnel({{"input", 1000, 0}, {"decoded", 900, 100}, {"deduplicated", 450, 450}});
  expect_clean(svg);
  EXPECT_NE(svg.find("1,000"), std::string::npos);
  EXPECT_NE(svg.find("\xE2\x88\x92"
                     "450"),
            std::string::npos);
  expect_clean(funnel({}));
}

TEST(Axis, TicksAreRoundAndCoverTheRange) {
  const Axis linear(0.13, 0.97, 0, 100, false, 5);
  EXPECT_EQ(linear.label(linear.ticks().front()), "0.2");
  EXPECT_NEAR(linear.pixel(0.13), 0, 1e-9);
  EXPECT_NEAR(linear.pixel(0.97), 100, 1e-9);
  const Axis log(0.02, 5000, 0, 100, true, 5);
  ASSERT_GE(log.ticks().size(), 2U);
  for (const double tick : log.ticks()) EXPECT_NEAR(std::log10(tick), std::round(std::log10(tick)), 1e-9);
  EXPECT_EQ(with_commas(-1234567), "-1,234,567");
  EXPECT_EQ(with_commas(12), "12");
  EXPECT_EQ(short_number(0.00021), "0.00021");
}

}  // namespace
}  // namespace dino::report
