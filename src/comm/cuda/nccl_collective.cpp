// SPDX-License-Identifier: Apache-2.0
#include "comm/cuda/nccl_collective.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <exception>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.hpp"
#include "base/timing.hpp"
#include "comm/cuda/nccl.hpp"
#include "comm/cuda/ordered_sum.hpp"
#include "comm/mpi_check.hpp"
#include "comm/together.hpp"

namespace dino::cuda {
namespace {

/// Ranks that start find each other within this time, or never.
constexpr auto kInitPatience = std::chrono::minutes(5);
/// Pieces of sums begin at multiples of this many bytes, where kernels read 16 at once.
constexpr int64_t kPieceAlignment = 128;

class NcclCollective;

/// All of this process that have a group, in the order in which they were made. Only the thread that made
/// them may call MPI and NCCL.
struct Alive {
  std::vector<NcclCollective*> collectives;
  std::thread::id thread;
};
Alive& alive() {
  static Alive instance;
  return instance;
}

/// An operation under way, on the stream of collectives.
class Operation final : public AwaitedEvent {
 public:
  Operation(const char* name, const CudaStream& stream, std::shared_ptr<CollectiveUse> owner,
            OperationUse& use, int64_t bytes)
      : AwaitedEvent(stream.device().index, stream.handle()),
        name_(name),
        owner_(std::move(owner)),
        use_(use),
        bytes_(bytes) {
    use_ += {1, bytes, 0};
  }
  void wait() override {
    if (done()) return;
    const Span span(name_, "wait", bytes_);
    const Stopwatch watch;
    CudaEvent::wait();
    use_.wait_seconds += watch.seconds();
  }
  [[nodiscard]] const char* name() const override { return name_; }
  [[nodiscard]] int64_t bytes() const override { return bytes_; }
  void stream_waited(double seconds) override { use_.wait_seconds += seconds; }

 private:
  const char* name_;
  std::shared_ptr<CollectiveUse> owner_;
  OperationUse& use_;  ///< of *owner_
  int64_t bytes_;
};

/// What a collective shares with those that are split off: with one stream, the kernels of all groups run in
/// one order, which is the same on all ranks; those of two groups at once could each hold what the other
/// waits for. Its kernels go first, since other GPUs wait for what they send.
struct Shared {
  explicit Shared(CudaMemory& memory) : stream(memory, Priority::high) {}
  CudaStream stream;
  std::shared_ptr<CollectiveUse> use = std::make_shared<CollectiveUse>();
};

class NcclCollective final : public Collective {
 public:
  /// Takes the group, which is still in the making.
  NcclCollective(Communicator comm, std::shared_ptr<Shared> shared, nccl::GroupHandle group)
      : comm_(std::move(comm)), shared_(std::move(shared)), group_(group) {
    if (group_ != nullptr) enlist();
  }
  ~NcclCollective() override;
  NcclCollective(const NcclCollective&) = delete;
  NcclCollective& operator=(const NcclCollective&) = delete;
  [[nodiscard]] int rank() const override { return comm_.rank(); }
  [[nodiscard]] int size() const override { return comm_.size(); }
  [[nodiscard]] Event all_reduce(Stream& stream, TensorView values, ReduceOp op) override;
  [[nodiscard]] Event all_gather(Stream& stream, TensorView all) override;
  [[nodiscard]] Event reduce_scatter(Stream& stream, TensorView all) override;
  [[nodiscard]] std::unique_ptr<Collective> split(const std::function<int(int)>& colour) const override;
  /// A GPU gets on by itself: only errors are looked for.
  void poll() override {
    forget_done();
    look();
  }
  [[nodiscard]] const CollectiveUse& use() const override { return *shared_->use; }

  /// Waits until the group takes calls.
  void settle(const char* operation) const;
  /// Throws what has failed, after all groups of this process are aborted.
  void look() const;
  /// Of the oldest operation under way; null: there is none.
  [[nodiscard]] const char* under_way() {
    forget_done();
    return operations_.empty() ? nullptr : operations_.front()->name();
  }
  void poll_mpi() const {
    int flag = 0;
    mpi::check(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_.handle(), &flag, MPI_STATUS_IGNORE), "poll");
  }
  void abort() noexcept { nccl::abort_group(std::exchange(group_, nullptr)); }

