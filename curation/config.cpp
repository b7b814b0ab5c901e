// SPDX-License-Identifier: Apache-2.0
#include "config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.hpp"
#include "imaging/decode_options.hpp"
#include "storage/files.hpp"

namespace dino::curation {
Schema<CurateConfig> curate_options() {
  using C = CurateConfig;
  Schema<C> schema;
  schema.section("Input")
      .add("input", &C::input, "Data references: folders, tars, lists, curated folders or names.")
      .required()
      .add("exclude", &C::exclude,
           "Evaluation sets whose near-copies are dropped as leaks (with --embeddings: only equal files and "
           "equal perceptual hashes).");
  schema.section("Ingest")
      .add("max-pixels", &C::max_pixels, "Do not decode images above this many pixels.")
      .range(1, 1e11)
      .add("max-bytes", &C::max_bytes, "Do not decode files, or pictures in memory, above this many bytes.")
      .range(1, 1e12);
  add_decode_memory(schema, &C::decode_memory);
  schema
      .add("unit-records", &C::unit_records,
           "Images per work unit, the grain of restart (0 = from 16 to 2048, by their number).")
      .range(0, 1e7);
  schema.section("Embeddings")
      .add("embedding", &C::embedding,
           "copy = the built-in training-free descriptor, or a weights reference.")
      .add("heads", &C::heads, "Attention heads, where the weights do not tell (0: they do).")
      .range(0, 1024)
      .add("embeddings", &C::embeddings,
           "An embeddings reference with one row per input image, in input order, used instead.")
      .add("image-size", &C::image_size, "Side of the picture that a backbone sees.")
      .range(14, 4096);
  schema.section("Filters")
      .add("min-size", &C::min_size, "Drop images whose shorter side is below this many pixels (0 = off).")
      .range(0, 1e6)
      .add("max-aspect", &C::max_aspect, "Drop images whose sides differ by more than this factor (0 = off).")
      .range(0, 1e6)
      .add("min-contrast", &C::min_contrast,
           "Drop images whose gray values, of 0 to 255, deviate less than this: pictures of one colour (0 = "
           "off).")
      .range(0, 128)
      .add("min-blur", &C::min_blur, "Drop images whose Laplacian variance is below this (0 = off).")
      .range(0, 1e9)
      .add("min-entropy", &C::min_entropy, "Drop images whose gray histogram has fewer bits (0 = off).")
      .range(0, 8)
      .add("exact-duplicates", &C::exact_duplicates, "Drop files of equal bytes (SHA-256).")
      .add("hash-duplicates", &C::hash_duplicates, "Drop images of equal 64-bit perceptual hash.");
  schema.section("Near-duplicates and leaks")
      .add("dedup", &C::dedup, "Drop near-duplicates.")
      .add("threshold", &C::threshold, "Cosine at and above which two images are near-duplicates.")
      .range(0.0, 1.0)
      .add("rule", &C::rule, "star: each member is tied to its representative; components: chains count.")
      .add("lists", &C::lists,
           "Inverted lists of the join (0 = one up to 32,768 images, then about their square root).")
      .range(0, 1e7)
      .add("probes", &C::probes,
           "Inverted lists that each image is compared with where they may hold a pair.")
      .range(1, 1e4)
      .add("leak-threshold", &C::leak_threshold, "Cosine at and above which an image leaks an excluded one.")
      .range(0.0, 1.0);
  schema.section("Balance")
      .add("target", &C::target, "Images to keep, exactly, balanced over clusters (0 = all).")
      .range(0, 1e12)
      .add("levels", &C::levels, "Clusters per level, falling (empty = from the number of images).")
      .add("iterations", &C::iterations, "Iterations of k-means.")
      .range(1, 1e4)
      .add("resample", &C::resample, "Resampling steps per level (0 = none).")
      .range(0, 1e4)
      .add("strategy", &C::strategy, "Which images of a cluster are taken.");
  schema.section("Export")
      .add("shard-records", &C::shard_records, "Most images in one shard.")
      .range(1, 1e9)
      .add("shard-bytes", &C::shard_bytes, "A shard is closed before it grows beyond this many bytes.")
      .range(1, 1e15);
  return schema;
}

Schema<PairLimit> pair_limit_options() {
  Schema<PairLimit> schema;
  schema
      .add("max-pairs", &PairLimit::max_pairs,
           "Give up beyond this many pairs of near-duplicates; each takes some 100 bytes of memory on every "
           "rank.")
      .range(1, 1e12);
  return schema;
}

Schema<EmbedDevice> embed_device_options() {
  Schema<EmbedDevice> schema;
  add_device(schema, &EmbedDevice::device);
  return schema;
}

namespace {

/// What is kept with the results: every option, and the seed.
Schema<CurateConfig> kept_settings() {
  Schema<CurateConfig> schema = curate_options();
  schema.add("seed", &CurateConfig::seed, "Seed of every random draw.");
  return schema;
}

}  // namespace

void check_settings(const CurateConfig& config) {
  if (config.max_aspect > 0 && config.max_aspect < 1)
    throw UsageError(
        fmt::format("bad option: --max-aspect: {} would drop every image; give 1 or more, or 0 for off",
                    config.max_aspect));
  int64_t above = std::numeric_limits<int64_t>::max();
  for (const int64_t clusters : config.levels) {
    if (clusters < 1 || clusters > above)
      throw UsageError(
          fmt::format("bad option: --levels: {} is not a number of clusters here; give falling "
                      "numbers from 1 up",
                      clusters));
    above = clusters;
  }
}

int64_t unit_size(const CurateConfig& config, int64_t images) {
  constexpr int64_t kUnits = 64, kBatch = 16, kMost = 2048;
  if (config.unit_records > 0) return config.unit_records;
  const int64_t each = (images + kUnits - 1) / kUnits;
  return std::clamp((each + kBatch - 1) / kBatch * kBatch, kBatch, kMost);
}

std::string settings_text(const CurateConfig& config) {
  CurateConfig copy = config;
  OptionTable table;
  table.bind(kept_settings(), copy);
  return table.to_ini();
}

CurateConfig parse_settings(const std::string& text, const std::string& source) {
  CurateConfig config;
  OptionTable table;
  table.bind(kept_settings(), config);
  table.parse_ini(text, source);
  return config;
}

std::vector<Setting> all_settings(const CurateConfig& config) {
  CurateConfig copy = config;
  OptionTable table;
  table.bind(kept_settings(), copy);
  std::vector<Setting> settings;
  for (const OptionTable::Entry& entry : table.entries())
    settings.push_back({entry.option.name, entry.print()});
  return settings;
}

std::string config_hash(const CurateConfig& config) {
  const std::string text = settings_text(config);
  return sha256_hex(std::as_bytes(std::span(text))).substr(0, 16);
}

}  // namespace dino::curation
