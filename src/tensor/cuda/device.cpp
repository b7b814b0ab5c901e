// SPDX-License-Identifier: Apache-2.0
#include "tensor/cuda/device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "tensor/cuda/clock.hpp"

namespace dino::cuda {
namespace {

/// Copies between the host and a GPU go through this many pieces of pinned memory, one after the other. A
/// piece is long enough that its copy takes much longer than its start.
constexpr size_t kPieceBytes = size_t{4} << 20;
constexpr size_t kPieces = 4;
/// Of the addresses within a piece, and of scratch.
constexpr size_t kAlignment = 256;

constexpr size_t rounded_up(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

HostWait& host_wait() {
  static HostWait wait;
  return wait;
}

}  // namespace

void set_host_wait(HostWait wait) {
  host_wait() = std::move(wait);
}

void wait_on_host(EventHandle event) {
  if (finished(event)) return;
  if (const HostWait& wait = host_wait())
    wait([event] { return finished(event); });
  else
    synchronize(event);
}

void* CudaMemory::allocate(size_t bytes) {
  use_device(device_.index);
  return cuda::allocate(bytes);
}

void CudaMemory::release(void* data, size_t) noexcept {
  cuda::release(data);
}

void CudaMemory::zero(void* data, size_t bytes) {
  if (bytes == 0) return;
  use_device(device_.index);
  cuda::zero(data, bytes);
}

CudaEvent::CudaEvent(int device, StreamHandle stream) : device_(device), handle_(new_event()) {
  try {
    cuda::record(handle_, stream);
  } catch (...) {
    delete_event(handle_);
    throw;
  }
}

CudaEvent::~CudaEvent() {
  delete_event(handle_);
}

bool CudaEvent::done() {
  use_device(device_);
  return finished(handle_);
}

void CudaEvent::wait() {
  use_device(device_);
  wait_on_host(handle_);
}

/// A ring of pinned pieces, filled one after the other. A piece that is full waits for the stream to pass its
/// event before it is filled again; what it holds for the host is then brought there.
class CudaStream::Staging {
 public:
  explicit Staging(StreamHandle stream) : stream_(stream), pinned_(allocate_pinned(kPieces * kPieceBytes)) {
    if (pinned_ == nullptr)
      throw IoError(
          fmt::format("out of memory: {} bytes of pinned host memory; raise the limit of locked "
                      "memory (ulimit -l) or start fewer processes on this machine",
                      kPieces * kPieceBytes));
    for (size_t i = 0; i < kPieces; ++i) pieces_[i].data = static_cast<std::byte*>(pinned_) + i * kPieceBytes;
  }
  /// Nothing of the stream is under way. What was not waited for is not brought to the host: it may be gone.
  ~Staging() {
    for (const Piece& piece : pieces_)
      if (piece.passed != nullptr) delete_event(piece.passed);
    release_pinned(pinned_);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  void to_device(void* to, const void* from, size_t bytes) {
    in_pieces(bytes, [&](std::byte* room, size_t begin, size_t count) {
      std::memcpy(room, static_cast<const std::byte*>(from) + begin, count);
      copy(stream_, static_cast<std::byte*>(to) + begin, room, count, CopyKind::to_device);
    });
  }

  void to_host(void* to, const void* from, size_t bytes) {
    in_pieces(bytes, [&](std::byte* room, size_t begin, size_t count) {
      copy(stream_, room, static_cast<const std::byte*>(from) + begin, count, CopyKind::to_host);
      pieces_[current_].deliveries.push_back({static_cast<std::byte*>(to) + begin, room, count});
    });
  }

  /// The stream has passed all that was enqueued.
  void deliver() {
    for (size_t i = 1; i <= kPieces; ++i) deliver(pieces_[(current_ + i) % kPieces]);
    pieces_[current_].used = 0;
  }

  /// The stream has failed: nobody waits for what it would have brought, and the places may be gone.
  void forget() {
    for (Piece& piece : pieces_) piece.deliveries.clear();
  }

 private:
  struct Delivery {
    void* to;
    const void* from;
    size_t bytes;
  };
  struct Piece {
    std::byte* data = nullptr;
    size_t used = 0;
    EventHandle passed = nullptr;  ///< recorded when it was full
    bool recorded = false;
    std::vector<Delivery> deliveries;
  };

  template <class Transfer>
  void in_pieces(size_t bytes, const Transfer& transfer) {
    for (size_t begin = 0; begin < bytes;) {
      if (pieces_[current_].used == kPieceBytes) next_piece();
      Piece& piece = pieces_[current_];
      // What fits into one piece is not cut in two.
      if (std::min(bytes - begin, kPieceBytes) > kPieceBytes - piece.used) {
        piece.used = kPieceBytes;
        continue;
      }
      const size_t count = std::min(bytes - begin, kPieceBytes - piece.used);
      std::byte* room = piece.data + piece.used;
      piece.used += rounded_up(count, kAlignment);
      transfer(room, begin, count);
      begin += count;
    }
  }

  void next_piece() {
    Piece& full = pieces_[current_];
    if (full.passed == nullptr) full.passed = new_event();
    cuda::record(full.passed, stream_);
    full.recorded = true;
    current_ = (current_ + 1) % kPieces;
    Piece& next = pieces_[current_];
    if (next.recorded) wait_on_host(next.passed);
    deliver(next);
    next.recorded = false;
    next.used = 0;
  }

  static void deliver(Piece& piece) {
    for (const Delivery& d : piece.deliveries) std::memcpy(d.to, d.from, d.bytes);
    piece.deliveries.clear();
  }

  StreamHandle stream_;
  void* pinned_;
  std::array<Piece, kPieces> pieces_;
  size_t current_ = 0;
};

CudaStream::CudaStream(CudaMemory& memory, Priority priority) : memory_(memory), handle_(nullptr) {
  make_current();
  handle_ = new_stream(priority);
}

CudaStream::~CudaStream() {
  try {
    drain();
  } catch (const Error&) {
    // A GPU that has failed does nothing more, and who waits for its results has been told.
  }
  staging_.reset();
  clock_.reset();
  if (scratch_ != nullptr) cuda::release(scratch_);
  delete_stream(handle_);
}

Event CudaStream::record() {
  make_current();
  return Event(std::make_shared<CudaEvent>(memory_.device().index, handle_));
}

void CudaStream::wait(const Event& event) {
  if (!event.state()) return;
  make_current();
  const auto of_gpu = std::dynamic_pointer_cast<CudaEvent>(event.state());
  if (!of_gpu) {
    event.synchronize();
    return;
  }
  const auto awaited = clock_ ? std::dynamic_pointer_cast<AwaitedEvent>(of_gpu) : nullptr;
  if (awaited) clock_->begin_wait(awaited);
  cuda::wait(handle_, of_gpu->handle());
  if (awaited) clock_->end();
}

StreamClock* CudaStream::clock() {
  make_current();
  if (!clock_) clock_ = std::make_unique<CudaClock>(*this);
  return clock_.get();
}

void CudaStream::drain() {
  if (host_wait()) {
    record().synchronize();
  } else {
    make_current();
    cuda::synchronize(handle_);
  }
}

void CudaStream::synchronize() {
  try {
    if (clock_) clock_->begin_synchronize();
    drain();
    if (clock_) clock_->synchronized();
  } catch (const Error&) {
    if (staging_) staging_->forget();
    throw;
  }
  if (staging_) staging_->deliver();
}

void* CudaStream::checked(DeviceBytes bytes) const {
  DINO_CHECK(bytes.device == memory_.device(), "bytes of another device than the stream's");
  return bytes.data;
}

CudaStream::Staging& CudaStream::staging() {
  if (!staging_) staging_ = std::make_unique<Staging>(handle_);
  return *staging_;
}

void CudaStream::copy_bytes(DeviceBytes to, DeviceBytes from, size_t bytes) {
  if (bytes == 0) return;
  make_current();
  if (from.device.is_host())
    staging().to_device(checked(to), from.data, bytes);
  else if (to.device.is_host())
    staging().to_host(to.data, checked(from), bytes);
  else
    copy(handle_, checked(to), checked(from), bytes, CopyKind::on_device);
}

void CudaStream::fill_elements(DeviceBytes to, std::span<const std::byte> element, size_t count) {
  if (count == 0) return;
  make_current();
  fill(handle_, checked(to), element.data(), element.size(), count);
}

void* CudaStream::scratch(size_t bytes) {
  if (bytes <= scratch_bytes_) return scratch_;
  synchronize();
  if (scratch_ != nullptr) cuda::release(scratch_);
  scratch_ = nullptr;
  scratch_bytes_ = rounded_up(bytes, size_t{1} << 20);
  scratch_ = cuda::allocate(scratch_bytes_);
  if (scratch_ == nullptr) {
    const size_t wanted = std::exchange(scratch_bytes_, 0);
    throw IoError(
        fmt::format("out of memory: {} bytes of scratch memory on GPU {}; use a smaller batch or model",
                    wanted, memory_.device().index));
  }
  return scratch_;
}

CudaStream& cuda_stream(Stream& stream) {
  auto* const of_gpu = dynamic_cast<CudaStream*>(&stream);
  DINO_CHECK(of_gpu != nullptr, "a stream of another device than a GPU");
  of_gpu->make_current();
  return *of_gpu;
}

void check_access(DType held, DType wanted, Device device) {
  DINO_CHECK(held == wanted, std::string("tensor holds ") + name_of(held));
  DINO_CHECK(device.kind == Device::Kind::cuda, "a kernel touches the memory of another device");
}

}  // namespace dino::cuda
