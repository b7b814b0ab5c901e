// SPDX-License-Identifier: Apache-2.0
// Times exact nearest neighbours on two embedding files, the bank read in pieces. Not a test:
//   neighbours_bench BANK.npy QUERIES.npy K automatic|floats|bytes [INDICES]
// Prints one line of JSON: seconds of reading and of searching, wall and processor, ordered products a query,
// resident memory. tests/bench/neighbours_bench.py runs it beside FAISS.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <exception>
#include <string>
#include <vector>

#include "base/timing.hpp"
#include "vectors/embeddings.hpp"
#include "vectors/neighbours.hpp"

namespace {

using namespace dino;

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

int run(int count, char** arguments) {
  if (count < 5) {
    fmt::print(stderr, "usage: neighbours_bench BANK QUERIES K automatic|floats|bytes [INDICES]\n");
    return 64;
  }
  const std::string way = arguments[4];
  const auto by = way == "floats"  ? NeighbourSearchBy::floats
                  : way == "bytes" ? NeighbourSearchBy::bytes
                                   : NeighbourSearchBy::automatic;
  const EmbeddingStore bank = EmbeddingStore::open(arguments[1]), asked = EmbeddingStore::open(arguments[2]);
  const Stopwatch whole;
  Tensor queries({asked.rows(), asked.width()});
  asked.read(0, asked.rows(), queries.as<float>());
  double read = whole.seconds(), search_seconds = 0, processor = 0;
  NeighbourSearch search(queries, std::stoll(arguments[3]), by);
  constexpr int64_t kPiece = 1 << 16;
  Tensor piece({std::min(kPiece, bank.rows()), bank.width()});
  for (int64_t begin = 0; begin < bank.rows(); begin += kPiece) {
    const int64_t n = std::min(kPiece, bank.rows() - begin);
    const Stopwatch reading;
    bank.read(begin, n, piece.as<float>());
    read += reading.seconds();
    const Stopwatch searching;
    const double before = processor_seconds();
    search.add(piece.view().rows(0, n));
    search_seconds += searching.seconds();
    processor += processor_seconds() - before;
  }
  const Neighbours found = search.finish();
  fmt::print(
      "{{\"seconds\": {:.4f}, \"read_seconds\": {:.4f}, \"search_seconds\": {:.4f}, "
      "\"search_processor_seconds\": {:.4f}, \"ordered_products_per_query\": {:.1f}, \"peak_rss_bytes\": "
      "{}}}\n",
      whole.seconds(), read, search_seconds, processor,
      static_cast<double>(search.ordered_products()) / static_cast<double>(asked.rows()), peak_rss_bytes());
  if (count > 5) {
    std::FILE* file = std::fopen(arguments[5], "wb");
    if (file == nullptr) return 74;
    const bool written =
        std::fwrite(found.index.data(), sizeof(int64_t), found.index.size(), file) == found.index.size();
    if (std::fclose(file) != 0 || !written) return 74;
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run(count, arguments);
  } catch (const std::exception& e) {
    fmt::print(stderr, "neighbours_bench: {}\n", e.what());
    return 70;
  }
}
