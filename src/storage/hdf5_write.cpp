// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/error.hpp"
#include "storage/hdf5.hpp"
#include "storage/hdf5_handles.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

using h5::Handle;
using h5::Lock;

/// Slabs keep the library's conversion and the kernel's write(2) far below their 2 GiB limits.
constexpr int64_t kSlabBytes = int64_t{1} << 30;
/// Rows of text that are handed to the library at once.
constexpr size_t kTextRows = size_t{1} << 16;

std::vector<hsize_t> dims_of(const Shape& shape) {
  std::vector<hsize_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(static_cast<hsize_t>(shape[i]));
  return dims;
}

Handle make_space(const std::vector<hsize_t>& dims) {
  if (dims.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
  return {H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), H5Sclose};
}

/// Parents are made as needed, and no time is stored, so that equal content gives equal bytes.
Handle make_dataset(hid_t file, const std::string& path, const std::string& name, hid_t type, hid_t space,
                    H5D_fill_time_t fill = H5D_FILL_TIME_NEVER) {
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  const Handle plist(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(plist, false);
  H5Pset_layout(plist, H5D_CONTIGUOUS);
  H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(plist, fill);  // every element is written by us: once is enough, but for text
  Handle dataset(H5Dcreate2(file, name.c_str(), type, space, links, plist, H5P_DEFAULT), H5Dclose);
  if (!dataset.ok()) h5::fail_write("cannot create dataset", path, name);
  return dataset;
}

void write_slab(hid_t dataset, const std::string& path, const std::string& name, int64_t begin,
                ConstTensorView rows) {
  const Handle space(H5Dget_space(dataset), H5Sclose);
  std::vector<hsize_t> size = dims_of(rows.shape);
  const std::vector<hsize_t> all(static_cast<size_t>(std::max(H5Sget_simple_extent_ndims(space), 0)));
  std::vector<hsize_t> dims = all, start(all.size(), 0);
  H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  bool fits = size.size() == dims.size() && !dims.empty() && begin >= 0 &&
              static_cast<hsize_t>(begin) + size[0] <= dims[0];
  for (size_t i = 1; fits && i < dims.size(); ++i) fits = size[i] == dims[i];
  DINO_CHECK(fits, fmt::format("rows {} at {} do not fit into {}:{} of [{}]", rows.shape.str(), begin, path,
                               name, fmt::join(dims, ", ")));
  if (rows.numel() == 0) return;
  start[0] = static_cast<hsize_t>(begin);
  const auto elements = static_cast<hsize_t>(rows.numel());
  const Handle memory_space(H5Screate_simple(1, &elements, nullptr), H5Sclose);
  const Handle memory = h5::memory_type(rows.dtype);
  if (H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, size.data(), nullptr) < 0 ||
      H5Dwrite(dataset, memory, memory_space, space, H5P_DEFAULT, rows.data) < 0)
    h5::fail_write("cannot write dataset", path, name);
}

void write_in_slabs(hid_t dataset, const std::string& path, const std::string& name, int64_t begin,
                    ConstTensorView rows) {
  const int64_t count = rows.shape[0];
  const int64_t row_bytes =
      count == 0 ? 1 : std::max<int64_t>(rows.numel() / count * static_cast<int64_t>(size_of(rows.dtype)), 1);
  const int64_t step = std::max<int64_t>(kSlabBytes / row_bytes, 1);
  for (int64_t i = 0; i < count; i += step)
    write_slab(dataset, path, name, begin + i, rows.rows(i, std::min(step, count - i)));
}

/// Replaces the attribute. `write` gets the new attribute's handle.
void put_attribute(hid_t file, const std::string& path, const std::string& object, const std::string& name,
                   hid_t type, hid_t space, const void* data) {
  if (H5Aexists_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT) > 0)
    H5Adelete_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT);
  const Handle attribute(H5Acreate_by_name(file, object.c_str(), name.c_str(), type, space, H5P_DEFAULT,
                                           H5P_DEFAULT, H5P_DEFAULT),
                         H5Aclose);
  if (!attribute.ok() || (data != nullptr && H5Awrite(attribute, type, data) < 0))
    h5::fail_write("cannot write attribute '" + name + "'", path, object);
}

Handle variable_string_type() {
  // Variable length: h5py shows str rather than bytes, and a long list of class names stays out of the
  // object header, which holds 64 KiB at most.
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

}  // namespace

