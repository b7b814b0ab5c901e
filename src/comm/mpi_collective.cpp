// SPDX-License-Identifier: Apache-2.0
// Collectives as queues of non-blocking MPI calls. Each operation is a row of stages; at most one call is
// under way, and the calls follow one another in the order of the operations, which is the same on all ranks.
#include <algorithm>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>
#include <vector>

#include "base/error.hpp"
#include "base/span.hpp"
#include "base/timing.hpp"
#include "comm/collective.hpp"
#include "comm/mpi_check.hpp"
#include "comm/ordered_sum.hpp"
#include "comm/watchdog.hpp"

namespace dino {
namespace {

using mpi::check;
using mpi::kSmallSumBytes;
using mpi::kSumBufferBytes;
using mpi::message_bytes;
using mpi::operation_of;
using mpi::with_float;

class MpiCollective;

class Operation : public Event::State {
 public:
  Operation(MpiCollective& owner, const char* name) : owner_(owner), name_(name) {}
  /// What it is counted in.
  void count_in(OperationUse& use, int64_t bytes) {
    use_ = &use;
    bytes_ = bytes;
    use += {1, bytes, 0};
  }
  /// Before each of its calls: the first one counts.
  void begin() {
    if (spans_are_heard() && begin_ == SpanClock::time_point{}) begin_ = SpanClock::now();
  }
  void finish() {
    finished = true;
    if (begin_ != SpanClock::time_point{}) tell_span({"transfer", name_, begin_, SpanClock::now(), bytes_});
  }
  [[nodiscard]] bool done() override;
  void wait() override;
  /// Does what the last call made possible and starts the next one; false when there is none left.
  virtual bool advance(MPI_Request& request) = 0;
  [[nodiscard]] const char* name() const { return name_; }
  bool finished = false;

 private:
  friend class MpiCollective;
  MpiCollective& owner_;
  const char* name_;
  OperationUse* use_ = nullptr;
  int64_t bytes_ = 0;
  SpanClock::time_point begin_{};  ///< of its first call
};

class MpiCollective final : public Collective {
 public:
  /// A communicator of its own: its calls lie between the owner's blocking ones as it happens to be polled.
  explicit MpiCollective(const Communicator& comm, std::shared_ptr<CollectiveUse> use = {})
      : comm_(comm.split(0, comm.rank())), use_(use ? use : std::make_shared<CollectiveUse>()) {}
  ~MpiCollective() override {
    DINO_CHECK(queue_.empty() || std::uncaught_exceptions() > 0, "a collective is still under way");
  }
  [[nodiscard]] int rank() const override { return comm_.rank(); }
  [[nodiscard]] int size() const override { return comm_.size(); }
  [[nodiscard]] Event all_reduce(Stream& stream, TensorView values, ReduceOp op) override;
  [[nodiscard]] Event all_gather(Stream& stream, TensorView all) override;
  [[nodiscard]] Event reduce_scatter(Stream& stream, TensorView all) override;
  [[nodiscard]] std::unique_ptr<Collective> split(const std::function<int(int)>& colour) const override {
    return std::make_unique<MpiCollective>(comm_.split(colour(rank()), rank()), use_);
  }
  void poll() override {
    while (!queue_.empty()) {
      if (request_ != MPI_REQUEST_NULL) {
        int done = 0;
        check(MPI_Test(&request_, &done, MPI_STATUS_IGNORE), queue_.front()->name());
        if (done == 0) return;
      }
      advance();
    }
  }
  [[nodiscard]] const CollectiveUse& use() const override { return *use_; }
  void wait_for(const Operation& operation) {
    if (operation.finished) return;
    const Span span(operation.name(), "wait", operation.bytes_);
    const Stopwatch watch;
    while (!operation.finished) {
      const WatchdogScope scope(queue_.front()->name());
      check(MPI_Wait(&request_, MPI_STATUS_IGNORE), queue_.front()->name());
      advance();
    }
    operation.use_->wait_seconds += watch.seconds();
  }
  [[nodiscard]] MPI_Comm handle() const { return comm_.handle(); }
  /// Of the operation whose turn it is.
  std::vector<std::byte> send, receive;

 private:
  void advance() {
    Operation& operation = *queue_.front();
    operation.begin();
    if (operation.advance(request_)) return;
    operation.finish();
    queue_.pop_front();
  }
  Event start(std::shared_ptr<Operation> operation, OperationUse& use, TensorView values) {
    operation->count_in(use, values.numel() * static_cast<int64_t>(size_of(values.dtype)));
    queue_.push_back(operation);
    poll();
    return Event(std::move(operation));
  }
  Communicator comm_;
  std::deque<std::shared_ptr<Operation>> queue_;
  MPI_Request request_ = MPI_REQUEST_NULL;
  std::shared_ptr<CollectiveUse> use_;  ///< of all that come from one
};

bool Operation::done() {
  if (!finished) owner_.poll();
  return finished;
}

void Operation::wait() {
  owner_.wait_for(*this);
}

template <class T>
T* room_for(std::vector<std::byte>& buffer, int64_t count) {
  buffer.resize(std::max(buffer.size(), static_cast<size_t>(count) * sizeof(T)));
  return reinterpret_cast<T*>(buffer.data());
}

/// Blocks of ranks * piece elements: each rank sums one piece, and everyone gathers the pieces back.
template <class T>
class OrderedSum final : public Operation {
 public:
  OrderedSum(MpiCollective& owner, TensorView values, MPI_Datatype type)
      : Operation(owner, "all_reduce"),
        owner_(owner),
        values_(values.as<T>()),
        n_(values.numel()),
        type_(type) {}

