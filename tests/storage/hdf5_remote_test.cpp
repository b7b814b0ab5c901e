// SPDX-License-Identifier: Apache-2.0
// The process that reads HDF5 files of unknown content.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

#include "storage/hdf5.hpp"
#include "storage/scratch.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::Scratch;

std::vector<pid_t> children() {
  std::vector<pid_t> found;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream list(task.path() / "children");
    for (pid_t pid = 0; list >> pid;) found.push_back(pid);
  }
  return found;
}

/// One dataset in one group.
std::string sound_file(const Scratch& scratch, const std::string& name) {
  Hdf5File file = Hdf5File::create(scratch / name);
  file.write("/g/x", Tensor(Shape{3, 2}).view());
  file.close();
  return scratch / name;
}

TEST(Hdf5Remote, AKilledServerIsStartedAgain) {
  const Scratch scratch;
  const std::vector<pid_t> before = children();
  (void)Hdf5File::open(sound_file(scratch, "a.h5"));
  for (const pid_t pid : children())
    if (std::find(before.begin(), before.end(), pid) == before.end()) ::kill(pid, SIGKILL);
  for (const char* name : {"b.h5", "c.h5"})
    EXPECT_EQ(Hdf5File::open(sound_file(scratch, name)).info("/g/x").shape, Shape({3, 2}));
}

std::string little_endian(uint64_t value, size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) text.push_back(static_cast<char>(value >> (8 * i)));
  return text;
}

TEST(Hdf5Remote, ACrashOfTheLibraryIsAnErrorThatNamesTheFile) {
  const Scratch scratch;
  const std::string path = scratch / "a.h5";
  {
    Hdf5File file = Hdf5File::create(path);
    file.write("/g/x", Tensor(Shape{3, 2}).view());
    file.write_attribute("/", "classes", std::vector<std::string>{"cat", "mouse"});
    file.close();
  }
  EXPECT_EQ(Hdf5File::open(path).attribute_strings("/", "classes")[1], "mouse");
  // The texts lie in a heap; the second one's number in it becomes one far outside.
  std::string bytes = read_text(path);
  const size_t reference = bytes.find(little_endian(5, 4) + little_endian(bytes.find("GCOL"), 8));
  ASSERT_NE(reference, std::string::npos);
  bytes.replace(reference + 12, 4, little_endian(1 << 28, 4));
  scratch.put("a.h5", bytes);
  const Hdf5File file = Hdf5File::open(path);
  EXPECT_EQ(file.info("/g/x").shape, Shape({3, 2}));
  for (int again = 0; again < 2; ++again)
    expect_error<DataError>([&] { (void)file.attribute_strings("/", "classes"); }, path, "crashes at /");
  EXPECT_EQ(Hdf5File::open(sound_file(scratch, "b.h5")).info("/g/x").shape, Shape({3, 2}));
}

TEST(Hdf5Remote, StopRequestsToTheWholeJobStepDoNotEndIt) {
  const Scratch scratch;
  const std::vector<pid_t> before = children();
  (void)Hdf5File::open(sound_file(scratch, "a.h5"));
  const std::vector<pid_t> after = children();
  for (const pid_t pid : after)
    if (std::find(before.begin(), before.end(), pid) == before.end())
      for (const int signal : {SIGTERM, SIGUSR1, SIGUSR2, SIGINT}) ::kill(pid, signal);
  (void)Hdf5File::open(sound_file(scratch, "b.h5"));
  EXPECT_EQ(children(), after);
}

}  // namespace
}  // namespace dino
