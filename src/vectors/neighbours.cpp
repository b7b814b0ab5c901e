// SPDX-License-Identifier: Apache-2.0
#include "vectors/neighbours.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "base/error.hpp"
#include "exact/chains.hpp"
#include "exact/ordered_gemm.hpp"
#include "vectors/byte_rows.hpp"
#include "vectors/scan.hpp"

namespace dino {
namespace {

/// Rows of the bank that are bytes at a time, and queries that share them while they are in the cache.
constexpr int64_t kSlice = 1 << 14;
constexpr int64_t kQueryBlock = 512;
/// Tiles of ordered products: whole register tiles of every instruction set.
constexpr int64_t kFloatQueries = 384, kFloatRows = 256;

using Entry = std::pair<float, int64_t>;  // similarity, bank row

/// Better neighbours first: larger similarity, then the smaller row. As a heap order it keeps the worst on
/// top.
bool better(const Entry& a, const Entry& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

/// A share of n queries for each thread to take several of, at most `most`.
int64_t block_of(int64_t n, int64_t most) {
  return std::clamp<int64_t>((n / 16 + exact::kInt8Rows - 1) / exact::kInt8Rows * exact::kInt8Rows,
                             exact::kInt8Rows, most);
}

}  // namespace

struct NeighbourSearch::State {
  /// The best k of one query while the bank streams past.
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

  /// Rows that a query may have among its first k, with the bound of their similarity.
  using Candidates = std::vector<std::pair<double, int64_t>>;

  /// A slice of the bank at hand.
  struct Slice {
    const float* rows = nullptr;
    int64_t first = 0;  ///< its first row's place in the bank
  };

  const float* queries;
  int64_t count, width;
  size_t k;
  bool by_bytes;
  std::vector<Selection> best;
  int64_t added = 0, settled = 0;
  EvenRotation rotation;
  std::vector<float> centre;
  ByteQueries asked;
  ByteBank bank;

  State(ConstTensorView asked_rows, int64_t wanted, bool bytes)
      : queries(asked_rows.as<float>()),
        count(asked_rows.dim(0)),
        width(asked_rows.dim(1)),
        k(static_cast<size_t>(wanted)),
        by_bytes(bytes),
        best(static_cast<size_t>(count)),
        rotation(std::max<int64_t>(width, 1)) {}

  /// The mean of the first rows: what is left has less to lose. Any vector would do.
  void begin_bytes(const float* rows, int64_t n) {
    std::vector<double> sums(static_cast<size_t>(width));
    const int64_t sample = std::min<int64_t>(n, 4096);
    for (int64_t r = 0; r < sample; ++r)
      for (int64_t i = 0; i < width; ++i)
        sums[static_cast<size_t>(i)] +=
            static_cast<double>(rows[r * width + i]) / static_cast<double>(sample);
    for (const double sum : sums) centre.push_back(static_cast<float>(sum));
    asked.round(rotation, queries, count, width, centre.data());
  }

  /// Ordered products of the candidates, the most promising first, until the bound excludes the rest.
  int64_t settle(int64_t query, Candidates& candidates, const Slice& slice) {
    Selection& selection = best[static_cast<size_t>(query)];
    std::sort(candidates.begin(), candidates.end(), std::greater<>());
    const float *left[exact::kChains], *right[exact::kChains];
    float products[exact::kChains];
    size_t done = 0;
    while (done < candidates.size()) {
      int64_t n = 0;
      for (; n < exact::kChains && done + static_cast<size_t>(n) < candidates.size(); ++n) {
        const auto& [bound, row] = candidates[done + static_cast<size_t>(n)];
        if (bound < static_cast<double>(selection.worst)) break;
        left[n] = queries + query * width;
        right[n] = slice.rows + row * width;
      }
      if (n == 0) break;
      exact::ordered_dots(left, right, n, width, products);
      for (int64_t i = 0; i < n; ++i)
        selection.offer(products[i], slice.first + candidates[done + static_cast<size_t>(i)].second, k);
      done += static_cast<size_t>(n);
    }
    candidates.clear();
    return static_cast<int64_t>(done);
  }

  /// Candidates among a block of rows for one query. Returns the ordered products that it took.
  int64_t scan_block(int64_t query, int64_t block, const int32_t* products, Candidates& candidates,
                     const Slice& slice) {
    const ByteBank::Block& scales = bank.blocks[static_cast<size_t>(block)];
    const float& worst = best[static_cast<size_t>(query)].worst;
    const size_t room = 3 * k + 32;
    int32_t limit = asked.limit(query, scales, static_cast<double>(worst));
    int64_t products_made = 0;
    for (int64_t j = 0; j < ByteBank::kBlock; j += 64) {
      for (uint64_t hits = exact::int8_at_least(products + j, limit); hits != 0; hits &= hits - 1) {
        const int64_t column = j + std::countr_zero(hits);
        if (products[column] < limit) continue;
        candidates.emplace_back(asked.bound(query, scales, products[column]),
                                block * ByteBank::kBlock + column);
        if (candidates.size() < room) continue;
        products_made += settle(query, candidates, slice);
        limit = asked.limit(query, scales, static_cast<double>(worst));
      }
    }
    return products_made;
  }

