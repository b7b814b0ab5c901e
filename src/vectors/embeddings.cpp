// SPDX-License-Identifier: Apache-2.0
#include "vectors/embeddings.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <mutex>
#include <optional>

#include "base/error.hpp"
#include "comm/communicator.hpp"
#include "comm/together.hpp"
#include "storage/array_file.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/posix_file.hpp"
#include "storage/seal.hpp"

namespace dino {
namespace {

constexpr const char* kFeatures = "/features";

bool is_hdf5(const std::string& path) {
  return path.ends_with(".h5") || path.ends_with(".hdf5");
}

struct Header {
  int64_t rows = 0, width = 0;
};

Header read_header(const std::string& path) {
  if (!is_hdf5(path)) {
    const NpyInfo info = read_npy_info(path);
    if (info.shape.size() != 2)
      throw DataError("cannot use embeddings: " + path + ": the array has " +
                      std::to_string(info.shape.size()) + " dimensions; give an array of shape N x d");
    if (info.dtype != "<f4" && info.dtype != "<f2")
      throw DataError("cannot use embeddings: " + path + ": the elements are '" + info.dtype +
                      "'; give float32 or float16");
    return {info.shape[0], info.shape[1]};
  }
  const Hdf5File file = Hdf5File::open(path);
  if (!file.exists(kFeatures))
    throw DataError("cannot use embeddings: " + path + ": there is no dataset " + kFeatures +
                    "; give a file written by dino-eval features or dino-curate embed");
  const Hdf5File::Info info = file.info(kFeatures);
  if (info.dims.size() != 2 || info.is_string)
    throw DataError("cannot use embeddings: " + path + ": " + kFeatures +
                    " is not a numeric array of shape N x d");
  return {info.dims[0], info.dims[1]};
}

std::vector<std::string> files_of(const std::string& reference) {
  if (!path_exists(reference))
    throw MissingInputError("cannot read embeddings: " + reference +
                            ": no such file or folder; give a .npy, a .h5 or a folder of them");
  if (!is_folder(reference)) {
    if (!is_hdf5(reference) && !reference.ends_with(".npy"))
      throw DataError("cannot use embeddings: " + reference +
                      ": the name ends neither in .npy nor in .h5; give one of these or a folder of them");
    return {reference};
  }
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(reference)) {
    const std::string path = entry.path().string();
    if (is_hdf5(path) || path.ends_with(".npy")) files.push_back(path);
  }
  if (files.empty())
    throw MissingInputError("cannot read embeddings: " + reference +
                            ": the folder has no .npy and no .h5 file; give the folder that holds them");
  std::sort(files.begin(), files.end());
  return files;
}

/// Whether no exponent is all ones (infinity or NaN).
bool all_finite(const float* row, int64_t width) {
  constexpr uint32_t kExponent = 0x7f800000u;
  int bad = 0;
#pragma omp simd reduction(| : bad)
  for (int64_t k = 0; k < width; ++k)
    bad |= static_cast<int>((std::bit_cast<uint32_t>(row[k]) & kExponent) == kExponent);
  return bad == 0;
}

}  // namespace

/// A file of a store, opened: an HDF5 file costs milliseconds (a process is forked), a row microseconds.
class OpenPart {
 public:
  OpenPart(const std::string& path, bool hdf5) {
    if (hdf5) {
      hdf5_ = Hdf5File::open(path);
    } else {
      info_ = read_npy_info(path);
      npy_.emplace(path);
    }
  }
  void read(int64_t begin, int64_t count, int64_t width, float* out) const {
    if (npy_) return read_npy_rows(*npy_, info_, begin, count, out);
    hdf5_->read_rows(kFeatures, begin, TensorView{out, Shape{count, width}, DType::f32, Device{}});
  }

 private:
  std::optional<Hdf5File> hdf5_;
  std::optional<PosixFile> npy_;
  NpyInfo info_;
};

