// SPDX-License-Identifier: Apache-2.0
#include "vectors/join_plan.hpp"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <span>
#include <tuple>

namespace dino {
namespace {

constexpr int64_t kRoundBytes = int64_t{128} << 20;  // rows that a rank holds for one round
constexpr double kRoundProducts = 1e10;              // multiplications of one round and thread: seconds

void append(std::vector<std::byte>& buffer, const void* data, size_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  buffer.insert(buffer.end(), from, from + bytes);
}

/// What one rank contributes to one list: counts, global rows, keys.
void pack(std::vector<std::byte>& buffer, const ListMembers& members, int64_t list, const Keys& keys,
          int64_t first_row) {
  const auto l = static_cast<size_t>(list);
  const std::array<int64_t, 2> counts{members.own_begin[l + 1] - members.own_begin[l],
                                      members.visit_begin[l + 1] - members.visit_begin[l]};
  append(buffer, counts.data(), sizeof counts);
  for (const auto& [rows, begin, count] : {std::tuple{&members.own, members.own_begin[l], counts[0]},
                                           std::tuple{&members.visit, members.visit_begin[l], counts[1]}}) {
    for (int64_t i = begin; i < begin + count; ++i) {
      const int64_t row = first_row + (*rows)[static_cast<size_t>(i)];
      append(buffer, &row, sizeof row);
    }
    for (int64_t i = begin; i < begin + count; ++i)
      append(buffer, keys.data + (*rows)[static_cast<size_t>(i)] * keys.stride,
             static_cast<size_t>(keys.stride) * sizeof(float));
  }
}

/// Moves `count` elements from the cursor to the end of `out`.
template <class T>
void take(const std::byte*& cursor, int64_t count, std::vector<T>& out) {
  const size_t old = out.size(), bytes = static_cast<size_t>(count) * sizeof(T);
  out.resize(old + static_cast<size_t>(count));
  if (bytes > 0) std::memcpy(out.data() + old, cursor, bytes);
  cursor += bytes;
}

void unpack(const std::byte*& cursor, int64_t stride, GatheredList& list) {
  std::array<int64_t, 2> counts;
  std::memcpy(counts.data(), cursor, sizeof counts);
  cursor += sizeof counts;
  take(cursor, counts[0], list.own);
  take(cursor, counts[0] * stride, list.own_keys);
  take(cursor, counts[1], list.visit);
  take(cursor, counts[1] * stride, list.visit_keys);
}

/// This rank's own contribution, without a detour through a buffer.
void append_local(const std::vector<int64_t>& rows, int64_t begin, int64_t end, const Keys& keys,
                  int64_t first_row, std::vector<int64_t>& ids, std::vector<float>& out) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = rows[static_cast<size_t>(i)];
    ids.push_back(first_row + row);
    const float* key = keys.data + row * keys.stride;
    out.insert(out.end(), key, key + keys.stride);
  }
}

}  // namespace

ListMembers ListMembers::group(const std::vector<int32_t>& lists_of, int64_t probes, int64_t lists) {
  const int64_t n = static_cast<int64_t>(lists_of.size()) / probes;
  ListMembers members;
  members.own_begin.assign(static_cast<size_t>(lists + 1), 0);
  members.visit_begin.assign(static_cast<size_t>(lists + 1), 0);
  for (size_t i = 0; i < lists_of.size(); ++i) {
    if (lists_of[i] < 0) continue;
    auto& begin = static_cast<int64_t>(i) % probes == 0 ? members.own_begin : members.visit_begin;
    ++begin[static_cast<size_t>(lists_of[i]) + 1];
  }
  std::partial_sum(members.own_begin.begin(), members.own_begin.end(), members.own_begin.begin());
  std::partial_sum(members.visit_begin.begin(), members.visit_begin.end(), members.visit_begin.begin());
  members.own.resize(static_cast<size_t>(n));
  members.visit.resize(static_cast<size_t>(members.visit_begin.back()));
  auto own_next = members.own_begin, visit_next = members.visit_begin;
  for (size_t i = 0; i < lists_of.size(); ++i) {
    if (lists_of[i] < 0) continue;
    const bool own = static_cast<int64_t>(i) % probes == 0;
    auto& next = (own ? own_next : visit_next)[static_cast<size_t>(lists_of[i])];
    (own ? members.own : members.visit)[static_cast<size_t>(next++)] = static_cast<int64_t>(i) / probes;
  }
  return members;
}

