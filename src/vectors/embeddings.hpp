// SPDX-License-Identifier: Apache-2.0
#pragma once
// An embeddings reference: .npy (float32 or float16, C order, N x d), .h5 (/features), or a folder of them in
// name order. Read by rows, so that anything larger than memory streams.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tensor/tensor.hpp"

namespace dino {

class Communicator;

class EmbeddingStore {
 public:
  /// Checks every header against its file. MissingInputError, DataError (name, cause). Widths of all files
  /// must agree.
  static EmbeddingStore open(const std::string& reference);
  [[nodiscard]] int64_t rows() const { return rows_; }
  [[nodiscard]] int64_t width() const { return width_; }
  /// Rows [begin, begin + count) as f32. DataError on non-finite values (names the row).
  void read(int64_t begin, int64_t count, float* out) const;
  /// Compares every file that carries a checksum (storage/seal.hpp) with it, each rank a part of the bytes.
  /// DataError on all ranks, ended by `remedy`. Collective.
  void verify(const Communicator& comm, const std::string& remedy) const;
  [[nodiscard]] const std::string& reference() const { return reference_; }

 private:
  struct Part {
    std::string path;
    int64_t rows = 0;
    bool hdf5 = false;
  };
  class OpenFiles;
  std::shared_ptr<OpenFiles> open_;  ///< the files read last stay open; copies of a store share them
  std::string reference_;
  std::vector<Part> parts_;
  int64_t rows_ = 0, width_ = 0;
};

/// x / |x| per row in place; a zero row stays zero.
void normalize_rows(float* x, int64_t rows, int64_t width);

}  // namespace dino
