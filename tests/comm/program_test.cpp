// SPDX-License-Identifier: Apache-2.0
// A small program built on run_program. With DINO_TEST_PROGRAM set, this executable is that program (it must
// not have started MPI itself, so it takes over before main); the tests start it as a user would.
#include "comm/program.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <sstream>
#include <thread>

#include "base/cpu.hpp"
#include "base/file_mapping.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "base/working.hpp"
#include "comm/keeping_pace.hpp"

namespace dino {
namespace {

struct Config {
  int64_t level = 3;
  int64_t only = -1;
  std::string how = "none";
};

[[noreturn]] void fail_as(const std::string& how) {
  const log::Phase outer("outer");
  const log::Phase inner("join");
  if (how == "data") throw DataError("bad tar: x.tar: no header; fetch it again");
  if (how == "memory") throw std::bad_alloc();
  if (how == "other") throw std::logic_error("odd");
  throw UsageError("bad option: --how: unknown");
}

constexpr const char* kCutFile = "dino_program_test_cut";

/// Reads a file that another program cuts while it is mapped.
void read_cut_mapping() {
  const std::string path = testing::TempDir() + kCutFile;
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  ::unlink(path.c_str());
  constexpr int64_t kBytes = 1 << 16;
  if (fd < 0 || ::ftruncate(fd, kBytes) != 0) throw IoError("cannot make: " + path);
  const FileMapping map(fd, kBytes, FileMapping::Access::read, path);
  if (::ftruncate(fd, 0) != 0) throw IoError("cannot cut: " + path);
  if (*const_cast<volatile std::byte*>(map.data() + kBytes - 1) != std::byte{0}) std::abort();
}

/// The rank `only` dies by a signal 0.3 s from now: outside of a collective, or inside of one that the last
/// rank does not join. The others wait for it.
void die(const Config& config, const Communicator& world) {
  const log::Phase phase("dying");
  if (config.how == "die-cut") {
    if (world.rank() == config.only) read_cut_mapping();
    world.barrier();
    return;
  }
  const int signal = config.how.ends_with("segv") ? SIGSEGV : SIGKILL;
  const auto end = [signal] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    ::kill(::getpid(), signal);
  };
  const bool inside = config.how.starts_with("die-inside");
  if (world.rank() == config.only && inside) std::thread(end).detach();
  if (world.rank() == config.only && !inside) end();
  if (inside && world.rank() == world.size() - 1) std::this_thread::sleep_for(std::chrono::seconds(60));
  world.barrier();
}

/// Rank 0 works for three seconds while the others wait: in on_root, or at the end of the command.
void work_alone(const Config& config, const Communicator& world) {
  const log::Phase phase("serial");
  const auto work = [&] {
    for (int piece = 0; piece < 30; ++piece) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      if (config.how != "alone-silent") still_working();
    }
    if (config.how == "alone-silent") std::this_thread::sleep_for(std::chrono::seconds(60));
  };
  if (config.how == "alone-last") {
    if (world.root()) work();
  } else {
    on_root(world, work);
  }
}

/// Only the rank `only` gets the signal.
ExitCode be_stopped(const Config& config, const Communicator& world) {
  const log::Phase phase("stopping");
  if (world.rank() == config.only) std::raise(SIGUSR2);
  const auto rest = [](int seconds) { std::this_thread::sleep_for(std::chrono::seconds(seconds)); };
  if (config.how == "stopped-deaf") {
    rest(60);  // as a library that takes a minute
  } else if (config.how == "stopped-finishing") {
    const FinishingScope scope;
    rest(3);
    return ExitCode::stopped;
  } else if (config.how == "stopped-waiting") {
    if (world.rank() == config.only) stop_here();
    world.barrier();  // which the stopped rank never joins
  } else {
    on_root(world, [] {
      for (;;) work_point();
    });
  }
  return ExitCode::done;
}

