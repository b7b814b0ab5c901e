// SPDX-License-Identifier: Apache-2.0
#include "storage/hdf5_remote.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>

#include "base/error.hpp"
#include "base/retry.hpp"
#include "storage/hdf5_handles.hpp"
#include "storage/hdf5_server.hpp"

namespace dino::h5 {
namespace {

std::array<int, 2> socket_pair(int type) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()) != 0)
    throw_errno("cannot make a socket", "for reading HDF5 files");
  return ends;
}

/// The process that forks one child per file; started at the first file.
class Server {
 public:
  /// Hands `socket` to a new child that reads `path`; its process id.
  int64_t open(const std::string& path, int socket) {
    // It may have been killed with the processes of a job step: then another one is asked.
    for (int attempt = 0; attempt < 2; ++attempt) {
      if (control_ < 0) start();
      int64_t reply = -1;
      if (request(path.data(), path.size(), socket, reply)) {
        if (reply > 0) return reply;
        break;
      }
      stop();
    }
    throw IoError(
        fmt::format("cannot read HDF5 file: {}: the process that reads it does not start; check the "
                    "limits on processes and memory (ulimit -a)",
                    path));
  }

  /// As waitpid gives it.
  int status(int64_t process) {
    const auto pid = static_cast<pid_t>(process);
    int64_t reply = 0;
    return control_ >= 0 && request(&pid, sizeof pid, -1, reply) ? static_cast<int>(reply) : SIGKILL;
  }

 private:
  void start() {
    const auto ends = socket_pair(SOCK_SEQPACKET);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], kControl);
    // Nobody who waits for this program's output to end waits for the server as well.
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    const char* executable = "/proc/self/exe";
    std::string name = "dino", word = kServe;
    const std::array<char*, 3> argv = {name.data(), word.data(), nullptr};
    const int error = ::posix_spawn(&pid_, executable, &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    if (error != 0) {
      ::close(ends[0]);
      throw IoError(fmt::format("cannot read HDF5 files: {}: cannot start it once more to read them: {}",
                                executable, std::system_category().message(error)));
    }
    control_ = ends[0];
  }

  void stop() {
    ::close(control_);
    control_ = -1;
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }

  [[nodiscard]] bool request(const void* data, size_t size, int socket, int64_t& reply) const {
    iovec part{const_cast<void*>(data), size};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> ancillary{};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (socket >= 0) {
      header.msg_control = ancillary.data();
      header.msg_controllen = ancillary.size();
      cmsghdr* first = CMSG_FIRSTHDR(&header);
      first->cmsg_level = SOL_SOCKET;
      first->cmsg_type = SCM_RIGHTS;
      first->cmsg_len = CMSG_LEN(sizeof socket);
      std::memcpy(CMSG_DATA(first), &socket, sizeof socket);
    }
    ssize_t done = 0;
    do done = ::sendmsg(control_, &header, MSG_NOSIGNAL);
    while (done < 0 && errno == EINTR);
    if (done != static_cast<ssize_t>(size)) return false;
    do done = ::recv(control_, &reply, sizeof reply, 0);
    while (done < 0 && errno == EINTR);
    return done == static_cast<ssize_t>(sizeof reply);
  }

  int control_ = -1;
  pid_t pid_ = -1;
};

Server& server() {
  static Server instance;
  return instance;
}

Message request_of(Ask ask, const std::string& name) {
  Message message;
  message.put(static_cast<int64_t>(ask)).put(std::string_view(name));
  return message;
}

}  // namespace

RemoteFile::RemoteFile(const std::string& path) : path_(path) {
  const auto ends = socket_pair(SOCK_STREAM);
  socket_ = ends[0];
  try {
    process_ = server().open(path, ends[1]);
    ::close(ends[1]);
  } catch (...) {
    ::close(ends[0]);
    ::close(ends[1]);
    throw;
  }
  try {
    static_cast<void>(reply(""));
  } catch (...) {
    ::close(socket_);
    throw;
  }
}

RemoteFile::~RemoteFile() {
  // The other process has closed the file, and freed its lock, before its end of the socket closes.
  ::shutdown(socket_, SHUT_WR);
  std::array<char, 4096> rest{};
  while (receive_all(socket_, rest.data(), rest.size())) {
  }
  ::close(socket_);
}

void RemoteFile::fail_crashed(const std::string& object) {
  if (!crash_.empty()) throw DataError(crash_);
  const int status = server().status(process_);
  const std::string place = object.empty() ? "" : " at " + object;
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  const bool endless = signal == SIGPROF || signal == SIGALRM;
  const std::string cause =
      endless       ? fmt::format("the HDF5 library does not come to an end{}", place)
      : signal != 0 ? fmt::format("the HDF5 library crashes{} ({})", place, ::strsignal(signal))
                    : fmt::format("the HDF5 library crashes{} (exit {})", place, WEXITSTATUS(status));
  crash_ = fmt::format("damaged HDF5 file: {}: {}; copy it again or write it anew", path_, cause);
  throw DataError(crash_);
}

