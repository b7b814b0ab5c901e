// SPDX-License-Identifier: Apache-2.0
#pragma once
// Python's pickle format (protocols 0 to 5) read as data. Nothing is imported and nothing is called: what is
// not a tensor, a container or a plain value becomes an opaque object that keeps the name of its class and
// the fields that the pickle gives it. Internal to src/model.

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace dino {

/// A tensor as the pickle describes it; its bytes are elsewhere in the file.
struct PickledTensor {
  std::string storage;  ///< key of its storage
  std::string type;     ///< "FloatStorage", "HalfStorage", ...; of an untyped storage the dtype, "float16"
  int64_t offset = 0;   ///< in elements
  std::vector<int64_t> shape, stride;
};

/// What a torch.save pickle holds. Names are keys of nested containers and fields, joined by dots.
struct PickledFile {
  std::map<std::string, PickledTensor> tensors;
  std::map<std::string, std::string> facts;   ///< texts and integers beside them: "args.arch" -> "vit_small"
  std::map<std::string, std::string> opaque;  ///< values that are neither, and their class
  std::set<std::string> classes;              ///< all that were named and passed over
};
/// Throws DataError that names `path` and the fault.
[[nodiscard]] PickledFile read_pickled_file(std::span<const uint8_t> bytes, const std::string& path);

/// A storage that the persistent ids of a pickle name, in PyTorch's format before 1.6.
struct LegacyStorage {
  std::string key, type;
};
/// The five pickles at the start of such a file: magic number, version, machine, object, keys of storages.
struct LegacyFile {
  PickledFile content;
  std::vector<LegacyStorage> storages;  ///< in the order of their bytes in the file
  size_t end = 0;                       ///< where those begin
};
[[nodiscard]] bool is_legacy_file(std::span<const uint8_t> head);
[[nodiscard]] LegacyFile read_legacy_file(std::span<const uint8_t> bytes, const std::string& path);

}  // namespace dino
