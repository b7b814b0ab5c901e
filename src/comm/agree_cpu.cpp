// SPDX-License-Identifier: Apache-2.0
#include "comm/agree_cpu.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "base/cpu.hpp"
#include "base/log.hpp"

namespace dino {

void agree_on_cpu(const Communicator& world) {
  if (world.size() == 1) return;
  struct Choice {
    uint32_t choices;
    int32_t level;
  };
  const Choice mine{cpu_choices(), static_cast<int32_t>(cpu_level())};
  const auto all = world.all_gather_values<Choice>(std::span(&mine, 1));
  uint32_t common = mine.choices;
  for (const Choice& choice : all) common &= choice.choices;
  if (std::all_of(all.begin(), all.end(), [&](const Choice& choice) { return choice.choices == common; }))
    return;
  limit_cpu_choices(common);
  const auto lowest = std::min_element(all.begin(), all.end(),
                                       [](const Choice& a, const Choice& b) { return a.level < b.level; });
  log::info(fmt::format(
      "the ranks' CPUs differ: all use {} kernels, which rank {} has; put them on equal nodes for more speed",
      cpu_level_name(cpu_level()), lowest - all.begin()));
}

}  // namespace dino