Hdf5File Hdf5File::create(const std::string& path) {
  const Lock lock;
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation, false);
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_LATEST);
  h5::switch_locking_off(access);
  // The library would follow a link that stands there: it gets the file that we have opened, by its number.
  const int fd = open_without_links(path, O_RDWR | O_CREAT);
  const hid_t id = H5Fcreate(fmt::format("/proc/self/fd/{}", fd).c_str(), H5F_ACC_TRUNC, creation, access);
  ::close(fd);
  if (id < 0) throw IoError(fmt::format("cannot create HDF5 file: {}: {}", path, h5::cause()));
  return Hdf5File(path, id);
}

void Hdf5File::write(const std::string& name, ConstTensorView data) {
  const Lock lock;
  const Handle type = h5::file_type(data.dtype);
  const Handle space = make_space(dims_of(data.shape));
  const Handle dataset = make_dataset(id_, path_, name, type, space);
  if (data.numel() == 0) return;
  if (data.shape.rank() > 0) {
    write_in_slabs(dataset, path_, name, 0, data);
    return;
  }
  if (H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data.data) < 0)
    h5::fail_write("cannot write dataset", path_, name);
}

void Hdf5File::write_strings(const std::string& name, const std::vector<std::string>& values) {
  const Lock lock;
  // Variable length, so that one long value costs its own bytes and not those of a column of its width.
  const Handle type = variable_string_type();
  const Handle space = make_space({values.size()});
  const Handle dataset = make_dataset(id_, path_, name, type, space, H5D_FILL_TIME_ALLOC);
  std::vector<const char*> texts;
  for (size_t begin = 0; begin < values.size(); begin += kTextRows) {
    const size_t count = std::min(kTextRows, values.size() - begin);
    texts.clear();
    for (size_t i = begin; i < begin + count; ++i) texts.push_back(values[i].c_str());
    const Handle memory = make_space({count});
    const hsize_t first = begin, rows = count;
    if (H5Sselect_hyperslab(space, H5S_SELECT_SET, &first, nullptr, &rows, nullptr) < 0 ||
        H5Dwrite(dataset, type, memory, space, H5P_DEFAULT, texts.data()) < 0)
      h5::fail_write("cannot write dataset", path_, name);
  }
}

void Hdf5File::create_dataset(const std::string& name, Shape shape, DType dtype) {
  const Lock lock;
  const Handle space = make_space(dims_of(shape));
  make_dataset(id_, path_, name, h5::file_type(dtype), space);
}

void Hdf5File::write_rows(const std::string& name, int64_t begin, ConstTensorView rows) {
  const Lock lock;
  const Handle dataset(H5Dopen2(id_, name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!dataset.ok()) h5::fail_write("cannot open dataset", path_, name);
  write_in_slabs(dataset, path_, name, begin, rows);
}

void Hdf5File::write_attribute(const std::string& object, const std::string& name, const std::string& value) {
  const Lock lock;
  const char* text = value.c_str();
  const Handle type = variable_string_type(), space = make_space({});
  put_attribute(id_, path_, object, name, type, space, &text);
}

void Hdf5File::write_attribute(const std::string& object, const std::string& name, double value) {
  const Lock lock;
  put_attribute(id_, path_, object, name, H5T_IEEE_F64LE, make_space({}), &value);
}

void Hdf5File::write_attribute(const std::string& object, const std::string& name, int64_t value) {
  const Lock lock;
  put_attribute(id_, path_, object, name, H5T_STD_I64LE, make_space({}), &value);
}

void Hdf5File::write_attribute(const std::string& object, const std::string& name,
                               const std::vector<std::string>& values) {
  const Lock lock;
  std::vector<const char*> texts;
  for (const auto& value : values) texts.push_back(value.c_str());
  const Handle type = variable_string_type();
  put_attribute(id_, path_, object, name, type, make_space({values.size()}),
                texts.empty() ? nullptr : texts.data());
}

void Hdf5File::write_attribute(const std::string& object, const std::string& name,
                               std::span<const int64_t> values) {
  const Lock lock;
  put_attribute(id_, path_, object, name, H5T_STD_I64LE, make_space({values.size()}),
                values.empty() ? nullptr : values.data());
}

void Hdf5File::write_attribute(const std::string& object, const std::string& name,
                               std::span<const double> values) {
  const Lock lock;
  put_attribute(id_, path_, object, name, H5T_IEEE_F64LE, make_space({values.size()}),
                values.empty() ? nullptr : values.data());
}

void Hdf5File::close() {
  if (id_ < 0) return;
  const Lock lock;
  const bool flushed = H5Fflush(id_, H5F_SCOPE_LOCAL) >= 0;
  const std::string why = flushed ? std::string() : h5::cause();
  const bool closed = H5Fclose(std::exchange(id_, -1)) >= 0;
  if (!flushed || !closed)
    throw IoError(fmt::format("cannot finish HDF5 file: {}: {}; is the disk full?", path_,
                              flushed ? h5::cause() : why));
}

}  // namespace dino
