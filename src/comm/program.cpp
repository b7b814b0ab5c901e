// SPDX-License-Identifier: Apache-2.0
#include "comm/program.hpp"

#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <memory>
#include <new>
#include <system_error>

#include "base/log.hpp"
#include "base/progress.hpp"
#include "base/retry.hpp"
#include "base/signals.hpp"
#include "base/text.hpp"
#include "comm/agree_cpu.hpp"
#include "comm/failure.hpp"
#include "comm/keeping_pace.hpp"
#include "comm/last_words.hpp"
#include "comm/program_text.hpp"
#include "comm/threads.hpp"
#include "comm/watchdog.hpp"
#include "comm/without_mpi.hpp"

namespace dino {
namespace {

int as_int(ExitCode code) {
  return static_cast<int>(code);
}

/// The first of these variables that a launcher has set, or `otherwise`.
int launcher_number(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names) {
    const char* text = std::getenv(name);
    if (text != nullptr && *text != '\0') return std::atoi(text);
  }
  return otherwise;
}

/// This process's number among those that a launcher started, before MPI is up: used to print once.
int launcher_rank() {
  return launcher_number({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}, 0);
}

/// A result that did not reach its reader is a failure, whatever else was done.
void flush_stdout() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  throw IoError(fmt::format("cannot write: standard output: {}; free some space, or send it elsewhere",
                            std::system_category().message(errno)));
}

void print_once(const std::string& text) {
  if (launcher_rank() != 0) return;
  std::fwrite(text.data(), 1, text.size(), stdout);
  flush_stdout();
}

/// --json: the result is the only thing on stdout.
void print_result(const CommandContext& context, const std::string& result) {
  if (!context.common.json || !context.world.root() || result.empty()) return;
  std::fwrite(result.data(), 1, result.size(), stdout);
  std::fputc('\n', stdout);
}

/// What an exception means to the user.
struct Failure {
  int code = 0;
  std::string message;
};

Failure describe_current_exception() {
  try {
    throw;
  } catch (const Error& error) {
    return {as_int(error.code()), error.what()};
  } catch (const std::bad_alloc&) {
    return {as_int(ExitCode::io),
            "out of memory: this rank: an allocation failed; use more ranks or nodes, or a smaller batch"};
  } catch (const std::exception& error) {
    return {as_int(ExitCode::internal),
            fmt::format("unexpected failure: {}; please report it", error.what())};
  } catch (...) {
    return {as_int(ExitCode::internal), "unexpected failure: unknown exception; please report it"};
  }
}

std::string with_place(const Failure& failure, const Communicator& world, bool name_rank) {
  const char* phase = log::failed_phase();
  std::string place;
  if (name_rank && world.size() > 1) place = fmt::format("rank {} of {}", world.rank(), world.size());
  if (*phase != '\0') place += fmt::format("{}phase {}", place.empty() ? "" : ", ", phase);
  return place.empty() ? failure.message : fmt::format("{} [{}]", failure.message, place);
}

/// One line, whatever bytes a file name or a damaged file brought into the message. What another program said
/// (sbatch, at length) is passed on whole.
std::string printable(std::string text) {
  constexpr size_t kLongest = 100000;
  if (text.size() > kLongest) text.replace(kLongest, std::string::npos, " ...");
  return printable_line(text);
}

void print_error(const std::string& program, const std::string& message) {
  const std::string line = fmt::format("{}: error: {}\n", program, printable(message));
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}

/// An early stop is what was asked for, not an error.
void print_failure(const std::string& program, const Failure& failure, const std::string& message) {
  if (failure.code == as_int(ExitCode::stopped))
    log::warning(printable(message));
  else
    print_error(program, message);
}