JoinPlan JoinPlan::make(const ListMembers& members, int64_t lists, int64_t stride,
                        const std::vector<uint8_t>& done, const Communicator& comm) {
  const int64_t row_bytes =
      stride * static_cast<int64_t>(sizeof(float)) + static_cast<int64_t>(sizeof(int64_t));
  const double most_products = kRoundProducts * static_cast<double>(comm.max(int64_t{omp_get_max_threads()}));
  const auto is_done = [&](size_t list) { return !done.empty() && done[list] != 0; };
  const auto count = static_cast<size_t>(lists);
  std::vector<int64_t> sizes(2 * count);  // owned rows, then visitors
  for (size_t l = 0; l < count; ++l) {
    sizes[l] = members.own_begin[l + 1] - members.own_begin[l];
    sizes[count + l] = members.visit_begin[l + 1] - members.visit_begin[l];
  }
  comm.all_reduce(std::span<int64_t>(sizes));
  std::vector<double> cost(count);
  for (size_t l = 0; l < count; ++l) {
    if (is_done(l)) continue;
    cost[l] = static_cast<double>(sizes[l]) *
              (0.5 * static_cast<double>(sizes[l]) + static_cast<double>(sizes[count + l]));
  }

  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return cost[a] > cost[b]; });
  JoinPlan plan;
  plan.pairs = std::accumulate(cost.begin(), cost.end(), 0.0);
  plan.owner.resize(count);
  plan.round.resize(count);
  std::vector<double> load(static_cast<size_t>(comm.size()), 0);
  for (const size_t l : order) {
    const auto lightest = std::min_element(load.begin(), load.end());
    plan.owner[l] = static_cast<int>(lightest - load.begin());
    *lightest += cost[l];
  }
  std::vector<int64_t> held(load.size(), 0);
  std::vector<double> work(load.size(), 0);
  std::vector<int32_t> current(load.size(), 0);
  for (size_t l = 0; l < count; ++l) {
    if (is_done(l)) {
      plan.round[l] = -1;
      continue;
    }
    const auto rank = static_cast<size_t>(plan.owner[l]);
    const int64_t bytes = (sizes[l] + sizes[count + l]) * row_bytes;
    const double products = cost[l] * static_cast<double>(stride);
    if (held[rank] > 0 && (held[rank] + bytes > kRoundBytes || work[rank] + products > most_products)) {
      held[rank] = 0;
      work[rank] = 0;
      ++current[rank];
    }
    held[rank] += bytes;
    work[rank] += products;
    plan.round[l] = current[rank];
    plan.rounds = std::max(plan.rounds, current[rank] + 1);
  }
  return plan;
}

std::vector<int64_t> JoinPlan::lists_of(int rank, int32_t in_round) const {
  std::vector<int64_t> lists;
  for (size_t l = 0; l < owner.size(); ++l)
    if (round[l] == in_round && owner[l] == rank) lists.push_back(static_cast<int64_t>(l));
  return lists;
}

std::vector<GatheredList> gather_lists(const JoinPlan& plan, int32_t round, const ListMembers& members,
                                       const Keys& keys, int64_t first_row, const Communicator& comm) {
  std::vector<std::vector<std::byte>> send(static_cast<size_t>(comm.size()));
  std::vector<int64_t> mine;
  for (size_t l = 0; l < plan.owner.size(); ++l) {
    if (plan.round[l] != round) continue;
    if (plan.owner[l] == comm.rank())
      mine.push_back(static_cast<int64_t>(l));
    else
      pack(send[static_cast<size_t>(plan.owner[l])], members, static_cast<int64_t>(l), keys, first_row);
  }
  const auto received = comm.all_to_all(send);
  std::vector<GatheredList> gathered(mine.size());
  // Ranks hold ascending rows, so taking them in rank order keeps each list in ascending order.
  for (int rank = 0; rank < comm.size(); ++rank) {
    const std::byte* cursor = received[static_cast<size_t>(rank)].data();
    for (size_t i = 0; i < mine.size(); ++i) {
      const auto l = static_cast<size_t>(mine[i]);
      GatheredList& list = gathered[i];
      if (rank != comm.rank()) {
        unpack(cursor, keys.stride, list);
        continue;
      }
      append_local(members.own, members.own_begin[l], members.own_begin[l + 1], keys, first_row, list.own,
                   list.own_keys);
      append_local(members.visit, members.visit_begin[l], members.visit_begin[l + 1], keys, first_row,
                   list.visit, list.visit_keys);
    }
  }
  return gathered;
}

}  // namespace dino
