// SPDX-License-Identifier: Apache-2.0
#include "comm/program.hpp"
#include "commands.hpp"

int main(int argc, char** argv) {
  const dino::ProgramSpec spec{"dino-jobs",
                               "submits, watches and runs the chain curate, pretrain, eval, report.",
                               {dino::init_command(), dino::render_command(), dino::submit_command(),
                                dino::status_command(), dino::local_command(), dino::doctor_command()},
                               {{"RUN/chain.cfg", "The chain of a folder of pictures."},
                                {"RUN/STAGE/done.json", "The stage is done."},
                                {"RUN/chain.json", "Job ids of the last submission."},
                                {"RUN/logs/", "What the stages said."}},
                               {{"DINO_SLURM_TIMEOUT", "Seconds that Slurm's commands have to answer."}},
                               {"mpirun(1)", "sbatch(1)", "squeue(1)"}};
  return dino::run_program(spec, argc, argv);
}
