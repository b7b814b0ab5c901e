// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/random.hpp"
#include "vectors/kmeans.hpp"

namespace dino {
namespace {

/// Children of every node of one level, ascending.
struct Children {
  std::vector<int64_t> begin, child;

  Children(const std::vector<int64_t>& parent, int64_t parents, size_t level)
      : begin(static_cast<size_t>(parents + 1), 0) {
    for (size_t i = 0; i < parent.size(); ++i) {
      if (parent[i] < -1 || parent[i] >= parents)
        throw DataError("cannot balance: level " + std::to_string(level + 1) + ": entry " +
                        std::to_string(i) + " names cluster " + std::to_string(parent[i]) + " of " +
                        std::to_string(parents) + "; make the clusters again");
      if (parent[i] >= 0) ++begin[static_cast<size_t>(parent[i]) + 1];
    }
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    child.resize(static_cast<size_t>(begin.back()));
    auto next = begin;
    for (size_t i = 0; i < parent.size(); ++i) {
      if (parent[i] >= 0)
        child[static_cast<size_t>(next[static_cast<size_t>(parent[i])]++)] = static_cast<int64_t>(i);
    }
  }
  [[nodiscard]] std::span<const int64_t> of(size_t node) const {
    return {child.data() + begin[node], child.data() + begin[node + 1]};
  }
};

/// A draw for (seed, level, item): the order it gives does not change when other items come or go.
uint64_t hash(uint64_t seed, size_t level, int64_t item) {
  return Random(seed, RandomStream::sampling,
                (static_cast<uint64_t>(level) << 48) | static_cast<uint64_t>(item))
      .u64();
}

/// Splits `quota` <= sum of sizes over children: each gets min(c, size) for the largest integer c that fits,
/// and the remainder goes, one each, to larger children in hash order.
void split(std::span<const int64_t> children, const std::vector<int64_t>& sizes, int64_t quota, uint64_t seed,
           size_t level, std::vector<int64_t>& quotas) {
  std::vector<int64_t> sorted;
  for (const int64_t child : children) sorted.push_back(sizes[static_cast<size_t>(child)]);
  std::sort(sorted.begin(), sorted.end());
  int64_t cap = sorted.empty() ? 0 : sorted.back(), left = quota;
  for (size_t i = 0; i < sorted.size(); ++i) {
    // With the i smallest taken whole, the others can have this much each.
    const int64_t each = left / static_cast<int64_t>(sorted.size() - i);
    if (each < sorted[i]) {
      cap = each;
      break;
    }
    left -= sorted[i];
  }
  std::vector<std::pair<uint64_t, int64_t>> larger;
  int64_t given = 0;
  for (const int64_t child : children) {
    const int64_t size = sizes[static_cast<size_t>(child)];
    quotas[static_cast<size_t>(child)] = std::min(cap, size);
    given += std::min(cap, size);
    if (size > cap) larger.emplace_back(hash(seed, level, child), child);
  }
  std::sort(larger.begin(), larger.end());
  for (size_t i = 0; given < quota; ++i, ++given) ++quotas[static_cast<size_t>(larger.at(i).second)];
}

/// The rows of one level-1 cluster that are taken.
void take(std::span<const int64_t> rows, int64_t quota, std::span<const float> distance,
          SampleStrategy strategy, uint64_t seed, std::vector<int64_t>& selected) {
  if (quota == static_cast<int64_t>(rows.size())) {
    selected.insert(selected.end(), rows.begin(), rows.end());
    return;
  }
  std::vector<int64_t> order(rows.begin(), rows.end());
  if (strategy == SampleStrategy::closest) {
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return distance[static_cast<size_t>(a)] < distance[static_cast<size_t>(b)];
    });
  } else {
    std::vector<std::pair<uint64_t, int64_t>> hashed;
    for (const int64_t row : rows) hashed.emplace_back(hash(seed, 0, row), row);
    std::sort(hashed.begin(), hashed.end());
    std::transform(hashed.begin(), hashed.end(), order.begin(),
                   [](const auto& entry) { return entry.second; });
  }
  selected.insert(selected.end(), order.begin(), order.begin() + quota);
}

}  // namespace

std::vector<int64_t> balanced_sample(const std::vector<std::vector<int64_t>>& assignments,
                                     const std::vector<int64_t>& clusters, std::span<const float> distance,
                                     int64_t target, SampleStrategy strategy, uint64_t seed) {
  DINO_CHECK(!assignments.empty() && assignments.size() == clusters.size(), "one cluster count per level");
  DINO_CHECK(strategy == SampleStrategy::random || distance.size() == assignments[0].size(),
             "the closest need a distance per row");
  std::vector<Children> children;           // [level]: nodes of the level below
  std::vector<std::vector<int64_t>> sizes;  // [level][node]: rows below the node
  std::vector<int64_t> below(assignments[0].size(), 1);
  for (size_t level = 0; level < assignments.size(); ++level) {
    if (assignments[level].size() != below.size())
      throw DataError("cannot balance: level " + std::to_string(level + 1) + ": it assigns " +
                      std::to_string(assignments[level].size()) + " items, the level below has " +
                      std::to_string(below.size()) + "; make the clusters again");
    const Children& nodes = children.emplace_back(assignments[level], clusters[level], level);
    std::vector<int64_t> size(static_cast<size_t>(clusters[level]), 0);
    for (size_t node = 0; node < size.size(); ++node) {
      for (const int64_t child : nodes.of(node)) size[node] += below[static_cast<size_t>(child)];
    }
    below = size;
    sizes.push_back(std::move(size));
  }
  const int64_t available = std::accumulate(below.begin(), below.end(), int64_t{0});
  if (target < 0 || available < target)
    throw DataError("cannot balance: --target " + std::to_string(target) + ": only " +
                    std::to_string(available) + " rows are available, " + std::to_string(target - available) +
                    " too few; ask for at most that many");

  std::vector<int64_t> top(below.size());
  std::iota(top.begin(), top.end(), int64_t{0});
  std::vector<int64_t> quotas(below.size(), 0);
  split(top, below, target, seed, assignments.size(), quotas);
  for (size_t level = assignments.size() - 1; level > 0; --level) {
    std::vector<int64_t> next(sizes[level - 1].size(), 0);
    for (size_t node = 0; node < quotas.size(); ++node)
      split(children[level].of(node), sizes[level - 1], quotas[node], seed, level, next);
    quotas = std::move(next);
  }
  std::vector<int64_t> selected;
  selected.reserve(static_cast<size_t>(target));
  for (size_t node = 0; node < quotas.size(); ++node)
    take(children[0].of(node), quotas[node], distance, strategy, seed, selected);
  std::sort(selected.begin(), selected.end());
  return selected;
}

}  // namespace dino
