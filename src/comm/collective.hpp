// SPDX-License-Identifier: Apache-2.0
#pragma once
// Collectives on the buffers that operators work on, under way while the caller computes. Control (votes,
// texts, exchanges of any size) is Communicator's.

#include <functional>
#include <memory>

#include "comm/communicator.hpp"
#include "comm/operation_use.hpp"
#include "tensor/tensor.hpp"

namespace dino {

/// Of one collective and what was split off it.
struct CollectiveUse {
  OperationUse all_gather, reduce_scatter, all_reduce;
  [[nodiscard]] double wait_seconds() const {
    return all_gather.wait_seconds + reduce_scatter.wait_seconds + all_reduce.wait_seconds;
  }
};

/// Every rank calls the same operations in the same order. An operation begins after what its stream holds;
/// its tensor belongs to it until the event, which the stream (or the host) waits for. MPI moves data only
/// while it is called: poll() between blocks of compute, or the transfer happens in the wait.
class Collective {
 public:
  virtual ~Collective() = default;
  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;
  /// values (f32, f64 or i64, and in sums bf16 or f16) <- over all ranks, in place, the same on every rank.
  /// Sums are added in rank order in f64 and then rounded to the values' dtype: a function of the values and
  /// the number of ranks alone.
  [[nodiscard]] virtual Event all_reduce(Stream& stream, TensorView values, ReduceOp op = ReduceOp::sum) = 0;
  /// `all` has size() equal parts; this rank's is at its place, afterwards every rank has all.
  [[nodiscard]] virtual Event all_gather(Stream& stream, TensorView all) = 0;
  /// `all` (f32, f64, bf16 or f16) has size() equal parts; this rank's <- the sum over all ranks, as
  /// all_reduce gives it. The other parts hold nothing of use afterwards.
  [[nodiscard]] virtual Event reduce_scatter(Stream& stream, TensorView all) = 0;
  /// Among the ranks of this one's colour, in their order. Collective; nothing may be under way.
  [[nodiscard]] virtual std::unique_ptr<Collective> split(
      const std::function<int(int rank)>& colour) const = 0;
  virtual void poll() = 0;
  /// So far. Nothing is counted where one rank is alone.
  [[nodiscard]] virtual const CollectiveUse& use() const = 0;
};

/// Over MPI, for tensors of the host, on a communicator of its own. Collective.
[[nodiscard]] std::unique_ptr<Collective> make_mpi_collective(const Communicator& comm);

}  // namespace dino
