// SPDX-License-Identifier: Apache-2.0
#pragma once
// Numeric files from outside: .npy and .safetensors, with every size checked against the file before memory
// is allocated.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tensor/tensor.hpp"

namespace dino {

class PosixFile;

/// NumPy array header. DataError names the file and the fault (magic, header length, Fortran order, dtype,
/// size past the end).
struct NpyInfo {
  std::vector<int64_t> shape;
  std::string dtype;  ///< "<f4", "<f2", "<i8", ...
  int64_t data_offset = 0;
};
[[nodiscard]] NpyInfo read_npy_info(const std::string& path);
/// Rows [begin, begin+count) of a 2-D '<f4' or '<f2' array as f32.
void read_npy_rows(const std::string& path, const NpyInfo& info, int64_t begin, int64_t count, float* out);
/// The same of a file that stays open.
void read_npy_rows(const PosixFile& file, const NpyInfo& info, int64_t begin, int64_t count, float* out);
void write_npy(const std::string& path, ConstTensorView data);

/// A .safetensors file: header plus raw tensors.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);
  struct Entry {
    std::string dtype;  ///< "F32", "F16", "BF16", "I64", ...
    std::vector<int64_t> shape;
    int64_t begin = 0, end = 0;  ///< bytes, absolute in the file
  };
  [[nodiscard]] const std::map<std::string, Entry>& entries() const { return entries_; }
  [[nodiscard]] Tensor read_f32(const std::string& name) const;  ///< converts F16, BF16, F64
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};
/// F32 tensors in name order; metadata {"format":"pt"} and the given. Atomic.
void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, ConstTensorView>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace dino
