// SPDX-License-Identifier: Apache-2.0
#pragma once
// A checked MPI communicator. MPI-3 counts are `int`, so every transfer is cut into chunks; every return code
// is checked; every blocking collective is watched by the watchdog (comm/watchdog.hpp) under the name of the
// current phase (base/log.hpp).

#include <mpi.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/operation_use.hpp"

namespace dino {

enum class ReduceOp { sum, min, max };

class Communicator {
 public:
  /// Wraps MPI_COMM_WORLD, or a single process when MPI is not initialised.
  static Communicator world();
  /// A communicator of this process alone: collectives are no-ops.
  static Communicator self();
  /// `ranks` ranks that are not there, for what is planned: rank 0, whose values each of them is taken to
  /// have. It can all_gather, no more.
  static Communicator alike(int ranks);
  Communicator(Communicator&& other) noexcept;
  Communicator& operator=(Communicator&& other) noexcept;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  ~Communicator();  ///< frees a split communicator unless unwinding; never calls MPI_Finalize

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return size_; }
  [[nodiscard]] bool root() const { return rank_ == 0; }
  [[nodiscard]] MPI_Comm handle() const { return comm_; }

  void barrier() const;
  // In-place reductions over all ranks. Floating-point sums are the same on every rank, and the same for the
  // same number of ranks.
  void all_reduce(std::span<float> values, ReduceOp op = ReduceOp::sum) const;
  void all_reduce(std::span<double> values, ReduceOp op = ReduceOp::sum) const;
  void all_reduce(std::span<int64_t> values, ReduceOp op = ReduceOp::sum) const;
  [[nodiscard]] int64_t sum(int64_t value) const;
  [[nodiscard]] int64_t max(int64_t value) const;
  [[nodiscard]] double sum(double value) const;
  [[nodiscard]] double max(double value) const;
  /// True on all ranks when it is on any: for stop requests and failure votes.
  [[nodiscard]] bool any(bool value) const;
  /// Sum over the ranks below this one (0 on rank 0).
  [[nodiscard]] int64_t exclusive_scan(int64_t value) const;

  void broadcast(std::span<std::byte> bytes, int root = 0) const;
  void broadcast(std::string& text, int root = 0) const;
  template <class T>
  void broadcast_span(std::span<T> values, int root = 0) const {
    broadcast(std::as_writable_bytes(values), root);
  }

  /// Each rank's bytes on all ranks, in rank order, concatenated; `counts` (optional) receives the bytes of
  /// each rank.
  [[nodiscard]] std::vector<std::byte> all_gather(std::span<const std::byte> bytes,
                                                  std::vector<int64_t>* counts = nullptr) const;
  /// Each rank's bytes on the root only (empty elsewhere).
  [[nodiscard]] std::vector<std::byte> gather(std::span<const std::byte> bytes, int root = 0,
                                              std::vector<int64_t>* counts = nullptr) const;
  template <class T>
  [[nodiscard]] std::vector<T> all_gather_values(std::span<const T> values) const {
    return cast<T>(all_gather(std::as_bytes(values)));
  }
  template <class T>
  [[nodiscard]] std::vector<T> gather_values(std::span<const T> values, int root = 0) const {
    return cast<T>(gather(std::as_bytes(values), root));
  }
  [[nodiscard]] std::vector<std::string> all_gather_strings(const std::string& text) const;

  /// Sends `send[r]` to rank r; returns what each rank sent here, in rank order. Bounded rounds of chunks,
  /// any size.
  [[nodiscard]] std::vector<std::vector<std::byte>> all_to_all(
      const std::vector<std::vector<std::byte>>& send) const;

  [[nodiscard]] Communicator split(int colour, int key) const;

 private:
  Communicator(MPI_Comm comm, bool owned);
  template <class T>
  static std::vector<T> cast(const std::vector<std::byte>& bytes) {
    std::vector<T> values(bytes.size() / sizeof(T));
    if (!values.empty()) __builtin_memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    return values;
  }
  MPI_Comm comm_ = MPI_COMM_NULL;  ///< MPI_COMM_NULL = a single process without MPI
  bool owned_ = false;
  int rank_ = 0;
  int size_ = 1;
};

/// Of all blocking collectives of this process's communicators: votes, texts, exchanges.
[[nodiscard]] const OperationUse& control_use();

/// Ranks on this rank's node. Collective.
[[nodiscard]] int ranks_of_node(const Communicator& comm);
/// Those among them that come before this one. Collective.
[[nodiscard]] int rank_on_node(const Communicator& comm);

/// Tests only: transfers are cut into messages of at most this many bytes (at least 64; default 2^30).
void set_message_bytes(int64_t bytes);

/// The contiguous part [begin, end) of n items that belongs to `rank`: sizes differ by at most one, larger
/// ones first.
struct Range {
  int64_t begin = 0, end = 0;
  [[nodiscard]] int64_t size() const { return end - begin; }
};
[[nodiscard]] Range even_range(int64_t n, int rank, int ranks);

}  // namespace dino
