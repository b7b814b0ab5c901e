// SPDX-License-Identifier: Apache-2.0
#pragma once
// The pipeline of `run`. A stage reads what the one before it committed, decides on rank 0, and commits
// OUT/stages/<stage>.json last; a stage with that file is complete and is not run again. Everything that a
// later stage reads carries a checksum (storage/seal.hpp) and is compared with it there: what is damaged is
// never used.

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/progress.hpp"
#include "comm/communicator.hpp"
#include "comm/keeping_pace.hpp"
#include "config.hpp"
#include "ledger.hpp"
#include "listing.hpp"
#include "stage_marker.hpp"

namespace dino::curation {

struct Run {
  const Communicator& world;
  CurateConfig config;
  std::string out;                 ///< output folder
  std::string hash;                ///< config_hash(config)
  Listing listing{};               ///< on rank 0, once a stage asked for it
  Listing excluded{};              ///< the same of --exclude
  std::vector<StageFile> wrote{};  ///< on rank 0: what the running stage committed
  std::string after{};             ///< on rank 0: checksum of the marker of the stage before

  [[nodiscard]] std::string work(const std::string& name) const { return out + "/work/" + name; }
  [[nodiscard]] std::string stage_file(const std::string& name) const { return out + "/stages/" + name; }
  /// Rank 0: `path` below OUT belongs to the result of the running stage.
  void add_written(const std::string& path) { wrote.push_back(stage_file_of(out, path)); }
};

/// Returned by a stage: false = stopped early by a signal; start again to go on.
using StageFunction = bool (*)(Run&);
struct StageEntry {
  const char* name;
  StageFunction run;
  /// Every file that it may leave below OUT besides its marker, the one that others look for first. Shards
  /// are the export's own affair.
  std::array<const char*, 4> outputs;
};
/// In order: ingest, embed, filter, dedup, decontaminate, balance, export, report.
[[nodiscard]] std::span<const StageEntry> stage_entries();

bool ingest_stage(Run& run);
bool embed_stage(Run& run);
bool filter_stage(Run& run);
bool dedup_stage(Run& run);
bool decontaminate_stage(Run& run);
bool balance_stage(Run& run);
bool export_stage(Run& run);
bool report_stage(Run& run);

// ---- what stages share
/// Rank 0: lists the inputs and the excluded sets (once) and compares them with what ingest saw. Changes
/// nothing; keep_listing records them.
void compare_listing(Run& run);
void keep_listing(Run& run);
/// Rank 0: the listing alone.
void list_references(Run& run);
/// Rank 0: both, for a stage that reads pictures.
void load_listing(Run& run);
/// Rank 0: removes what is left of the stage in OUT; shards by themselves.
void remove_outputs(const std::string& out, const StageEntry& stage);
void remove_shards(const std::string& out);
/// Rank 0: the ledger as the stage left it, compared with its checksum.
[[nodiscard]] Ledger load_stage(const Run& run, const std::string& stage);
void save_stage(Run& run, const Ledger& ledger, const std::string& stage);
/// Rank 0: makes OUT/work/<stage>; units that were made from something else (another `identity`) are removed,
/// and `others` called before.
void begin_units(const Run& run, const std::string& stage, const std::string& identity,
                 const std::function<void()>& others = {});
/// Rank 0: whether OUT/work/<stage> holds units of this identity.
[[nodiscard]] bool units_made_from(const Run& run, const std::string& stage, const std::string& identity);
/// Rank 0: what makes the units of ingest.
[[nodiscard]] std::string ingest_identity(const Run& run, int64_t images);
/// Rank 0: a work unit that is there and whose checksum holds; one that is damaged is named and made again.
[[nodiscard]] bool unit_done(const std::string& path);
/// DataError when the file has another size than it had in the listing: a part of it is no image to judge.
void check_size(const Record& record);
/// The bytes of a record, if they are those that ingest judged.
[[nodiscard]] std::optional<std::vector<uint8_t>> read_as_judged(const Item& item);
/// Rank 0: the records of these rows, with the digests of what was judged.
[[nodiscard]] std::vector<Item> judged_items(const Run& run, const Ledger& ledger,
                                             const std::vector<int64_t>& rows);
/// Cuts `items` into units of `unit` items; leaves out units for which `done(number)`; spreads the rest
/// evenly. Collective; `items` and `done` are used on rank 0 only.
struct Units {
  std::vector<std::vector<Item>> mine;
  std::vector<int64_t> number;  ///< of each of mine
  int64_t total = 0, missing = 0;
  const char* counted = "images";  ///< what progress counts
};
[[nodiscard]] Units share_units(const std::vector<Item>& items, int64_t unit,
                                const std::function<bool(int64_t)>& done, const Communicator& world);
/// Counts what all ranks have done, for progress. Any thread of a parallel region may call it.
class UnitCounter {
 public:
  UnitCounter(Progress& progress, KeepingPace& pace) : progress_(progress), pace_(pace) {}
  void add(int64_t done = 1);
  void show();  ///< the first thread only

