// SPDX-License-Identifier: Apache-2.0
#pragma once
// RAII over the serial HDF5 library. It is not thread-safe: every call here takes one process-wide mutex. All
// errors are DataError (reading) or IoError (writing) that name the file and the dataset. Datasets read are
// checked against limits before memory is allocated, and a file of unknown checksum is read by another
// process (hdf5_remote.hpp), because the library itself can crash on damaged metadata.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.hpp"

namespace dino {

namespace h5 {
class RemoteFile;
}

class Hdf5File {
 public:
  /// Begins as an HDF5 file does.
  [[nodiscard]] static bool is_hdf5(const std::string& path);
  static Hdf5File open(const std::string& path);  ///< read-only; MissingInputError, DataError
  /// For a file whose checksum has just been compared: in this process.
  static Hdf5File open_verified(const std::string& path);
  static Hdf5File create(const std::string& path);  ///< truncates, follows no link; IoError
  Hdf5File(Hdf5File&&) noexcept;
  Hdf5File& operator=(Hdf5File&&) noexcept;
  ~Hdf5File();

  // -- reading. Names are absolute paths ("/model/x").
  [[nodiscard]] bool exists(const std::string& name) const;
  [[nodiscard]] std::vector<std::string> list(
      const std::string& group) const;  ///< child names, sorted; empty if absent
  [[nodiscard]] std::vector<std::string> list_datasets(const std::string& group)
      const;  ///< all datasets below, recursive, absolute, sorted (follows external and soft links)
  struct Info {
    Shape shape;
    std::vector<int64_t> dims;  ///< all dimensions, any rank
    DType dtype;  ///< nearest; integers of other widths map to i64 (i8..u16,u32 -> i64 by conversion)
    bool is_string = false;
  };
  [[nodiscard]] Info info(const std::string& name) const;
  /// Whole dataset, converted to `dtype` by the library. Ranks above 4 are folded into the last dimension.
  [[nodiscard]] Tensor read(const std::string& name, DType dtype) const;
  [[nodiscard]] Tensor read(const std::string& name) const;  ///< as stored
  /// Rows [begin, begin + count) of the outermost dimension into caller memory of out.shape = [count, ...].
  void read_rows(const std::string& name, int64_t begin, TensorView out) const;
  /// Where in the file a contiguous dataset of exactly this type begins; -1 for any other.
  [[nodiscard]] int64_t data_offset(const std::string& name, DType dtype) const;
  [[nodiscard]] std::vector<std::string> read_strings(const std::string& name) const;
  /// `count` of them from `begin` on.
  [[nodiscard]] std::vector<std::string> read_strings(const std::string& name, int64_t begin,
                                                      int64_t count) const;
  [[nodiscard]] bool has_attribute(const std::string& object, const std::string& name) const;
  [[nodiscard]] std::vector<std::string> attributes(const std::string& object) const;
  [[nodiscard]] std::vector<double> attribute_numbers(const std::string& object,
                                                      const std::string& name) const;
  [[nodiscard]] double attribute_number(const std::string& object, const std::string& name) const;
  [[nodiscard]] std::string attribute_string(const std::string& object, const std::string& name) const;
  [[nodiscard]] std::vector<std::string> attribute_strings(const std::string& object,
                                                           const std::string& name) const;

  // -- writing. Parent groups are made as needed. Data are contiguous and carry no timestamps: equal content
  // gives equal bytes.
  void write(const std::string& name, ConstTensorView data);
  /// Variable-length UTF-8. A value ends at its first zero byte.
  void write_strings(const std::string& name, const std::vector<std::string>& values);
  /// Creates a dataset of full size to be filled by write_rows (for streaming).
  void create_dataset(const std::string& name, Shape shape, DType dtype);
  void write_rows(const std::string& name, int64_t begin, ConstTensorView rows);
  void write_attribute(const std::string& object, const std::string& name, const std::string& value);
  void write_attribute(const std::string& object, const std::string& name, double value);
  void write_attribute(const std::string& object, const std::string& name, int64_t value);
  void write_attribute(const std::string& object, const std::string& name,
                       const std::vector<std::string>& values);
  void write_attribute(const std::string& object, const std::string& name, std::span<const int64_t> values);
  void write_attribute(const std::string& object, const std::string& name, std::span<const double> values);
  /// Flushes and closes with errors reported (the destructor cannot report).
  void close();
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  explicit Hdf5File(std::string path, int64_t id);
  std::string path_;
  int64_t id_ = -1;  ///< -1 when another process reads it
  std::unique_ptr<h5::RemoteFile> remote_;
};

}  // namespace dino
