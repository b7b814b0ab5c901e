// SPDX-License-Identifier: Apache-2.0
#include "export_names.hpp"

#include <gtest/gtest.h>

#include <set>

namespace dino::curation {
namespace {

TEST(ExportNames, StayBelowTheFolderAndAreUnique) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"cats/one", "cats/one"},
      {"in/../../etc/passwd", "in/__/__/etc/passwd"},
      {"/etc/evil", "etc/evil"},
      {"a//b/./c", "a/b/c"},
      {"..", "__"},
      {"", "_"},
      {"/", "_~2"},
      {"new\\x0aline", "new_line"},
      {"\\x1b[31mred", "_[31mred"},
      {"v1.0_A", "v1_0_A"},
      {"v1.0_a", "v1_0_a"},
      {"v1_0_a", "v1_0_a~2"},
      {"v1-0_a", "v1-0_a"},
      {"v1.0_a", "v1_0_a~3"},
      {"d.1/.hidden", "d.1/_hidden"},
      {"...x/y", "___x/y"},
      {"C:\\dir\\x", "C__dir_x"},
      {"\xe6\xbc\xa2/\xc3\xa4", "\xe6\xbc\xa2/\xc3\xa4"}};
  std::vector<std::string> keys, expected;
  for (const auto& [key, name] : cases) keys.push_back(key), expected.push_back(name);
  EXPECT_EQ(export_names(keys), expected);
}

TEST(ExportNames, FitFileSystems) {
  const std::string long_part(3000, 'x');
  std::string wide;
  while (wide.size() < 600) wide += "\xe6\xbc\xa2";
  const auto names = export_names({"a/" + long_part + "1", "a/" + long_part + "2", wide, long_part + "/b"});
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), 4U);
  for (const std::string& name : names)
    for (size_t begin = 0, end = 0; begin <= name.size(); begin = end + 1) {
      end = std::min(name.find('/', begin), name.size());
      EXPECT_LE(end - begin, 180U);
    }
  EXPECT_EQ(names[2].substr(0, names[2].find('~')).size() % 3, 0U);  // whole characters
  const std::vector<std::string> equal(50'000, "same");
  EXPECT_EQ(export_names(equal).back(), "same~50000");
}

TEST(ExportNames, Extensions) {
  EXPECT_EQ(export_extension("seg.png"), "seg.png");
  EXPECT_EQ(export_extension("a/../b\n"), "a_.._b_");
  EXPECT_EQ(export_extension(""), "bin");
  EXPECT_EQ(export_extension(std::string(500, 'e')).size(), 40U);
}

}  // namespace
}  // namespace dino::curation
