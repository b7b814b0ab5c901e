// SPDX-License-Identifier: Apache-2.0
#include "commands.hpp"
#include "storage/hdf5_probe.hpp"

int main(int argc, char** argv) {
  if (dino::h5::probe_asked(argc, argv)) return dino::h5::serve_probes();
  using namespace dino::pretrain;
  const dino::ProgramSpec spec{"dino-pretrain",
                               "pretrain a vision transformer by self-distillation (DINOv2)",
                               {train_command(), bench_command(), inspect_command(), diff_command(),
                                import_command(), export_command()}};
  return dino::run_program(spec, argc, argv);
}
