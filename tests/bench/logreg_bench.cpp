// SPDX-License-Identifier: Apache-2.0
// Times logistic regression on an embeddings file. Not a test:
//   logreg_bench FEATURES.npy LABELS C[,C...]        LABELS: raw int32, one a row
// Prints a line of JSON for each C, warm-started from the one before: objective, iterations, seconds.
// tests/peers/logreg_sklearn.py holds it against scikit-learn.

#include <fmt/format.h>

#include <cstdio>
#include <ctime>
#include <exception>
#include <string>
#include <vector>

#include "base/timing.hpp"
#include "heads/logistic_regression.hpp"
#include "vectors/embeddings.hpp"

namespace {

using namespace dino;

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::vector<double> numbers(const std::string& list) {
  std::vector<double> values;
  for (size_t at = 0; at < list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    values.push_back(std::stod(list.substr(at, end - at)));
    at = end + 1;
  }
  return values;
}

int run(int count, char** arguments) {
  if (count != 4) {
    fmt::print(stderr, "usage: logreg_bench FEATURES LABELS C[,C...]\n");
    return 64;
  }
  const EmbeddingStore store = EmbeddingStore::open(arguments[1]);
  Tensor features({store.rows(), store.width()});
  store.read(0, store.rows(), features.as<float>());
  std::vector<int32_t> labels(static_cast<size_t>(store.rows()));
  std::FILE* file = std::fopen(arguments[2], "rb");
  if (file == nullptr || std::fread(labels.data(), sizeof(int32_t), labels.size(), file) != labels.size()) {
    fmt::print(stderr, "logreg_bench: {}: not an int32 a row\n", arguments[2]);
    return 65;
  }
  std::fclose(file);
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < store.rows(); ++i) rows.push_back(i);
  Stopwatch watch;
  double before = processor_seconds();
  const eval::LogisticRegression problem({features.as<float>(), store.rows(), store.width(), store.width()},
                                         labels, rows);
  eval::LogisticRegression::Solution solution;
  for (const double c : numbers(arguments[3])) {
    solution = problem.fit(c, solution.weights.empty() ? nullptr : &solution);
    fmt::print(
        "{{\"c\": {}, \"objective\": {:.12g}, \"iterations\": {}, \"evaluations\": {}, \"converged\": {}, "
        "\"seconds\": {:.4f}, \"processor_seconds\": {:.4f}}}\n",
        c, solution.objective, solution.iterations, solution.evaluations, solution.converged, watch.seconds(),
        processor_seconds() - before);
    watch = Stopwatch();
    before = processor_seconds();
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run(count, arguments);
  } catch (const std::exception& e) {
    fmt::print(stderr, "logreg_bench: {}\n", e.what());
    return 70;
  }
}
