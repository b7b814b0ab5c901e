// SPDX-License-Identifier: Apache-2.0
#include "commands.hpp"

int main(int argc, char** argv) {
  using namespace dino::pretrain;
  const dino::ProgramSpec spec{"dino-pretrain",
                               "pretrain a vision transformer by self-distillation (DINOv2)",
                               {train_command(), bench_command(), inspect_command(), diff_command(),
                                import_command(), export_command()}};
  return dino::run_program(spec, argc, argv);
}
