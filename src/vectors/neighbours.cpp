// SPDX-License-Identifier: Apache-2.0
#include "vectors/neighbours.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.hpp"
#include "exact/ordered_gemm.hpp"
#include "vectors/scan.hpp"

namespace dino {
namespace {

constexpr int64_t kQueryBlock = 128;
constexpr int64_t kBankBlock = 512;

using Entry = std::pair<float, int64_t>;  // similarity, bank row

/// Better neighbours first: larger similarity, then the smaller row. As a heap order it keeps the worst on
/// top.
bool better(const Entry& a, const Entry& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

/// The best k of one query while the bank streams past in ascending rows.
struct Selection {
  std::vector<Entry> heap;
  float worst = -std::numeric_limits<float>::infinity();

  void offer(float similarity, int64_t row, size_t k) {
    const Entry entry{similarity, row};
    if (heap.size() < k) {
      heap.push_back(entry);
      std::push_heap(heap.begin(), heap.end(), better);
    } else if (better(entry, heap.front())) {
      std::pop_heap(heap.begin(), heap.end(), better);
      heap.back() = entry;
      std::push_heap(heap.begin(), heap.end(), better);
    }
    if (heap.size() == k) worst = heap.front().first;
  }
};

}  // namespace

Neighbours nearest(ConstTensorView bank, ConstTensorView queries, int64_t k) {
  const int64_t n = bank.dim(0), width = bank.dim(1), count = queries.dim(0);
  if (k < 1 || k > n)
    throw UsageError("cannot search neighbours: --k " + std::to_string(k) + ": the bank has " +
                     std::to_string(n) + " rows; give a k between 1 and that");
  if (queries.dim(1) != width)
    throw DataError("cannot search neighbours: queries: their rows have " + std::to_string(queries.dim(1)) +
                    " elements, those of the bank " + std::to_string(width) +
                    "; both must come from one model");
  Neighbours result;
  result.k = k;
  result.index.resize(static_cast<size_t>(count * k));
  result.similarity.resize(result.index.size());
  if (count == 0) return result;
  const float *rows = bank.as<float>(), *asked = queries.as<float>();
#pragma omp parallel
  {
    std::vector<float> products(static_cast<size_t>(kQueryBlock * kBankBlock));
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < count; begin += kQueryBlock) {
      const int64_t block = std::min(kQueryBlock, count - begin);
      std::vector<Selection> best(static_cast<size_t>(block));
      for (int64_t first = 0; first < n; first += kBankBlock) {
        const int64_t columns = std::min(kBankBlock, n - first);
        exact::ordered_gemm_nt(block, columns, width, asked + begin * width, width, rows + first * width,
                               width, products.data(), columns);
        for (int64_t i = 0; i < block; ++i) {
          Selection& selection = best[static_cast<size_t>(i)];
          const float* row = products.data() + i * columns;
          for_each_at_least(row, columns, selection.worst,
                            [&](int64_t j) { selection.offer(row[j], first + j, static_cast<size_t>(k)); });
        }
      }
      for (int64_t i = 0; i < block; ++i) {
        auto& heap = best[static_cast<size_t>(i)].heap;
        std::sort(heap.begin(), heap.end(), better);
        for (size_t j = 0; j < heap.size(); ++j) {
          result.index[static_cast<size_t>((begin + i) * k) + j] = heap[j].second;
          result.similarity[static_cast<size_t>((begin + i) * k) + j] = heap[j].first;
        }
      }
    }
  }
  return result;
}

std::vector<float> weighted_vote(const Neighbours& neighbours, std::span<const int32_t> labels,
                                 int64_t classes, int64_t k, double temperature) {
  DINO_CHECK(k >= 1 && k <= neighbours.k, "as many votes as neighbours at most");
  const int64_t count = static_cast<int64_t>(neighbours.index.size()) / neighbours.k;
  std::vector<float> scores(static_cast<size_t>(count * classes));
  std::vector<double> weights(static_cast<size_t>(neighbours.k));
  for (int64_t q = 0; q < count; ++q) {
    const auto first = static_cast<size_t>(q * neighbours.k);
    const double highest = static_cast<double>(neighbours.similarity[first]);
    double sum = 0;
    for (size_t j = 0; j < weights.size(); ++j) {
      weights[j] = std::exp((static_cast<double>(neighbours.similarity[first + j]) - highest) / temperature);
      sum += weights[j];
    }
    std::vector<double> votes(static_cast<size_t>(classes), 0);
    for (size_t j = 0; j < static_cast<size_t>(k); ++j) {
      const int32_t label = labels[static_cast<size_t>(neighbours.index[first + j])];
      // A neighbour without a label (-1) has no vote.
      if (label >= 0 && label < classes) votes[static_cast<size_t>(label)] += weights[j] / sum;
    }
    for (size_t c = 0; c < votes.size(); ++c)
      scores[static_cast<size_t>(q * classes) + c] = static_cast<float>(votes[c]);
  }
  return scores;
}

}  // namespace dino
