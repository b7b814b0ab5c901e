// SPDX-License-Identifier: Apache-2.0
#include "comm/program.hpp"
#include "commands.hpp"

int main(int argc, char** argv) {
  const dino::ProgramSpec spec{"dino-jobs",
                               "submits, watches and runs the chain curate, pretrain, eval, report.",
                               {dino::init_command(), dino::render_command(), dino::submit_command(),
                                dino::status_command(), dino::local_command()}};
  return dino::run_program(spec, argc, argv);
}
