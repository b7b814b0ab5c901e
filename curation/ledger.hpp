// SPDX-License-Identifier: Apache-2.0
#pragma once
// One row per input record. Rank 0 holds it while a stage decides; `save` writes ledger.h5, one dataset per
// column.

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "imaging/coding.hpp"
#include "imaging/measures.hpp"
#include "reasons.hpp"
#include "storage/hdf5.hpp"

namespace dino::curation {

/// What ingest measures of one image.
struct Measured {
  int64_t bytes = 0, width = 0, height = 0;
  std::string format;
  Reason reason = Reason::kept;
  std::string message;  ///< why it could not be decoded
  std::array<uint8_t, 32> sha256{};
  uint64_t phash = 0;
  QualityMeasures quality;  ///< NaN where there are no pixels
  DecodeNote note = DecodeNote::none;
  Coding coding = Coding::unknown;
};

struct Verdict {
  Reason reason = Reason::kept;
  Stage stage = Stage::none;
  int64_t representative = -1;  ///< row that stands for this one
  float similarity = 0;
  float value = 0, threshold = 0;  ///< of the rule that dropped it; NaN where it has none
};

struct Ledger {
  std::vector<std::string> key, source, path;  ///< printable (base/text.hpp)
  std::vector<int64_t> offset;
  std::vector<Measured> measured;
  std::vector<Verdict> verdict;
  std::vector<std::vector<int64_t>> cluster;  ///< per level, [N], -1 = not clustered
  std::vector<int64_t> leak;                  ///< [N] index into excluded, -1 = none
  std::vector<std::string> excluded;          ///< keys of excluded images that leak
  std::vector<std::string> exported;          ///< [N] key in the exported tars, empty = not there; or none

  [[nodiscard]] int64_t rows() const { return static_cast<int64_t>(key.size()); }
  void resize(int64_t rows);
  /// Drops a row that is still kept; a row is dropped once, by the first rule that applies.
  void drop(int64_t row, Verdict verdict);
  [[nodiscard]] bool kept(int64_t row) const {
    return verdict[static_cast<size_t>(row)].reason == Reason::kept;
  }
  [[nodiscard]] std::vector<int64_t> kept_rows() const;
  /// Records per reason, indexed by Reason. The sum is rows().
  [[nodiscard]] std::vector<int64_t> counts() const;

  /// `extra` may add datasets before the file is committed; an empty hash is left out.
  void save(const std::string& path, const std::string& config_hash,
            const std::function<void(Hdf5File&)>& extra = {}) const;
  /// Compared with its checksum; `remedy` ends the message when it is damaged.
  [[nodiscard]] static Ledger load(const std::string& path,
                                   const std::string& remedy = "make it again, or copy it again");
};

/// The newest ledger of a curation: the finished one, else that of the last complete stage.
/// MissingInputError, UpstreamError.
[[nodiscard]] std::string newest_ledger(const std::string& out);
[[nodiscard]] Verdict verdict_of(Reason reason, Stage stage);
[[nodiscard]] std::string location_of(const std::string& path, int64_t offset);
/// Whether row a of a group of copies stands for it rather than row b: more pixels, then the less lossy
/// coding, then the larger file, then the lower row. A total order.
[[nodiscard]] bool represents_before(const Ledger& ledger, int64_t a, int64_t b);
/// The same as a number per row, higher is better, for group_rows.
[[nodiscard]] std::vector<double> representative_ranks(const Ledger& ledger,
                                                       const std::vector<int64_t>& rows);
/// The stages that drop images, in the order in which they run.
[[nodiscard]] std::span<const Stage> dropping_stages();
[[nodiscard]] std::string hex(const std::array<uint8_t, 32>& digest);
[[nodiscard]] std::array<uint8_t, 32> sha256_of(std::span<const uint8_t> bytes);

}  // namespace dino::curation
