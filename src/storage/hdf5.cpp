// SPDX-License-Identifier: Apache-2.0
#include "storage/hdf5.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <limits>
#include <string_view>

#include "base/error.hpp"
#include "base/retry.hpp"
#include "storage/files.hpp"
#include "storage/hdf5_handles.hpp"
#include "storage/hdf5_remote.hpp"

namespace dino {
namespace {

using h5::Handle;
using h5::Lock;

/// deflate reaches 1032:1; a dataset that claims more than this over its stored bytes is a lie.
constexpr uint64_t kMaxExpansion = 1100;
constexpr uint64_t kAlwaysAllowed = uint64_t{1} << 26;
constexpr int kMaxLinkDepth = 64;

struct Opened {
  Handle dataset, type, space;
  std::vector<hsize_t> dims;
  uint64_t elements = 0;
  uint64_t element_bytes = 0;
};

/// Logical bytes that the dataset's storage can hold; `stored` bytes lie in the file itself.
uint64_t most_bytes(const Opened& opened, const std::string& path, const std::string& name) {
  const Handle plist(H5Dget_create_plist(opened.dataset), H5Pclose);
  if (!plist.ok()) h5::fail_read("cannot read the layout", path, name);
  if (H5Pget_external_count(plist) > 0)
    throw DataError(fmt::format(
        "cannot read: {}:{}: its data lie in external raw files; copy it with h5repack", path, name));
  const auto layout = H5Pget_layout(plist);
  uint64_t stored = H5Dget_storage_size(opened.dataset);
  if (layout == H5D_VIRTUAL) {
    size_t sources = 0;
    H5Pget_virtual_count(plist, &sources);
    stored = 0;
    const auto slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
    for (size_t i = 0; i < sources; ++i) {
      char file[4096] = {};
      H5Pget_virtual_filename(plist, i, file, sizeof file);
      const std::string source = file[0] == '/' ? file : std::strcmp(file, ".") == 0 ? path : folder + file;
      if (path_exists(source)) stored += static_cast<uint64_t>(file_size(source));
    }
  } else {
    char file[4096] = {};
    H5Fget_name(opened.dataset, file, sizeof file);  // behind an external link: another file than `path`
    const auto bytes = static_cast<uint64_t>(file_size(file[0] != '\0' ? file : path.c_str()));
    if (stored > bytes)
      throw DataError(
          fmt::format("truncated file: {}:{}: {} bytes of data claimed, the file has {}; copy it again", path,
                      name, stored, bytes));
  }
  return std::max(kAlwaysAllowed, stored > std::numeric_limits<uint64_t>::max() / kMaxExpansion
                                      ? std::numeric_limits<uint64_t>::max()
                                      : stored * kMaxExpansion);
}

Opened open_dataset_handle(hid_t file, const std::string& path, const std::string& name) {
  Opened opened;
  opened.dataset = Handle(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!opened.dataset.ok()) h5::fail_read("cannot open dataset", path, name);
  opened.type = Handle(H5Dget_type(opened.dataset), H5Tclose);
  opened.space = Handle(H5Dget_space(opened.dataset), H5Sclose);
  if (!opened.type.ok() || !opened.space.ok()) h5::fail_read("cannot read the header of dataset", path, name);
  const int rank = H5Sget_simple_extent_ndims(opened.space);
  if (rank < 0) h5::fail_read("cannot read the shape of dataset", path, name);
  opened.dims.resize(static_cast<size_t>(rank));
  H5Sget_simple_extent_dims(opened.space, opened.dims.data(), nullptr);
  if (H5Sget_simple_extent_type(opened.space) == H5S_NULL) opened.dims = {0};
  opened.elements = 1;
  opened.element_bytes = std::max<uint64_t>(H5Tget_size(opened.type), 1);
  // A dimension of zero must not hide one of 2^63.
  uint64_t bounded = opened.element_bytes * 8;
  for (const hsize_t dim : opened.dims) {
    opened.elements *= dim;
    if (dim > (uint64_t{1} << 62) || __builtin_mul_overflow(bounded, std::max<uint64_t>(dim, 1), &bounded))
      throw DataError(fmt::format("impossible shape: {}:{}: [{}] does not fit in memory", path, name,
                                  fmt::join(opened.dims, ", ")));
  }
  // A string of one byte takes that of a std::string in memory.
  const uint64_t in_memory = H5Tget_class(opened.type) == H5T_STRING ? sizeof(std::string) : 0;
  if (opened.elements > std::numeric_limits<uint64_t>::max() / (opened.element_bytes + in_memory) ||
      opened.elements * (opened.element_bytes + in_memory) > most_bytes(opened, path, name))
    throw DataError(
        fmt::format("impossible size: {}:{}: shape [{}] claims {} bytes, far more than the file holds", path,
                    name, fmt::join(opened.dims, ", "), opened.elements * opened.element_bytes));
  return opened;
}

Shape shape_of(const std::vector<hsize_t>& dims) {
  std::vector<int64_t> folded;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (i < static_cast<size_t>(Shape::kMaxRank))
      folded.push_back(static_cast<int64_t>(dims[i]));
    else
      folded.back() *= static_cast<int64_t>(dims[i]);
  }
  return Shape(std::span<const int64_t>(folded));
}

DType nearest_dtype(hid_t type, const std::string& path, const std::string& name) {
  const size_t size = H5Tget_size(type);
  switch (H5Tget_class(type)) {
    case H5T_FLOAT: {
      size_t sign = 0, exponent = 0, exponent_bits = 0, mantissa = 0, mantissa_bits = 0;
      H5Tget_fields(type, &sign, &exponent, &exponent_bits, &mantissa, &mantissa_bits);
      if (size == 2 && exponent_bits == 8 && mantissa_bits == 7) return DType::bf16;
      return size <= 4 ? DType::f32 : DType::f64;
    }
    case H5T_INTEGER:
      if (size == 1 && H5Tget_sign(type) == H5T_SGN_NONE) return DType::u8;
      return size == 4 && H5Tget_sign(type) == H5T_SGN_2 ? DType::i32 : DType::i64;
    case H5T_ENUM:  // h5py's bool
      return size == 1 ? DType::u8 : DType::i64;
    case H5T_STRING:
      return DType::u8;
    default:
      throw DataError(fmt::format("cannot read: {}:{}: it holds neither numbers nor strings", path, name));
  }
}

void check_numeric(const Opened& opened, const std::string& path, const std::string& name) {
  if (H5Tget_class(opened.type) == H5T_STRING)
    throw DataError(fmt::format("cannot read: {}:{}: it holds strings where numbers are needed", path, name));
  static_cast<void>(nearest_dtype(opened.type, path, name));
}

/// Strings of `count` elements through `read(memory type, destination)`.
std::vector<std::string> convert_strings(hid_t type, hid_t space, uint64_t count,
                                         const std::function<herr_t(hid_t, void*)>& read,
                                         const std::function<void()>& fail) {
  std::vector<std::string> values;
  if (count == 0) return values;
  values.reserve(count);
  if (H5Tis_variable_str(type) > 0) {
    const Handle memory(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(memory, H5T_VARIABLE);
    H5Tset_cset(memory, H5Tget_cset(type));
    std::vector<char*> pointers(count, nullptr);
    if (read(memory, pointers.data()) < 0) fail();
    for (const char* p : pointers) values.emplace_back(p == nullptr ? "" : p);
    H5Dvlen_reclaim(memory, space, H5P_DEFAULT, pointers.data());
    return values;
  }
  const size_t size = H5Tget_size(type);
  std::vector<char> bytes(size * count);
  if (read(type, bytes.data()) < 0) fail();
  const bool space_padded = H5Tget_strpad(type) == H5T_STR_SPACEPAD;
  for (uint64_t i = 0; i < count; ++i) {
    const char* p = bytes.data() + i * size;
    std::string value(p, strnlen(p, size));
    while (space_padded && !value.empty() && value.back() == ' ') value.pop_back();
    values.push_back(std::move(value));
  }
  return values;
}

struct OpenedAttribute {
  Handle attribute, type, space;
  uint64_t count = 0;
};

OpenedAttribute open_attribute(hid_t file, const std::string& path, const std::string& object,
                               const std::string& name) {
  OpenedAttribute opened;
  opened.attribute =
      Handle(H5Aopen_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (!opened.attribute.ok())
    throw DataError(fmt::format("missing attribute: {}:{}: it has no attribute '{}'", path, object, name));
  opened.type = Handle(H5Aget_type(opened.attribute), H5Tclose);
  opened.space = Handle(H5Aget_space(opened.attribute), H5Sclose);
  const auto count = opened.space.ok() ? H5Sget_simple_extent_npoints(opened.space) : -1;
  // Attributes live in the object header or a heap: none of ours has more than 2^20 elements.
  if (!opened.type.ok() || count < 0 || count > (1 << 20) ||
      static_cast<uint64_t>(count) * H5Tget_size(opened.type) > kAlwaysAllowed)
    throw DataError(fmt::format("bad attribute: {}:{}: '{}' has an impossible size", path, object, name));
  opened.count = static_cast<uint64_t>(count);
  return opened;
}

/// Visits `group` and below; groups open on the way down are remembered by address to stop at cycles.
class Walker {
 public:
  Walker(hid_t file, const std::string& path) : file_(file), path_(path) {}
  std::vector<std::string> run(const std::string& group) {
    visit(group, 0);
    std::sort(found_.begin(), found_.end());
    return std::move(found_);
  }
  static std::vector<std::string> children(hid_t file, const std::string& path, const std::string& group) {
    const Handle handle(H5Gopen2(file, group.c_str(), H5P_DEFAULT), H5Gclose);
    if (!handle.ok()) h5::fail_read("cannot open group", path, group);
    std::vector<std::string> names;
    const auto add = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
      static_cast<std::vector<std::string>*>(out)->emplace_back(name);
      return 0;
    };
    if (H5Literate(handle, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, add, &names) < 0)
      h5::fail_read("cannot list group", path, group);
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  void visit(const std::string& name, int depth) {
    if (depth > kMaxLinkDepth)
      throw DataError(
          fmt::format("cannot list: {}:{}: groups are nested more than {} deep", path_, name, kMaxLinkDepth));
    const Handle object(H5Oopen(file_, name.c_str(), H5P_DEFAULT), H5Oclose);
    if (!object.ok()) h5::fail_read("broken link", path_, name);
    H5O_info_t info;
    if (H5Oget_info2(object, &info, H5O_INFO_BASIC) < 0) h5::fail_read("cannot read object", path_, name);
    if (info.type == H5O_TYPE_DATASET) found_.push_back(name);
    if (info.type != H5O_TYPE_GROUP) return;
    const auto self = std::make_pair(info.fileno, info.addr);
    if (std::find(above_.begin(), above_.end(), self) != above_.end()) return;
    above_.push_back(self);
    for (const auto& child : children(file_, path_, name))
      visit(name == "/" ? "/" + child : name + "/" + child, depth + 1);
    above_.pop_back();
  }

  hid_t file_;
  const std::string& path_;
  std::vector<std::pair<unsigned long, haddr_t>> above_;
  std::vector<std::string> found_;
};

bool is_locked_by_a_writer(const std::string& why) {
  return why.find(fmt::format("errno = {},", EWOULDBLOCK)) != std::string::npos;
}

/// What the library is not needed for.
void check_is_hdf5(const std::string& path) {
  if (is_folder(path)) throw DataError(fmt::format("cannot read: {}: is a folder; give an HDF5 file", path));
  static_cast<void>(read_bytes(path, 0, 0));  // ENOENT and EACCES as such, before the library hides them
  const htri_t is_hdf5 = H5Fis_hdf5(path.c_str());
  if (is_hdf5 <= 0) {
    const std::string why = h5::cause();
    if (h5::is_of_the_system(why)) throw IoError(fmt::format("cannot open HDF5 file: {}: {}", path, why));
    throw DataError(fmt::format("not an HDF5 file: {}: it has no HDF5 signature; check the path", path));
  }
}

}  // namespace

bool Hdf5File::is_hdf5(const std::string& path) {
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  if (!path_exists(path) || is_folder(path)) return false;
  const std::vector<uint8_t> head =
      read_bytes(path, 0, std::min<int64_t>(file_size(path), static_cast<int64_t>(kSignature.size())));
  return std::equal(head.begin(), head.end(), kSignature.begin(), kSignature.end(),
                    [](uint8_t a, char b) { return a == static_cast<uint8_t>(b); });
}

Hdf5File Hdf5File::open(const std::string& path) {
  return retrying(path, [&] {
    const Lock lock;
    check_is_hdf5(path);
    Hdf5File file(path, -1);
    file.remote_ = std::make_unique<h5::RemoteFile>(path);
    return file;
  });
}

Hdf5File Hdf5File::open_verified(const std::string& path) {
  return retrying(path, [&] {
    const Lock lock;
    check_is_hdf5(path);
    const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
    std::string why = id < 0 ? h5::cause() : "";
    if (why.find("unable to lock file") != std::string::npos && !is_locked_by_a_writer(why)) {
      // No locks on this file system; nobody can hold one.
      h5::switch_locking_off(access);
      id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
      if (id < 0) why = h5::cause();
    }
    if (id < 0 && h5::is_of_the_system(why))
      throw IoError(fmt::format("cannot open HDF5 file: {}: {}", path, why));
    if (id < 0)
      throw DataError(
          fmt::format("cannot open HDF5 file: {}: {}; it may be cut off: copy it again", path, why));
    return Hdf5File(path, id);
  });
}

Hdf5File::Hdf5File(std::string path, int64_t id) : path_(std::move(path)), id_(id) {}

Hdf5File::Hdf5File(Hdf5File&& other) noexcept
    : path_(std::move(other.path_)), id_(std::exchange(other.id_, -1)), remote_(std::move(other.remote_)) {}

Hdf5File& Hdf5File::operator=(Hdf5File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(id_, other.id_);
  std::swap(remote_, other.remote_);
  return *this;
}

Hdf5File::~Hdf5File() {
  if (id_ < 0 && !remote_) return;
  const Lock lock;
  remote_.reset();
  if (id_ >= 0) H5Fclose(id_);
}

bool Hdf5File::exists(const std::string& name) const {
  const Lock lock;
  if (remote_) return remote_->exists(name);
  // H5Lexists needs every group on the way to exist.
  for (size_t slash = name.find('/', 1); slash != std::string::npos; slash = name.find('/', slash + 1))
    if (H5Oexists_by_name(id_, name.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) {
      H5Eclear2(H5E_DEFAULT);
      return false;
    }
  const bool found = name == "/" || (H5Lexists(id_, name.c_str(), H5P_DEFAULT) > 0 &&
                                     H5Oexists_by_name(id_, name.c_str(), H5P_DEFAULT) > 0);
  H5Eclear2(H5E_DEFAULT);
  return found;
}

std::vector<std::string> Hdf5File::list(const std::string& group) const {
  const Lock lock;
  if (remote_) return remote_->list(group);
  if (!exists(group)) return {};
  return Walker::children(id_, path_, group);
}

std::vector<std::string> Hdf5File::list_datasets(const std::string& group) const {
  const Lock lock;
  if (remote_) return remote_->list_datasets(group);
  if (!exists(group)) return {};
  return Walker(id_, path_).run(group);
}

Hdf5File::Info Hdf5File::info(const std::string& name) const {
  const Lock lock;
  if (remote_) return remote_->info(name);
  const Opened opened = open_dataset_handle(id_, path_, name);
  Info info;
  info.shape = shape_of(opened.dims);
  info.dims.assign(opened.dims.begin(), opened.dims.end());
  info.is_string = H5Tget_class(opened.type) == H5T_STRING;
  info.dtype = nearest_dtype(opened.type, path_, name);
  return info;
}

Tensor Hdf5File::read(const std::string& name, DType dtype) const {
  const Lock lock;
  if (remote_) return remote_->read(name, dtype);
  return retrying(path_, [&] {
    const Opened opened = open_dataset_handle(id_, path_, name);
    check_numeric(opened, path_, name);
    Tensor tensor(shape_of(opened.dims), dtype);
    if (opened.elements == 0) return tensor;
    const Handle memory = h5::memory_type(dtype);
    if (H5Dread(opened.dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor.view().data) < 0)
      h5::fail_read("cannot read dataset", path_, name);
    return tensor;
  });
}

Tensor Hdf5File::read(const std::string& name) const {
  const Lock lock;
  return read(name, info(name).dtype);
}

void Hdf5File::read_rows(const std::string& name, int64_t begin, TensorView out) const {
  const Lock lock;
  if (remote_) return remote_->read_rows(name, begin, out);
  retrying(path_, [&] {
    const Opened opened = open_dataset_handle(id_, path_, name);
    check_numeric(opened, path_, name);
    const std::vector<int64_t> dims(opened.dims.begin(), opened.dims.end());
    const auto count = static_cast<hsize_t>(h5::check_rows(dims, begin, out.shape, path_, name));
    std::vector<hsize_t> start(opened.dims.size(), 0), size = opened.dims;
    start[0] = static_cast<hsize_t>(begin);
    size[0] = count;
    const auto elements = static_cast<hsize_t>(out.numel());
    if (elements == 0) return;
    const Handle memory_space(H5Screate_simple(1, &elements, nullptr), H5Sclose);
    const Handle memory = h5::memory_type(out.dtype);
    if (H5Sselect_hyperslab(opened.space, H5S_SELECT_SET, start.data(), nullptr, size.data(), nullptr) < 0 ||
        H5Dread(opened.dataset, memory, memory_space, opened.space, H5P_DEFAULT, out.data) < 0)
      h5::fail_read("cannot read rows of dataset", path_, name);
  });
}

int64_t Hdf5File::data_offset(const std::string& name, DType dtype) const {
  const Lock lock;
  if (remote_) return remote_->data_offset(name, dtype);
  const Opened opened = open_dataset_handle(id_, path_, name);
  const Handle plist(H5Dget_create_plist(opened.dataset), H5Pclose);
  const Handle type = h5::file_type(dtype);
  char file[4096] = {};
  H5Fget_name(opened.dataset, file, sizeof file);  // behind an external link: another file than `path_`
  if (H5Pget_layout(plist) != H5D_CONTIGUOUS || H5Tequal(opened.type, type) <= 0 || path_ != file) return -1;
  const haddr_t offset = H5Dget_offset(opened.dataset);
  H5Eclear2(H5E_DEFAULT);
  return offset > static_cast<haddr_t>(std::numeric_limits<int64_t>::max()) ? -1
                                                                            : static_cast<int64_t>(offset);
}

std::vector<std::string> Hdf5File::read_strings(const std::string& name) const {
  const Lock lock;
  if (remote_) return remote_->read_strings(name);
  const Opened opened = open_dataset_handle(id_, path_, name);
  if (H5Tget_class(opened.type) != H5T_STRING)
    throw DataError(fmt::format("cannot read: {}:{}: it holds no strings", path_, name));
  return convert_strings(
      opened.type, opened.space, opened.elements,
      [&](hid_t memory, void* out) {
        return H5Dread(opened.dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, out);
      },
      [&] { h5::fail_read("cannot read dataset", path_, name); });
}

std::vector<std::string> Hdf5File::read_strings(const std::string& name, int64_t begin, int64_t count) const {
  const Lock lock;
  if (remote_) {
    const std::vector<std::string> all = remote_->read_strings(name);
    static_cast<void>(h5::check_rows({static_cast<int64_t>(all.size())}, begin, Shape{count}, path_, name));
    return {all.begin() + begin, all.begin() + begin + count};
  }
  const Opened opened = open_dataset_handle(id_, path_, name);
  if (H5Tget_class(opened.type) != H5T_STRING)
    throw DataError(fmt::format("cannot read: {}:{}: it holds no strings", path_, name));
  const std::vector<int64_t> dims(opened.dims.begin(), opened.dims.end());
  static_cast<void>(h5::check_rows(dims, begin, Shape{count}, path_, name));
  const auto start = static_cast<hsize_t>(begin), size = static_cast<hsize_t>(count);
  if (count == 0) return {};
  const Handle memory_space(H5Screate_simple(1, &size, nullptr), H5Sclose);
  if (H5Sselect_hyperslab(opened.space, H5S_SELECT_SET, &start, nullptr, &size, nullptr) < 0)
    h5::fail_read("cannot read rows of dataset", path_, name);
  return convert_strings(
      opened.type, memory_space, size,
      [&](hid_t memory, void* out) {
        return H5Dread(opened.dataset, memory, memory_space, opened.space, H5P_DEFAULT, out);
      },
      [&] { h5::fail_read("cannot read rows of dataset", path_, name); });
}

bool Hdf5File::has_attribute(const std::string& object, const std::string& name) const {
  const Lock lock;
  if (remote_) return remote_->has_attribute(object, name);
  const bool found = exists(object) && H5Aexists_by_name(id_, object.c_str(), name.c_str(), H5P_DEFAULT) > 0;
  H5Eclear2(H5E_DEFAULT);
  return found;
}

std::vector<std::string> Hdf5File::attributes(const std::string& object) const {
  const Lock lock;
  if (remote_) return remote_->attributes(object);
  const Handle handle(H5Oopen(id_, object.c_str(), H5P_DEFAULT), H5Oclose);
  if (!handle.ok()) h5::fail_read("cannot open object", path_, object);
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  if (H5Aiterate2(handle, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, add, &names) < 0)
    h5::fail_read("cannot list attributes", path_, object);
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<double> Hdf5File::attribute_numbers(const std::string& object, const std::string& name) const {
  const Lock lock;
  if (remote_) return remote_->attribute_numbers(object, name);
  const auto opened = open_attribute(id_, path_, object, name);
  const auto type_class = H5Tget_class(opened.type);
  if (type_class != H5T_INTEGER && type_class != H5T_FLOAT && type_class != H5T_ENUM)
    throw DataError(fmt::format("bad attribute: {}:{}: '{}' holds no numbers", path_, object, name));
  std::vector<double> values(opened.count);
  if (!values.empty() && H5Aread(opened.attribute, H5T_NATIVE_DOUBLE, values.data()) < 0)
    h5::fail_read("cannot read attribute '" + name + "'", path_, object);
  return values;
}

double Hdf5File::attribute_number(const std::string& object, const std::string& name) const {
  const auto values = attribute_numbers(object, name);
  if (values.size() != 1)
    throw DataError(fmt::format("bad attribute: {}:{}: '{}' has {} values, one is needed", path_, object,
                                name, values.size()));
  return values[0];
}

std::vector<std::string> Hdf5File::attribute_strings(const std::string& object,
                                                     const std::string& name) const {
  const Lock lock;
  if (remote_) return remote_->attribute_strings(object, name);
  const auto opened = open_attribute(id_, path_, object, name);
  if (H5Tget_class(opened.type) != H5T_STRING)
    throw DataError(fmt::format("bad attribute: {}:{}: '{}' holds no text", path_, object, name));
  return convert_strings(
      opened.type, opened.space, opened.count,
      [&](hid_t memory, void* out) { return H5Aread(opened.attribute, memory, out); },
      [&] { h5::fail_read("cannot read attribute '" + name + "'", path_, object); });
}

std::string Hdf5File::attribute_string(const std::string& object, const std::string& name) const {
  auto values = attribute_strings(object, name);
  if (values.size() != 1)
    throw DataError(fmt::format("bad attribute: {}:{}: '{}' has {} values, one is needed", path_, object,
                                name, values.size()));
  return std::move(values[0]);
}

}  // namespace dino
