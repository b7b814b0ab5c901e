// SPDX-License-Identifier: Apache-2.0
#pragma once
// Writes checkpoints beside the steps of a training, by the commit protocol of checkpoint.hpp. Between two
// steps a rank copies the parts that it answers for; a thread writes the copy as its shard, fsyncs it and
// computes its checksum while the steps go on; between two later steps, when all ranks' shards are written,
// the checkpoint is committed.
//
// The thread makes no MPI call, and is the only one of the process that writes HDF5. The library is not
// thread-safe: every call of Hdf5File holds the process's lock (storage/hdf5.hpp), so that one who reads
// meanwhile waits for the dataset that is being written, and no longer.

#include <atomic>
#include <cstdint>
#include <future>
#include <map>
#include <string>
#include <vector>

#include "training/checkpoint.hpp"

namespace dino {

class CheckpointWriter {
 public:
  /// Makes room for a copy of this rank's own parts of `stores`: of everything, over all ranks one model with
  /// its moments. No later checkpoint allocates tensors. `comm` must outlive the writer.
  CheckpointWriter(std::string run, const CheckpointStores& stores, const Communicator& comm,
                   const Retention& keep);
  /// What is still being written is dropped: the folder stays under its temporary name.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Collective, with nothing pending. Copies `content`, whose stores are those of the constructor and may
  /// change afterwards, and begins to write step_N. IoError on all ranks when its folder cannot be made.
  void begin(int64_t step, const CheckpointContent& content);
  /// A checkpoint has begun, and is not finished. The same on all ranks.
  [[nodiscard]] bool pending() const { return shard_.valid(); }
  /// Of the pending one.
  [[nodiscard]] int64_t step() const { return step_; }
  /// This rank's shard is written, or has failed; true where nothing is pending.
  [[nodiscard]] bool written() const;
  /// Collective, with one pending: waits for all ranks' shards, and leaves step_N complete or absent, and
  /// nothing else. The Error of the lowest rank that failed, on all ranks: IoError, or that of exit code 75
  /// when a stop was asked for while a fault was tried again. Removes the checkpoints that do not stay.
  /// Returns the folder.
  std::string finish();

 private:
  void copy_own_parts(const CheckpointContent& content);
  /// The thread's work; returns the shard's entry of the manifest.
  [[nodiscard]] std::string write_shard() const;
  void commit(const std::string& folder, const std::vector<std::string>& shards) const;

  std::string run_;
  const Communicator& comm_;
  Retention keep_;
  std::vector<Range> ranges_;                        ///< this rank's own, by unit
  std::map<std::string, std::vector<Tensor>> copy_;  ///< by store and unit; untouched while one is pending
  CheckpointContent content_;                        ///< of the pending one
  int64_t step_ = -1;
  std::string temporary_;  ///< the pending one's folder until it is committed
  std::atomic<bool> dropped_{false};
  std::future<std::string> shard_;
};

/// A checkpoint of values that are not trained meanwhile: begins and finishes. Collective.
std::string save_checkpoint(const std::string& run, int64_t step, const CheckpointContent& content,
                            const Communicator& comm, const Retention& keep = {});

}  // namespace dino
