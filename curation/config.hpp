// SPDX-License-Identifier: Apache-2.0
#pragma once
// All settings of a curation, and how they are kept beside its results.

#include <cstdint>
#include <string>
#include <vector>

#include "base/options.hpp"
#include "imaging/decode_options.hpp"
#include "ops/device_option.hpp"
#include "vectors/components.hpp"
#include "vectors/kmeans.hpp"

namespace dino::curation {

/// The memory that near-duplicates may take, which a later start may change: it decides no result.
struct PairLimit {
  int64_t max_pairs = 100'000'000;
};

/// What a backbone computes on, which a later start may change: it decides the last bits of embeddings.
struct EmbedDevice {
  DeviceChoice device;
};

struct CurateConfig {
  std::vector<std::string> input;    ///< data references, in this order
  std::vector<std::string> exclude;  ///< evaluation sets whose near-copies must not be kept
  int64_t seed = 0;
  // ingest
  int64_t max_pixels = 178'956'970, max_bytes = int64_t{1} << 30;
  DecodeMemory decode_memory;  ///< of one thread
  int64_t unit_records = 0;    ///< images per work unit, the grain of restart; 0 = unit_size()
  // embed
  std::string embedding = "copy";  ///< "copy" or a weights reference
  int64_t heads = 0;               ///< of its attention, where the weights do not tell; 0 = not given
  std::string embeddings;          ///< rows in input order, instead of `embedding`
  int64_t image_size = 224;        ///< what a backbone sees
  // filters. Those that are on by default drop what no collection of pictures misses: icons and tracking
  // pixels, banners and strips, and pictures of one colour.
  int64_t min_size = 32;                 ///< shorter side in pixels; 0 = off
  double max_aspect = 6;                 ///< longer / shorter side; 0 = off
  double min_contrast = 2;               ///< standard deviation of gray, of 255; 0 = off
  double min_blur = 0, min_entropy = 0;  ///< off: fog, night and line drawings have little of either
  bool exact_duplicates = true, hash_duplicates = false;
  // near-duplicates
  bool dedup = true;
  double threshold = 0.95;
  GroupRule rule = GroupRule::star;
  int64_t lists = 0, probes = 8;
  PairLimit pairs;      ///< given up beyond; no setting of the folder
  EmbedDevice compute;  ///< of a backbone; no setting of the folder
  double leak_threshold = 0.9;
  // balance
  int64_t target = 0;           ///< images to keep; 0 = all
  std::vector<int64_t> levels;  ///< clusters per level; empty = from the number of images
  int64_t iterations = 20, resample = 10;
  SampleStrategy strategy = SampleStrategy::random;
  // export
  int64_t shard_records = 10'000, shard_bytes = int64_t{1} << 30;
};

/// Images per work unit for so many: `unit_records`, or what gives 64 units, in whole batches of 16, from 16
/// to 2048 images each. A function of the input alone, never of the ranks.
[[nodiscard]] int64_t unit_size(const CurateConfig& config, int64_t images);

[[nodiscard]] Schema<CurateConfig> curate_options();
[[nodiscard]] Schema<PairLimit> pair_limit_options();
[[nodiscard]] Schema<EmbedDevice> embed_device_options();

/// UsageError for a setting whose fault the table of options cannot see and a late stage would.
void check_settings(const CurateConfig& config);

/// All settings that decide the results, as INI text; parse_settings reads it back.
[[nodiscard]] std::string settings_text(const CurateConfig& config);
[[nodiscard]] CurateConfig parse_settings(const std::string& text, const std::string& source);

struct Setting {
  std::string name, value;
  bool operator==(const Setting&) const = default;
};
/// The same settings one by one, in the order of settings_text.
[[nodiscard]] std::vector<Setting> all_settings(const CurateConfig& config);
/// 16 hex digits of the SHA-256 of settings_text.
[[nodiscard]] std::string config_hash(const CurateConfig& config);

}  // namespace dino::curation