  void add_bytes(const Slice& slice, int64_t n) {
    bank.round(rotation, slice.rows, n, width, centre.data(), exact::rounding_of(width), asked.scale);
    const int64_t depth = rotation.depth(), share = block_of(count, kQueryBlock);
    int64_t made = 0;
#pragma omp parallel reduction(+ : made) if (count * n * width >= kParallelPays)
    {
      std::vector<int32_t> products(static_cast<size_t>(exact::kInt8Rows * ByteBank::kBlock));
      std::vector<Candidates> candidates(static_cast<size_t>(share));
#pragma omp for schedule(dynamic)
      for (int64_t begin = 0; begin < count; begin += share) {
        const int64_t end = std::min(begin + share, count);
        for (int64_t b = 0; b < static_cast<int64_t>(bank.blocks.size()); ++b) {
          for (int64_t first = begin; first < end; first += exact::kInt8Rows) {
            exact::int8_products(exact::kInt8Rows, ByteBank::kBlock, depth,
                                 asked.bytes.data() + first * depth,
                                 bank.bytes.data() + b * ByteBank::kBlock * depth,
                                 bank.start.data() + b * ByteBank::kBlock, products.data());
            for (int64_t q = first; q < std::min(first + exact::kInt8Rows, end); ++q)
              made += scan_block(q, b, products.data() + (q - first) * ByteBank::kBlock,
                                 candidates[static_cast<size_t>(q - begin)], slice);
          }
        }
        for (int64_t q = begin; q < end; ++q)
          made += settle(q, candidates[static_cast<size_t>(q - begin)], slice);
      }
    }
    settled += made;
  }

  void add_floats(const Slice& slice, int64_t n) {
    const int64_t share = block_of(count, kFloatQueries);
#pragma omp parallel if (count * n * width >= kParallelPays)
    {
      std::vector<float> products(static_cast<size_t>(share * kFloatRows));
#pragma omp for schedule(dynamic)
      for (int64_t begin = 0; begin < count; begin += share) {
        const int64_t block = std::min(share, count - begin);
        for (int64_t first = 0; first < n; first += kFloatRows) {
          const int64_t columns = std::min(kFloatRows, n - first);
          exact::ordered_gemm_nt(block, columns, width, queries + begin * width, width,
                                 slice.rows + first * width, width, products.data(), columns);
          for (int64_t i = 0; i < block; ++i) {
            Selection& selection = best[static_cast<size_t>(begin + i)];
            const float* row = products.data() + i * columns;
            for_each_at_least(row, columns, selection.worst,
                              [&](int64_t j) { selection.offer(row[j], slice.first + first + j, k); });
          }
        }
      }
    }
    settled += count * n;
  }
};

NeighbourSearch::NeighbourSearch(ConstTensorView queries, int64_t k, NeighbourSearchBy by) {
  if (k < 1) throw UsageError("cannot search neighbours: --k " + std::to_string(k) + ": is not positive");
  const bool possible = exact::int8_unit() != exact::Int8Unit::none && queries.dim(1) > 0 &&
                        queries.dim(1) <= exact::kInt8MaxDepth;
  DINO_CHECK(by != NeighbourSearchBy::bytes || possible, "no products of bytes on this CPU, of this width");
  // A tile of products takes as long with few queries as with all it has room for.
  const bool bytes = by == NeighbourSearchBy::automatic ? possible && queries.dim(0) >= exact::kInt8Rows
                                                        : by == NeighbourSearchBy::bytes;
  state_ = std::make_unique<State>(queries, k, bytes);
}

NeighbourSearch::~NeighbourSearch() = default;
NeighbourSearch::NeighbourSearch(NeighbourSearch&&) noexcept = default;
NeighbourSearch& NeighbourSearch::operator=(NeighbourSearch&&) noexcept = default;

void NeighbourSearch::add(ConstTensorView rows) {
  const int64_t n = rows.dim(0), width = state_->width;
  if (rows.dim(1) != width)
    throw DataError("cannot search neighbours: queries: their rows have " + std::to_string(width) +
                    " elements, those of the bank " + std::to_string(rows.dim(1)) +
                    "; both must come from one model");
  if (n > 0 && state_->by_bytes && state_->centre.empty()) state_->begin_bytes(rows.as<float>(), n);
  for (int64_t first = 0; first < n; first += kSlice) {
    const State::Slice slice{rows.as<float>() + first * width, state_->added};
    const int64_t part = std::min(kSlice, n - first);
    state_->by_bytes ? state_->add_bytes(slice, part) : state_->add_floats(slice, part);
    state_->added += part;
  }
}

Neighbours NeighbourSearch::finish() {
  const auto k = static_cast<int64_t>(state_->k);
  if (k > state_->added)
    throw UsageError("cannot search neighbours: --k " + std::to_string(k) + ": the bank has " +
                     std::to_string(state_->added) + " rows; give a k between 1 and that");
  Neighbours result;
  result.k = k;
  result.index.resize(static_cast<size_t>(state_->count * k));
  result.similarity.resize(result.index.size());
  for (size_t q = 0; q < state_->best.size(); ++q) {
    auto& heap = state_->best[q].heap;
    std::sort(heap.begin(), heap.end(), better);
    for (size_t j = 0; j < heap.size(); ++j) {
      result.index[q * state_->k + j] = heap[j].second;
      result.similarity[q * state_->k + j] = heap[j].first;
    }
    heap = {};
  }
  return result;
}

int64_t NeighbourSearch::ordered_products() const {
  return state_->settled;
}

Neighbours nearest(ConstTensorView bank, ConstTensorView queries, int64_t k, NeighbourSearchBy by) {
  if (k < 1 || k > bank.dim(0))
    throw UsageError("cannot search neighbours: --k " + std::to_string(k) + ": the bank has " +
                     std::to_string(bank.dim(0)) + " rows; give a k between 1 and that");
  NeighbourSearch search(queries, k, by);
  search.add(bank);
  return search.finish();
}

}  // namespace dino
