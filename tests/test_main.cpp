// SPDX-License-Identifier: Apache-2.0
// Runs GoogleTest under MPI, or without it where DINO_MPI is off. --source=NAME keeps the suites that
// NAME.cpp defines: the file's tests are those whose TestInfo::file() ends in NAME.cpp; --variant=NAME of
// these the ones of that backend. A test that fails on any rank fails the run.
#include <gtest/gtest.h>
#include <mpi.h>

#include <string>
#include <string_view>

#include "comm/without_mpi.hpp"
#include "storage/hdf5_server.hpp"
#include "test_data.hpp"

std::string dino::test::data_folder() {
  return DINO_TEST_DATA;
}

int main(int argc, char** argv) {
  if (dino::h5::serves_hdf5(argc, argv)) return dino::h5::serve_hdf5();
  const bool with_mpi = !dino::runs_without_mpi();
  int provided = 0;
  if (with_mpi) MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  ::testing::InitGoogleTest(&argc, argv);
  std::string source, variant;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg.starts_with("--source=")) source = std::string(arg.substr(9)) + ".cpp";
    if (arg.starts_with("--variant=")) variant = "/" + std::string(arg.substr(10)) + "_";
  }
  if (!source.empty() && ::testing::GTEST_FLAG(filter) == "*") {
    std::string filter;
    const auto& unit = *::testing::UnitTest::GetInstance();
    for (int s = 0; s < unit.total_test_suite_count(); ++s) {
      const auto& suite = *unit.GetTestSuite(s);
      for (int t = 0; t < suite.total_test_count(); ++t) {
        const auto& info = *suite.GetTestInfo(t);
        const std::string_view file = info.file() == nullptr ? "" : info.file();
        const std::string name = info.name();
        if (file.ends_with("/" + source) && name.find(variant) != std::string::npos)
          filter += std::string(suite.name()) + "." + name + ":";
      }
    }
    if (filter.empty()) {
      fprintf(stderr, "no test in %s\n", source.c_str());
      return 1;
    }
    ::testing::GTEST_FLAG(filter) = filter;
  }
  const int failed = RUN_ALL_TESTS();
  if (!with_mpi) return failed;
  if (failed != 0) MPI_Abort(MPI_COMM_WORLD, 1);
  MPI_Finalize();
  return failed;
}
