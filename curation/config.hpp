// SPDX-License-Identifier: Apache-2.0
#pragma once
// All settings of a curation, and how they are kept beside its results.

#include <cstdint>
#include <string>
#include <vector>

#include "base/options.hpp"

namespace dino::curation {

struct CurateConfig {
  std::vector<std::string> input;    ///< data references, in this order
  std::vector<std::string> exclude;  ///< evaluation sets whose near-copies must not be kept
  int64_t seed = 0;
  // ingest
  int64_t min_size = 0;  ///< shorter side in pixels; 0 = off
  int64_t max_pixels = 178'956'970, max_bytes = int64_t{1} << 30;
  std::string decode_memory = "1G";      ///< of one thread
  double max_aspect = 0;                 ///< longer / shorter side; 0 = off
  double min_blur = 0, min_entropy = 0;  ///< 0 = off
  bool exact_duplicates = true, hash_duplicates = false;
  int64_t unit_records = 2048;  ///< images per work unit, the grain of restart
  // embed
  std::string embedding = "copy";  ///< "copy" or a weights reference
  int64_t heads = 0;               ///< of its attention, where the weights do not tell; 0 = not given
  std::string embeddings;          ///< rows in input order, instead of `embedding`
  int64_t image_size = 224;        ///< what a backbone sees
  // near-duplicates
  bool dedup = true;
  double threshold = 0.95;
  std::string rule = "star";
  int64_t lists = 0, probes = 8;
  int64_t max_pairs = 100'000'000;  ///< given up beyond; no setting of the folder, as it decides no result
  double leak_threshold = 0.9;
  // balance
  int64_t target = 0;           ///< images to keep; 0 = all
  std::vector<int64_t> levels;  ///< clusters per level; empty = from the number of images
  int64_t iterations = 20, resample = 10;
  std::string strategy = "random";
  // export
  int64_t shard_records = 10'000, shard_bytes = int64_t{1} << 30;
};

void add_curate_options(OptionTable& table, CurateConfig& config);
/// The memory that near-duplicates may take, which a later start may change.
void add_max_pairs(OptionTable& table, int64_t& max_pairs);

/// UsageError for a setting whose fault the table of options cannot see and a late stage would.
void check_settings(const CurateConfig& config);

/// All settings that decide the results, as INI text; parse_settings reads it back.
[[nodiscard]] std::string settings_text(const CurateConfig& config);
[[nodiscard]] CurateConfig parse_settings(const std::string& text, const std::string& source);
/// The first option in which the two differ, as "name: 'a' against 'b'"; empty when they agree.
[[nodiscard]] std::string first_difference(const CurateConfig& a, const CurateConfig& b);
/// 16 hex digits of the SHA-256 of settings_text.
[[nodiscard]] std::string config_hash(const CurateConfig& config);

}  // namespace dino::curation