  bool advance(MPI_Request& request) override {
    switch (stage_) {
      case Stage::exchange:
        return exchange(request);
      case Stage::sum:
        mpi::sum_in_rank_order(reinterpret_cast<const T*>(owner_.receive.data()), owner_.size(), piece_,
                               data_ + owner_.rank() * piece_);
        check(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data_, static_cast<int>(piece_), type_,
                             owner_.handle(), &request),
              name());
        stage_ = Stage::gathered;
        return true;
      case Stage::gathered:
        if (data_ != values_ + begin_) std::copy_n(data_, block_, values_ + begin_);
        begin_ += block_;
        return exchange(request);
      case Stage::small:
        mpi::sum_in_rank_order(reinterpret_cast<const T*>(owner_.receive.data()), owner_.size(), n_, values_);
        return false;
    }
    return false;
  }

 private:
  enum class Stage : uint8_t { exchange, sum, gathered, small };

  bool exchange(MPI_Request& request) {
    const int64_t ranks = owner_.size(), width = sizeof(T);
    if (begin_ == n_) return false;
    if (n_ * width * ranks <= std::min(kSmallSumBytes, message_bytes())) {
      T* all = room_for<T>(owner_.receive, n_ * ranks);
      check(MPI_Iallgather(values_, static_cast<int>(n_), type_, all, static_cast<int>(n_), type_,
                           owner_.handle(), &request),
            name());
      stage_ = Stage::small;
      return true;
    }
    const int64_t limit = std::max<int64_t>(1, std::min(kSumBufferBytes, message_bytes()) / (width * ranks));
    piece_ = std::min(limit, (n_ - begin_ + ranks - 1) / ranks);
    block_ = std::min(n_ - begin_, piece_ * ranks);
    data_ = values_ + begin_;
    if (block_ < piece_ * ranks) {
      data_ = room_for<T>(owner_.send, piece_ * ranks);
      std::fill_n(data_, piece_ * ranks, T{});
      std::copy_n(values_ + begin_, block_, data_);
    }
    T* parts = room_for<T>(owner_.receive, piece_ * ranks);
    check(MPI_Ialltoall(data_, static_cast<int>(piece_), type_, parts, static_cast<int>(piece_), type_,
                        owner_.handle(), &request),
          name());
    stage_ = Stage::sum;
    return true;
  }

  MpiCollective& owner_;
  T* values_;
  int64_t n_;
  MPI_Datatype type_;
  Stage stage_ = Stage::exchange;
  int64_t begin_ = 0, piece_ = 0, block_ = 0;
  T* data_ = nullptr;  ///< the block, padded
};

/// A column of all parts at a time: each rank sums its own piece of the column.
template <class T>
class OrderedScatter final : public Operation {
 public:
  OrderedScatter(MpiCollective& owner, TensorView all, MPI_Datatype type)
      : Operation(owner, "reduce_scatter"),
        owner_(owner),
        all_(all.as<T>()),
        part_(all.numel() / owner.size()),
        type_(type),
        counts_(static_cast<size_t>(owner.size())),
        from_(counts_.size()),
        to_(counts_.size()) {}

  bool advance(MPI_Request& request) override {
    const int64_t ranks = owner_.size(), width = sizeof(T);
    if (piece_ > 0) {
      mpi::sum_in_rank_order(reinterpret_cast<const T*>(owner_.receive.data()), owner_.size(), piece_,
                             all_ + owner_.rank() * part_ + begin_);
      begin_ += piece_;
    }
    if (begin_ == part_) return false;
    piece_ = std::min(std::max<int64_t>(1, std::min(kSumBufferBytes, message_bytes()) / (width * ranks)),
                      part_ - begin_);
    for (size_t r = 0; r < counts_.size(); ++r) {
      counts_[r] = static_cast<int>(piece_);
      from_[r] = static_cast<int>(static_cast<int64_t>(r) * part_ + begin_);
      to_[r] = static_cast<int>(static_cast<int64_t>(r) * piece_);
    }
    T* pieces = room_for<T>(owner_.receive, piece_ * ranks);
    check(MPI_Ialltoallv(all_, counts_.data(), from_.data(), type_, pieces, counts_.data(), to_.data(), type_,
                         owner_.handle(), &request),
          name());
    return true;
  }