ExitCode run_case(const Config& config, CommandContext& context) {
  Communicator& world = context.world;
  const bool chosen = config.only < 0 || config.only == world.rank();
  if (config.how == "stop") return ExitCode::stopped;
  if (config.how == "differ") return world.root() ? ExitCode::differ : ExitCode::done;
  if (config.how == "stall") {
    const log::Phase phase("stalling");
    if (chosen) std::this_thread::sleep_for(std::chrono::seconds(60));
    world.barrier();
  }
  if (config.how.starts_with("die")) die(config, world);
  if (config.how.starts_with("alone")) {
    work_alone(config, world);
    return ExitCode::done;
  }
  if (config.how.starts_with("stopped")) return be_stopped(config, world);
  if (config.how == "signal") {
    if (world.root()) std::raise(SIGUSR2);
    while (!world.any(stop_requested())) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return ExitCode::stopped;
  }
  if (config.how != "none" && config.how != "cpu" && chosen) fail_as(config.how);
  const int64_t ranks = world.sum(int64_t{1});
  if (world.root())
    std::printf("ranks=%d level=%d threads=%d\n", static_cast<int>(ranks), static_cast<int>(config.level),
                resolve_threads(context));
  if (world.root() && config.how == "cpu") std::printf("cpu=%s\n", cpu_level_name(cpu_level()));
  return ExitCode::done;
}

Command make_command(const std::string& name, bool uses_mpi) {
  Command command;
  command.name = name;
  command.summary = "A case of the test.";
  command.usage = "--level N";
  command.description = "First paragraph.\n\nSecond one.";
  command.uses_mpi = uses_mpi;
  command.examples = {{"--level 5 --how cpu", "What the CPU can do."}};
  Schema<Config> schema;
  schema.add("level", &Config::level, "The level.").range(0, 9);
  schema.add("only", &Config::only, "The rank that fails; -1 = all.");
  schema.add("how", &Config::how, "How it fails.");
  command.make = with_options(schema, run_case);
  return command;
}

__attribute__((constructor)) void become_the_program(int argc, char** argv, char**) {
  if (std::getenv("DINO_TEST_PROGRAM") == nullptr) return;
  const ProgramSpec spec{"dino-test",
                         "tests the frame of the programs.",
                         {make_command("run", true), make_command("local", false)}};
  _exit([&] {
    const int code = run_program(spec, argc, argv);
    std::fflush(nullptr);
    return code;
  }());
}

struct Outcome {
  int code = -1;
  std::string out, err;
  double seconds = 0;
};

std::string slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::string scratch() {
  return testing::TempDir() + "dino_program_test_" + std::to_string(::getpid());
}

/// Runs the program; ranks = 0 means without mpirun. The environment is clean: this process is an MPI program
/// itself, and its variables would confuse mpirun.
Outcome run(int ranks, const std::string& words, const std::string& environment = "",
            const std::string& binding = "--oversubscribe --bind-to none") {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string base = scratch();
  std::string command =
      "env -i PATH=\"$PATH\" HOME=/tmp LC_ALL=C DINO_TEST_PROGRAM=1 " + environment + " timeout 60 ";
  if (ranks > 0) command += "mpirun --allow-run-as-root " + binding + " -n " + std::to_string(ranks) + " ";
  command += self + " " + words + " >" + base + ".out 2>" + base + ".err";
  const auto start = std::chrono::steady_clock::now();
  const int status = std::system(command.c_str());
  Outcome outcome;
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  outcome.out = slurp(base + ".out");
  outcome.err = slurp(base + ".err");
  std::filesystem::remove(base + ".out");
  std::filesystem::remove(base + ".err");
  return outcome;
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in:\n" << text;
}

int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(Program, SpeaksOfItself) {
  Outcome help = run(0, "--help");
  EXPECT_EQ(help.code, 0);
  expect_contains(help.out, "A case of the test.");
  expect_contains(help.out, "# What the CPU can do.\n  mpirun -n 4 dino-test run --level 5 --how cpu\n");
  EXPECT_EQ(run(0, "-h").out, help.out);
  help = run(0, "run --help");
  EXPECT_EQ(help.code, 0);
  expect_contains(help.out, "Second one.");
  expect_contains(help.out, "--level N");
  expect_contains(help.out, "--threads N");
  EXPECT_EQ(run(0, "run -h").out, help.out);
  const Outcome version = run(0, "--version");
  expect_contains(version.out, "commit: ");
  expect_contains(version.out, "MPI: Open MPI");
  expect_contains(version.out, "CPU kernels: ");
  const Outcome man = run(0, "--man");
  expect_contains(man.out, ".TH DINO-TEST 1");
  for (const char* section : {"EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"})
    expect_contains(man.out, std::string(".SH ") + section + "\n");
  EXPECT_EQ(run(0, "--complete").out, "run\nlocal\n--help\n--version\n--man\n");
  expect_contains(run(0, "--complete run").out, "--level\n");
  EXPECT_EQ(run(0, "--complete run --progress").out, "auto\nplain\noff\n");
  EXPECT_EQ(run(0, "").code, 64);
}

