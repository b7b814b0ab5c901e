// SPDX-License-Identifier: Apache-2.0
#include "commands.hpp"
#include "ops/device_option.hpp"
#include "storage/hdf5_server.hpp"
#include "vector_commands.hpp"

int main(int argc, char** argv) {
  if (dino::h5::serves_hdf5(argc, argv)) return dino::h5::serve_hdf5();
  namespace c = dino::curation;
  dino::add_gpu_version_line();
  return dino::run_program(
      {"dino-curate",
       "turns an image dump into a curated data set",
       {c::run_command(), c::ingest_command(), c::embed_command(), dino::dedup_command(),
        c::decontaminate_command(), dino::cluster_command(), dino::balance_command(), c::export_command(),
        c::report_command(), c::explain_command(), c::list_command(), c::lint_command()},
       {{"OUT/ledger.h5", "One row an image: where it lies, its measures, and why it was kept or dropped."},
        {"OUT/shards/*.tar", "The kept images."},
        {"OUT/manifest.json", "What was made of what; written last."},
        {"OUT/curate.ini", "The settings."}},
       {},
       {"mpirun(1)", "tar(1)"}},
      argc, argv);
}
