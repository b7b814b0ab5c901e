// SPDX-License-Identifier: Apache-2.0
#include "storage/hdf5_server.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <map>
#include <new>

#include "base/error.hpp"
#include "base/retry.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/hdf5_handles.hpp"
#include "storage/hdf5_wire.hpp"

namespace dino::h5 {
namespace {

/// Of CPU time for one request, and of bytes read or inflated in a second beyond them.
constexpr int64_t kSeconds = 3;
constexpr int64_t kBytesPerSecond = 50 << 20;
/// Of wall-clock time per CPU second allowed: a file system may be slow, a pipe behind a link waits for ever.
constexpr int64_t kPatience = 33;
/// Beyond this the data of a file go through in slabs.
constexpr int64_t kSlab = int64_t{64} << 20;
constexpr uint64_t kMemory = uint64_t{2} << 30;
constexpr uint64_t kMemoryPerByte = 8;

void set_limit(int resource, rlim_t value) {
  rlimit old{};
  ::getrlimit(static_cast<__rlimit_resource_t>(resource), &old);
  const rlimit wanted{std::min(value, old.rlim_max), old.rlim_max};
  ::setrlimit(static_cast<__rlimit_resource_t>(resource), &wanted);
}

/// The sanitizers map terabytes of address space, so that no limit on it can be set.
void limit_memory([[maybe_unused]] int64_t file_bytes) {
#ifndef DINO_SANITIZE
  unsigned long pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r"); file != nullptr) {
    if (std::fscanf(file, "%lu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  set_limit(RLIMIT_AS, pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) + kMemory +
                           kMemoryPerByte * static_cast<uint64_t>(file_bytes));
#endif
}

/// A request that needs more than this ends the process (SIGPROF, SIGALRM).
void start_clock(int64_t bytes) {
  const time_t seconds = kSeconds + bytes / kBytesPerSecond;
  const itimerval cpu{{0, 0}, {seconds, 0}}, wall{{0, 0}, {seconds * kPatience, 0}};
  ::setitimer(ITIMER_PROF, &cpu, nullptr);
  ::setitimer(ITIMER_REAL, &wall, nullptr);
}

class FileServer {
 public:
  FileServer(int socket, const std::string& path)
      : socket_(socket), bytes_(path_exists(path) ? file_size(path) : 0), file_(open(path)) {}

  void run() {
    send(Message().put(int64_t{0}));
    for (Message request; receive_message(socket_, request);) {
      start_clock(bytes_);
      try {
        answer(request);
      } catch (const Error& error) {
        send(failure(error));
      } catch (const std::bad_alloc&) {
        send(failure(too_large()));
      }
    }
  }

  static Message failure(const Error& error) {
    return std::move(Message().put(static_cast<int64_t>(error.code())).put(std::string_view(error.what())));
  }

 private:
  [[nodiscard]] Hdf5File open(const std::string& path) const {
    limit_memory(bytes_);
    start_clock(bytes_);
    return Hdf5File::open_verified(path);
  }

  [[nodiscard]] DataError too_large() const {
    return DataError(
        fmt::format("damaged HDF5 file: {}: reading it needs far more memory than a file of its size "
                    "can fill; copy it again or write it anew",
                    file_.path()));
  }

  void send(const Message& message) const {
    if (!send_message(socket_, message)) ::_exit(0);  // nobody waits any more
  }

  void answer(Message& request) {
    const auto ask = static_cast<Ask>(request.number());
    const std::string name = request.text();
    Message reply;
    reply.put(int64_t{0});
    switch (ask) {
      case Ask::exists:
        return send(reply.put(int64_t{file_.exists(name)}));
      case Ask::list:
        return send(reply.put(file_.list(name)));
      case Ask::list_datasets:
        return send(reply.put(file_.list_datasets(name)));
      case Ask::info:
        return send(put_info(reply, name));
      case Ask::place: {
        const auto dtype = static_cast<DType>(request.number());
        return send(reply.put(file_.data_offset(name, dtype)));
      }
      case Ask::rows:
        return send_rows(name, request);
      case Ask::whole:
        return send_whole(name, static_cast<DType>(request.number()));
      case Ask::strings:
        return send(reply.put(file_.read_strings(name)));
      case Ask::attributes:
        return send(reply.put(file_.attributes(name)));
      case Ask::has_attribute:
        return send(reply.put(int64_t{file_.has_attribute(name, request.text())}));
      case Ask::attribute_strings:
        return send(reply.put(file_.attribute_strings(name, request.text())));
      case Ask::attribute_numbers: {
        const auto values = file_.attribute_numbers(name, request.text());
        reply.put(static_cast<int64_t>(values.size()));
        for (const double value : values) reply.put(value);
        return send(reply);
      }
    }
  }

  Message& put_info(Message& reply, const std::string& name) const {
    const Hdf5File::Info info = file_.info(name);
    std::vector<int64_t> shape;
    for (int i = 0; i < info.shape.rank(); ++i) shape.push_back(info.shape[i]);
    return reply.put(shape).put(info.dims).put(static_cast<int64_t>(info.dtype)).put(int64_t{info.is_string});
  }

  void send_bytes(const Tensor& tensor, int64_t rows_elements) const {
    const size_t bytes = static_cast<size_t>(rows_elements) * size_of(tensor.dtype());
    send(Message().put(int64_t{0}).put(static_cast<int64_t>(bytes)));
    if (!send_all(socket_, tensor.view().data, bytes)) ::_exit(0);
  }

  void send_whole(const std::string& name, DType dtype) const {
    const Tensor tensor = file_.read(name, dtype);
    send_bytes(tensor, tensor.numel());
  }

  /// Slab by slab, each with its own clock.
  void send_rows(const std::string& name, Message& request) const {
    const auto dtype = static_cast<DType>(request.number());
    const int64_t begin = request.number(), count = request.number(), elements = request.number();
    if (count <= 0 || elements == 0) return send(Message().put(int64_t{0}).put(int64_t{0}));
    const int64_t width = elements / count;
    const int64_t step = std::clamp<int64_t>(
        kSlab / std::max<int64_t>(1, width * static_cast<int64_t>(size_of(dtype))), 1, count);
    Tensor slab(Shape{step, width}, dtype);
    for (int64_t row = 0; row < count; row += step) {
      start_clock(kSlab);
      const int64_t n = std::min(step, count - row);
      TensorView view = slab.view();
      view.shape = Shape{n, width};
      file_.read_rows(name, begin + row, view);
      send_bytes(slab, n * width);
    }
  }

  int socket_;
  int64_t bytes_;
  Hdf5File file_;
};

[[noreturn]] void serve_file(int socket, const std::string& path) {
  ::close(kControl);
  try {
    FileServer(socket, path).run();
  } catch (const Error& error) {
    static_cast<void>(send_message(socket, FileServer::failure(error)));
  } catch (const std::bad_alloc&) {
    static_cast<void>(send_message(
        socket,
        FileServer::failure(DataError(fmt::format(
            "damaged HDF5 file: {}: opening it needs far more memory than a file of its size can fill; "
            "copy it again or write it anew",
            path)))));
  }
  ::_exit(0);
}

/// A request with the socket that came with it, or -1.
ssize_t receive_request(std::array<char, 1 << 16>& bytes, int& socket) {
  iovec part{bytes.data(), bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> ancillary{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = ancillary.data();
  header.msg_controllen = ancillary.size();
  ssize_t got = 0;
  do got = ::recvmsg(kControl, &header, MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  socket = -1;
  const cmsghdr* first = CMSG_FIRSTHDR(&header);
  if (got > 0 && first != nullptr && first->cmsg_type == SCM_RIGHTS)
    std::memcpy(&socket, CMSG_DATA(first), sizeof socket);
  return got;
}

}  // namespace

bool serves_hdf5(int argc, char** argv) {
  return argc == 2 && std::strcmp(argv[1], kServe) == 0;
}

int serve_hdf5() {
  // A stop request to a whole job step is the other process's business; this one ends with it.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE}) ::signal(signal, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::syscall(SYS_close_range, 3U, ~0U, 0U);
  set_limit(RLIMIT_CORE, 0);
  set_retry_seconds(0);  // whoever asks tries again
  { const Lock lock; }   // the library starts once, here, rather than in every child
  std::map<pid_t, int> ended;
  std::array<char, 1 << 16> bytes{};
  int socket = -1;
  for (ssize_t got = 0; (got = receive_request(bytes, socket)) > 0;) {
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) ended[pid] = status;
    int64_t reply = 0;
    if (socket >= 0) {
      const std::string path(bytes.data(), static_cast<size_t>(got));
      const pid_t child = ::fork();
      if (child == 0) serve_file(socket, path);
      ::close(socket);
      ended.erase(child);
      reply = child;
    } else {  // how did it end?
      pid_t pid = 0;
      std::memcpy(&pid, bytes.data(), std::min(sizeof pid, static_cast<size_t>(got)));
      if (!ended.contains(pid)) {
        while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
        ended[pid] = status;
      }
      reply = ended[pid];
      ended.erase(pid);
    }
    if (::send(kControl, &reply, sizeof reply, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof reply)) return 0;
  }
  return 0;
}

}  // namespace dino::h5