TEST(Program, UsageErrorsAreOneLineAndCode64) {
  Outcome o = run(0, "rn");
  EXPECT_EQ(o.code, 64);
  EXPECT_EQ(o.err,
            "dino-test: error: unknown command: rn: dino-test has no such command; did you mean run?\n");
  o = run(0, "run --levle 3");
  EXPECT_EQ(o.code, 64);
  expect_contains(o.err, "did you mean --level?");
  o = run(2, "run --level 10");
  EXPECT_EQ(o.code, 64);
  EXPECT_EQ(count(o.err, "dino-test: error:"), 1) << o.err;
  EXPECT_EQ(run(0, "--level 3").code, 64);
  EXPECT_EQ(run(0, "run --config /no/such.cfg").code, 66);
  o = run(0, "run", "DINO_CPU=avx3");
  EXPECT_EQ(o.code, 0) << "only programs with kernels ask for the level";
}

TEST(Program, OpenMpisDefaultBindingIsNotTakenForTheUsersWish) {
  cpu_set_t mask;
  ASSERT_EQ(sched_getaffinity(0, sizeof mask, &mask), 0);
  const int cores = CPU_COUNT(&mask);
  expect_contains(run(1, "run", "", "").out, "threads=" + std::to_string(cores) + "\n");
  if (cores >= 2) expect_contains(run(2, "run", "", "").out, "threads=" + std::to_string(cores / 2) + "\n");
  expect_contains(run(1, "run", "", "--bind-to core").out, "threads=1\n");
  expect_contains(run(1, "run", "OMP_NUM_THREADS=1", "").out, "threads=1\n");
}

TEST(Program, RanksOnDifferentCpusUseWhatAllHave) {
  if (available_cpu_levels().size() < 2) GTEST_SKIP() << "this CPU has one level";
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  for (const bool root_has_less : {false, true}) {
    const std::string other = "-x DINO_CPU=baseline -n 1 " + self + " run --how cpu : -n 1 ";
    const std::string first = "-n 1 " + self + " run --how cpu : -x DINO_CPU=baseline -n 1 ";
    Outcome o =
        run(1, "run --how cpu", "", "--oversubscribe --bind-to none " + (root_has_less ? other : first));
    EXPECT_EQ(o.code, 0) << o.err;
    expect_contains(o.out, "cpu=baseline");
    expect_contains(o.err, "the ranks' CPUs differ: all use baseline kernels");
    EXPECT_EQ(count(o.err, "CPUs differ"), 1);
  }
  EXPECT_EQ(count(run(2, "run", "DINO_CPU=avx2").err, "CPUs differ"), 0);
}

TEST(Program, ARankThatWorksAloneIsNotAStalledOne) {
  for (const char* how : {"alone", "alone-last"}) {
    const Outcome o = run(3, std::string("run --watchdog-seconds 1 --how ") + how);
    EXPECT_EQ(o.code, 0) << how << "\n" << o.err;
    EXPECT_EQ(count(o.err, "stalled"), 0) << o.err;
  }
  const Outcome o = run(2, "run --watchdog-seconds 1 --how alone-silent");
  EXPECT_EQ(o.code, 70);
  expect_contains(o.err, "collective stalled: ");
  expect_contains(o.err, "rank 0 is outside of collectives for");
  EXPECT_LT(o.seconds, 20);
}

