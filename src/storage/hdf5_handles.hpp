// SPDX-License-Identifier: Apache-2.0
#pragma once
// What hdf5.cpp and hdf5_write.cpp share: the library's lock, its handles and its error text.

#include <hdf5.h>

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.hpp"

namespace dino::h5 {

/// Takes the process-wide lock; the first one also silences the library's own error printing.
class Lock {
 public:
  Lock();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

/// Owns one identifier of any kind. Use it under a Lock only.
class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }  // NOLINT(google-explicit-constructor)
  [[nodiscard]] bool ok() const { return id_ >= 0; }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

/// The innermost cause on the library's error stack, or "the HDF5 library gives no cause".
[[nodiscard]] std::string cause();
/// Does this cause name an errno of a failing file system (EIO, ESTALE...)? Then the file is not to blame.
[[nodiscard]] bool is_of_the_system(const std::string& why);
/// DataError; IoError where the cause is_of_the_system.
[[noreturn]] void fail_read(const std::string& what, const std::string& file, const std::string& object);
[[noreturn]] void fail_write(const std::string& what, const std::string& file, const std::string& object);

/// The library's own locks of files: not where ours hold the folder, and not where the file system has none.
void switch_locking_off(hid_t access);

/// The type in memory. bf16 and f16 are 16-bit floats of 8 and 5 exponent bits that the library converts.
[[nodiscard]] Handle memory_type(DType dtype);
/// Little-endian type in files.
[[nodiscard]] Handle file_type(DType dtype);

/// The number of rows that a view of this shape holds; DataError when the dataset has no such rows.
[[nodiscard]] int64_t check_rows(const std::vector<int64_t>& dims, int64_t begin, const Shape& wanted,
                                 const std::string& file, const std::string& object);

}  // namespace dino::h5
