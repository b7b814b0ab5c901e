// SPDX-License-Identifier: Apache-2.0
#include "vectors/components.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <queue>

#include "base/error.hpp"
#include "base/working.hpp"

namespace dino {
namespace {

struct Neighbour {
  int64_t row;
  float similarity;
};

/// Both directions of every edge, grouped by row.
struct Adjacency {
  std::vector<int64_t> begin;
  std::vector<Neighbour> neighbours;

  Adjacency(int64_t rows, std::span<const Edge> edges)
      : begin(static_cast<size_t>(rows + 1), 0), neighbours(2 * edges.size()) {
    for (const Edge& edge : edges) {
      DINO_CHECK(edge.source >= 0 && edge.source < edge.target && edge.target < rows,
                 "an edge joins two rows, the smaller first");
      ++begin[static_cast<size_t>(edge.source) + 1];
      ++begin[static_cast<size_t>(edge.target) + 1];
    }
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    auto next = begin;
    for (const Edge& edge : edges) {
      neighbours[static_cast<size_t>(next[static_cast<size_t>(edge.source)]++)] = {edge.target,
                                                                                   edge.similarity};
      neighbours[static_cast<size_t>(next[static_cast<size_t>(edge.target)]++)] = {edge.source,
                                                                                   edge.similarity};
    }
  }
  [[nodiscard]] std::span<const Neighbour> of(int64_t row) const {
    const auto r = static_cast<size_t>(row);
    return {neighbours.data() + begin[r], neighbours.data() + begin[r + 1]};
  }
};

/// Rows that have an edge, best first: higher quality, then the smaller row.
std::vector<int64_t> by_quality(const Adjacency& graph, std::span<const double> quality) {
  std::vector<int64_t> order;
  for (size_t row = 0; row + 1 < graph.begin.size(); ++row) {
    if (graph.begin[row] < graph.begin[row + 1]) order.push_back(static_cast<int64_t>(row));
  }
  if (!quality.empty()) {
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return quality[static_cast<size_t>(a)] > quality[static_cast<size_t>(b)];
    });
  }
  return order;
}

/// Star cover: the best row not yet taken becomes a centre and takes its free neighbours; a member that a
/// later centre is more similar to stays where it is, so that a centre is always better than its members.
void cover_by_stars(const Adjacency& graph, const std::vector<int64_t>& order, Groups& groups) {
  std::vector<uint8_t> taken(groups.keep.size(), 0);
  for (const int64_t centre : order) {
    work_point();
    if (taken[static_cast<size_t>(centre)] != 0) continue;
    taken[static_cast<size_t>(centre)] = 1;
    for (const Neighbour& other : graph.of(centre)) {
      const auto member = static_cast<size_t>(other.row);
      if (taken[member] != 0) continue;
      taken[member] = 1;
      groups.representative[member] = centre;
      groups.similarity[member] = other.similarity;
    }
  }
}

/// Widest paths from the representative: a member's similarity is the weakest edge of the best path (the
/// maximum spanning tree's path), or that of its direct edge where one exists.
void cover_by_components(const Adjacency& graph, const std::vector<int64_t>& order, Groups& groups) {
  struct Reached {
    float width;
    int64_t row;
    bool operator<(const Reached& other) const {
      return width != other.width ? width < other.width : row > other.row;
    }
  };
  std::vector<uint8_t> done(groups.keep.size(), 0);
  std::vector<float> width(groups.keep.size(), -1);
  for (const int64_t start : order) {
    work_point();
    if (done[static_cast<size_t>(start)] != 0) continue;
    std::priority_queue<Reached> open;
    open.push({std::numeric_limits<float>::max(), start});
    while (!open.empty()) {
      const Reached reached = open.top();
      open.pop();
      const auto row = static_cast<size_t>(reached.row);
      if (done[row] != 0) continue;
      done[row] = 1;
      if (reached.row != start) {
        groups.representative[row] = start;
        groups.similarity[row] = reached.width;
      }
      for (const Neighbour& other : graph.of(reached.row)) {
        const float through = std::min(reached.width, other.similarity);
        auto& best = width[static_cast<size_t>(other.row)];
        if (done[static_cast<size_t>(other.row)] != 0 || through <= best) continue;
        best = through;
        open.push({through, other.row});
      }
    }
    for (const Neighbour& other : graph.of(start)) {
      if (groups.representative[static_cast<size_t>(other.row)] == start)
        groups.similarity[static_cast<size_t>(other.row)] = other.similarity;
    }
  }
}

}  // namespace

Groups group_rows(int64_t rows, std::span<const Edge> edges, GroupRule rule,
                  std::span<const double> quality) {
  DINO_CHECK(quality.empty() || static_cast<int64_t>(quality.size()) == rows, "one quality per row, or none");
  const auto count = static_cast<size_t>(rows);
  Groups groups;
  groups.representative.resize(count);
  std::iota(groups.representative.begin(), groups.representative.end(), int64_t{0});
  groups.similarity.assign(count, 1.0f);
  groups.keep.assign(count, 0);
  const Adjacency graph(rows, edges);
  const std::vector<int64_t> order = by_quality(graph, quality);
  if (rule == GroupRule::star)
    cover_by_stars(graph, order, groups);
  else
    cover_by_components(graph, order, groups);

  // The smallest member names the group: rows ascend, so the first one seen is it.
  std::vector<int64_t> smallest(count, -1);
  groups.group.resize(count);
  for (size_t row = 0; row < count; ++row) {
    auto& name = smallest[static_cast<size_t>(groups.representative[row])];
    if (name < 0) name = static_cast<int64_t>(row);
    groups.group[row] = name;
    groups.keep[row] = groups.representative[row] == static_cast<int64_t>(row) ? 1 : 0;
    groups.count += groups.keep[row];
  }
  return groups;
}

UnionFind::UnionFind(int64_t n) : parent_(static_cast<size_t>(n)) {
  std::iota(parent_.begin(), parent_.end(), int64_t{0});
}

int64_t UnionFind::find(int64_t x) {
  while (parent_[static_cast<size_t>(x)] != x) {
    auto& up = parent_[static_cast<size_t>(x)];
    up = parent_[static_cast<size_t>(up)];
    x = up;
  }
  return x;
}

bool UnionFind::merge(int64_t a, int64_t b) {
  a = find(a);
  b = find(b);
  if (a == b) return false;
  parent_[static_cast<size_t>(std::max(a, b))] = std::min(a, b);
  return true;
}

}  // namespace dino
