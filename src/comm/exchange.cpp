// SPDX-License-Identifier: Apache-2.0
// The collectives of Communicator whose sizes differ from rank to rank.
#include <algorithm>
#include <numeric>

#include "base/error.hpp"
#include "comm/communicator.hpp"
#include "comm/mpi_check.hpp"

namespace dino {
namespace {

using mpi::check;
using mpi::ControlScope;
using mpi::in_chunks;

constexpr int kTag = 7001;

/// Bytes of every rank, on every rank.
std::vector<int64_t> gather_counts(MPI_Comm comm, int ranks, size_t bytes) {
  const auto mine = static_cast<int64_t>(bytes);
  std::vector<int64_t> counts(static_cast<size_t>(ranks));
  const ControlScope scope("all_gather", sizeof(int64_t));
  check(MPI_Allgather(&mine, 1, MPI_INT64_T, counts.data(), 1, MPI_INT64_T, comm), "all_gather");
  return counts;
}

/// Counts and displacements as MPI wants them; the caller has checked that the total fits.
struct Layout {
  std::vector<int> counts, offsets;
};

Layout layout_of(const std::vector<int64_t>& counts) {
  Layout layout;
  int offset = 0;
  for (const int64_t count : counts) {
    layout.counts.push_back(static_cast<int>(count));
    layout.offsets.push_back(offset);
    offset += static_cast<int>(count);
  }
  return layout;
}

}  // namespace

std::vector<std::byte> Communicator::all_gather(std::span<const std::byte> bytes,
                                                std::vector<int64_t>* counts) const {
  std::vector<int64_t> sizes{static_cast<int64_t>(bytes.size())};
  std::vector<std::byte> all(bytes.begin(), bytes.end());
  if (size_ > 1 && comm_ == MPI_COMM_NULL) {
    sizes.resize(static_cast<size_t>(size_), sizes.front());
    for (int r = 1; r < size_; ++r) all.insert(all.end(), bytes.begin(), bytes.end());
  } else if (size_ > 1) {
    sizes = gather_counts(comm_, size_, bytes.size());
    const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    all.resize(static_cast<size_t>(total));
    if (total <= mpi::message_bytes()) {
      const Layout layout = layout_of(sizes);
      const ControlScope scope("all_gather", total);
      check(MPI_Allgatherv(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, all.data(),
                           layout.counts.data(), layout.offsets.data(), MPI_BYTE, comm_),
            "all_gather");
    } else {
      int64_t offset = 0;
      for (int r = 0; r < size_; ++r) {
        const int64_t size = sizes[static_cast<size_t>(r)];
        if (r == rank_) std::copy(bytes.begin(), bytes.end(), all.begin() + offset);
        broadcast(std::span(all).subspan(static_cast<size_t>(offset), static_cast<size_t>(size)), r);
        offset += size;
      }
    }
  }
  if (counts != nullptr) *counts = std::move(sizes);
  return all;
}

std::vector<std::byte> Communicator::gather(std::span<const std::byte> bytes, int root,
                                            std::vector<int64_t>* counts) const {
  if (size_ == 1) {
    if (counts != nullptr) *counts = {static_cast<int64_t>(bytes.size())};
    return {bytes.begin(), bytes.end()};
  }
  const std::vector<int64_t> sizes = gather_counts(comm_, size_, bytes.size());
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  std::vector<std::byte> all(rank_ == root ? static_cast<size_t>(total) : 0);
  const ControlScope scope("gather", static_cast<int64_t>(bytes.size()));
  if (total <= mpi::message_bytes()) {
    const Layout layout = layout_of(sizes);
    check(MPI_Gatherv(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, all.data(),
                      layout.counts.data(), layout.offsets.data(), MPI_BYTE, root, comm_),
          "gather");
  } else if (rank_ != root) {
    in_chunks(static_cast<int64_t>(bytes.size()), 1, [&](int64_t begin, int count) {
      check(MPI_Send(bytes.data() + begin, count, MPI_BYTE, root, kTag, comm_), "gather");
    });
  } else {
    int64_t offset = 0;
    for (int r = 0; r < size_; ++r) {
      std::byte* place = all.data() + offset;
      if (r == rank_) std::copy(bytes.begin(), bytes.end(), place);
      if (r != rank_) {
        in_chunks(sizes[static_cast<size_t>(r)], 1, [&](int64_t begin, int count) {
          check(MPI_Recv(place + begin, count, MPI_BYTE, r, kTag, comm_, MPI_STATUS_IGNORE), "gather");
        });
      }
      offset += sizes[static_cast<size_t>(r)];
    }
  }
  if (counts != nullptr) *counts = sizes;
  return all;
}

std::vector<std::vector<std::byte>> Communicator::all_to_all(
    const std::vector<std::vector<std::byte>>& send) const {
  DINO_CHECK(static_cast<int>(send.size()) == size_, "one part per rank");
  if (size_ == 1) return send;
  std::vector<int64_t> sizes(send.size()), incoming(send.size());
  for (size_t r = 0; r < send.size(); ++r) sizes[r] = static_cast<int64_t>(send[r].size());
  const ControlScope scope("all_to_all", std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
  check(MPI_Alltoall(sizes.data(), 1, MPI_INT64_T, incoming.data(), 1, MPI_INT64_T, comm_), "all_to_all");

  std::vector<std::vector<std::byte>> received(send.size());
  received[static_cast<size_t>(rank_)] = send[static_cast<size_t>(rank_)];
  // One partner at a time: in step s rank r sends to r + s and receives from r - s. The lowest step that any
  // rank is in can always finish, so the chain of waits has an end.
  for (int step = 1; step < size_; ++step) {
    const auto to = static_cast<size_t>((rank_ + step) % size_);
    const auto from = static_cast<size_t>((rank_ - step + size_) % size_);
    received[from].resize(static_cast<size_t>(incoming[from]));
    std::vector<MPI_Request> requests;
    in_chunks(incoming[from], 1, [&](int64_t begin, int count) {
      check(MPI_Irecv(received[from].data() + begin, count, MPI_BYTE, static_cast<int>(from), kTag, comm_,
                      &requests.emplace_back()),
            "all_to_all");
    });
    in_chunks(sizes[to], 1, [&](int64_t begin, int count) {
      check(MPI_Isend(send[to].data() + begin, count, MPI_BYTE, static_cast<int>(to), kTag, comm_,
                      &requests.emplace_back()),
            "all_to_all");
    });
    check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE), "all_to_all");
  }
  return received;
}

}  // namespace dino
