// SPDX-License-Identifier: Apache-2.0
#include "storage/hdf5_handles.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "base/error.hpp"
#include "base/retry.hpp"

namespace dino {
namespace h5 {
namespace {

std::recursive_mutex& mutex() {
  static std::recursive_mutex instance;
  return instance;
}

Handle half_type(size_t exponent_bits, size_t bias) {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  // Sign at bit 15, then the exponent, the mantissa from bit 0; the fields must fit before the size shrinks.
  const size_t mantissa_bits = 15 - exponent_bits;
  H5Tset_fields(type, 15, mantissa_bits, exponent_bits, 0, mantissa_bits);
  H5Tset_size(type, 2);
  H5Tset_ebias(type, bias);
  return type;
}

}  // namespace

Lock::Lock() : lock_(mutex()) {
  static const bool once = [] {
#if !H5_VERSION_GE(1, 12, 1) && !(H5_VERS_MAJOR == 1 && H5_VERS_MINOR == 10 && H5_VERS_RELEASE >= 7)
    ::setenv("HDF5_USE_FILE_LOCKING", "FALSE", 0);  // it has no switch for one file
#endif
    // Without this, a file that could not be closed (full disk) makes the library loop at exit.
    H5dont_atexit();
    H5open();
    return true;
  }();
  static_cast<void>(once);
  // The default error stack is per thread in some builds of the library.
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::string cause() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
        auto& first = *static_cast<std::string*>(out);
        if (first.empty() && error->desc != nullptr) first = error->desc;
        return 0;
      },
      &text);
  H5Eclear2(H5E_DEFAULT);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.empty() ? "the HDF5 library gives no cause" : text;
}

bool is_of_the_system(const std::string& why) {
  constexpr std::string_view kErrno = "errno = ";
  const size_t at = why.find(kErrno);
  return at != std::string::npos && is_passing_fault(std::atoi(why.c_str() + at + kErrno.size()));
}

void fail_read(const std::string& what, const std::string& file, const std::string& object) {
  const std::string why = cause();
  const std::string line = fmt::format("{}: {}:{}: {}", what, file, object, why);
  if (is_of_the_system(why)) throw IoError(line);
  throw DataError(line);
}

void fail_write(const std::string& what, const std::string& file, const std::string& object) {
  throw IoError(fmt::format("{}: {}:{}: {}", what, file, object, cause()));
}

Handle memory_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return {H5Tcopy(H5T_NATIVE_FLOAT), H5Tclose};
    case DType::f64:
      return {H5Tcopy(H5T_NATIVE_DOUBLE), H5Tclose};
    case DType::i32:
      return {H5Tcopy(H5T_NATIVE_INT32), H5Tclose};
    case DType::i64:
      return {H5Tcopy(H5T_NATIVE_INT64), H5Tclose};
    case DType::u8:
      return {H5Tcopy(H5T_NATIVE_UINT8), H5Tclose};
    case DType::f16:
      return half_type(5, 15);
    case DType::bf16:
      break;
  }
  return half_type(8, 127);
}

int64_t check_rows(const std::vector<int64_t>& dims, int64_t begin, const Shape& wanted,
                   const std::string& file, const std::string& object) {
  const int64_t count = wanted.rank() == 0 ? 1 : wanted[0];
  if (dims.empty() || begin < 0 || count < 0 || begin > dims[0] || count > dims[0] - begin)
    throw DataError(fmt::format("too few rows: {}:{}: rows {} to {} asked for, its shape is [{}]", file,
                                object, begin, begin + count, fmt::join(dims, ", ")));
  int64_t elements = count;
  for (size_t i = 1; i < dims.size(); ++i) elements *= dims[i];
  if (elements != wanted.numel())
    throw DataError(fmt::format("wrong shape: {}:{}: {} rows are wanted as {}, its shape is [{}]", file,
                                object, count, wanted.str(), fmt::join(dims, ", ")));
  return count;
}

void switch_locking_off([[maybe_unused]] hid_t access) {
#if H5_VERSION_GE(1, 12, 1) || (H5_VERS_MAJOR == 1 && H5_VERS_MINOR == 10 && H5_VERS_RELEASE >= 7)
  H5Pset_file_locking(access, false, true);
#endif
}

Handle file_type(DType dtype) {
  // Every machine this runs on is little-endian, so that the two are the same.
  return memory_type(dtype);
}

}  // namespace h5

}  // namespace dino
