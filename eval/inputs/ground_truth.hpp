// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which rows of a database a query should find: from labels, equal keys or groups, or a file.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "inputs/feature_file.hpp"
#include "numeric/ranking.hpp"

namespace dino::eval {

/// Without a file: what the rows of both sides have in common where they belong together.
enum class MatchBy : uint8_t { label, key, group };
constexpr auto names_of(MatchBy) {
  return std::to_array<Named<MatchBy>>(
      {{"label", MatchBy::label}, {"key", MatchBy::key}, {"group", MatchBy::group}});
}

/// Of a file that grades its positives: all of them, or the hard ones alone, with the easy ones as junk
/// (Radenovic et al., CVPR 2018).
enum class Difficulty : uint8_t { medium, hard };

class GroundTruth {
 public:
  /// Equal labels, keys or groups; a query's own row (the same key of the same data reference) is junk.
  /// DataError where no row has what is compared.
  static GroundTruth of_rows(std::shared_ptr<const FeatureSet> queries,
                             std::shared_ptr<const FeatureSet> database, MatchBy by);
  /// The JSON file of docs/formats.md. Every query must stand in it; names are keys. DataError names file and
  /// key.
  static GroundTruth of_file(const std::string& path, std::shared_ptr<const FeatureSet> queries,
                             std::shared_ptr<const FeatureSet> database);
  /// Does the file tell easy from hard?
  [[nodiscard]] bool graded() const { return graded_; }
  /// For the card: "equal labels, ..." or "<SHA-256 of the file>".
  [[nodiscard]] const std::string& text() const { return text_; }
  /// `out` [database rows].
  void relevance(int64_t query, Difficulty difficulty, std::span<Relevance> out) const;

 private:
  struct Listed {
    std::vector<int64_t> easy, hard, junk;  ///< database rows; ungraded positives are easy
  };
  std::shared_ptr<const FeatureSet> queries_, database_;
  MatchBy by_ = MatchBy::label;
  bool graded_ = false, same_data_ = false, from_file_ = false;
  std::string text_;
  std::vector<Listed> listed_;     ///< by query
  std::vector<int32_t> class_of_;  ///< query labels in the database's classes
};

}  // namespace dino::eval
