// SPDX-License-Identifier: Apache-2.0
#include "stage_settings.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"

namespace dino::curation {
namespace {

using Names = std::vector<std::string_view>;

Names names_read(const CurateConfig& c, std::string_view stage) {
  if (stage == "ingest") return {"input", "max-pixels", "max-bytes", "decode-memory"};
  if (stage == "embed") {
    // Copies are not embedded. A backbone's batches are cut within work units.
    if (!c.embeddings.empty()) return {"exact-duplicates", "embeddings"};
    if (c.embedding == "copy") return {"exact-duplicates", "embeddings", "embedding"};
    return {"exact-duplicates", "embeddings", "embedding", "heads", "image-size", "unit-records"};
  }
  if (stage == "filter")
    return {"min-size",    "max-aspect",       "min-contrast",   "min-blur",
            "min-entropy", "exact-duplicates", "hash-duplicates"};
  if (stage == "dedup") {
    if (!c.dedup) return {"dedup"};
    return {"dedup", "threshold", "rule", "lists", "probes", "seed"};
  }
  if (stage == "decontaminate") {
    if (c.exclude.empty()) return {"exclude"};
    return {"exclude", "leak-threshold"};
  }
  if (stage == "balance") {
    if (c.target == 0) return {"target"};
    return {"target", "levels", "iterations", "resample", "strategy", "seed"};
  }
  DINO_CHECK(stage == "export", "a stage of no name");
  return {"shard-records", "shard-bytes"};
}

const Setting* find(const std::vector<Setting>& settings, const std::string& name) {
  const auto at =
      std::find_if(settings.begin(), settings.end(), [&](const Setting& s) { return s.name == name; });
  return at == settings.end() ? nullptr : &*at;
}

std::string shown(const Setting* setting) {
  if (setting == nullptr) return "not read";
  return setting->value.empty() ? "none" : setting->value;
}

}  // namespace

std::vector<Setting> stage_settings(const CurateConfig& config, std::string_view stage) {
  std::vector<Setting> all = all_settings(config);
  if (stage == "report") return all;
  const Names names = names_read(config, stage);
  std::erase_if(
      all, [&](const Setting& s) { return std::find(names.begin(), names.end(), s.name) == names.end(); });
  DINO_CHECK(all.size() == names.size(), "a stage reads a setting that there is not");
  return all;
}

std::string stage_settings_text(const CurateConfig& config, std::string_view stage) {
  std::string text;
  for (const Setting& setting : stage_settings(config, stage))
    text += fmt::format("{} = {}\n", setting.name, setting.value);
  return text;
}

std::vector<std::string> describe_change(const std::vector<Setting>& before,
                                         const std::vector<Setting>& now) {
  std::vector<std::string> changed, alone;
  for (const Setting& setting : before) {
    const Setting* other = find(now, setting.name);
    if (other != nullptr && other->value == setting.value) continue;
    (other != nullptr ? changed : alone)
        .push_back(fmt::format("{} {} -> {}", setting.name, shown(&setting), shown(other)));
  }
  for (const Setting& setting : now)
    if (find(before, setting.name) == nullptr)
      alone.push_back(fmt::format("{} {} -> {}", setting.name, shown(nullptr), shown(&setting)));
  return changed.empty() ? alone : changed;
}

}  // namespace dino::curation
