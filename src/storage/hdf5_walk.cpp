// SPDX-License-Identifier: Apache-2.0
#include "storage/hdf5_walk.hpp"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/error.hpp"
#include "storage/hdf5.hpp"
#include "storage/hdf5_handles.hpp"

namespace dino::h5 {
namespace {

/// Bytes read at once.
constexpr uint64_t kSlab = uint64_t{16} << 20;
/// Of chunked data beyond this, evenly spaced slabs up to it: every rank of a job reads here, and inflating
/// the rest (by zlib, which is sound) would cost each of them what all of them share later.
constexpr uint64_t kMostData = uint64_t{256} << 20;
/// Elements of contiguous data that are read, once per type in memory: the conversions depend on the type.
constexpr uint64_t kSample = 4096;
constexpr int kMaxDepth = 64;

/// A fault that the library reports is not why the file is read here.
template <class Body>
void try_to(const Body& body) {
  try {
    body();
  } catch (const Error&) {
    H5Eclear2(H5E_DEFAULT);
  }
}

class FileWalk {
 public:
  FileWalk(const std::string& path, Place& place)
      : file_(Hdf5File::open_verified(path)),
        id_(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose),
        place_(place) {}

  void visit(const std::string& name, int depth) {
    std::strncpy(place_.object.data(), name.c_str(), place_.object.size() - 1);
    H5O_info_t info;
    {
      const Handle object(H5Oopen(id_, name.c_str(), H5P_DEFAULT), H5Oclose);
      if (!object.ok() || H5Oget_info2(object, &info, H5O_INFO_BASIC) < 0) return;
    }
    // Hard links make cycles, and chains of them exponentially many paths.
    if (!seen_.emplace(info.fileno, info.addr).second) return;
    try_to([&] { read_attributes(name); });
    if (info.type == H5O_TYPE_DATASET) try_to([&] { read_dataset(name); });
    if (info.type != H5O_TYPE_GROUP || depth == kMaxDepth) return;
    try_to([&] {
      for (const auto& child : file_.list(name))
        visit(name == "/" ? "/" + child : name + "/" + child, depth + 1);
    });
  }

 private:
  void read_attributes(const std::string& object) {
    for (const auto& name : file_.attributes(object)) {
      try_to([&] { (void)file_.attribute_numbers(object, name); });
      try_to([&] { (void)file_.attribute_strings(object, name); });
    }
  }

  void read_dataset(const std::string& name) {
    const Hdf5File::Info info = file_.info(name);
    const Handle dataset(H5Dopen2(id_, name.c_str(), H5P_DEFAULT), H5Dclose);
    const Handle plist(H5Dget_create_plist(dataset), H5Pclose);
    const bool contiguous = H5Pget_layout(plist) == H5D_CONTIGUOUS;
    const Handle type(H5Dget_type(dataset), H5Tclose);
    if (info.is_string && H5Tis_variable_str(type) > 0) {
      (void)file_.read_strings(name);
      return;
    }
    if (contiguous) {
      for (const DType dtype : {DType::f32, DType::f64, DType::i32, DType::i64, DType::u8, DType::bf16})
        read_first(dataset, info.is_string ? Handle(H5Tcopy(type), H5Tclose) : memory_type(dtype), info.dims);
      return;
    }
    read_all(dataset, info.is_string ? Handle(H5Tcopy(type), H5Tclose) : memory_type(info.dtype), info.dims);
  }

  /// The block of `size` elements from `start`; the result is of no interest.
  static void read_block(hid_t dataset, hid_t memory, const std::vector<hsize_t>& start,
                         const std::vector<hsize_t>& size) {
    hsize_t elements = 1;
    for (const hsize_t n : size) elements *= n;
    std::vector<char> bytes(elements * H5Tget_size(memory));
    const Handle file_space(H5Dget_space(dataset), H5Sclose);
    const Handle memory_space(H5Screate_simple(1, &elements, nullptr), H5Sclose);
    if (!start.empty())
      H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start.data(), nullptr, size.data(), nullptr);
    H5Dread(dataset, memory, memory_space, file_space, H5P_DEFAULT, bytes.data());
    H5Eclear2(H5E_DEFAULT);
  }

  static bool empty(const std::vector<int64_t>& dims) {
    return std::find(dims.begin(), dims.end(), 0) != dims.end();
  }

  static void read_first(hid_t dataset, const Handle& memory, const std::vector<int64_t>& dims) {
    if (empty(dims)) return;
    uint64_t budget = std::min(kSample, std::max<uint64_t>(1, kSlab / H5Tget_size(memory)));
    std::vector<hsize_t> size(dims.size(), 1);
    for (size_t i = dims.size(); i-- > 0; budget /= size[i])
      size[i] = std::min(static_cast<uint64_t>(dims[i]), std::max<uint64_t>(budget, 1));
    read_block(dataset, memory, std::vector<hsize_t>(dims.size(), 0), size);
  }

  /// Slab by slab of the outermost dimension; of the index of the chunks, all.
  static void read_all(hid_t dataset, const Handle& memory, const std::vector<int64_t>& dims) {
    if (empty(dims)) return;
    std::vector<hsize_t> start(dims.size(), 0), size(dims.begin(), dims.end());
    if (dims.empty()) return read_block(dataset, memory, start, size);
    uint64_t row = H5Tget_size(memory);
    for (size_t i = 1; i < dims.size(); ++i) row *= size[i];
    const Handle all(H5Dget_space(dataset), H5Sclose);
    hsize_t chunks = 0;
    H5Dget_num_chunks(dataset, all, &chunks);
    const hsize_t rows = size[0], most = std::max<uint64_t>(1, kSlab / row);
    const hsize_t step = most * (1 + rows / std::max<uint64_t>(1, kMostData / row));
    for (; start[0] < rows; start[0] += step) {
      size[0] = std::min(most, rows - start[0]);
      read_block(dataset, memory, start, size);
    }
  }

  Hdf5File file_;
  Handle id_;
  Place& place_;
  std::set<std::pair<unsigned long, haddr_t>> seen_;
};

}  // namespace

void walk_file(const std::string& path, Place& place) {
  const Lock lock;
  {
    FileWalk walk(path, place);
    walk.visit("/", 0);
    place = {};
  }
  // The library frees all it holds, and what it wrote beyond its blocks comes to light here and not in the
  // reader.
  H5close();
}

}  // namespace dino::h5
