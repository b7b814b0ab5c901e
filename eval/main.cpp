// SPDX-License-Identifier: Apache-2.0
#include "commands.hpp"
#include "ops/device_option.hpp"
#include "storage/hdf5_server.hpp"

int main(int argc, char** argv) {
  if (dino::h5::serves_hdf5(argc, argv)) return dino::h5::serve_hdf5();
  using namespace dino::eval;
  const dino::ProgramSpec spec{
      "dino-eval",
      "Evaluates frozen vision encoders: features, probes, pictures and one report with intervals and "
      "floors.",
      all_commands(),
      {{"RESULTS/results.jsonl", "One row a measurement: task, data set, model, value, interval and card."},
       {"RESULTS/predictions/", "Predictions, for paired tests."},
       {"RESULTS/pictures/", "Pictures of pca, attention, k-NN and segmentation."}},
      {},
      {"mpirun(1)"}};
  dino::add_gpu_version_line();
  return dino::run_program(spec, argc, argv);
}
