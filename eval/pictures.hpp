// SPDX-License-Identifier: Apache-2.0
#pragma once
// Pictures for the report: PNG files below RESULTS/pictures/ and one JSON list per set.

#include <string>
#include <unordered_map>
#include <vector>

#include "datasets/dataset.hpp"
#include "imaging/image.hpp"
#include "inputs/feature_file.hpp"
#include "results.hpp"

namespace dino::eval {

/// Thumbnails of the images behind a feature file's rows. Throws when its data reference cannot be opened.
class PictureSource {
 public:
  explicit PictureSource(const FeatureSet& set);
  /// At most 96 pixels wide and high; a gray square when the image cannot be read any more.
  [[nodiscard]] Image thumbnail(int64_t row) const;

 private:
  const FeatureSet& set_;
  Dataset dataset_;
  std::unordered_map<std::string, size_t> index_;
};
[[nodiscard]] Image fit(const Image& image, int64_t side);

/// One set of pictures in strips: RESULTS/pictures/<kind>_<hash>.json, {kind, task, dataset, model,
/// card_hash, strips: [{title, pictures: [{file, caption, class}]}]}. The JSON is written last, so a set is
/// complete or absent.
class PictureSet {
 public:
  PictureSet(std::string results, std::string kind, const ResultRow& row);
  void begin_strip(const std::string& title);
  void add(const Image& image, const std::string& caption, const std::string& css_class);
  void commit();
  /// True when RESULTS already holds this set.
  [[nodiscard]] bool exists() const;

 private:
  struct Entry {
    std::string file, caption, css_class;
  };
  struct Strip {
    std::string title;
    std::vector<Entry> entries;
  };
  std::string results_, kind_, stem_;
  ResultRow row_;
  std::vector<Strip> strips_;
};

/// Read back by the report; files are relative to the results folder. DataError names the file.
struct LoadedStrip {
  std::string title;
  struct Entry {
    Image image;
    std::string caption, css_class;
  };
  std::vector<Entry> entries;
};
struct LoadedPictures {
  std::string kind, task, dataset, model, card_hash;
  std::vector<LoadedStrip> strips;
};
[[nodiscard]] std::vector<LoadedPictures> read_pictures(const std::string& results);

}  // namespace dino::eval
