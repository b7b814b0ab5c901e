// SPDX-License-Identifier: Apache-2.0
#include "chain.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "base/error.hpp"
#include "commands.hpp"
#include "folder_chain.hpp"
#include "markers.hpp"
#include "render.hpp"
#include "shell.hpp"
#include "storage/scratch.hpp"

namespace dino {
namespace {

constexpr const char* kChain = R"([chain]
run = /scratch/pets
name = pets
ranks = 3
partition = cpu
time = 02:00:00
nodes = 4
cpus-per-task = 16
sbatch-extra = --exclusive --constraint=avx512

[curate]
program = my-curate
args = run --input images # a comment
args = "--note=\"a # b\""

[pretrain]
program = my-pretrain
nodes = 8
sbatch-extra =

[probe]
command = my-probe > ${run}/probe.txt
after = curate

[report]
program = my-report
mpi = false
after = pretrain, probe
setup = module load openmpi
)";

TEST(Chain, StagesInheritAndOverride) {
  const Chain chain = parse_chain(kChain, "pets.cfg");
  EXPECT_EQ(chain.run, "/scratch/pets");
  EXPECT_EQ(chain.ranks, 3);
  ASSERT_EQ(chain.stages.size(), 4u);
  EXPECT_EQ(chain.stages[0].args, "run --input images --note=\"a # b\"");
  EXPECT_EQ(chain.stages[0].resources.nodes, 4);
  EXPECT_EQ(chain.stages[0].resources.sbatch_extra,
            (std::vector<std::string>{"--exclusive", "--constraint=avx512"}));
  EXPECT_EQ(chain.stages[1].resources.nodes, 8);
  EXPECT_EQ(chain.stages[1].resources.time, "02:00:00");
  EXPECT_TRUE(chain.stages[1].resources.sbatch_extra.empty());
  EXPECT_TRUE(chain.stages[0].after.empty());
  EXPECT_EQ(chain.stages[1].after, std::vector<std::string>{"curate"});
  EXPECT_EQ(chain.stages[2].after, std::vector<std::string>{"curate"});
  EXPECT_EQ(chain.stages[3].after, (std::vector<std::string>{"pretrain", "probe"}));
}

TEST(Chain, RunFolderIsAbsoluteAndNamesTheChain) {
  const Chain chain = parse_chain("[chain]\nrun = runs/x/\n[a]\ncommand = true\n", "x.cfg");
  EXPECT_EQ(chain.run, std::filesystem::current_path().string() + "/runs/x");
  EXPECT_EQ(chain.name, "x");
}

TEST(Render, FillsEveryPlaceholder) {
  EXPECT_EQ(fill_template("a@X@b@@Y@ c@d", {{"X", "1"}, {"Y", "2"}}), "a1b@2 c@d");
  EXPECT_THROW((void)fill_template("@Z@", {{"X", "1"}}), InternalError);
  EXPECT_THROW((void)fill_template("nothing", {{"X", "1"}}), InternalError);
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in:\n" << text;
}

TEST(Render, ScriptsHoldTheirResourcesAndCommands) {
  const Chain chain = parse_chain(kChain, "pets.cfg");
  const std::string curate = render_stage(chain, chain.stages[0], "/s/curate.sbatch");
  expect_contains(curate, "#SBATCH --job-name=" + job_name(chain, chain.stages[0]) + "\n");
  expect_contains(curate, "#SBATCH --output=/scratch/pets/logs/curate-%j.log\n");
  expect_contains(curate, "#SBATCH --nodes=4\n");
  expect_contains(curate, "#SBATCH --cpus-per-task=16\n");
  expect_contains(
      curate,
      "#SBATCH --partition=cpu\n#SBATCH --time=02:00:00\n#SBATCH --exclusive\n#SBATCH --constraint=avx512\n");
  expect_contains(
      curate,
      "exec srun --mpi=pmix -K1 --unbuffered -c \"${SLURM_CPUS_PER_TASK:-1}\" --export=ALL my-curate run "
      "--input images");
  const std::string probe = render_stage(chain, chain.stages[2], "/s/probe.sbatch");
  expect_contains(probe, "  my-probe > ${run}/probe.txt\n");
  const std::string report = render_stage(chain, chain.stages[3], "/s/report.sbatch");
  expect_contains(report, "upstream=\"pretrain probe\"");
  expect_contains(report, "exec my-report");
  expect_contains(report, "module load openmpi\n");
}

TEST(Render, GpusAreAskedForSeenByAllRanksAndBroughtIntoTheContainer) {
  const Chain chain = parse_chain(
      "[chain]\nrun = /r\ngpus-per-node = 4\ntasks-per-node = 4\ncontainer = /opt/dino.sif\n"
      "[a]\nprogram = my-pretrain\n[b]\nprogram = my-eval\ngpus-per-node = 0\n"
      "[c]\nprogram = my-eval\ncontainer-options = --nv --bind=/data\n",
      "g.cfg");
  const std::string with = render_stage(chain, chain.stages[0], "/s/a.sbatch");
  expect_contains(with, "#SBATCH --gpus-per-node=4\n");
  expect_contains(with, "-c \"${SLURM_CPUS_PER_TASK:-1}\" --gpu-bind=none --export=ALL ");
  expect_contains(with, "\ndino_in /opt/dino.sif --nv\n");
  const std::string without = render_stage(chain, chain.stages[1], "/s/b.sbatch");
  EXPECT_EQ(without.find("gpu"), std::string::npos);
  expect_contains(without, "\ndino_in /opt/dino.sif\n");
  expect_contains(render_stage(chain, chain.stages[2], "/s/c.sbatch"),
                  "\ndino_in /opt/dino.sif --nv --bind=/data\n");
}

TEST(Render, AContainerStandsBetweenTheLauncherAndTheProgram) {
  const Chain chain = parse_chain(
      "[chain]\nrun = /r\ncontainer = /opt/dino.sif\ncontainer-options = --nv --bind=/data\n"
      "[a]\nprogram = dino-curate\n[b]\nprogram = my-eval\nmpi = false\ncontainer =\n",
      "c.cfg");
  const std::string inside = render_stage(chain, chain.stages[0], "/s/a.sbatch");
  expect_contains(inside, "\ndino_in /opt/dino.sif --nv --bind=/data\n");
  expect_contains(inside, "--export=ALL $container dino-curate");
  const std::string outside = render_stage(chain, chain.stages[1], "/s/b.sbatch");
  EXPECT_EQ(outside.find("dino.sif"), std::string::npos);
  expect_contains(outside, "exec my-eval");
  EXPECT_THROW(check_container(chain.stages[0]), MissingInputError);
  EXPECT_NO_THROW(check_container(chain.stages[1]));
  for (const char* line : {"container = /a b.sif", "container = $(reboot)", "container-options = bind=/x",
                           "container-options = --bind=/x;reboot", "container = ${DINO_TEST_NO_SUCH}"}) {
    EXPECT_THROW(
        (void)parse_chain(std::string("[chain]\nrun = /r\n") + line + "\n[a]\ncommand = true\n", "c"),
        UsageError)
        << line;
  }
}

TEST(Render, DependenciesAreAfterokAndNeverDangle) {
  EXPECT_EQ(sbatch_words("s", {"1", "2"}),
            (std::vector<std::string>{"sbatch", "--parsable", "--kill-on-invalid-dep=yes",
                                      "--dependency=afterok:1:2", "s"}));
  EXPECT_EQ(sbatch_words("s", {}).size(), 4u);
}

Chain chain_of(const std::string& stages) {
  return parse_chain("[chain]\nrun = /r\n" + stages, "x.cfg");
}

/// The message with which the chain's first stage is refused, or "".
std::string refusal(const std::string& settings) {
  const Chain chain = chain_of("[a]\n" + settings);
  try {
    check_shell(chain, chain.stages[0], render_stage(chain, chain.stages[0], "/r/slurm/a.sbatch"));
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(Render, ScriptsThatBashCannotReadAreRefused) {
  const struct {
    const char *settings, *key, *words;
  } bad[] = {
      {"program = p\nargs = --note it's", "[a] args:", "unexpected EOF"},
      {"program = p\nargs = \"\\\"open\"", "[a] args:", "unexpected EOF"},
      {"program = p\nargs = $(date", "[a] args:", "unexpected EOF"},
      {"program = p\nargs = `date", "[a] args:", "unexpected EOF"},
      {"program = p\nargs = a )", "[a] args:", "syntax error"},
      {"program = p\nargs = run \\", "[a] args:", "backslash"},
      {"command = if true; then echo", "[a] command:", "syntax error"},
      {"command = cat <<END", "[a] command:", "here-document"},
      {"command = true; } ; { true", "[a] command:", "syntax error"},
      {"command = true\nsetup = export A='", "[a] setup:", "unexpected EOF"},
      {"command = true\nsetup = cat <<END", "[a] setup:", "here-document"},
      {"command = true\nsetup = for i in 1; do", "[a] setup:", "syntax error"},
      {"command = true\nsetup = module load x \\", "[a] setup:", "backslash"},
  };
  for (const auto& one : bad) {
    const std::string message = refusal(one.settings);
    EXPECT_NE(message.find(one.key), std::string::npos) << one.settings << "\n" << message;
    EXPECT_NE(message.find(one.words), std::string::npos) << one.settings << "\n" << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  for (const char* good :
       {"program = p\nargs = --note \"it's \\\\\"", "program = p\nargs = '$(x' \"`date`\" -- -x é # c",
        "command = cat <<< 'x'; a && (b | c) || { d; }", "command = true\nsetup = if true; then x=1; fi",
        "command = true\nsetup = if true; then\nsetup = x=1\nsetup = fi",
        "command = \"cat <<END\\nx\\nEND\\n\"", "program = p\nargs = \"a\\n  'b\\nc'\"",
        "program = /a b/it's"})
    EXPECT_EQ(refusal(good), "") << good;
}

TEST(Render, NamesThatCollideAreToldApart) {
  const Chain chain = chain_of(
      "[a-b]\ncommand = x\n[a.b]\ncommand = x\n[a_b]\ncommand = x\n[a-b_]\ncommand = x\n[c]\ncommand = x\n"
      "after = a-b, a.b, a_b, a-b_\n");
  const std::string submit = render_submit_script(chain);
  std::set<std::string> variables, names;
  for (const Stage& stage : chain.stages) {
    const size_t at = submit.find(" " + stage.name + ".sbatch");
    ASSERT_NE(at, std::string::npos);
    const size_t line = submit.rfind('\n', at) + 1;
    variables.insert(submit.substr(line, submit.find('=', line) - line));
    names.insert(job_name(chain, stage));
  }
  EXPECT_EQ(variables.size(), chain.stages.size());
  EXPECT_EQ(names.size(), chain.stages.size());
  // Chains and stages whose names join alike, and one name in two run folders.
  const Chain left = parse_chain("[chain]\nrun = /r\nname = a.b\n[c]\ncommand = x\n", "x");
  const Chain right = parse_chain("[chain]\nrun = /r\nname = a\n[b.c]\ncommand = x\n", "x");
  const Chain other = parse_chain("[chain]\nrun = /s\nname = a.b\n[c]\ncommand = x\n", "x");
  EXPECT_NE(job_name(left, left.stages[0]), job_name(right, right.stages[0]));
  EXPECT_NE(job_name(left, left.stages[0]), job_name(other, other.stages[0]));
}

TEST(Chain, StageNamesThatAreNotFoldersOfTheirOwn) {
  for (const std::string name : {".", "..", "a/b", "/a", "-a", ".a", "a b", "a\tb", "é", "logs", "SLURM",
                                 "Chain", "chain.json", "a;b", "$a", "*"})
    EXPECT_THROW((void)chain_of("[" + name + "]\ncommand = x\n"), UsageError) << name;
  EXPECT_THROW((void)chain_of("[" + std::string(101, 'x') + "]\ncommand = x\n"), UsageError);
  EXPECT_THROW((void)chain_of("[eval]\ncommand = x\n[Eval]\ncommand = x\n"), UsageError);
  EXPECT_THROW((void)chain_of("[a]\ncommand = x\nsbatch-extra = \"--x\\nrm\"\n"), UsageError);
  EXPECT_THROW((void)chain_of("[a]\nprogram = -x\n"), UsageError);
  EXPECT_EQ(chain_of("[" + std::string(100, 'x') + "]\ncommand = x\n").stages.size(), 1u);
  EXPECT_EQ(chain_of("[a.b-c_1]\ncommand = x\n[logs2]\ncommand = x\n").stages.size(), 2u);
}

TEST(Chain, SetUpMayStandOnSeveralLines) {
  const Chain chain = parse_chain(
      "[chain]\nrun = /r\nsetup = one\nsetup = two\n[a]\ncommand = x\n[b]\ncommand = x\nsetup = three\n"
      "setup = four\n",
      "x.cfg");
  EXPECT_EQ(chain.stages[0].resources.setup, "one\ntwo");
  EXPECT_EQ(chain.stages[1].resources.setup, "three\nfour");
}

std::string fault_of(const std::string& text) {
  try {
    (void)parse_chain(text, "x.cfg");
  } catch (const UsageError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Chain, VariablesReachTheShellWhole) {
  const Chain chain = parse_chain(
      "[chain]\nrun = /r\n[variables]\ndata = /my pictures/it's $HOME # x\nempty =\n[a]\ncommand = printf %s "
      "\"$data\"\n",
      "x.cfg");
  ASSERT_EQ(chain.variables.size(), 2u);
  EXPECT_EQ(chain.variables[0].second, "/my pictures/it's $HOME");
  EXPECT_EQ(chain.variables[1], (std::pair<std::string, std::string>{"empty", ""}));
  const std::string script = render_runner(chain, chain.stages[0], "");
  EXPECT_NE(script.find("data='/my pictures/it'\\''s $HOME'\nempty=''\n"), std::string::npos);
  EXPECT_EQ(run_tool({"bash", "-c", "data='/my pictures/it'\\''s $HOME'; printf %s \"$data\""}, 10).out,
            chain.variables[0].second);
}

TEST(Chain, ASettingThatStandsTwiceIsRefused) {
  const std::string fault = fault_of("[chain]\nrun = /r\n[a]\ncommand = x\ntime = 1:00\ntime = 2:00\n");
  EXPECT_NE(fault.find("time (x.cfg:6): stands before in x.cfg:5"), std::string::npos) << fault;
}

TEST(Chain, VariablesThatWouldBreakAScriptAreRefused) {
  const std::string head = "[chain]\nrun = /r\n[variables]\n", tail = "[a]\ncommand = true\n";
  for (const char* name : {"run", "stage", "folder", "restarts", "dino_code", "PATH", "a-b", "1a", "a b"})
    EXPECT_NE(fault_of(head + name + " = x\n" + tail).find("is not a variable's name"), std::string::npos)
        << name;
  EXPECT_NE(fault_of(head + "a = 1\na = 2\n" + tail).find("is there already"), std::string::npos);
  EXPECT_NE(fault_of(head + "a = \"1\\n2\"\n" + tail).find("more than one line"), std::string::npos);
  EXPECT_EQ(fault_of(head + tail), "nothing was thrown");
}

TEST(FolderChain, TheShippedChainIsWholeAndTakesItsSettings) {
  const testing::Scratch scratch;
  const std::string data = scratch.folder() + "/my pictures";
  std::filesystem::create_directories(data);
  const FolderChain wanted{data, "", scratch.folder() + "/run", {"train_options=--steps 5 --batch 8"}};
  const Chain chain = parse_chain(folder_chain_text(wanted), "folder.cfg");
  EXPECT_EQ(chain.run, scratch.folder() + "/run");
  std::vector<std::string> stages;
  for (const Stage& stage : chain.stages) {
    stages.push_back(stage.name);
    check_shell(chain, stage, render_stage(chain, stage, "/s/x.sbatch"));
  }
  EXPECT_EQ(stages, (std::vector<std::string>{"curate", "pretrain", "evaluate", "pictures", "report"}));
  const std::map<std::string, std::string> values(chain.variables.begin(), chain.variables.end());
  EXPECT_EQ(values.at("data"), data);
  EXPECT_EQ(values.at("dataset"), "my pictures");
  EXPECT_EQ(values.at("train_options"), "--steps 5 --batch 8");
  EXPECT_EQ(values.at("weights"), "");
  EXPECT_EQ(place_folder_chain(wanted), scratch.folder() + "/run/chain.cfg");
  EXPECT_EQ(place_folder_chain(wanted), scratch.folder() + "/run/chain.cfg");  // the same again
  EXPECT_THROW((void)place_folder_chain({scratch.folder(), "", wanted.run, {}}), UsageError);
}

TEST(Marker, OnlyAWholeOneOfTheStageCounts) {
  const ::dino::testing::Scratch scratch;
  const std::string run = scratch.folder();
  std::filesystem::create_directories(run + "/a");
  const auto done = [&](const std::string& text) {
    std::ofstream(run + "/a/done.json") << text;
    return is_done(run, "a");
  };
  write_marker(run, "a", "done.json", {7, 1, 0, "2026-01-01T00:00:00Z"});
  EXPECT_TRUE(is_done(run, "a"));
  EXPECT_EQ(read_marker(run, "a", "done.json")->job, 7);
  const std::string whole = R"({"stage": "a", "job": 7, "restarts": 1, "exit_code": 0, "time": "t"})";
  EXPECT_TRUE(done(whole));
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_FALSE(done(whole.substr(0, size))) << size;
  EXPECT_TRUE(has_broken_done(run, "a"));
  for (const char* text :
       {"{}", "[]", "null", "\n", "{\"stage\": \"b\", \"job\": 7, \"restarts\": 1, \"exit_code\": 0}",
        "{\"stage\": \"a\", \"job\": 7, \"restarts\": 1, \"exit_code\": 70}",
        "{\"stage\": \"a\", \"job\": \"7\", \"restarts\": 1, \"exit_code\": 0}",
        "{\"stage\": \"a\", \"job\": 7, \"restarts\": 1, \"exit_code\": false}"})
    EXPECT_FALSE(done(text)) << text;
  std::filesystem::remove(run + "/a/done.json");
  EXPECT_FALSE(is_done(run, "a"));
  EXPECT_FALSE(has_broken_done(run, "a"));
}

TEST(Render, QuotesForTheShell) {
  EXPECT_EQ(shell_quote("/a/b-c"), "/a/b-c");
  EXPECT_EQ(shell_quote("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_quote(""), "''");
}

TEST(Shell, CollectsOutputAndHidesSlurm) {
  ::setenv("SLURM_NTASKS", "7", 1);
  ::setenv("SBATCH_PARTITION", "x", 1);
  ::setenv("SLURM_CONF", "/c", 1);
  const ShellResult result = run_tool(
      {"bash", "-c", "echo ${SLURM_NTASKS:-no} ${SBATCH_PARTITION:-no} $SLURM_CONF; echo e >&2; exit 3"}, 10);
  EXPECT_EQ(result.code, 3);
  EXPECT_EQ(result.out, "no no /c\n");
  EXPECT_EQ(result.err, "e\n");
  ::unsetenv("SLURM_NTASKS");
  ::unsetenv("SBATCH_PARTITION");
  ::unsetenv("SLURM_CONF");
  EXPECT_EQ(run_tool({"no-such-program-here"}, 10).code, 127);
  EXPECT_EQ(run_tool({"sleep", "30"}, 0.3).code, 124);
}

TEST(Shell, LargeOutputOnBothStreamsDoesNotBlock) {
  const ShellResult result = run_tool({"bash", "-c", "head -c 300000 /dev/zero | tee /dev/stderr"}, 20);
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out.size(), 300000u);
  EXPECT_EQ(result.err.size(), 300000u);
}

TEST(State, RoundTripsAndRefusesBrokenFiles) {
  const std::string run = ::testing::TempDir() + "dino_chain_state";
  std::filesystem::create_directories(run);
  EXPECT_THROW((void)read_state(run + "/nowhere"), MissingInputError);
  write_state({"pets",
               run,
               "pets.cfg",
               "2026-01-01T00:00:00Z",
               {{"curate", "12", "/s", "pets.curate"}, {"eval", "", "", ""}},
               false});
  const ChainState state = read_state(run);
  EXPECT_EQ(state.name, "pets");
  ASSERT_EQ(state.stages.size(), 2u);
  EXPECT_EQ(state.stages[0].job, "12");
  EXPECT_EQ(state.stages[0].name, "pets.curate");
  EXPECT_FALSE(state.released);
  std::ofstream(run + "/chain.json") << R"({"schema": "other", "name": "x"})";
  EXPECT_THROW((void)read_state(run), DataError);
  std::ofstream(run + "/chain.json") << R"({"schema": "dinohpc-chain-1"})";
  EXPECT_THROW((void)read_state(run), DataError);
  std::filesystem::remove_all(run);
}

}  // namespace
}  // namespace dino
