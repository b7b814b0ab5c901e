// SPDX-License-Identifier: Apache-2.0
#pragma once
// Groups of near-duplicates from edges, and who represents them.

#include <cstdint>
#include <span>
#include <vector>

#include "base/names.hpp"
#include "vectors/join.hpp"

namespace dino {

enum class GroupRule : uint8_t {
  star,        ///< each member is tied to its representative by an edge: descending quality picks centres (no
               ///< chaining)
  components,  ///< connected components (the published recipe; chains)
};

constexpr auto names_of(GroupRule) {
  return std::to_array<Named<GroupRule>>({{"star", GroupRule::star}, {"components", GroupRule::components}});
}

struct Groups {
  std::vector<int64_t> group;           ///< [N] smallest row of the group
  std::vector<int64_t> representative;  ///< [N] the kept row of the group (itself when kept)
  std::vector<float> similarity;  ///< [N] edge similarity to the representative; 1 for itself; the path's
                                  ///< weakest edge where no direct edge exists (components)
  std::vector<uint8_t> keep;      ///< [N]
  int64_t count = 0;              ///< groups, singletons included
};

/// `quality` (higher is better, may be empty) and then the smaller row decide who represents: a total order.
[[nodiscard]] Groups group_rows(int64_t rows, std::span<const Edge> edges, GroupRule rule,
                                std::span<const double> quality);

/// Union-find with path halving; the root of a set is its smallest member.
class UnionFind {
 public:
  explicit UnionFind(int64_t n);
  int64_t find(int64_t x);
  bool merge(int64_t a, int64_t b);

 private:
  std::vector<int64_t> parent_;
};

}  // namespace dino