 private:
  Progress& progress_;
  KeepingPace& pace_;
  std::atomic<int64_t> mine_{0};
};
/// Calls `work` for every unit of this rank, which counts every item that it has done; stops at a unit's
/// boundary on request. An Error of any rank is thrown on all. False when any rank stopped. Collective.
bool process_units(
    const std::string& stage, const Units& units, const Communicator& world,
    const std::function<void(int64_t number, const std::vector<Item>& items, UnitCounter& counter)>& work);
/// The rows of the ledger that have an embedding, and the embedding's file. Its content is compared with the
/// checksum by load_rows or verify_embeddings.
[[nodiscard]] std::string embeddings_path(const Run& run);
[[nodiscard]] std::vector<int64_t> embedded_rows(const Run& run, const Ledger& ledger);
void verify_embeddings(const Run& run);  ///< collective
/// For people and for the manifest: the filters of quality, their limits, and which are so by default.
[[nodiscard]] std::string filters_text(const CurateConfig& config);
[[nodiscard]] std::vector<std::pair<std::string, double>> filters_in_force(const CurateConfig& config);
/// The rows that the embed stage is asked for: decoded, and no copy of an earlier file where copies go.
[[nodiscard]] std::vector<int64_t> rows_to_embed(const Ledger& ingested, const CurateConfig& config);
/// The kept rows and, for each, its row in the embeddings; the same on every rank. `ledger` is rank 0's;
/// `check` looks at the rows there and may throw. Collective.
struct KeptRows {
  std::vector<int64_t> row, embedding;
  [[nodiscard]] int64_t count() const { return static_cast<int64_t>(row.size()); }
};
[[nodiscard]] KeptRows share_kept(const Run& run, const Ledger& ledger,
                                  const std::function<void(const KeptRows&)>& check = {});
/// This rank's part (even_range) of the kept rows' unit vectors, f32 [n, width].
[[nodiscard]] Tensor load_kept(const Run& run, const KeptRows& kept);

// ---- pictures -> vectors (ingest, decontaminate)
struct MeasuredImage {
  Measured measured;
  Image image;  ///< empty when it could not be decoded
};
[[nodiscard]] MeasuredImage measure_record(const Record& record, const CurateConfig& config);

/// For the identity of what is left half done: vectors of a GPU and of the CPU do not go into one stage.
[[nodiscard]] std::string embed_device_text(const CurateConfig& config);

/// Turns images into embeddings as the configuration says, whose device is settled. The same bytes come from
/// any number of ranks: batches are cut by the input alone, and one kind of GPU with one release of cuBLASLt
/// multiplies a batch of one size in one way. Other GPUs, other releases and the CPU differ in the last bits.
class Embedder {
 public:
  explicit Embedder(const CurateConfig& config);
  ~Embedder();
  [[nodiscard]] int64_t width() const;
  /// Whether it is a backbone, to which batches go; the copy descriptor takes one picture at a time.
  [[nodiscard]] bool batched() const;
  /// The picture that the backbone sees; of the copy descriptor, the picture itself.
  [[nodiscard]] Image input(const Image& image) const;
  /// out f32 [images, width], unit rows. `images` may be whole or inputs.
  void embed(std::span<const Image> images, float* out) const;

 private:
  struct Backend;
  std::unique_ptr<Backend> backend_;
};

}  // namespace dino::curation