TEST(Program, AStopOfAnyRankEndsAllInTime) {
  for (const char* how : {"stopped-deaf", "stopped-waiting", "stopped-alone"}) {
    for (const int ranks : {0, 3}) {
      if (ranks == 0 && std::string(how) == "stopped-waiting") continue;
      const Outcome o =
          run(ranks, fmt::format("run --how {} --only {}", how, ranks == 0 ? 0 : 1), "DINO_STOP_SECONDS=1");
      EXPECT_EQ(o.code, 75) << how << "\n" << o.err;
      EXPECT_LT(o.seconds, 10) << how;
      expect_contains(o.err, "start the same command again to go on");
      EXPECT_EQ(count(o.err, "error:"), 0) << o.err;
    }
  }
  const Outcome o = run(0, "run --how stopped-finishing --only 0", "DINO_STOP_SECONDS=1");
  EXPECT_EQ(o.code, 75);
  EXPECT_EQ(count(o.err, "stopped early"), 0) << "it was given the time";
}

TEST(Program, PrintsItsConfiguration) {
  const Outcome o = run(2, "run --level 5 --print-config --threads 2");
  EXPECT_EQ(o.code, 0);
  EXPECT_EQ(count(o.out, "level = 5"), 1) << o.out;
  expect_contains(o.out, "threads = 2");
}

TEST(Program, RunsAloneAndUnderMpirun) {
  EXPECT_EQ(run(0, "run --threads 2").out, "ranks=1 level=3 threads=2\n");
  EXPECT_EQ(run(0, "local --level 1", "OMP_NUM_THREADS=5").out, "ranks=1 level=1 threads=5\n");
  const Outcome o = run(3, "run", "OMP_NUM_THREADS=1");
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(o.out, "ranks=3 level=3 threads=1\n");
  // Three ranks that share all cores get a third each, and at least one.
  expect_contains(run(3, "run").out,
                  "threads=" + std::to_string(std::max(1u, std::thread::hardware_concurrency() / 3)));
}

TEST(Program, TheLaunchersExitCodeIsOurs) {
  EXPECT_EQ(run(0, "run --how stop").code, 75);
  EXPECT_EQ(run(3, "run --how stop").code, 75);
  EXPECT_EQ(run(2, "run --how differ").code, 1);
  EXPECT_EQ(run(0, "run --how data").code, 65);
  EXPECT_EQ(run(0, "run --how memory").code, 74);
  EXPECT_EQ(run(0, "run --how other").code, 70);
}

TEST(Program, AFailureOfAllRanksIsOneLine) {
  const Outcome o = run(3, "run --how data");
  EXPECT_EQ(o.code, 65);
  EXPECT_EQ(count(o.err, "dino-test: error:"), 1) << o.err;
  expect_contains(o.err, "dino-test: error: bad tar: x.tar: no header; fetch it again [phase join]\n");
}

TEST(Program, AFailureOfOneRankEndsAllAndIsWrittenDown) {
  const std::string folder = scratch() + "_out";
  std::filesystem::create_directories(folder);
  const Outcome o = run(3, "run --how data --only 1 --output " + folder);
  EXPECT_EQ(o.code, 65) << o.err;
  EXPECT_LT(o.seconds, 20);
  EXPECT_EQ(count(o.err, "dino-test: error:"), 1) << o.err;
  expect_contains(o.err, "no header; fetch it again [rank 1 of 3, phase join]\n");
  const std::string note = slurp(folder + "/errors/rank_1.txt");
  expect_contains(note, "rank: 1\nphase: join\nerror: bad tar");
  EXPECT_FALSE(std::filesystem::exists(folder + "/errors/rank_0.txt"));
  std::filesystem::remove_all(folder);
}

TEST(Program, AStalledCollectiveNamesThePhasesAndEnds) {
  const Outcome o = run(2, "run --how stall --only 1", "DINO_WATCHDOG_SECONDS=1");
  EXPECT_EQ(o.code, 70) << o.err;
  EXPECT_LT(o.seconds, 20);
  expect_contains(o.err, "dino-test: error: collective stalled: barrier in phase 'stalling'");
  expect_contains(o.err, "[rank 0 of 2]");
  expect_contains(o.err, "dino-test: warning: no collective for");
}

