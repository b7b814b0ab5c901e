// SPDX-License-Identifier: Apache-2.0
#pragma once
// Checkpoints by the commit protocol: RUN/checkpoints/step_00001000/{manifest.json, rank_0000.h5, ...}. Every
// rank writes its own part of every unit (parallel/shard_plan.hpp) through the serial driver, whatever else
// it holds; rank 0 renames the manifest last. Parameters are found by logical name and flat range, so any
// number of ranks, sharded in any way, loads any checkpoint, and each reads its own part alone.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "parallel/sharded_values.hpp"

namespace dino {

/// Named values on the host, of one plan: "student", "teacher", "adam_m", "adam_v".
using CheckpointStores = std::map<std::string, ShardedValues*>;

/// What a checkpoint holds: values, and scalars and small vectors by name.
struct CheckpointContent {
  CheckpointStores stores;
  std::map<std::string, std::vector<double>> vectors;  ///< e.g. softmax centres
  std::map<std::string, int64_t> integers;             ///< step, samples_consumed, seed, ...
  std::string model_json;                              ///< configuration of the model (backbone and heads)
  std::string config_ini;                              ///< all settings in force
  Stream* stream = nullptr;                            ///< of the stores' device; null: they are the host's
};

/// Which checkpoints stay: the newest `newest` (>= 2), every `every`-th step (0 = none), and the best one.
struct Retention {
  int64_t newest = 2, every = 0;
};
/// Removes the complete checkpoints that do not stay. Rank 0.
void remove_old_checkpoints(const std::string& run, const Retention& keep);
/// Removes a folder whole; a kill in the middle of it leaves none that looks like a checkpoint. Warns where
/// it cannot.
void remove_checkpoint(const std::string& folder);

/// RUN/checkpoints/best leads to a checkpoint of the run from now on. Rank 0.
void mark_best_checkpoint(const std::string& run, const std::string& folder);

/// The checkpoint as one file, from which a run goes on as from the folder. Needs memory for one unit.
void write_full_checkpoint(const std::string& checkpoint, const std::string& path);

/// What killed writers left. Rank 0, holding the run's lock.
void remove_unfinished_checkpoints(const std::string& run);

/// The complete checkpoints of a run, newest first (a folder without manifest.json is ignored).
[[nodiscard]] std::vector<std::string> list_checkpoints(const std::string& run);
/// Reads the manifest and verifies sizes and checksums of all shards; returns "" when valid, else the fault
/// in one line.
[[nodiscard]] std::string verify_checkpoint(const std::string& folder);
/// The newest valid checkpoint of a run ("" = none); every invalid one that is passed over is warned about
/// with its fault.
[[nodiscard]] std::string newest_valid_checkpoint(const std::string& run);
/// A run that goes on from `step` leaves the history of its later checkpoints: they get the name
/// step_N.abandoned, which nothing reads, so that neither the next start nor the retention takes them for the
/// newest.
void set_aside_checkpoints(const std::string& run, int64_t step);
/// Loads what `content` asks for: the stores named in it must exist with the same names and shapes (DataError
/// names the first difference); vectors and integers are filled. Collective: every rank reads its own part,
/// and what others hold of it too goes from rank to rank.
void load_checkpoint(const std::string& folder, CheckpointContent& content, const Communicator& comm);

struct CheckpointHeader {
  int64_t step = 0, samples = 0;
  int ranks = 0;
  std::string version, commit, model_json, config_ini;
  struct TensorEntry {
    std::string store, name;
    Shape shape;
  };
  std::vector<TensorEntry> tensors;
  struct ShardEntry {
    std::string file;
    int64_t bytes = 0;
    std::string crc32c;
  };
  std::vector<ShardEntry> shards;
};
[[nodiscard]] CheckpointHeader read_checkpoint_header(const std::string& folder);
/// One tensor of one store, assembled from the shards that hold it.
[[nodiscard]] Tensor read_checkpoint_tensor(const std::string& folder, const std::string& store,
                                            const std::string& name);

}  // namespace dino
