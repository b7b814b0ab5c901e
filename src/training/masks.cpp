// SPDX-License-Identifier: Apache-2.0
#include "training/masks.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.hpp"

namespace dino {
namespace {

constexpr int kTries = 10;

/// One accepted block of (h, w) at (top, left), or none after kTries tries. Returns the patches it added.
int64_t add_block(const BlockMaskSettings& settings, int64_t max_new, Random& random,
                  BlockMaskResult& result) {
  const double log_low = std::log(settings.min_aspect);
  for (int attempt = 0; attempt < kTries; ++attempt) {
    // max_new may be below min_patches: the interval is then reversed, as in the reference.
    const double area =
        random.uniform(static_cast<double>(settings.min_patches), static_cast<double>(max_new));
    const double aspect = std::exp(random.uniform(log_low, -log_low));
    const auto h = static_cast<int64_t>(std::nearbyint(std::sqrt(area * aspect)));
    const auto w = static_cast<int64_t>(std::nearbyint(std::sqrt(area / aspect)));
    if (w >= settings.grid_w || h >= settings.grid_h) continue;
    const auto top = static_cast<int64_t>(random.below(static_cast<uint64_t>(settings.grid_h - h + 1)));
    const auto left = static_cast<int64_t>(random.below(static_cast<uint64_t>(settings.grid_w - w + 1)));
    int64_t already = 0;
    for (int64_t y = top; y < top + h; ++y)
      for (int64_t x = left; x < left + w; ++x)
        already += result.mask[static_cast<size_t>(y * settings.grid_w + x)];
    const int64_t added = h * w - already;
    if (added <= 0 || added > max_new) continue;
    for (int64_t y = top; y < top + h; ++y)
      for (int64_t x = left; x < left + w; ++x) result.mask[static_cast<size_t>(y * settings.grid_w + x)] = 1;
    result.blocks.push_back({h, w});
    return added;
  }
  return 0;
}

/// Masks free patches at random until `target` are masked: batches then have static shapes (DINOv3).
void top_up(BlockMaskResult& result, int64_t target, Random& random) {
  std::vector<int64_t> open;
  for (size_t i = 0; i < result.mask.size(); ++i)
    if (result.mask[i] == 0) open.push_back(static_cast<int64_t>(i));
  while (result.masked < target && !open.empty()) {
    const size_t pick = random.below(open.size());
    result.mask[static_cast<size_t>(open[pick])] = 1;
    open[pick] = open.back();
    open.pop_back();
    ++result.masked;
  }
}

/// torch.linspace in f32: counted from the nearer end, so that both ends are exact.
float ratio_edge(const MaskConfig& config, int64_t masked_views, int64_t i) {
  const auto low = static_cast<float>(config.ratio_min);
  const auto high = static_cast<float>(config.ratio_max);
  const float step = (high - low) / static_cast<float>(masked_views);
  const int64_t count = masked_views + 1;
  return i < count / 2 ? low + step * static_cast<float>(i) : high - step * static_cast<float>(count - i - 1);
}

}  // namespace

int64_t default_max_mask_patches(int64_t image, int64_t patch) {
  const double size = static_cast<double>(image);
  const double p = static_cast<double>(patch);
  return static_cast<int64_t>(std::floor(std::floor(0.5 * size / p) * size / p));
}

BlockMaskResult block_mask(const BlockMaskSettings& settings, int64_t target, Random& random) {
  DINO_CHECK(settings.grid_h > 0 && settings.grid_w > 0 && settings.min_aspect > 0, "bad mask settings");
  BlockMaskResult result;
  result.mask.assign(static_cast<size_t>(settings.grid_h * settings.grid_w), 0);
  while (result.masked < target) {
    const int64_t max_new = std::min(target - result.masked, settings.max_patches);
    const int64_t added = add_block(settings, max_new, random, result);
    if (added == 0) break;
    result.masked += added;
  }
  return result;
}

BatchMasks batch_masks(const MaskConfig& config, const BlockMaskSettings& settings, int64_t views,
                       uint64_t seed, uint64_t step) {
  const int64_t patches = settings.grid_h * settings.grid_w;
  const auto masked_views = static_cast<int64_t>(static_cast<double>(views) * config.probability);
  BlockMaskSettings blocks = settings;
  blocks.min_patches = config.min_patches;
  Random random(seed, RandomStream::masks, step);

  // View i < masked_views draws its ratio from the i-th of equal strata of [ratio_min, ratio_max]; the list
  // is then shuffled over all views.
  BatchMasks result;
  result.masks.assign(static_cast<size_t>(views * patches), 0);
  const std::vector<int64_t> place = permutation(random, views);
  for (int64_t i = 0; i < masked_views; ++i) {
    const float low = ratio_edge(config, masked_views, i);
    const float high = ratio_edge(config, masked_views, i + 1);
    const float ratio = low + (high - low) * static_cast<float>(random.uniform_double());
    const auto target = static_cast<int64_t>(static_cast<float>(patches) * ratio);
    result.upper_bound += static_cast<int64_t>(static_cast<float>(patches) * high);
    BlockMaskResult mask = block_mask(blocks, target, random);
    if (config.exact_count) top_up(mask, target, random);
    std::copy(mask.mask.begin(), mask.mask.end(),
              result.masks.begin() + static_cast<std::ptrdiff_t>(place[static_cast<size_t>(i)] * patches));
  }
  return result;
}

}  // namespace dino