Message RemoteFile::reply(const std::string& object) {
  Message message;
  if (!receive_message(socket_, message)) fail_crashed(object);
  if (const int64_t code = message.number(); code != 0) throw_as(static_cast<int>(code), message.text());
  return message;
}

Message RemoteFile::ask(const Message& request, const std::string& object) {
  return retrying(path_, [&] {
    if (!send_message(socket_, request)) fail_crashed(object);
    return reply(object);
  });
}

bool RemoteFile::exists(const std::string& name) {
  return ask(request_of(Ask::exists, name), name).number() != 0;
}

std::vector<std::string> RemoteFile::list(const std::string& group) {
  return ask(request_of(Ask::list, group), group).texts();
}

std::vector<std::string> RemoteFile::list_datasets(const std::string& group) {
  return ask(request_of(Ask::list_datasets, group), group).texts();
}

Hdf5File::Info RemoteFile::info(const std::string& name) {
  if (const auto known = infos_.find(name); known != infos_.end()) return known->second;
  Message message = ask(request_of(Ask::info, name), name);
  Hdf5File::Info info;
  info.shape = Shape(std::span<const int64_t>(message.numbers()));
  info.dims = message.numbers();
  info.dtype = static_cast<DType>(message.number());
  info.is_string = message.number() != 0;
  infos_[name] = info;
  return info;
}

int64_t RemoteFile::data_offset(const std::string& name, DType dtype) {
  const auto known = offsets_.find({name, dtype});
  if (known != offsets_.end()) return known->second;
  const int64_t offset = ask(request_of(Ask::place, name).put(static_cast<int64_t>(dtype)), name).number();
  offsets_[{name, dtype}] = offset;
  return offset;
}

void RemoteFile::receive_bytes(const std::string& name, void* out, int64_t size) {
  auto* to = static_cast<char*>(out);
  for (int64_t left = size; left > 0;) {
    const int64_t part = reply(name).number();
    if (part <= 0 || part > left || !receive_all(socket_, to, static_cast<size_t>(part))) fail_crashed(name);
    to += part;
    left -= part;
  }
}

void RemoteFile::read_raw(int64_t offset, void* out, int64_t size) {
  if (!raw_) raw_ = std::make_unique<PosixFile>(path_);
  raw_->read_exactly(offset, out, size);
}

void RemoteFile::receive_rows(const std::string& name, int64_t begin, int64_t count, TensorView out) {
  const auto bytes = out.numel() * static_cast<int64_t>(size_of(out.dtype));
  const Message request =
      request_of(Ask::rows, name).put(static_cast<int64_t>(out.dtype)).put(begin).put(count).put(out.numel());
  retrying(path_, [&] {
    if (!send_message(socket_, request)) fail_crashed(name);
    receive_bytes(name, out.data, bytes);
  });
}

Tensor RemoteFile::read(const std::string& name, DType dtype) {
  const Hdf5File::Info known = info(name);
  Tensor tensor(known.shape, dtype);
  if (tensor.numel() == 0) return tensor;
  const auto bytes = tensor.numel() * static_cast<int64_t>(size_of(dtype));
  if (const int64_t offset = data_offset(name, dtype); offset >= 0) {
    read_raw(offset, tensor.view().data, bytes);
  } else if (!known.dims.empty()) {
    receive_rows(name, 0, known.dims[0], tensor.view());
  } else {
    if (!send_message(socket_, request_of(Ask::whole, name).put(static_cast<int64_t>(dtype))))
      fail_crashed(name);
    receive_bytes(name, tensor.view().data, bytes);
  }
  return tensor;
}

void RemoteFile::read_rows(const std::string& name, int64_t begin, TensorView out) {
  const Hdf5File::Info known = info(name);
  const int64_t count = check_rows(known.dims, begin, out.shape, path_, name);
  if (out.numel() == 0) return;
  const int64_t offset = data_offset(name, out.dtype);
  if (offset < 0) return receive_rows(name, begin, count, out);
  const auto row = out.numel() / count * static_cast<int64_t>(size_of(out.dtype));
  read_raw(offset + begin * row, out.data, count * row);
}

std::vector<std::string> RemoteFile::read_strings(const std::string& name) {
  return ask(request_of(Ask::strings, name), name).texts();
}

bool RemoteFile::has_attribute(const std::string& object, const std::string& name) {
  return ask(request_of(Ask::has_attribute, object).put(std::string_view(name)), object).number() != 0;
}

std::vector<std::string> RemoteFile::attributes(const std::string& object) {
  return ask(request_of(Ask::attributes, object), object).texts();
}

std::vector<double> RemoteFile::attribute_numbers(const std::string& object, const std::string& name) {
  Message message = ask(request_of(Ask::attribute_numbers, object).put(std::string_view(name)), object);
  std::vector<double> values;
  for (int64_t left = message.number(); left > 0; --left) values.push_back(message.real());
  return values;
}

std::vector<std::string> RemoteFile::attribute_strings(const std::string& object, const std::string& name) {
  return ask(request_of(Ask::attribute_strings, object).put(std::string_view(name)), object).texts();
}

}  // namespace dino::h5
