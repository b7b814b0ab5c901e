// SPDX-License-Identifier: Apache-2.0
#pragma once
// The reading side of checkpoints: FOLDER/manifest.json names the units of the model and the shards (one HDF5
// file per writing rank); a shard holds, per store and unit, the flat f32 range [begin, end) of the unit as
// dataset "/<store>/<unit name>". Any range is put together from the shards that overlap it, so the number of
// writing ranks does not matter to the reader.

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/parameters.hpp"
#include "tensor/tensor.hpp"

namespace dino {

class Hdf5File;

/// manifest.json, checked: ranges lie in their units, every unit is covered exactly once, parameters lie in
/// their units.
struct CheckpointManifest {
  struct Parameter {
    std::string name;
    Shape shape;
    int64_t offset = 0;  ///< in its unit
  };
  struct Unit {
    std::string name, module;
    int64_t padded = 0;
    std::vector<Parameter> parameters;
  };
  struct Shard {
    std::string file;
    int64_t bytes = 0;
    std::string crc32c;                          ///< 8 hex digits
    std::vector<std::array<int64_t, 2>> ranges;  ///< per unit [begin, end)
  };
  std::string path;  ///< of the checkpoint: a folder, or a file that holds all of it
  int64_t step = 0, samples = 0;
  int ranks = 0;
  std::string model_json;  ///< the "model" object as text
  std::vector<std::string> stores;
  std::vector<Unit> units;
  std::vector<Shard> shards;
  std::string json;  ///< the whole manifest, for fields that only the writer knows

  [[nodiscard]] bool has_store(const std::string& name) const;
  [[nodiscard]] std::string shard_path(size_t shard) const;
  [[nodiscard]] std::string text_path() const;  ///< of the file that holds the manifest, for messages
};

/// A file that holds a whole checkpoint has the manifest as this dataset (a string), the values as those of a
/// single shard, and a seal (storage/seal.hpp).
inline constexpr const char* kManifestDataset = "/manifest";
/// A folder with a manifest.json, or such a file.
[[nodiscard]] bool is_checkpoint(const std::string& path);
/// Throws MissingInputError (no manifest.json: not a complete checkpoint) or DataError (file, cause).
[[nodiscard]] CheckpointManifest read_checkpoint_manifest(const std::string& path);
/// The text of a manifest (a JSON object) with a checksum of itself as its last member.
[[nodiscard]] std::string seal_manifest(std::string json);
/// Size and CRC32C of every shard against the manifest (of a single file against its seal): "" when all
/// agree, else the first fault in one line.
[[nodiscard]] std::string find_shard_fault(const CheckpointManifest& manifest);

/// Folders RUN/checkpoints/step_* that hold a manifest.json, newest (largest step) first; one without is an
/// unfinished write and is not listed.
[[nodiscard]] std::vector<std::string> complete_checkpoints(const std::string& run);
/// The newest whose manifest and shards are sound ("" = none). Each one passed over is warned about with its
/// fault.
[[nodiscard]] std::string newest_sound_checkpoint(const std::string& run);

/// Reads values of one checkpoint. Not for use by several threads at once (HDF5).
class CheckpointReader {
 public:
  explicit CheckpointReader(CheckpointManifest manifest);
  ~CheckpointReader();
  CheckpointReader(const CheckpointReader&) = delete;
  CheckpointReader& operator=(const CheckpointReader&) = delete;

  [[nodiscard]] const CheckpointManifest& manifest() const { return manifest_; }
  /// Elements [begin, begin + out.size()) of a unit (index into manifest().units); DataError when the store
  /// is absent or a dataset is not what the manifest says.
  void read_range(const std::string& store, int64_t unit, int64_t begin, std::span<float> out);
  /// One parameter by its full name; DataError when the checkpoint has none of that name.
  [[nodiscard]] Tensor read_tensor(const std::string& store, const std::string& name);
  /// Elements [begin, begin + out.size()) of a parameter, found by its full name; DataError when it is
  /// missing or of another shape.
  void read_part(const std::string& store, const ParameterInfo& parameter, int64_t begin,
                 std::span<float> out);
  /// Fills every parameter of `out` so.
  void read_store(const std::string& store, ParameterStore& out);

 private:
  struct Place {
    int64_t unit = 0;
    const CheckpointManifest::Parameter* parameter = nullptr;
  };
  [[nodiscard]] Place find(const std::string& name) const;
  Hdf5File& shard_file(size_t shard);

  CheckpointManifest manifest_;
  std::map<std::string, Place> places_;
  std::map<size_t, std::unique_ptr<Hdf5File>> open_;
};

}  // namespace dino
