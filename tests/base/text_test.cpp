// SPDX-License-Identifier: Apache-2.0
#include "base/text.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"

namespace dino {
namespace {

TEST(Text, NamesArePrintableAndComeBack) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"plain/name_1.5", "plain/name_1.5"},
      {"\xc3\xa4\xe6\xbc\xa2\xf0\x9f\x90\xb1", "\xc3\xa4\xe6\xbc\xa2\xf0\x9f\x90\xb1"},
      {"new\nline", "new\\x0aline"},
      {"\x1b[31mred", "\\x1b[31mred"},
      {"tab\tcr\r", "tab\\x09cr\\x0d"},
      {"latin \xe4 cut \xe6\xbc", "latin \\xe4 cut \\xe6\\xbc"},
      {"over\xc0\x80long \xed\xa0\x80", "over\\xc0\\x80long \\xed\\xa0\\x80"},
      {"right\xe2\x80\xaeto left", "right\\xe2\\x80\\xaeto left"},
      {"c1 \xc2\x9b", "c1 \\xc2\\x9b"},
      {"back\\slash \\x \\xZZ", "back\\slash \\x \\xZZ"},
      {"looks like \\x41", "looks like \\x5cx41"},
      {std::string("zero\0byte", 9), "zero\\x00byte"},
      {"\x7f", "\\x7f"},
      {"", ""}};
  for (const auto& [raw, shown] : cases) {
    EXPECT_EQ(printable_name(raw), shown);
    EXPECT_EQ(raw_name(shown), raw);
    EXPECT_EQ(printable_line(shown), shown);  // what a message quotes is not quoted again
  }
  std::string all;
  for (int a = 0; a < 256; ++a) all += {static_cast<char>(a), 'x', '\\', static_cast<char>(255 - a)};
  EXPECT_EQ(raw_name(printable_name(all)), all);
}

TEST(Text, ByteOrderMarks) {
  const auto lines = read_ini("\xef\xbb\xbfseed = 1\r\n[a]\r\nb = 2 \r\n", "r.cfg");
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0].key, "seed");
  EXPECT_EQ(lines[1].value, "2");
  for (const std::string& wide :
       {std::string("\xff\xfes\0e\0", 6), std::string("\xfe\xff\0s", 4), std::string("\0\0\xfe\xff", 4)}) {
    try {
      (void)read_ini(wide, "r.cfg");
      FAIL();
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find("r.cfg: it is UTF-16"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace dino
