// SPDX-License-Identifier: Apache-2.0
#include "training/masks.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace dino {
namespace {

int64_t count(const std::vector<uint8_t>& masks, int64_t view, int64_t patches) {
  const auto begin = masks.begin() + static_cast<std::ptrdiff_t>(view * patches);
  return std::count(begin, begin + static_cast<std::ptrdiff_t>(patches), 1);
}

TEST(Masks, DefaultLimitIsEvaluatedFromLeftToRight) {
  EXPECT_EQ(default_max_mask_patches(224, 14), 128);
  EXPECT_EQ(default_max_mask_patches(224, 16), 98);
  EXPECT_EQ(default_max_mask_patches(518, 14), 666);
  EXPECT_EQ(default_max_mask_patches(98, 14), 21);
}

TEST(Masks, BatchIsAFunctionOfSeedAndStep) {
  const MaskConfig config;
  const BlockMaskSettings settings;
  const BatchMasks a = batch_masks(config, settings, 8, 1, 2);
  EXPECT_EQ(a.masks, batch_masks(config, settings, 8, 1, 2).masks);
  EXPECT_NE(a.masks, batch_masks(config, settings, 8, 1, 3).masks);
  EXPECT_NE(a.masks, batch_masks(config, settings, 8, 2, 2).masks);
}

TEST(Masks, HalfOfTheViewsAreMaskedInEqualStrataOfTheRatio) {
  const MaskConfig config;
  const BlockMaskSettings settings;
  const int64_t views = 32, patches = 256;
  for (uint64_t step = 0; step < 20; ++step) {
    const BatchMasks batch = batch_masks(config, settings, views, 3, step);
    std::vector<int64_t> counts;
    for (int64_t view = 0; view < views; ++view)
      if (const int64_t n = count(batch.masks, view, patches); n > 0) counts.push_back(n);
    ASSERT_EQ(counts.size(), 16U);
    std::sort(counts.begin(), counts.end());
    // With exact counts the i-th smallest lies in the i-th stratum of [0.1, 0.5].
    for (size_t i = 0; i < counts.size(); ++i) {
      EXPECT_GE(counts[i], static_cast<int64_t>(256 * (0.1 + 0.4 * static_cast<double>(i) / 16) - 1e-3));
      EXPECT_LE(counts[i], static_cast<int64_t>(256 * (0.1 + 0.4 * static_cast<double>(i + 1) / 16) + 1e-3));
    }
    EXPECT_LE(std::accumulate(counts.begin(), counts.end(), int64_t{0}), batch.upper_bound);
  }
}

TEST(Masks, ExactCountTopsUpWhatBlocksLeaveOpen) {
  MaskConfig exact, blocks;
  blocks.exact_count = false;
  exact.ratio_min = exact.ratio_max = blocks.ratio_min = blocks.ratio_max = 0.5;
  BlockMaskSettings settings;
  settings.grid_h = settings.grid_w = 7;
  settings.max_patches = 21;
  int64_t short_of = 0;
  for (uint64_t step = 0; step < 200; ++step) {
    const BatchMasks a = batch_masks(exact, settings, 4, 1, step),
                     b = batch_masks(blocks, settings, 4, 1, step);
    int64_t full = 0;
    for (int64_t view = 0; view < 4; ++view) {
      const int64_t n = count(a.masks, view, 49);
      if (n > 0) {
        EXPECT_EQ(n, 24);
        ++full;
      }
      const int64_t m = count(b.masks, view, 49);
      EXPECT_LE(m, 24);
      short_of += m > 0 && m < 24 ? 1 : 0;
    }
    EXPECT_EQ(full, 2);
  }
  EXPECT_GT(short_of, 0);
}

TEST(Masks, DegenerateGridsEnd) {
  Random random(1, RandomStream::test, 0);
  BlockMaskSettings settings;
  settings.grid_h = settings.grid_w = 1;
  EXPECT_EQ(block_mask(settings, 1, random).masked, 0);  // a block must be smaller than the grid
  EXPECT_EQ(block_mask(settings, 0, random).masked, 0);
  MaskConfig all;
  all.probability = 1;
  all.ratio_min = all.ratio_max = 1;
  EXPECT_EQ(batch_masks(all, settings, 2, 1, 1).masks, (std::vector<uint8_t>{1, 1}));
  MaskConfig none;
  none.probability = 0;
  EXPECT_EQ(batch_masks(none, settings, 2, 1, 1).masks, (std::vector<uint8_t>{0, 0}));
  EXPECT_EQ(batch_masks(none, settings, 2, 1, 1).upper_bound, 0);
}

}  // namespace
}  // namespace dino