/// A rank that leaves through MPI_Finalize while others still communicate hangs the job for ever. So when all
/// ranks turn out to have failed, they leave together; otherwise this one takes the job down.
int leave_failed(const std::string& program, const Failure& failure, const Communicator& world,
                 KeepingPace* pace) {
  // A mistake in the command line is no failure of the work in the folder, which another job may be doing.
  const bool stopped = failure.code == as_int(ExitCode::stopped);
  if (failure.code != as_int(ExitCode::usage) && !stopped)
    write_error_file(world.rank(), log::failed_phase(), with_place(failure, world, true));
  if (world.size() == 1) {
    print_failure(program, failure, with_place(failure, world, false));
    return failure.code;
  }
  const FailureVote vote = vote_on_failure(failure.code, failure.message);
  if (!vote.all_failed) {
    print_failure(program, failure, with_place(failure, world, true));
    leave_watchdog();
    MPI_Abort(MPI_COMM_WORLD, failure.code);
    std::_Exit(failure.code);
  }
  if (pace != nullptr) pace->meet(true);
  if (!vote.same || world.root()) print_failure(program, failure, with_place(failure, world, !vote.same));
  return vote.code;
}

/// srun without PMIx starts N programs that each believe to be alone, and would all write the same files.
void check_launcher(const Communicator& world) {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (world.size() == 1 && tasks != nullptr && std::atoi(tasks) > 1 &&
      std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr)
    throw UsageError(
        fmt::format("bad launch: srun: {} tasks were started, but MPI sees one; use srun --mpi=pmix", tasks));
}

/// Whether MPI is to be started for this command.
bool starts_mpi(const Command& command) {
  if (!command.uses_mpi || !runs_without_mpi()) return command.uses_mpi;
  if (launched_ranks() > 1)
    throw UsageError(fmt::format(
        "bad environment: DINO_MPI=off: {} ranks were launched, and each would be alone; unset it",
        launched_ranks()));
  return false;
}

int finish(int code) {
  int initialised = 0;
  MPI_Initialized(&initialised);
  leave_watchdog();
  if (initialised != 0) {
    close_failure_vote();
    const WatchdogScope scope("MPI_Finalize");
    MPI_Finalize();
  }
  return code;
}

struct Prepared {
  const Command* command = nullptr;
  CommonOptions common;
  OptionTable table;
  std::function<ExitCode(CommandContext&)> run;
};

/// The flag, else the environment, else the flag's default.
double watchdog_limit(const Prepared& prepared) {
  const char* text = std::getenv("DINO_WATCHDOG_SECONDS");
  if (text == nullptr || *text == '\0' || prepared.table.given("watchdog-seconds"))
    return prepared.common.watchdog_seconds;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  if (*end != '\0' || !(seconds >= 0))
    throw UsageError(fmt::format(
        "bad environment: DINO_WATCHDOG_SECONDS: '{}' is not a number of seconds; 0 switches it off", text));
  return seconds;
}

/// A result that was found before a failure (a damaged checkpoint, say) is printed all the same.
ExitCode run_and_print(const Prepared& prepared, CommandContext& context) {
  try {
    const ExitCode code = prepared.run(context);
    if (context.printed) return code;
    const bool said = !context.result.empty();
    print_result(context, said ? context.result
                               : fmt::format("{{\"command\":\"{}\",\"dry_run\":{},\"exit_code\":{}}}",
                                             context.command, context.common.dry_run, as_int(code)));
    return code;
  } catch (...) {
    print_result(context, context.result);
    throw;
  }
}

