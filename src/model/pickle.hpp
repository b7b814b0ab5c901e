// SPDX-License-Identifier: Apache-2.0
#pragma once
// A reader of the part of Python's pickle format that torch.save uses for a dict of tensors. It builds plain
// data and calls nothing: a pickle that names any other function or class is refused. Internal to src/model.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dino {

/// A tensor as the pickle describes it; its bytes are in another member of the archive.
struct PickledTensor {
  std::string name;     ///< keys of nested dicts, joined by dots
  std::string storage;  ///< key of the archive member data/<storage>
  std::string type;     ///< "FloatStorage", "HalfStorage", ...
  int64_t offset = 0;   ///< in elements
  std::vector<int64_t> shape, stride;
};
/// Throws DataError that names `path` and the fault.
[[nodiscard]] std::vector<PickledTensor> read_pickled_tensors(std::span<const uint8_t> bytes,
                                                              const std::string& path);

}  // namespace dino
