// SPDX-License-Identifier: Apache-2.0
#pragma once
// Images -> batches of crops. Each image is decoded once and cut into all its crops; worker threads prepare
// batches ahead. Which image is sample number c of the run, and its crops, are pure functions of (seed, c):
// neither ranks nor threads nor restarts change them.

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "comm/communicator.hpp"
#include "datasets/record_list.hpp"
#include "imaging/augment.hpp"
#include "replaced_samples.hpp"
#include "tensor/tensor.hpp"
#include "train_config.hpp"

namespace dino::pretrain {

struct LoaderConfig {
  AugmentConfig augment;
  int64_t max_side = 0;  ///< larger images are reduced to it after decoding; 0 = off
  bool pad = false;
  std::optional<Colour> background;  ///< none: visible_background decides
  int64_t decode_memory = DecodeLimits{}.max_memory;
  int64_t batch = 64;  ///< images per step over all ranks
  int64_t workers = 1, prefetch = 3;
  int64_t cache_bytes = 0;
  uint64_t seed = 0;
  /// Crops are only drawn; a GPU makes them (StepCrops).
  bool only_draw = false;
  /// Then, of a larger picture the crops are cut out here, each a picture of its own: no step waits with more
  /// than this for an image.
  int64_t picture_bytes = int64_t{8} << 20;
};

/// Of settings that are complete.
[[nodiscard]] LoaderConfig make_loader_config(const TrainConfig& config, uint64_t seed, int threads);

/// Decodes records on demand and keeps the decoded images up to a budget of bytes, and of the records that
/// cannot be decoded up to kRememberedFaults: its memory does not grow with their number. Thread-safe.
class ImageCache {
 public:
  /// Where `decoded` is not empty, these are the images of records 0, 1, ..., and `list` is not read.
  ImageCache(const RecordList& list, const LoaderConfig& config,
             std::vector<std::shared_ptr<const Image>> decoded = {});
  struct Loaded {
    std::shared_ptr<const Image> image;  ///< empty: the record was read whole and cannot be decoded
    DecodeStatus status = DecodeStatus::ok;
  };
  /// A record's fault is logged once, as long as it is remembered. IoError when the file system fails: to
  /// leave the image out here, while another rank or a later start can read it, would change the samples.
  [[nodiscard]] Loaded get(int64_t record);
  [[nodiscard]] int64_t records() const { return records_; }
  /// Records that could not be decoded; one that is forgotten counts again.
  [[nodiscard]] int64_t bad_records() const;
  [[nodiscard]] std::string bad_examples() const;
  static constexpr size_t kRememberedFaults = 65'536;

 private:
  void remember_fault(int64_t record, const Record& source, DecodeStatus status, const std::string& why);

  const RecordList& list_;
  const LoaderConfig& config_;
  int64_t records_;
  mutable std::mutex mutex_;
  std::unordered_map<int64_t, std::shared_ptr<const Image>> images_;
  std::unordered_map<int64_t, DecodeStatus> bad_;
  int64_t bytes_ = 0, bad_count_ = 0;
  std::string bad_examples_;
};

/// The record that is sample number `sample`: epoch e = sample / N walks a permutation drawn from (seed, e).
class SampleOrder {
 public:
  SampleOrder(int64_t records, uint64_t seed) : records_(records), seed_(seed) {}
  [[nodiscard]] int64_t record(int64_t sample) const;

 private:
  int64_t records_;
  uint64_t seed_;
};

/// What a crop is made of.
struct CropSource {
  std::shared_ptr<const Image> picture;
  CropSteps steps;
};

/// This rank's crops of one step, in StepBatch's layout.
struct CropSet {
  int64_t step = -1;
  int64_t images = 0;
  Tensor global_crops;  ///< f32 [2B, 3, G, G]
  Tensor local_crops;   ///< f32 [L*B, 3, S, S]
  /// Instead of them, in the same order, where crops are only drawn.
  std::vector<CropSource> global_sources, local_sources;
  /// Sum over the images of the CRC32C of their sample number, their pixels and all that is drawn for their
  /// crops: added over the ranks it is the same for any number of them, and whatever makes the crops.
  int64_t checksum = 0;
};

/// What the loader does for one image on one thread, and what it keeps of it.
struct LoadingCost {
  double decode_seconds = 0;   ///< read, decode, reduce: once where the image stays in the cache
  double augment_seconds = 0;  ///< its crops, at every step that it is in
  int64_t bytes = 0;           ///< mean of an image that is kept
  int64_t decode_bytes = 0;    ///< of the largest image while it is decoded
};
/// Loads up to `count` images, evenly spread, for no longer than a few seconds. Images that do not decode are
/// left out (all zero where none does).
[[nodiscard]] LoadingCost measure_loading(const RecordList& list, const LoaderConfig& config, int64_t count);

class DataLoader {
 public:
  /// Prepares steps first_step, first_step + 1, ... until it is destroyed. Where `decoded` is not empty, the
  /// records' images are these, one each, and no file is read.
  DataLoader(const RecordList& list, LoaderConfig config, Range images_of_rank, int64_t first_step,
             std::vector<std::shared_ptr<const Image>> decoded = {});
  ~DataLoader();
  DataLoader(const DataLoader&) = delete;
  DataLoader& operator=(const DataLoader&) = delete;

  struct Awaited {
    std::exception_ptr failure;  ///< what next() would throw
    ReplacedCounts replaced{};   ///< samples of this rank in the step
  };
  /// Waits until next() has its crops or its exception.
  [[nodiscard]] Awaited await();
  /// The crops of the next step; valid until the next call. Rethrows a worker's exception.
  [[nodiscard]] const CropSet& next();
  /// What the next next() returns, where it is ready; else null. Does not wait.
  [[nodiscard]] const CropSet* upcoming();
  [[nodiscard]] const AugmentConfig& augment() const { return config_.augment; }
  [[nodiscard]] double wait_seconds() const { return wait_seconds_; }  ///< of the last next()
  [[nodiscard]] int64_t bad_records() const { return cache_.bad_records(); }
  /// The first few broken images that this rank met, one line.
  [[nodiscard]] std::string bad_examples() const { return cache_.bad_examples(); }

 private:
  struct Slot {
    CropSet crops;
    int64_t started = 0, finished = 0;  ///< images handed out / done
    std::vector<int64_t> checksums;     ///< of each image
    std::vector<DecodeStatus> status;   ///< of each sample's own image: not ok where another stands for it
  };
  void work();
  void fill(Slot& slot, int64_t image, int64_t record);
  /// Crop `index` of its group, of `size` pixels.
  void fill_crop(std::shared_ptr<const Image> picture, const CropSteps& steps, int64_t size, int64_t index,
                 Tensor& crops, std::vector<CropSource>& sources) const;
  /// The record's image, or the next one's that decodes, with the status of the record itself.
  [[nodiscard]] ImageCache::Loaded load(int64_t record);
  [[nodiscard]] bool is_complete() const;  ///< the next step's slot; under the lock

  const RecordList& list_;
  LoaderConfig config_;
  Range range_;
  ImageCache cache_;
  SampleOrder order_;
  std::mutex mutex_;
  std::condition_variable work_ready_, batch_ready_;
  std::vector<Slot> slots_;
  int64_t next_step_;  ///< the step that next() returns next
  int64_t fill_step_;  ///< the step that workers hand out
  bool stop_ = false;
  std::exception_ptr failure_;
  double waited_ = 0;  ///< in await(), since the last next()
  double wait_seconds_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace dino::pretrain
