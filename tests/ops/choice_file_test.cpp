// SPDX-License-Identifier: Apache-2.0
#include "ops/choice_file.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace dino::ops {
namespace {

std::string text_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class ChoiceFileTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string folder_ = ::testing::TempDir() + "dino_choice_file";
  std::string path_ = folder_ + "/deep/choices.txt";
};

TEST_F(ChoiceFileTest, FindsWhatAnEarlierOneKept) {
  {
    ChoiceFile file(path_);
    EXPECT_FALSE(file.find("4x5"));
    file.keep("4x5", "00ff");
    file.keep("6x7", "1234");
    EXPECT_EQ(file.find("4x5"), "00ff");
  }
  const ChoiceFile again(path_);
  EXPECT_EQ(again.find("4x5"), "00ff");
  EXPECT_EQ(again.find("6x7"), "1234");
  EXPECT_FALSE(again.find("4x"));
}

TEST_F(ChoiceFileTest, TheLastChoiceOfAKeyCounts) {
  ChoiceFile(path_).keep("a", "1");
  ChoiceFile(path_).keep("a", "2");
  EXPECT_EQ(ChoiceFile(path_).find("a"), "2");
}

TEST_F(ChoiceFileTest, BrokenLinesAreIgnoredAndSaid) {
  {
    ChoiceFile file(path_);
    file.keep("good", "1");
    file.keep("changed", "2");
    file.keep("cut", "3");
  }
  std::string text = text_of(path_);
  text.replace(text.find("changed 2"), 9, "changed 5");
  text.resize(text.size() - 2);  // the value of `cut`
  std::ofstream(path_) << text << "\nrubbish\n" << std::string(3, '\0') << "\n";
  ::testing::internal::CaptureStderr();
  const ChoiceFile again(path_);
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("4 broken lines"), std::string::npos);
  EXPECT_EQ(again.find("good"), "1");
  EXPECT_FALSE(again.find("changed"));
  EXPECT_FALSE(again.find("cut"));
}

TEST_F(ChoiceFileTest, WorksWithoutAFile) {
  std::filesystem::create_directories(folder_ + "/folder");
  for (const std::string& path : {std::string(), folder_ + "/folder", std::string("/dev/null/choices")}) {
    ChoiceFile file(path);
    file.keep("a", "1");
    EXPECT_EQ(file.find("a"), "1") << path;
  }
}

}  // namespace
}  // namespace dino::ops
