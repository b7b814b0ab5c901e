// SPDX-License-Identifier: Apache-2.0
#pragma once
// Stochastic depth (arXiv 1603.09382) by batch subsets, as DINOv2 trains (arXiv 2304.07193, section 5): a
// residual branch runs on a part of the batch only, and counts for the more there.

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace dino {

struct VitConfig;

/// The rows of one list entry (crops of one size) that a residual branch keeps, out of those at hand.
struct KeptRows {
  std::vector<int64_t> rows;
  double scale = 1;  ///< of the branch: rows of the global batch / those kept of them
};

/// kept[block][0 = attention, 1 = feed-forward][entry]; an empty plan drops nothing.
struct DropPathPlan {
  std::vector<std::array<std::vector<KeptRows>, 2>> kept;
  [[nodiscard]] bool empty() const { return kept.empty(); }
};

/// Crops of one size: `crops` of each of the global batch's images, and those of the images [first, first +
/// count) at hand, crop-major: row = crop * count + image - first.
struct DropPathEntry {
  int64_t crops = 1;
  int64_t images = 0;
  int64_t first = 0, count = 0;
};

/// Consecutive images of one crop that share a quota of kept rows.
constexpr int64_t kDropPathStratum = 8;

/// The part of a draw over the global batch that falls on the rows at hand: what is kept depends on (seed,
/// step, block, branch, entry, row of the global batch), never on how the batch is split. Of the N rows of an
/// entry K = max(int(N (1 - rate)), 1) are kept, as the reference keeps them of its batch on one GPU, and
/// each with probability K / N. They are spread over strata of kDropPathStratum images: any run of whole
/// strata keeps its share of K but for less than one row more or less, so that ranks have even work. A part
/// may keep no row.
[[nodiscard]] DropPathPlan draw_drop_path(const VitConfig& config, std::span<const DropPathEntry> entries,
                                          uint64_t seed, uint64_t step);

}  // namespace dino