 private:
  void enlist();
  void forget_done() {
    while (!operations_.empty() && operations_.front()->done()) operations_.pop_front();
  }
  /// False: nothing is to be done.
  [[nodiscard]] bool begin(Stream& stream, TensorView values);
  [[nodiscard]] Event finish(const char* name, OperationUse& use, TensorView values);
  template <class Call>
  void call(const char* operation, const Call& call) {
    call();
    settle(operation);
  }
  void small_sum(TensorView values);
  void large_sum(TensorView values);
  /// The longest pieces of a sum, in elements of `width` bytes.
  [[nodiscard]] int64_t longest_piece(int64_t width) const {
    const int64_t unit = kPieceAlignment / width;
    return std::max<int64_t>(
        unit, std::min(mpi::kSumBufferBytes, mpi::message_bytes()) / (width * size()) / unit * unit);
  }

  Communicator comm_;  ///< its own
  std::shared_ptr<Shared> shared_;
  nccl::GroupHandle group_;  ///< null: a rank alone, or aborted
  std::deque<std::shared_ptr<Operation>> operations_;
};

/// While collectives exist, the host waits for a GPU so: another rank may be on its way to the collective
/// that this GPU waits for, and need this rank's MPI for that.
void wait_serving(const std::function<bool()>& finished) {
  const bool serves = std::this_thread::get_id() == alive().thread;
  const char* name = nullptr;
  if (serves)
    for (NcclCollective* const collective : alive().collectives)
      if (name == nullptr) name = collective->under_way();
  const WatchdogScope scope(name == nullptr ? "GPU" : name);
  auto pause = std::chrono::microseconds(0);
  while (!finished()) {
    if (serves) {
      for (const NcclCollective* const collective : alive().collectives) collective->look();
      if (!alive().collectives.empty()) alive().collectives.front()->poll_mpi();
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(pause + std::chrono::microseconds(1), std::chrono::microseconds(100));
  }
}

void NcclCollective::enlist() {
  if (alive().collectives.empty()) set_host_wait(wait_serving);
  alive().thread = std::this_thread::get_id();
  alive().collectives.push_back(this);
}

NcclCollective::~NcclCollective() {
  std::erase(alive().collectives, this);
  if (std::uncaught_exceptions() > 0) {
    abort();
  } else if (group_ != nullptr) {
    try {
      shared_->stream.synchronize();
      nccl::end_group(std::exchange(group_, nullptr));
    } catch (const Error&) {
      abort();
    }
  }
  if (alive().collectives.empty()) set_host_wait({});
}

void NcclCollective::look() const {
  if (group_ == nullptr) return;
  std::string why;
  if (nccl::state(group_, why) != nccl::State::failed) return;
  // A rank that is gone leaves kernels of any group waiting for it.
  for (NcclCollective* const collective : alive().collectives) collective->abort();
  throw MpiError(
      fmt::format("NCCL failed: {}; look at the other ranks' errors and at dmesg for the GPU", why));
}

void NcclCollective::settle(const char* operation) const {
  DINO_CHECK(group_ != nullptr, "a collective after NCCL has failed");
  std::string why;
  if (nccl::state(group_, why) == nccl::State::ready) return;
  const WatchdogScope scope(operation);
  const auto deadline = std::chrono::steady_clock::now() + kInitPatience;
  while (true) {
    look();
    if (nccl::state(group_, why) == nccl::State::ready) return;
    if (std::chrono::steady_clock::now() > deadline) {
      for (NcclCollective* const collective : alive().collectives) collective->abort();
      throw MpiError(
          fmt::format("NCCL failed: {}: not all ranks came within {} minutes; NCCL_DEBUG=INFO tells more, "
                      "DINO_NCCL=off goes "
                      "through MPI",
                      operation, kInitPatience.count()));
    }
    poll_mpi();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

bool NcclCollective::begin(Stream& stream, TensorView values) {
  if (size() == 1 || values.numel() == 0) return false;
  DINO_CHECK(values.device == shared_->stream.device(), "a collective of another device");
  forget_done();
  settle("the last collective");
  shared_->stream.wait(stream.record());
  return true;
}

Event NcclCollective::finish(const char* name, OperationUse& use, TensorView values) {
  auto operation = std::make_shared<Operation>(name, shared_->stream, shared_->use, use,
                                               values.numel() * static_cast<int64_t>(size_of(values.dtype)));
  operations_.push_back(operation);
  return Event(std::move(operation));
}

/// Every rank gets all numbers and sums them: one message a pair instead of two.
void NcclCollective::small_sum(TensorView values) {
  CudaStream& stream = shared_->stream;
  const auto bytes = static_cast<size_t>(values.numel()) * size_of(values.dtype);
  auto* const parts = static_cast<std::byte*>(stream.scratch(bytes * static_cast<size_t>(size())));
  std::byte* const own = parts + static_cast<size_t>(rank()) * bytes;
  stream.copy_bytes({own, stream.device()}, {values.data, stream.device()}, bytes);
  call("all_reduce", [&] { nccl::all_gather(group_, stream.handle(), parts, bytes); });
  enqueue(stream, values.dtype, {parts, values.numel(), own, rank(), size(), values.numel(), values.data});
}

/// Blocks of size() pieces: each rank sums one piece, and everyone gathers the sums.
void NcclCollective::large_sum(TensorView values) {
  CudaStream& stream = shared_->stream;
  const Device device = stream.device();
  const auto width = static_cast<int64_t>(size_of(values.dtype));
  const int64_t n = values.numel(), ranks = size(), unit = kPieceAlignment / width;
  for (int64_t begin = 0; begin < n;) {
    const int64_t even = ((n - begin + ranks - 1) / ranks + unit - 1) / unit * unit;
    const int64_t piece = std::min(longest_piece(width), even);
    const auto piece_bytes = static_cast<size_t>(piece * width),
               full = piece_bytes * static_cast<size_t>(ranks);
    const int64_t count = std::min(n - begin, piece * ranks);
    const auto count_bytes = static_cast<size_t>(count * width);
    std::byte* const there = static_cast<std::byte*>(values.data) + begin * width;
    std::byte* block = there;
    auto* const parts = static_cast<std::byte*>(stream.scratch(count_bytes < full ? 2 * full : full));
    if (count_bytes < full) {
      block = parts + full;
      stream.copy_bytes({block, device}, {there, device}, count_bytes);
      const std::byte zero{};
      stream.fill_elements({block + count_bytes, device}, {&zero, 1}, full - count_bytes);
    }
    std::byte* const own = block + static_cast<size_t>(rank()) * piece_bytes;
    call("all_reduce",
         [&] { nccl::all_to_all(group_, stream.handle(), block, piece_bytes, parts, piece_bytes); });
    enqueue(stream, values.dtype, {parts, piece, own, rank(), size(), piece, own});
    call("all_reduce", [&] { nccl::all_gather(group_, stream.handle(), block, piece_bytes); });
    if (block != there) stream.copy_bytes({there, device}, {block, device}, count_bytes);
    begin += count;
  }
}

Event NcclCollective::all_reduce(Stream& stream, TensorView values, ReduceOp op) {
  const bool is_half = values.dtype == DType::bf16 || values.dtype == DType::f16;
  DINO_CHECK(
      is_half || values.dtype == DType::f32 || values.dtype == DType::f64 || values.dtype == DType::i64,
      std::string("a reduction of ") + name_of(values.dtype));
  DINO_CHECK(op == ReduceOp::sum || !is_half, std::string("only sums of ") + name_of(values.dtype));
  if (!begin(stream, values)) return {};
  if (op != ReduceOp::sum || values.dtype == DType::i64) {
    call("all_reduce", [&] {
      nccl::all_reduce(group_, shared_->stream.handle(), values.data, static_cast<size_t>(values.numel()),
                       values.dtype, op);
    });
  } else if (values.numel() * static_cast<int64_t>(size_of(values.dtype)) * size() <=
             std::min(mpi::kSmallSumBytes, mpi::message_bytes())) {
    small_sum(values);
  } else {
    large_sum(values);
  }
  return finish("all_reduce", shared_->use->all_reduce, values);
}

Event NcclCollective::reduce_scatter(Stream& stream, TensorView all) {
  DINO_CHECK(all.dtype == DType::f32 || all.dtype == DType::f64 || all.dtype == DType::bf16 ||
                 all.dtype == DType::f16,
             std::string("a sum in parts of ") + name_of(all.dtype));
  DINO_CHECK(all.numel() % size() == 0, "length is not a multiple of the ranks");
  if (!begin(stream, all)) return {};
  CudaStream& own_stream = shared_->stream;
  const auto width = static_cast<int64_t>(size_of(all.dtype));
  const int64_t part = all.numel() / size();
  auto* const data = static_cast<std::byte*>(all.data);
  for (int64_t from = 0; from < part;) {
    const int64_t piece = std::min(longest_piece(width), part - from);
    const auto piece_bytes = static_cast<size_t>(piece * width);
    void* const parts = own_stream.scratch(piece_bytes * static_cast<size_t>(size()));
    std::byte* const own = data + (rank() * part + from) * width;
    call("reduce_scatter", [&] {
      nccl::all_to_all(group_, own_stream.handle(), data + from * width, static_cast<size_t>(part * width),
                       parts, piece_bytes);
    });
    enqueue(own_stream, all.dtype, {parts, piece, own, rank(), size(), piece, own});
    from += piece;
  }
  return finish("reduce_scatter", shared_->use->reduce_scatter, all);
}

Event NcclCollective::all_gather(Stream& stream, TensorView all) {
  DINO_CHECK(all.numel() % size() == 0, "length is not a multiple of the ranks");
  if (!begin(stream, all)) return {};
  const size_t part_bytes = static_cast<size_t>(all.numel() / size()) * size_of(all.dtype);
  call("all_gather", [&] { nccl::all_gather(group_, shared_->stream.handle(), all.data, part_bytes); });
  return finish("all_gather", shared_->use->all_gather, all);
}

std::unique_ptr<Collective> NcclCollective::split(const std::function<int(int)>& colour) const {
  const int mine = colour(rank());
  Communicator part = comm_.split(mine, rank());
  if (size() == 1) return std::make_unique<NcclCollective>(std::move(part), shared_, nullptr);
  settle("split");
  const nccl::GroupHandle group = nccl::begin_part(group_, part, mine);
  auto collective = std::make_unique<NcclCollective>(std::move(part), shared_, group);
  collective->settle("split");
  return collective;
}

/// Whether the user wants NCCL.
bool wanted() {
  const char* const text = std::getenv("DINO_NCCL");
  if (text == nullptr || std::string_view(text) == "on") return true;
  if (std::string_view(text) == "off") return false;
  throw UsageError(fmt::format("bad environment: DINO_NCCL: '{}' is neither on nor off", text));
}

/// Why the ranks have to go through the host; the same on all of them. Empty: NCCL it is.
std::string why_staged(const Communicator& comm, int device) {
  std::string why;
  bool usable = false;
  together(comm, [&] {
    usable = wanted();
    if (!usable)
      why = "DINO_NCCL=off";
    else
      usable = nccl::available(why);
  });
  // A GPU's identity, or behind a mark why not.
  std::map<std::string, int> owners;
  const std::vector<std::string> all =
      comm.all_gather_strings(usable ? "+" + facts(device).identity : "-" + why);
  for (size_t r = 0; r < all.size(); ++r) {
    const std::string& said = all[r];
    const int owner = static_cast<int>(r);
    if (said.front() == '-') return fmt::format("rank {}: {}", owner, said.substr(1));
    if (said.size() == 1) continue;
    const auto [at, fresh] = owners.emplace(said, owner);
    if (!fresh) return fmt::format("ranks {} and {} share a GPU", at->second, owner);
  }
  return "";
}

}  // namespace

std::unique_ptr<Collective> make_nccl_collective(const Communicator& comm, CudaMemory& memory) {
  const int device = memory.device().index;
  use_device(device);
  if (comm.size() == 1)
    return std::make_unique<NcclCollective>(comm.split(0, 0), std::make_shared<Shared>(memory), nullptr);
  if (const std::string why = why_staged(comm, device); !why.empty()) {
    log::info(fmt::format("collectives go through the host's memory and MPI, not NCCL: {}", why));
    return make_staged_collective(make_mpi_collective(comm), memory);
  }
  nccl::UniqueId id{};
  together(comm, [&] {
    if (comm.root()) id = nccl::unique_id();
  });
  comm.broadcast(id);
  Communicator own = comm.split(0, comm.rank());
  const nccl::GroupHandle group = nccl::begin_group(own, id);
  auto collective = std::make_unique<NcclCollective>(std::move(own), std::make_shared<Shared>(memory), group);
  collective->settle("NCCL's start");
  return collective;
}

std::string describe_nccl() {
  return nccl::describe();
}

}  // namespace dino::cuda
