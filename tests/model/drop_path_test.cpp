// SPDX-License-Identifier: Apache-2.0
// What stochastic depth keeps: the right number of rows, each as often as the others, whatever the split.
#include "model/drop_path.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "model/vit.hpp"

namespace dino {
namespace {

VitConfig config_of(double rate, int64_t depth = 2) {
  VitConfig config = vit_preset("vit_micro");
  config.depth = depth;
  config.drop_path = rate;
  return config;
}

DropPathEntry whole(int64_t crops, int64_t images) {
  return {crops, images, 0, images};
}

const KeptRows& attention_of(const DropPathPlan& plan, size_t block = 0) {
  return plan.kept[block][0][0];
}

KeptRows one_draw(double rate, const DropPathEntry& entry, uint64_t step) {
  return attention_of(draw_drop_path(config_of(rate, 1), std::span(&entry, 1), 3, step));
}

int64_t reference_count(int64_t rows, double rate) {
  return std::max<int64_t>(static_cast<int64_t>(static_cast<double>(rows) * (1 - rate)), 1);
}

TEST(DropPath, KeepsTheReferencesShareOfTheGlobalBatch) {
  for (const int64_t images : {1, 2, 7, 8, 9, 16, 17, 63}) {
    for (const int64_t crops : {1, 2, 3, 8}) {
      for (const double rate : {0.05, 0.3, 0.4, 0.5, 0.95}) {
        const KeptRows kept = one_draw(rate, whole(crops, images), 5);
        const int64_t count = reference_count(crops * images, rate);
        EXPECT_EQ(static_cast<int64_t>(kept.rows.size()), count) << images << " x " << crops << ", " << rate;
        EXPECT_EQ(kept.scale, static_cast<double>(crops * images) / static_cast<double>(count));
        EXPECT_EQ(std::set<int64_t>(kept.rows.begin(), kept.rows.end()).size(), kept.rows.size());
        EXPECT_GE(kept.rows.front(), 0);
        EXPECT_LT(kept.rows.back(), crops * images);
      }
    }
  }
}

/// Ranks take their parts of one draw: together they are it, with the scale of the whole.
TEST(DropPath, DoesNotDependOnTheSplit) {
  for (const int64_t images : {1, 7, 8, 9, 17, 40}) {
    for (const int64_t crops : {1, 2, 5}) {
      const KeptRows all = one_draw(0.3, whole(crops, images), 8);
      for (int64_t ranks = 1; ranks <= std::min<int64_t>(images, 6); ++ranks) {
        std::vector<int64_t> together;
        for (int64_t rank = 0; rank < ranks; ++rank) {
          const int64_t first = images * rank / ranks, count = images * (rank + 1) / ranks - first;
          const KeptRows part = one_draw(0.3, {crops, images, first, count}, 8);
          EXPECT_EQ(part.scale, all.scale);
          EXPECT_TRUE(std::is_sorted(part.rows.begin(), part.rows.end()));
          for (const int64_t row : part.rows) together.push_back(row / count * images + first + row % count);
        }
        std::sort(together.begin(), together.end());
        EXPECT_EQ(together, all.rows) << images << " images, " << ranks << " ranks";
      }
    }
  }
}

/// A rank of whole strata has its share of the rows to within one, in every step.
TEST(DropPath, RanksHaveEvenWork) {
  for (const auto& [images, own] : {std::pair<int64_t, int64_t>{16, 8}, {64, 16}, {24, 8}, {40, 8}}) {
    for (const int64_t crops : {1, 2, 8}) {
      for (uint64_t step = 0; step < 40; ++step) {
        const double share =
            static_cast<double>(reference_count(crops * images, 0.3) * own) / static_cast<double>(images);
        for (int64_t first = 0; first < images; first += own) {
          const KeptRows part = one_draw(0.3, {crops, images, first, own}, step);
          EXPECT_LT(std::abs(static_cast<double>(part.rows.size()) - share), 1.0) << images << " " << step;
        }
      }
    }
  }
}

/// Every row is kept as often as any other: also in the short last stratum, where quotas are rounded, and
/// where one row of the whole batch is kept. Two rows are kept together about as often as if independent.
TEST(DropPath, EveryRowHasTheSameChance) {
  constexpr int kSteps = 6000;
  for (const auto& [images, rate] : {std::pair<int64_t, double>{1, 0.5},
                                     {7, 0.3},
                                     {8, 0.3},
                                     {9, 0.3},
                                     {17, 0.45},
                                     {17, 0.95},
                                     {20, 0.1}}) {
    constexpr int64_t kCrops = 2;
    const int64_t rows = kCrops * images;
    const double p = static_cast<double>(reference_count(rows, rate)) / static_cast<double>(rows);
    std::vector<int> kept(static_cast<size_t>(rows));
    std::vector<int> both(static_cast<size_t>(images));
    for (int step = 0; step < kSteps; ++step) {
      std::vector<int> now(static_cast<size_t>(rows));
      for (const int64_t row : one_draw(rate, whole(kCrops, images), static_cast<uint64_t>(step)).rows)
        now[static_cast<size_t>(row)] = 1;
      for (size_t i = 0; i < now.size(); ++i) kept[i] += now[i];
      for (size_t i = 0; i < both.size(); ++i) both[i] += now[i] & now[i + static_cast<size_t>(images)];
    }
    const double variance = kSteps * p * (1 - p) + 1e-9;
    double chi_square = 0;
    for (const int count : kept) {
      EXPECT_LT(std::abs(count - kSteps * p), 4.5 * std::sqrt(variance) + 1e-6)
          << images << " images, " << rate;
      chi_square += (count - kSteps * p) * (count - kSteps * p) / variance;
    }
    const auto freedom = static_cast<double>(rows);
    if (images >= 7) {  // the counts of fewer rows depend on one another too much
      EXPECT_LT(chi_square, freedom + 5 * std::sqrt(2 * freedom)) << images << " images, " << rate;
    }
    if (rate > 0.9) continue;
    // Not in the short last stratum: of its few rows a quota leaves one view or the other.
    for (int64_t i = 0; i < images / kDropPathStratum * kDropPathStratum; ++i)
      EXPECT_NEAR(both[static_cast<size_t>(i)] / static_cast<double>(kSteps), p * p, 0.04) << images;
  }
}

TEST(DropPath, DrawsAreAFunctionOfTheKey) {
  VitConfig config = config_of(0.4);
  const DropPathEntry entries[] = {whole(2, 12), whole(1, 5), whole(1, 1)};
  const DropPathPlan plan = draw_drop_path(config, entries, 7, 100);
  ASSERT_EQ(plan.kept.size(), 2U);
  const auto first = [&](uint64_t seed, uint64_t step) {
    return attention_of(draw_drop_path(config, std::span(entries, 1), seed, step), 1).rows;
  };
  const std::vector<int64_t>& rows = attention_of(plan, 1).rows;
  EXPECT_EQ(rows, first(7, 100)) << "an entry's draw does not depend on the other entries";
  EXPECT_NE(rows, first(7, 101));
  EXPECT_NE(rows, first(8, 100));
  EXPECT_NE(rows, plan.kept[0][0][0].rows);
  EXPECT_NE(rows, plan.kept[1][1][0].rows);
  for (const auto& block : plan.kept)
    for (const auto& branch : block) {
      EXPECT_EQ(branch[0].rows.size(), 14U);  // int(24 * 0.6)
      EXPECT_EQ(branch[1].rows.size(), 3U);
      EXPECT_EQ(branch[2].rows.size(), 1U);  // never empty
    }
  config.drop_path_uniform = false;
  const DropPathPlan linear = draw_drop_path(config, entries, 7, 100);
  EXPECT_EQ(linear.kept[0][0][0].rows.size(), 24U);
  EXPECT_EQ(linear.kept[1][0][0].rows.size(), 14U);
  config.drop_path = 0;
  EXPECT_TRUE(draw_drop_path(config, entries, 7, 100).empty());
}

/// The limits of --steps, --batch, --local-count and --depth.
TEST(DropPath, TheLargestRunsHaveDrawsOfTheirOwn) {
  const DropPathEntry entry{64, 1000000, 999999, 1};
  EXPECT_LE(
      attention_of(draw_drop_path(config_of(0.3, 200), std::span(&entry, 1), 1, 1000000000), 199).rows.size(),
      64U);
}

}  // namespace
}  // namespace dino
