// SPDX-License-Identifier: Apache-2.0
// Damaged chain files and chain states.
#include "mutation.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "chain.hpp"
#include "commands.hpp"
#include "markers.hpp"
#include "storage/scratch.hpp"

namespace dino {
namespace {

using testing::run_file_mutations;
using testing::Scratch;

TEST(ChainMutation, Ini) {
  const Scratch scratch;
  run_file_mutations(
      {{"[chain]\nrun = /scratch/pets\nname = pets\nranks = 3\ntime = 02:00:00\nnodes = "
        "4\n\n[curate]\nprogram = a\n"
        "args = run --input images # a comment\n\n[probe]\ncommand = b > ${run}/probe.txt\nafter = curate\n",
        "[chain]\nrun = here\n[a]\ncommand = true\nmax-restarts = 2\n"},
       61,
       {},
       0.1},
      scratch / "chain.cfg", [](const std::string& path) { (void)read_chain(path); });
}

TEST(ChainMutation, State) {
  const Scratch scratch;
  ChainState state;
  state.run = scratch.folder();
  state.name = "pets";
  state.chain_file = "chain.cfg";
  state.stages = {{"curate", "12", "curate.sbatch", "pets.curate"},
                  {"train", "13", "train.sbatch", "pets.train"}};
  write_state(state);
  run_file_mutations({{read_text(scratch / "chain.json")}, 62, {}, 0.1}, scratch / "chain.json",
                     [&](const std::string&) { (void)read_state(scratch.folder()); });
}

TEST(ChainMutation, Marker) {
  const Scratch scratch;
  make_folders(scratch / "a");
  write_marker(scratch.folder(), "a", "done.json", {12, 1, 0, "2026-01-01T00:00:00Z"});
  run_file_mutations({{read_text(scratch / "a/done.json")}, 63, {}, 0.1}, scratch / "a/done.json",
                     [&](const std::string& path) {
                       if (!is_done(scratch.folder(), "a")) throw DataError("bad marker: " + path);
                     });
}

}  // namespace
}  // namespace dino
