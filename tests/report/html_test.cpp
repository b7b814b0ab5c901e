// SPDX-License-Identifier: Apache-2.0
#include "report/html.hpp"

#include <gtest/gtest.h>

#include <random>

#include "report/markup.hpp"

namespace dino::report {
namespace {

Image solid(int64_t width, int64_t height, uint8_t value) {
  Image image{width, height, 3, {}};
  image.pixels.assign(static_cast<size_t>(width * height * 3), value);
  return image;
}

Page sample_page() {
  Page page("Run <1> & \"friends\"", "a 'subtitle'");
  page.section("results", "Results",
               table({{"model"}, {"top-1", true}}, {{"a", "0.5"}, {"b", "0.25"}}, "A <caption>"));
  page.section("pictures", "Pictures", gallery({{solid(4, 4, 10), "cat <script>alert(1)</script>", "good"}}));
  page.data("raw", R"({"text": "</script><script>alert(1)</script>"})");
  return page;
}

TEST(Html, EscapesEveryCharacterThatMarkupUses) {
  EXPECT_EQ(escape("<a href=\"x\" id='y'>&</a>"),
            "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;&lt;/a&gt;");
  EXPECT_EQ(escape("gr\xC3\xB6\xC3\x9F"
                   "e"),
            "gr\xC3\xB6\xC3\x9F"
            "e");
  EXPECT_EQ(escape(std::string("a\x01"
                               "b\n")),
            "a\xEF\xBF\xBD"
            "b\n");
}

TEST(Markdown, TextFromOutsideIsNoMarkup) {
  EXPECT_EQ(escape_markdown("a|b\n| c"), "a\\|b \\| c");
  EXPECT_EQ(escape_markdown("<img src=x> & [x](y) `c` **b** ~~d~~"),
            "&lt;img src=x&gt; &amp; \\[x\\](y) \\`c\\` \\*\\*b\\*\\* \\~\\~d\\~\\~");
  EXPECT_EQ(escape_markdown("near_duplicate _em_ step_9 a\\b"), "near_duplicate \\_em_ step_9 a\\\\b");
  EXPECT_EQ(escape_markdown("\x1b[31mred"), " \\[31mred");
}

TEST(Html, TextFromOutsideCannotOpenTags) {
  const std::string html = sample_page().html();
  EXPECT_EQ(html.find("<script>alert"), std::string::npos);
  EXPECT_NE(html.find("Run &lt;1&gt; &amp; &quot;friends&quot;"), std::string::npos);
  EXPECT_NE(html.find("\\u003c/script>"), std::string::npos);
}

TEST(Html, IsBalancedAndSelfContained) {
  const std::string html = sample_page().html();
  EXPECT_EQ(markup_fault(html), "");
  EXPECT_EQ(external_reference(html), "");
  EXPECT_NE(html.find("prefers-color-scheme:dark"), std::string::npos);
  EXPECT_NE(html.find("@media print"), std::string::npos);
  EXPECT_NE(html.find("alt=\"cat &lt;script&gt;"), std::string::npos);
}

TEST(Html, TheCheckersOfThisTestFindFaults) {
  EXPECT_NE(markup_fault("<div><p></div></p>"), "");
  EXPECT_NE(markup_fault("<div>"), "");
  EXPECT_NE(markup_fault("<a id=\"x\" id2=\"unclosed>"), "");
  EXPECT_NE(external_reference("<img src=\"https://example.org/a.png\" />"), "");
  EXPECT_NE(external_reference("<style>@import url(//example.org/a.css)</style>"), "");
}

TEST(Html, EqualContentGivesEqualBytes) {
  EXPECT_EQ(sample_page().html(), sample_page().html());
}

TEST(Html, PicturesAreInlineAndLargeOnesAreJpeg) {
  EXPECT_EQ(data_uri(solid(8, 8, 200)).rfind("data:image/png;base64,iVBORw0KGgo", 0), 0U);
  EXPECT_EQ(data_uri(solid(512, 512, 200)).rfind("data:image/jpeg;base64,/9j/", 0), 0U);
  std::minstd_rand noise;
  Image grain = solid(192, 96, 0), map = solid(192, 96, 0);
  for (size_t i = 0; i < grain.pixels.size(); ++i) {
    const size_t x = i / 3 % 192, y = i / 576;  // a slope with a little noise, as in a photograph
    grain.pixels[i] = static_cast<uint8_t>(20 + x + y / 2 + noise() % 6);
    map.pixels[i] = static_cast<uint8_t>(i / 3 / 8 % 12 * 20);
  }
  EXPECT_EQ(data_uri(grain).rfind("data:image/jpeg;", 0), 0U)
      << encode_png(grain).size() << " " << encode_jpeg(grain, 85).size();
  EXPECT_EQ(data_uri(map).rfind("data:image/png;", 0), 0U);
}

TEST(Html, ATableRowOfAnotherWidthIsRefused) {
  EXPECT_THROW((void)table({{"a"}}, {{"1", "2"}}), InternalError);
}

}  // namespace
}  // namespace dino::report
