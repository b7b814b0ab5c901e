// SPDX-License-Identifier: Apache-2.0
#include <malloc.h>

#include "commands.hpp"
#include "ops/device_option.hpp"
#include "storage/hdf5_server.hpp"

int main(int argc, char** argv) {
  if (dino::h5::serves_hdf5(argc, argv)) return dino::h5::serve_hdf5();
  // Left alone, glibc learns from freed images to keep memory that no later one fits into: decoded images of
  // many sizes come and go beside the arena.
  ::mallopt(M_MMAP_THRESHOLD, 4 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 32 << 20);
  using namespace dino::pretrain;
  const dino::ProgramSpec spec{
      "dino-pretrain",
      "pretrain a vision transformer by self-distillation (DINOv2)",
      {train_command(), replay_command(), plan_command(), bench_command(), devices_command(),
       inspect_command(), diff_command(), import_command(), export_command()},
      {{"RUN/checkpoints/step_N/", "Checkpoints: manifest.json and one HDF5 shard a rank."},
       {"RUN/captures/step_N.h5", "Steps that were not finite, or outliers, for replay."},
       {"RUN/config.ini", "All settings in force, those that were chosen too."},
       {"RUN/metrics.jsonl", "One JSON object a logged step or event."},
       {"RUN/run.json", "Where and when the run began and went on, and over which images."},
       {"RUN/trace/rank_N.json", "Where the time of steps went (train --trace)."},
       {"~/.cache/dinohpc/cublaslt-*.txt", "How a GPU multiplies matrices of each size; may be deleted."}},
      {{"DINO_NCCL", "off: GPUs exchange through the host's memory and MPI instead of NCCL."},
       {"NCCL_DEBUG", "WARN or INFO: what NCCL does, on stderr."}},
      {"mpirun(1)"}};
  dino::add_gpu_version_line();
  return dino::run_program(spec, argc, argv);
}
