// SPDX-License-Identifier: Apache-2.0
#include "chain.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/error.hpp"
#include "commands.hpp"
#include "render.hpp"
#include "shell.hpp"

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
  expect_contains(curate, "#SBATCH --job-name=pets.curate\n");
  expect_contains(curate, "#SBATCH --output=/scratch/pets/logs/curate-%j.log\n");
  expect_contains(curate, "#SBATCH --nodes=4\n");
  expect_contains(curate, "#SBATCH --cpus-per-task=16\n");
  expect_contains(
      curate,
      "#SBATCH --partition=cpu\n#SBATCH --time=02:00:00\n#SBATCH --exclusive\n#SBATCH --constraint=avx512\n");
  expect_contains(
      curate,
      "exec srun --mpi=pmix -K1 --unbuffered -c \"${SLURM_CPUS_PER_TASK:-1}\" my-curate run --input images");
  const std::string probe = render_stage(chain, chain.stages[2], "/s/probe.sbatch");
  expect_contains(probe, "  my-probe > ${run}/probe.txt\n");
  const std::string report = render_stage(chain, chain.stages[3], "/s/report.sbatch");
  expect_contains(report, "upstream=\"pretrain probe\"");
  expect_contains(report, "exec my-report");
  expect_contains(report, "module load openmpi\n");
}

TEST(Render, DependenciesAreAfterokAndNeverDangle) {
  EXPECT_EQ(sbatch_words("s", {"1", "2"}),
            (std::vector<std::string>{"sbatch", "--parsable", "--kill-on-invalid-dep=yes",
                                      "--dependency=afterok:1:2", "s"}));
  EXPECT_EQ(sbatch_words("s", {}).size(), 4u);
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
  const std::string run = testing::TempDir() + "dino_chain_state";
  std::filesystem::create_directories(run);
  EXPECT_THROW((void)read_state(run + "/nowhere"), MissingInputError);
  write_state({"pets", run, "pets.cfg", "2026-01-01T00:00:00Z", {{"curate", "12", "/s"}, {"eval", "", ""}}});
  const ChainState state = read_state(run);
  EXPECT_EQ(state.name, "pets");
  ASSERT_EQ(state.stages.size(), 2u);
  EXPECT_EQ(state.stages[0].job, "12");
  std::ofstream(run + "/chain.json") << R"({"schema": "other", "name": "x"})";
  EXPECT_THROW((void)read_state(run), DataError);
  std::ofstream(run + "/chain.json") << R"({"schema": "dinohpc-chain-1"})";
  EXPECT_THROW((void)read_state(run), DataError);
  std::filesystem::remove_all(run);
}

}  // namespace
}  // namespace dino
