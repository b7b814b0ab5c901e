// SPDX-License-Identifier: Apache-2.0
#pragma once
// F.h5: what `features` writes and every probe reads.

#include <cstdint>
#include <string>
#include <vector>

#include "base/names.hpp"
#include "imaging/decode_options.hpp"
#include "imaging/image.hpp"
#include "results.hpp"
#include "storage/hdf5.hpp"

namespace dino::eval {

enum class Tokens : uint8_t { cls, patch, both };
constexpr auto names_of(Tokens) {
  return std::to_array<Named<Tokens>>(
      {{"cls", Tokens::cls}, {"patch", Tokens::patch}, {"both", Tokens::both}});
}
/// Which part of the data, by hash of the group.
enum class Split : uint8_t { all, train, test };
constexpr auto names_of(Split) {
  return std::to_array<Named<Split>>({{"all", Split::all}, {"train", Split::train}, {"test", Split::test}});
}

/// How an image becomes the model's input, and which tokens are kept: the part of a protocol card that
/// belongs to the features.
struct FeatureProtocol {
  int64_t size = 224;     ///< side of the square input in pixels
  int64_t resize = 0;     ///< shorter side before the central crop; 0 = size * 256 / 224, with pad = size
  bool pad = false;       ///< pad to a square instead of cropping
  Background background;  ///< behind transparent pixels and padding
  int64_t max_pixels = DecodeLimits{}.max_pixels;  ///< larger images are left out
  DecodeMemory decode_memory;                      ///< of one thread; images that need more are left out
  Tokens tokens = Tokens::cls;
  int64_t layers = 1;  ///< class tokens of the last N blocks
  Split split = Split::all;
  double test_fraction = 0.2;

  [[nodiscard]] int64_t resize_to() const { return resize > 0 ? resize : (pad ? size : size * 256 / 224); }
  [[nodiscard]] Card card() const;
};

/// Who made the features.
struct ModelIdentity {
  std::string name;     ///< "raw-pixels", "random-weights", or the name of the weights
  std::string weights;  ///< SHA-256 of the weights, or empty
  /// Mean and deviation that pixels are normalised with, and the file that told them, as a JSON object:
  /// {"from", "mean", "std"}. Empty for raw pixels, and in files of earlier versions. No part of a card: two
  /// models whose pixels are scaled differently can be compared.
  std::string input{};
};

/// The columns of a feature row: `layers` class tokens of width `class_width`, oldest block first, then the
/// mean patch token of the last block when `has_mean`. Raw pixels are one class token.
struct FeatureColumns {
  int64_t class_width = 0, layers = 0, mean_width = 0;
  [[nodiscard]] int64_t width() const { return class_width * layers + mean_width; }
};

struct FeatureSet {
  std::string path, data;  ///< file, and the data reference it was made from
  ModelIdentity model;
  FeatureProtocol protocol;
  FeatureColumns columns;
  int64_t rows = 0;
  Tensor features;  ///< f32 [rows, columns.width()]
  std::vector<int32_t> labels;
  std::vector<std::string> keys, groups, classes;
};

/// Some columns of all rows, where they lie in a FeatureSet (which outlives it).
struct FeatureView {
  const float* data = nullptr;
  int64_t rows = 0, width = 0, stride = 0;
  [[nodiscard]] const float* row(int64_t i) const { return data + i * stride; }
};

void write_feature_attributes(Hdf5File& file, const FeatureSet& set);
/// DataError when a dataset is missing, lengths differ, or a value is not finite.
[[nodiscard]] FeatureSet read_features(const std::string& path);

/// The name of a data set in results: a named data set as it stands, a path's last two parts (two sets' test
/// folders are two). A folder that is named alone is called by its name, but train, test and the like take
/// the part above from the current folder.
[[nodiscard]] std::string dataset_name(const std::string& reference);
/// SHA-256 over the keys, which tells two versions of a data set apart on protocol cards.
[[nodiscard]] std::string keys_hash(const std::vector<std::string>& keys);

/// Class tokens of the last `layers` blocks, then the mean patch token when `mean`: they lie side by side.
[[nodiscard]] FeatureView columns_of(const FeatureSet& set, int64_t layers, bool mean);

/// Test labels as indices into the training set's classes (by name); -1 for a class that training does not
/// know. Throws UsageError when the two files come from different models or protocols.
[[nodiscard]] std::vector<int32_t> map_labels(const FeatureSet& train, const FeatureSet& test);

}  // namespace dino::eval
