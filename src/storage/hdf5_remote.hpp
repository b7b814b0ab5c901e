// SPDX-License-Identifier: Apache-2.0
#pragma once
// An HDF5 file of unknown content, read by another process. The library (1.10.8) can crash, loop or read
// beyond its memory on metadata that were damaged in place, and whether it does depends on what lies beside
// them: a file that was read without harm once can still end the next process. So this one never shows such
// a file to the library: a crash there is a DataError here.
//
// Why posix_spawn, and not a fork of this process: it may have pages registered with a network adapter, which
// a fork can tear away from the parent on older kernels, other threads that hold locks (OpenMP, MPI's
// progress), and gigabytes of page tables to copy. The spawned process is this program's own executable, so
// that it cannot be missing or of another version; it never gets as far as MPI_Init, has one thread, and
// forks a child per file, in about a millisecond. It ends when this process does, because its socket closes.
//
// Contiguous data of the wanted type, which is most of the bytes there are, this process reads itself, at the
// place that the other one names.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "storage/hdf5.hpp"
#include "storage/hdf5_wire.hpp"
#include "storage/posix_file.hpp"

namespace dino::h5 {

/// The reading half of Hdf5File. Use it under a Lock only.
class RemoteFile {
 public:
  explicit RemoteFile(const std::string& path);
  ~RemoteFile();
  RemoteFile(const RemoteFile&) = delete;
  RemoteFile& operator=(const RemoteFile&) = delete;

  [[nodiscard]] bool exists(const std::string& name);
  [[nodiscard]] std::vector<std::string> list(const std::string& group);
  [[nodiscard]] std::vector<std::string> list_datasets(const std::string& group);
  [[nodiscard]] Hdf5File::Info info(const std::string& name);
  [[nodiscard]] int64_t data_offset(const std::string& name, DType dtype);
  [[nodiscard]] Tensor read(const std::string& name, DType dtype);
  void read_rows(const std::string& name, int64_t begin, TensorView out);
  [[nodiscard]] std::vector<std::string> read_strings(const std::string& name);
  [[nodiscard]] bool has_attribute(const std::string& object, const std::string& name);
  [[nodiscard]] std::vector<std::string> attributes(const std::string& object);
  [[nodiscard]] std::vector<double> attribute_numbers(const std::string& object, const std::string& name);
  [[nodiscard]] std::vector<std::string> attribute_strings(const std::string& object,
                                                           const std::string& name);

 private:
  [[nodiscard]] Message ask(const Message& request, const std::string& object);
  [[nodiscard]] Message reply(const std::string& object);
  void receive_rows(const std::string& name, int64_t begin, int64_t count, TensorView out);
  void receive_bytes(const std::string& name, void* out, int64_t size);
  /// Bytes of the file itself, which stays open.
  void read_raw(int64_t offset, void* out, int64_t size);
  [[noreturn]] void fail_crashed(const std::string& object);

  std::string path_;
  int socket_ = -1;
  int64_t process_ = -1;
  std::string crash_;  ///< what is said of it, once it has crashed
  // The file does not change while it is open, so each is asked for once: a row then costs one pread.
  std::map<std::string, Hdf5File::Info> infos_;
  std::map<std::pair<std::string, DType>, int64_t> offsets_;
  std::unique_ptr<PosixFile> raw_;
};

}  // namespace dino::h5
