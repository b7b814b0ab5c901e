// SPDX-License-Identifier: Apache-2.0
// Claims are what locks a folder where flock does not work; a folder that holds one refuses flock's holders
// too.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/error.hpp"
#include "base/retry.hpp"
#include "storage/files.hpp"
#include "storage/scratch.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::Scratch;

std::string claim(const ProcessMark& p, const std::string& job = "", int beat = 0) {
  return "host " + p.host + " pid " + std::to_string(p.pid) + " since 2026-01-01T00:00:00Z\nhost=" + p.host +
         " pid=" + std::to_string(p.pid) + " boot=" + p.boot + " space=" + p.space +
         " started=" + std::to_string(p.started) + " job=" + job +
         " restart= holds=yes beat=" + std::to_string(beat) + "\n";
}

class ClaimTest : public ::testing::Test {
 protected:
  ClaimTest() { set_claim_seconds(0.6, 0.1); }
  ~ClaimTest() override { set_claim_seconds(60, 5); }
  [[nodiscard]] bool there() const { return path_exists(scratch_ / "out/.lock.claim.x"); }
  Scratch scratch_;
};

TEST_F(ClaimTest, OfALiveProcessHolds) {
  scratch_.put("out/.lock.claim.x", claim(own_process()));
  expect_error<UsageError>([&] { const FolderLock lock(scratch_ / "out"); }, "in use",
                           "pid " + std::to_string(::getpid()));
  EXPECT_TRUE(there());
}

TEST_F(ClaimTest, OfADeadProcessOrAnEarlierBootIsRemoved) {
  ProcessMark other = own_process();
  other.started += 1;  // the process id was given to another one
  scratch_.put("out/.lock.claim.x", claim(other));
  { const FolderLock lock(scratch_ / "out"); }
  EXPECT_FALSE(there());
  other = own_process();
  other.boot = "another";
  scratch_.put("out/.lock.claim.x", claim(other));
  { const FolderLock lock(scratch_ / "out"); }
  EXPECT_FALSE(there());
}

TEST_F(ClaimTest, OfAnotherHostHoldsWhileItBeats) {
  ProcessMark other = own_process();
  other.host = "node17";
  const std::string path = scratch_.put("out/.lock.claim.x", claim(other));
  std::atomic<bool> stop{false};
  std::thread beating([&] {
    for (int beat = 1; !stop; ++beat) {
      scratch_.put("beat", claim(other, "", beat));
      std::filesystem::rename(scratch_ / "beat", path);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  });
  expect_error<UsageError>([&] { const FolderLock lock(scratch_ / "out"); }, "in use", "host node17");
  stop = true;
  beating.join();
  { const FolderLock lock(scratch_ / "out"); }  // silent now
  EXPECT_FALSE(there());
}

TEST_F(ClaimTest, OfTheSameJobBeforeItsRestartIsRemovedAtOnce) {
  set_claim_seconds(600, 5);
  ::setenv("SLURM_JOB_ID", "4242", 1);
  ::setenv("SLURM_RESTART_COUNT", "1", 1);
  ProcessMark other = own_process();
  other.host = "node17";
  scratch_.put("out/.lock.claim.x", claim(other, "4242"));
  { const FolderLock lock(scratch_ / "out"); }
  EXPECT_FALSE(there());
  ::unsetenv("SLURM_JOB_ID");
  ::unsetenv("SLURM_RESTART_COUNT");
}

TEST(Temporary, NamesAreRandomShortEnoughAndTellTheirWriter) {
  const std::string one = temporary_name("out/x.h5"), other = temporary_name("out/x.h5");
  EXPECT_NE(one, other);
  EXPECT_TRUE(one.starts_with("out/x.h5.tmp."));
  EXPECT_TRUE(is_temporary(one));
  EXPECT_TRUE(has_live_writer(one));
  EXPECT_LE(temporary_name(std::string(250, 'n')).size(), 255U);
  EXPECT_TRUE(is_temporary("x.h5.tmp.4711"));
  EXPECT_FALSE(is_temporary("x.tmp.txt"));
  EXPECT_FALSE(is_temporary("x.tmp.1a2b3c.4711.0123456789zz"));
  EXPECT_FALSE(has_live_writer("x.h5.tmp.4711"));
}

TEST(Temporary, AWriterThatNobodyBuriedIsDead) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);  // now a zombie
  std::string name = temporary_name("x.h5");
  const std::string own = "." + std::to_string(::getpid()) + ".";
  name.replace(name.find(own), own.size(), "." + std::to_string(child) + ".");
  EXPECT_FALSE(has_live_writer(name));
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
}

TEST(Temporary, LinksAreNotFollowed) {
  const Scratch scratch;
  scratch.put("victim", "precious");
  ASSERT_EQ(::symlink((scratch / "victim").c_str(), (scratch / "link").c_str()), 0);
  expect_error<IoError>([&] { (void)open_without_links(scratch / "link", O_WRONLY | O_CREAT | O_TRUNC); },
                        "a link is in its place");
  expect_error<IoError>([&] { (void)create_new_file(scratch / "link", "shown"); }, "shown");
  expect_error<IoError>([&] { LineWriter(scratch / "link").write("x"); }, "a link is in its place");
  write_file_atomically(scratch / "link", "new");  // the link itself is replaced
  EXPECT_EQ(read_text(scratch / "victim"), "precious");
  EXPECT_EQ(read_text(scratch / "link"), "new");
}

TEST(Temporary, AWriterWhoseFileWasReplacedDoesNotCommit) {
  const Scratch scratch;
  expect_error<IoError>(
      [&] {
        commit_file(scratch / "a", [&](const std::string& temporary) {
          std::filesystem::remove(temporary);
          scratch.put("a.other", "theirs");
          std::filesystem::rename(scratch / "a.other", temporary);
        });
      },
      "another file");
  EXPECT_FALSE(path_exists(scratch / "a"));
}

TEST(Listed, AnotherSizeIsAFaultOfTheFileSystem) {
  const Scratch scratch;
  scratch.put("a", "abcdef");
  set_retry_seconds(0);
  const auto text = [](const std::vector<uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); };
  EXPECT_EQ(text(read_listed(scratch / "a", 0, 6)), "abcdef");
  EXPECT_EQ(text(read_listed(scratch / "a")), "abcdef");
  EXPECT_EQ(text(read_listed(scratch / "a", 2, 3)), "cde");
  for (const auto& [offset, size] : {std::pair<int64_t, int64_t>{0, 7}, {0, 5}, {2, 5}})
    expect_error<IoError>([&, o = offset, s = size] { (void)read_listed(scratch / "a", o, s); }, "wrong size",
                          scratch / "a");
  expect_error<IoError>([&] { (void)read_listed(scratch / "none"); }, scratch / "none", "No such file");
  expect_error<IoError>([&] { (void)listed_size(scratch / "none"); }, scratch / "none");
  set_retry_seconds(30);
}

}  // namespace
}  // namespace dino