int run_command(const ProgramSpec& spec, Prepared& prepared, int argc, char** argv) {
  set_error_folder(prepared.common.output);
  set_retry_seconds(prepared.common.retry_seconds);
  const bool with_mpi = starts_mpi(*prepared.command);
  start_watchdog(watchdog_limit(prepared), launcher_rank(), with_mpi);
  if (with_mpi) {
    const WatchdogScope scope("MPI_Init");
    int provided = 0;
    // Only the main thread calls MPI; other threads compute and read files.
    if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
      throw MpiError(
          "MPI failed: MPI_Init: could not start; check the launcher (mpirun, or srun --mpi=pmix)");
  }
  Communicator world = Communicator::world();
  log::configure(spec.name, world.rank(), world.size());
  configure_progress(prepared.common.progress, world.rank());
  install_crash_handlers(spec.name, world.rank(), world.size());
  // For the whole command: a rank that has come to its end waits for those that say that they still work.
  std::unique_ptr<KeepingPace> pace;
  try {
    if (with_mpi) {
      open_failure_vote(world);
      check_launcher(world);
      introduce_to_watchdog(world);
    }
    pace = std::make_unique<KeepingPace>(world);
    agree_on_cpu(world);
    set_threads(choose_threads(prepared.common.threads, world));
    install_stop_handlers();
    CommandContext context{world,
                           prepared.common,
                           spec.name,
                           prepared.command->name,
                           prepared.table.to_ini(),
                           {argv, argv + argc},
                           {}};
    const ExitCode code = run_and_print(prepared, context);
    flush_stdout();
    pace->meet(false);
    // Ranks may differ in what they found (`diff` on rank 0, say); the launcher reports one of them.
    const auto agreed = static_cast<int>(world.max(static_cast<int64_t>(as_int(code))));
    world.barrier();
    return finish(agreed);
  } catch (...) {
    const Failure failure = describe_current_exception();
    return finish(leave_failed(spec.name, failure, world, pace.get()));
  }
}

const Command* find_command(const ProgramSpec& spec, const std::string& name) {
  const auto it = std::find_if(spec.commands.begin(), spec.commands.end(),
                               [&](const Command& c) { return c.name == name; });
  if (it != spec.commands.end()) return &*it;
  std::vector<std::string> names;
  for (const Command& command : spec.commands) names.push_back(command.name);
  const std::string nearest = nearest_name(name, names);
  throw UsageError(fmt::format("unknown command: {}: {} has no such command; {}", name, spec.name,
                               nearest.empty() ? "see --help" : "did you mean " + nearest + "?"));
}

/// The requests that no command handles. True when one was there.
bool answer(const ProgramSpec& spec, const std::vector<std::string>& words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    const bool about_command = words.size() > 1;
    print_once(about_command ? command_help(spec, *find_command(spec, words[1])) : program_help(spec));
  } else if (words[0] == "--version") {
    print_once(version_text(spec));
  } else if (words[0] == "--man") {
    print_once(man_page(spec));
  } else if (words[0] == "--complete") {
    const std::vector<std::string> rest(words.begin() + 1, words.end());
    print_once(completion_words(spec, rest));
  } else {
    return false;
  }
  return true;
}

bool asks_for_help(const std::vector<std::string>& words) {
  const auto end = std::find(words.begin(), words.end(), "--");
  return std::any_of(words.begin(), end, [](const std::string& w) { return w == "--help" || w == "-h"; });
}

}  // namespace

int launched_ranks() {
  return launcher_number({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}, 1);
}

int run_program(const ProgramSpec& spec, int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  log::configure(spec.name, launcher_rank(), 1);
  // A limit on the size of files (ulimit -f) is then an error of the write, which names the file.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    if (answer(spec, words)) return words.empty() ? as_int(ExitCode::usage) : 0;
    if (words[0].starts_with("-"))
      throw UsageError(fmt::format("unknown option: {}: a command comes first; see --help", words[0]));
    Prepared prepared;
    prepared.command = find_command(spec, words[0]);
    if (asks_for_help(words)) {
      print_once(command_help(spec, *prepared.command));
      return 0;
    }
    prepared.run = prepared.command->make(prepared.table);
    prepared.table.bind(common_options(prepared.command->output), prepared.common);
    prepared.table.parse({words.begin() + 1, words.end()});
    if (prepared.common.print_config) {
      print_once(prepared.table.to_ini());
      return 0;
    }
    return run_command(spec, prepared, argc, argv);
  } catch (...) {
    const Failure failure = describe_current_exception();
    if (launcher_rank() == 0) print_error(spec.name, failure.message);
    return failure.code;
  }
}

int resolve_threads(const CommandContext& context) {
  return chosen_threads(context.common.threads);
}

}  // namespace dino