 private:
  MpiCollective& owner_;
  T* all_;
  int64_t part_;
  MPI_Datatype type_;
  int64_t begin_ = 0, piece_ = 0;        ///< of the column under way
  std::vector<int> counts_, from_, to_;  ///< elements
};

/// Reductions whose result does not depend on the order.
class Unordered final : public Operation {
 public:
  Unordered(MpiCollective& owner, TensorView values, MPI_Datatype type, MPI_Op op)
      : Operation(owner, "all_reduce"), owner_(owner), values_(values), type_(type), op_(op) {}

  bool advance(MPI_Request& request) override {
    const auto width = static_cast<int64_t>(size_of(values_.dtype));
    const int64_t count = std::min(std::max<int64_t>(1, message_bytes() / width), values_.numel() - begin_);
    if (count == 0) return false;
    check(MPI_Iallreduce(MPI_IN_PLACE, static_cast<std::byte*>(values_.data) + begin_ * width,
                         static_cast<int>(count), type_, op_, owner_.handle(), &request),
          name());
    begin_ += count;
    return true;
  }

 private:
  MpiCollective& owner_;
  TensorView values_;
  MPI_Datatype type_;
  MPI_Op op_;
  int64_t begin_ = 0;
};

class AllGather final : public Operation {
 public:
  AllGather(MpiCollective& owner, TensorView all) : Operation(owner, "all_gather"), owner_(owner) {
    part_ = all.numel() / owner.size() * static_cast<int64_t>(size_of(all.dtype));
    data_ = static_cast<std::byte*>(all.data);
  }

  bool advance(MPI_Request& request) override {
    if (begin_ == part_ || turn_ == owner_.size()) return false;
    if (part_ * owner_.size() <= message_bytes()) {
      begin_ = part_;
      check(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data_, static_cast<int>(part_), MPI_BYTE,
                           owner_.handle(), &request),
            name());
      return true;
    }
    const int64_t count = std::min(message_bytes(), part_ - begin_);
    check(MPI_Ibcast(data_ + turn_ * part_ + begin_, static_cast<int>(count), MPI_BYTE, turn_,
                     owner_.handle(), &request),
          name());
    begin_ += count;
    if (begin_ == part_ && ++turn_ < owner_.size()) begin_ = 0;
    return true;
  }

 private:
  MpiCollective& owner_;
  std::byte* data_;
  int64_t part_;       ///< bytes
  int64_t begin_ = 0;  ///< of the part that rank turn_ sends
  int turn_ = 0;
};

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::i64:
      return MPI_INT64_T;
    case DType::bf16:  // MPI moves them, and adds none
    case DType::f16:
      return MPI_UINT16_T;
    default:
      throw InternalError(std::string("a reduction of ") + name_of(dtype));
  }
}

Event MpiCollective::all_reduce(Stream& stream, TensorView values, ReduceOp op) {
  const MPI_Datatype type = mpi_type(values.dtype);
  DINO_CHECK(op == ReduceOp::sum || type != MPI_UINT16_T,
             std::string("only sums of ") + name_of(values.dtype));
  stream.synchronize();
  if (size() == 1 || values.numel() == 0) return {};
  DINO_CHECK(values.device.is_host(), "MPI reaches the host's memory only");
  if (op != ReduceOp::sum || values.dtype == DType::i64) {
    return start(std::make_shared<Unordered>(*this, values, type, operation_of(op)), use_->all_reduce,
                 values);
  }
  return with_float(values.dtype, [&]<class T>(T) {
    return start(std::make_shared<OrderedSum<T>>(*this, values, type), use_->all_reduce, values);
  });
}

Event MpiCollective::reduce_scatter(Stream& stream, TensorView all) {
  const MPI_Datatype type = mpi_type(all.dtype);
  DINO_CHECK(all.numel() % size() == 0, "length is not a multiple of the ranks");
  DINO_CHECK(all.dtype != DType::i64, "a sum of integers in parts");
  DINO_CHECK(all.numel() <= std::numeric_limits<int>::max(), "MPI counts elements as int");
  stream.synchronize();
  if (size() == 1 || all.numel() == 0) return {};
  DINO_CHECK(all.device.is_host(), "MPI reaches the host's memory only");
  return with_float(all.dtype, [&]<class T>(T) {
    return start(std::make_shared<OrderedScatter<T>>(*this, all, type), use_->reduce_scatter, all);
  });
}

Event MpiCollective::all_gather(Stream& stream, TensorView all) {
  DINO_CHECK(all.numel() % size() == 0, "length is not a multiple of the ranks");
  stream.synchronize();
  if (size() == 1 || all.numel() == 0) return {};
  DINO_CHECK(all.device.is_host(), "MPI reaches the host's memory only");
  return start(std::make_shared<AllGather>(*this, all), use_->all_gather, all);
}

}  // namespace

std::unique_ptr<Collective> make_mpi_collective(const Communicator& comm) {
  return std::make_unique<MpiCollective>(comm);
}

}  // namespace dino