/// The parts that were read last. A folder may hold thousands of files, so not all of them.
class EmbeddingStore::OpenFiles {
 public:
  void read(const Part& part, int64_t begin, int64_t count, int64_t width, float* out) {
    const std::lock_guard lock(mutex_);
    auto at = std::find_if(files_.begin(), files_.end(), [&](const File& f) { return f.path == part.path; });
    if (at == files_.end()) {
      if (files_.size() == kMost) files_.erase(files_.begin());
      files_.push_back({part.path, std::make_unique<OpenPart>(part.path, part.hdf5)});
    } else {
      std::rotate(at, at + 1, files_.end());
    }
    files_.back().part->read(begin, count, width, out);
  }

 private:
  static constexpr size_t kMost = 16;
  struct File {
    std::string path;
    std::unique_ptr<OpenPart> part;
  };
  std::mutex mutex_;
  std::vector<File> files_;  ///< the last one is the one read last
};

EmbeddingStore EmbeddingStore::open(const std::string& reference) {
  EmbeddingStore store;
  store.reference_ = reference;
  store.open_ = std::make_shared<OpenFiles>();
  for (const std::string& path : files_of(reference)) {
    const Header header = read_header(path);
    if (header.width <= 0)
      throw DataError("cannot use embeddings: " + path +
                      ": the rows have no elements; give an array of shape N x d with d >= 1");
    if (store.parts_.empty()) store.width_ = header.width;
    if (header.width != store.width_)
      throw DataError("cannot use embeddings: " + path + ": its rows have " + std::to_string(header.width) +
                      " elements, those of " + store.parts_.front().path + " have " +
                      std::to_string(store.width_) + "; all files must come from one model");
    store.parts_.push_back({path, header.rows, is_hdf5(path)});
    store.rows_ += header.rows;
  }
  return store;
}

void EmbeddingStore::read(int64_t begin, int64_t count, float* out) const {
  DINO_CHECK(begin >= 0 && count >= 0 && begin + count <= rows_, "rows outside the store");
  int64_t first = 0;
  for (const Part& part : parts_) {
    const int64_t from = std::max(begin, first), to = std::min(begin + count, first + part.rows);
    if (from < to) {
      float* rows = out + (from - begin) * width_;
      open_->read(part, from - first, to - from, width_, rows);
      for (int64_t i = 0; i < to - from; ++i) {
        if (all_finite(rows + i * width_, width_)) continue;
        throw DataError("cannot use embeddings: " + part.path + ": row " + std::to_string(from - first + i) +
                        " has a value that is not finite; remove the row or compute it again");
      }
    }
    first += part.rows;
  }
}

void EmbeddingStore::verify(const Communicator& comm, const std::string& remedy) const {
  struct Sum {
    uint32_t crc = 0;
    int64_t bytes = 0;
  };
  std::vector<Sum> mine;
  std::vector<std::optional<Seal>> seals;
  together(comm, [&] {
    for (const Part& part : parts_) {
      seals.push_back(part.hdf5 ? read_seal(part.path) : std::nullopt);
      if (!seals.back()) continue;
      const Range range = even_range(seals.back()->bytes, comm.rank(), comm.size());
      mine.push_back({crc32c_part(part.path, range.begin, range.size()), range.size()});
    }
  });
  const std::vector<Sum> all = comm.all_gather_values<Sum>(std::span<const Sum>(mine));
  size_t sealed = 0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (!seals[i]) continue;
    uint32_t crc = 0;
    for (size_t at = sealed; at < all.size(); at += mine.size())
      crc = crc32c_combine(crc, all[at].crc, all[at].bytes);
    require_seal(parts_[i].path, *seals[i], crc, remedy);
    ++sealed;
  }
}

void normalize_rows(float* x, int64_t rows, int64_t width) {
#pragma omp parallel for
  for (int64_t i = 0; i < rows; ++i) {
    float* row = x + i * width;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < width; ++k) sum += static_cast<double>(row[k]) * static_cast<double>(row[k]);
    if (sum == 0) continue;
    const double scale = 1 / std::sqrt(sum);
#pragma omp simd
    for (int64_t k = 0; k < width; ++k) row[k] = static_cast<float>(static_cast<double>(row[k]) * scale);
  }
}

}  // namespace dino
