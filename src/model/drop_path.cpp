// SPDX-License-Identifier: Apache-2.0
#include "model/drop_path.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "base/random.hpp"
#include "model/vit.hpp"

namespace dino {
namespace {

double drop_rate(const VitConfig& config, int64_t block) {
  if (config.drop_path_uniform || config.depth == 1) return config.drop_path;
  return config.drop_path * static_cast<double>(block) / static_cast<double>(config.depth - 1);
}

/// One generator per (step, block, branch, entry, place), as fields of the 64-bit stream index. Place 0 draws
/// the quotas, place 1 + s the rows of stratum s.
struct DrawKey {
  uint64_t seed = 0, step = 0;
  int64_t block = 0, branch = 0;
  size_t entry = 0;
  [[nodiscard]] Random random(int64_t place) const {
    DINO_CHECK(step < (uint64_t{1} << 30) && place < (1 << 23) && block < (1 << 8) && entry < 4,
               "a stochastic depth draw outside its index range");
    return {seed, RandomStream::drop_path,
            step << 34 | static_cast<uint64_t>(place) << 11 | static_cast<uint64_t>(block) << 3 |
                static_cast<uint64_t>(branch) << 2 | entry};
  }
};

KeptRows draw_rows(const DropPathEntry& entry, double rate, const DrawKey& key) {
  const int64_t total = entry.crops * entry.images;
  const int64_t kept =
      std::clamp<int64_t>(static_cast<int64_t>(static_cast<double>(total) * (1.0 - rate)), 1, total);
  KeptRows result;
  result.scale = static_cast<double>(total) / static_cast<double>(kept);
  // With `begin` rows before a stratum and `end` up to its last, its quota is floor((kept end + offset) /
  // total) - floor((kept begin + offset) / total). The quotas sum to `kept`, and over the offsets 0 .. total
  // - 1, all equally likely, their mean is kept (end - begin) / total: every row has the same chance.
  Random quotas = key.random(0);
  const auto offset = static_cast<int64_t>(quotas.below(static_cast<uint64_t>(total)));
  const auto kept_before = [&](int64_t rows) { return (kept * rows + offset) / total; };
  // All crops of a stratum's images follow one another, so that the share of a rank, which has whole images,
  // is even as well.
  for (int64_t first = 0; first < entry.images; first += kDropPathStratum) {
    const int64_t size = std::min(kDropPathStratum, entry.images - first);
    if (first + size <= entry.first || first >= entry.first + entry.count) continue;
    for (int64_t crop = 0; crop < entry.crops; ++crop) {
      const int64_t begin = first * entry.crops + crop * size;
      const int64_t quota = kept_before(begin + size) - kept_before(begin);
      Random random = key.random(1 + first / kDropPathStratum * entry.crops + crop);
      const std::vector<int64_t> order = permutation(random, size);
      for (int64_t i = 0; i < quota; ++i) {
        const int64_t image = first + order[static_cast<size_t>(i)] - entry.first;
        if (image >= 0 && image < entry.count) result.rows.push_back(crop * entry.count + image);
      }
    }
  }
  std::sort(result.rows.begin(), result.rows.end());
  return result;
}

}  // namespace

DropPathPlan draw_drop_path(const VitConfig& config, std::span<const DropPathEntry> entries, uint64_t seed,
                            uint64_t step) {
  DropPathPlan plan;
  if (config.drop_path <= 0) return plan;
  plan.kept.resize(static_cast<size_t>(config.depth));
  for (int64_t block = 0; block < config.depth; ++block)
    for (int64_t branch = 0; branch < 2; ++branch)
      for (size_t entry = 0; entry < entries.size(); ++entry)
        plan.kept[static_cast<size_t>(block)][static_cast<size_t>(branch)].push_back(
            draw_rows(entries[entry], drop_rate(config, block), {seed, step, block, branch, entry}));
  return plan;
}

}  // namespace dino