TEST(Program, ARankOutsideOfTheCollectiveIsNamed) {
  const std::string folder = scratch() + "_out";
  std::filesystem::create_directories(folder);
  const Outcome o = run(3, "run --how stall --only 1 --watchdog-seconds 1 --output " + folder);
  EXPECT_EQ(o.code, 70) << o.err;
  expect_contains(o.err, "rank 1 is outside of collectives for ");
  expect_contains(o.err, "in phase 'stalling'");
  expect_contains(slurp(folder + "/errors/rank_1.txt"), "phase: stalling\nerror: rank ");
  expect_contains(slurp(folder + "/errors/rank_0.txt"), "collective stalled");
  std::filesystem::remove_all(folder);
  EXPECT_EQ(run(0, "run --watchdog-seconds -1").code, 64);
  EXPECT_EQ(run(0, "run", "DINO_WATCHDOG_SECONDS=soon").code, 64);
  EXPECT_EQ(run(0, "run --watchdog-seconds 5", "DINO_WATCHDOG_SECONDS=soon").code, 0) << "the flag wins";
}

TEST(Program, AFileThatIsCutWhileItIsMappedIsNamed) {
  for (const int ranks : {0, 3}) {
    const Outcome o = run(ranks, ranks == 0 ? "run --how die-cut --only 0" : "run --how die-cut --only 1");
    EXPECT_EQ(o.code, 74) << o.err;
    EXPECT_EQ(count(o.err, "dino-test: error:"), 1) << o.err;
    expect_contains(o.err, std::string("error: cannot read: ") + testing::TempDir() + kCutFile + ": ");
  }
}

TEST(Program, RunsWithoutMpi) {
  EXPECT_EQ(run(0, "run", "DINO_MPI=off").code, 0);
  const Outcome o = run(2, "run", "DINO_MPI=off");
  EXPECT_EQ(o.code, 64) << o.err;
  expect_contains(o.err, "bad environment: DINO_MPI=off: 2 ranks were launched");
}

struct Death {
  const char* how;
  int ranks, victim, code;
  const char* said;
};

class DeathTest : public testing::TestWithParam<Death> {};

TEST_P(DeathTest, IsNamedAndEndsTheJob) {
  const Death& d = GetParam();
  const std::string folder = scratch() + "_out", victim = std::to_string(d.victim);
  std::filesystem::create_directories(folder);
  const Outcome o =
      run(d.ranks, std::string("run --how ") + d.how + " --only " + victim + " --output " + folder);
  std::printf("| %-16s | rank %d of %d | exit %d | %4.1f s |\n", d.how, d.victim, d.ranks, o.code, o.seconds);
  EXPECT_EQ(o.code, d.code) << o.err;
  EXPECT_LT(o.seconds, 20);
  expect_contains(o.err, d.said);
  expect_contains(o.err, "in phase 'dying'");
  expect_contains(o.err, "rank " + victim + " of " + std::to_string(d.ranks));
  expect_contains(slurp(folder + "/errors/rank_" + victim + ".txt"), "phase: dying\n");
  std::filesystem::remove_all(folder);
}

#ifdef DINO_SANITIZE
constexpr int kCrashed = 1;  // the address sanitizer reports the signal and exits
#else
constexpr int kCrashed = 139;
#endif

// 128 + 9 and 128 + 11 are the launcher's codes for a rank that a signal ended.
INSTANTIATE_TEST_SUITE_P(Signals, DeathTest,
                         testing::Values(Death{"die-cut", 2, 1, 74, "cannot read: "},
                                         Death{"die-kill", 2, 0, 137, "rank died: "},
                                         Death{"die-kill", 2, 1, 137, "rank died: "},
                                         Death{"die-inside-kill", 3, 0, 137, "rank died: "},
                                         Death{"die-inside-kill", 3, 1, 137, "rank died: "},
                                         Death{"die-segv", 2, 1, kCrashed, "crashed: SIGSEGV"},
                                         Death{"die-inside-segv", 3, 1, kCrashed, "crashed: SIGSEGV"}));

TEST(Program, AStopSignalGivesCode75) {
  const Outcome o = run(2, "run --how signal");
  EXPECT_EQ(o.code, 75) << o.err;
}

TEST(Program, SrunWithoutPmixIsRefused) {
  const Outcome o = run(0, "run", "SLURM_STEP_NUM_TASKS=4");
  EXPECT_EQ(o.code, 64);
  expect_contains(o.err, "use srun --mpi=pmix");
}

}  // namespace
}  // namespace dino
