// SPDX-License-Identifier: Apache-2.0
#include "vectors/join.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <span>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/progress.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"
#include "comm/keeping_pace.hpp"
#include "exact/chains.hpp"
#include "exact/ordered_gemm.hpp"
#include "vectors/join_journal.hpp"
#include "vectors/join_plan.hpp"
#include "vectors/leading.hpp"
#include "vectors/lists.hpp"
#include "vectors/scan.hpp"

namespace dino {
namespace {

constexpr int64_t kTile = 256;                      // rows and columns of one product
constexpr int64_t kOneListRows = 32768;             // up to here all pairs take a second: none is missed
constexpr int64_t kCandidates = 10'000'000;         // that may wait to be settled, whatever --max-pairs
constexpr double kPieceProducts = 1e10;             // multiplications of a thread between points of stopping
constexpr int64_t kFetchBytes = int64_t{64} << 20;  // rows fetched at a time to settle candidates
constexpr uint64_t kBasisSample = 1, kListSample = 2;  // indices of the sampling stream

struct Pair {
  int64_t source = 0, target = 0;
  float value = 0;  ///< the similarity where keys are the rows themselves, else an upper bound of it
};

bool by_rows(const Pair& a, const Pair& b) {
  return a.source != b.source ? a.source < b.source : a.target < b.target;
}
bool same_rows(const Pair& a, const Pair& b) {
  return a.source == b.source && a.target == b.target;
}

/// The rows of one rank and what stands for them in the join.
struct Rows {
  const float* data = nullptr;  ///< [count, width]
  int64_t count = 0, width = 0, first = 0, total = 0;
  LeadingBasis basis;
  std::vector<float> leading;  ///< [count, kept + 1] where the basis cuts
  [[nodiscard]] Keys keys() const {
    return basis.cuts() ? Keys{leading.data(), basis.kept + 1} : Keys{data, width};
  }
  /// Coordinates that decide about lists: without the norm of the rest.
  [[nodiscard]] int64_t list_width() const { return basis.kept; }
};

/// Sampled rows of all ranks on every rank, in ascending order: the first `width` of each `stride`.
std::vector<float> gather_sample(const std::vector<int64_t>& sample, const float* rows, int64_t stride,
                                 int64_t width, int64_t first, int64_t count, const Communicator& comm) {
  std::vector<float> mine;
  for (const int64_t row : sample) {
    if (row < first || row >= first + count) continue;
    const float* from = rows + (row - first) * stride;
    mine.insert(mine.end(), from, from + width);
  }
  return comm.all_gather_values<float>(mine);
}

int64_t lists_for(int64_t rows) {
  if (rows <= kOneListRows) return 1;
  // Assignment costs rows * lists, the join about rows^2 / lists: equal near sqrt(rows).
  return (static_cast<int64_t>(std::sqrt(static_cast<double>(rows))) + 15) / 16 * 16;
}

/// The share of all pairs that may pass the bound and fail the threshold before it stops paying. Lists
/// compare a row with about 2 N / lists others; a pair settled alone costs several times its share of a tile;
/// and near pairs, which pass, lie in the same list, so that nearly all of them are met. Where lists are few,
/// so many pairs are compared that a small share already fills the memory.
double pairs_in_vain(int64_t lists) {
  constexpr double kSettlingCost = 16, kMostCompared = 1.0 / 64;
  return std::min(kMostCompared, 2 / static_cast<double>(lists)) / kSettlingCost;
}

/// Forgets the visits (probes but the first) of `count` rows that find no pair, or none that the other row
/// does not find. With x in list a and y in list b, x.(a - b) and y.(b - a) are not negative and add up to (x
/// - y).(a - b), at most |x - y||a - b|. So the smaller of the two is at most half of that, and its row
/// visits the other's list. |x - y|^2 is at most 2 - 2 threshold where the cosine reaches the threshold.
void drop_idle_visits(NearestLists& found, int64_t count, int64_t probes, const std::vector<float>& centroids,
                      const Rows& rows, double threshold) {
  const int64_t width = rows.list_width();
  const double reach = std::sqrt(2 - 2 * threshold + 2.1 * exact::rounding_of(rows.width) + 4e-6) +
                       2.1 * rows.basis.row_error();
  const double slack = 4.2 * exact::rounding_of(width);
#pragma omp parallel for
  for (int64_t i = 0; i < count; ++i) {
    const auto own = static_cast<size_t>(i * probes);
    const float* a = centroids.data() + found.list[own] * width;
    for (size_t visit = own + 1; visit < own + static_cast<size_t>(probes); ++visit) {
      const float* b = centroids.data() + found.list[visit] * width;
      double apart = 0;
      for (int64_t k = 0; k < width; ++k) {
        const double difference = static_cast<double>(a[k]) - static_cast<double>(b[k]);
        apart += difference * difference;
      }
      const double gap = static_cast<double>(found.product[own]) - static_cast<double>(found.product[visit]);
      if (gap > 0.5 * reach * std::sqrt(apart) + slack) found.list[visit] = -1;
    }
  }
}

struct Lists {
  int64_t count = 0;
  ListMembers members;
};

/// The lists of all rows of this rank, [n, probes], piece by piece.
std::vector<int32_t> assign_lists(const Rows& rows, const std::vector<float>& centroids, int64_t probes,
                                  double threshold, JoinJournal& journal, const Communicator& comm) {
  const Keys keys = rows.keys();
  const auto cost = static_cast<double>(centroids.size());
  const int64_t piece =
      omp_get_max_threads() * std::max<int64_t>(1024, static_cast<int64_t>(kPieceProducts / cost));
  std::vector<int32_t> lists(static_cast<size_t>(rows.count * probes));
  std::vector<uint8_t> known(static_cast<size_t>(rows.count), 0);
  journal.recall_lists(rows.first, probes, lists, known);
  KeepingPace pace(comm);
  bool stopped = false;
  for (int64_t begin = 0; begin < rows.count && !stopped;) {
    if (known[static_cast<size_t>(begin)] != 0) {
      ++begin;
      continue;
    }
    int64_t end = begin + 1;
    while (end < std::min(rows.count, begin + piece) && known[static_cast<size_t>(end)] == 0) ++end;
    stopped = !pace.step(stop_requested());
    if (stopped) break;
    NearestLists found = nearest_lists(keys.data + begin * keys.stride, end - begin, keys.stride,
                                       rows.list_width(), centroids, probes);
    stopped = stop_requested();
    if (stopped) break;
    drop_idle_visits(found, end - begin, probes, centroids, rows, threshold);
    std::copy(found.list.begin(), found.list.end(), lists.begin() + begin * probes);
    journal.keep_lists(rows.first + begin, end - begin, probes, found.list.data());
    begin = end;
  }
  if (pace.finish(stopped)) {
    journal.flush();
    throw_stopped();
  }
  return lists;
}

std::vector<float> make_centroids(const Rows& rows, const JoinConfig& config, int64_t count,
                                  const Communicator& comm, JoinResult& result) {
  const Keys keys = rows.keys();
  const int64_t wanted = std::max(count, std::min(rows.total, config.train_per_list * count));
  const auto sample = gather_sample(stratified_rows(rows.total, wanted, config.seed, kListSample), keys.data,
                                    keys.stride, rows.list_width(), rows.first, rows.count, comm);
  result.multiply_adds +=
      static_cast<double>(wanted * config.train_iterations) * static_cast<double>(count * rows.list_width());
  return train_lists(sample.data(), wanted, rows.list_width(), count, config.train_iterations, config.seed,
                     comm);
}

Lists make_lists(const Rows& rows, const JoinConfig& config, const Communicator& comm, JoinJournal& journal,
                 JoinResult& result) {
  const int64_t count = result.lists, probes = std::min(config.probes, count);
  Stopwatch watch;
  std::vector<int32_t> lists_of(static_cast<size_t>(rows.count), 0);
  if (count > 1) {
    std::vector<float> centroids = journal.centroids();
    if (static_cast<int64_t>(centroids.size()) != count * rows.list_width()) {
      centroids = make_centroids(rows, config, count, comm, result);
      journal.keep_centroids(centroids);
    }
    result.seconds["train"] += watch.seconds();
    watch.restart();
    result.multiply_adds += static_cast<double>(rows.total) * static_cast<double>(count * rows.list_width());
    lists_of = assign_lists(rows, centroids, probes, config.threshold, journal, comm);
  }
  Lists lists{count, ListMembers::group(lists_of, probes, count)};
  result.seconds["assign"] += watch.seconds();
  return lists;
}

/// One product: rows [a, a + m) against [b, b + n) of a list; `triangle` where both are the owned rows.
struct Tile {
  const GatheredList* list;
  int64_t a, m, b, n;
  bool triangle, visitors;
};

std::vector<Tile> make_tiles(const std::vector<GatheredList>& gathered) {
  std::vector<Tile> tiles;
  for (const GatheredList& list : gathered) {
    const auto own = static_cast<int64_t>(list.own.size()), visit = static_cast<int64_t>(list.visit.size());
    for (int64_t b = 0; b < own; b += kTile) {
      const int64_t n = std::min(kTile, own - b);
      for (int64_t a = 0; a <= b; a += kTile)
        tiles.push_back({&list, a, std::min(kTile, own - a), b, n, a == b, false});
      for (int64_t a = 0; a < visit; a += kTile)
        tiles.push_back({&list, a, std::min(kTile, visit - a), b, n, false, true});
    }
  }
  return tiles;
}

/// Which pairs of keys are of interest.
struct KeyJoin {
  int64_t stride = 0;
  float limit = 0;
  bool bounds = false;  ///< the products are bounds, settled later: they need not be ordered
};

void join_tile(const Tile& tile, const KeyJoin& join, std::vector<float>& products,
               std::vector<Pair>& found) {
  const auto& rows = tile.visitors ? tile.list->visit : tile.list->own;
  const auto& keys = tile.visitors ? tile.list->visit_keys : tile.list->own_keys;
  const auto gemm = join.bounds ? exact::bound_gemm_nt : exact::ordered_gemm_nt;
  gemm(tile.m, tile.n, join.stride, keys.data() + tile.a * join.stride, join.stride,
       tile.list->own_keys.data() + tile.b * join.stride, join.stride, products.data(), tile.n);
  for (int64_t i = 0; i < tile.m; ++i) {
    const float* row = products.data() + i * tile.n;
    const int64_t skip = tile.triangle ? i + 1 : 0;
    for_each_at_least(row + skip, tile.n - skip, join.limit, [&](int64_t j) {
      const int64_t x = rows[static_cast<size_t>(tile.a + i)];
      const int64_t y = tile.list->own[static_cast<size_t>(tile.b + skip + j)];
      found.push_back({std::min(x, y), std::max(x, y), row[skip + j]});
    });
  }
}

/// All pairs of one round whose key product reaches the limit, sorted, each once. Sets `overflow` and stops
/// when there are more than `most`.
std::vector<Pair> join_round(const std::vector<GatheredList>& gathered, const KeyJoin& join, int64_t most,
                             bool& overflow) {
  const std::vector<Tile> tiles = make_tiles(gathered);
  std::vector<Pair> pairs;
  std::atomic<int64_t> total{0};
#pragma omp parallel
  {
    std::vector<float> products(static_cast<size_t>(kTile * kTile));
    std::vector<Pair> found;
#pragma omp for schedule(dynamic)
    for (size_t t = 0; t < tiles.size(); ++t) {
      if (total.load(std::memory_order_relaxed) > most || stop_requested()) continue;
      const size_t before = found.size();
      join_tile(tiles[t], join, products, found);
      total.fetch_add(static_cast<int64_t>(found.size() - before), std::memory_order_relaxed);
    }
#pragma omp critical(dino_join_pairs)
    pairs.insert(pairs.end(), found.begin(), found.end());
  }
  overflow = total.load() > most;
  if (overflow) return {};
  std::sort(pairs.begin(), pairs.end(), by_rows);
  pairs.erase(std::unique(pairs.begin(), pairs.end(), same_rows), pairs.end());
  return pairs;
}

/// Rows of other ranks, asked for by global number.
class RemoteRows {
 public:
  /// Collective. `wanted` is sorted and unique.
  RemoteRows(const Rows& rows, std::vector<int64_t> wanted, const Communicator& comm)
      : wanted_(std::move(wanted)), width_(rows.width) {
    std::vector<std::vector<std::byte>> requests(static_cast<size_t>(comm.size()));
    int home = 0;
    for (const int64_t row : wanted_) {
      while (row >= even_range(rows.total, home, comm.size()).end) ++home;
      const auto bytes = std::as_bytes(std::span(&row, 1));
      auto& request = requests[static_cast<size_t>(home)];
      request.insert(request.end(), bytes.begin(), bytes.end());
    }
    auto asked = comm.all_to_all(requests);
    for (auto& bytes : asked) {
      const size_t count = bytes.size() / sizeof(int64_t);
      std::vector<std::byte> answer(count * static_cast<size_t>(width_) * sizeof(float));
      for (size_t i = 0; i < count; ++i) {
        int64_t row = 0;
        std::memcpy(&row, bytes.data() + i * sizeof row, sizeof row);
        std::memcpy(answer.data() + i * static_cast<size_t>(width_) * sizeof(float),
                    rows.data + (row - rows.first) * width_, static_cast<size_t>(width_) * sizeof(float));
      }
      bytes = std::move(answer);
    }
    rows_.reserve(wanted_.size() * static_cast<size_t>(width_));
    for (const auto& bytes : comm.all_to_all(asked)) {
      const size_t old = rows_.size();
      rows_.resize(old + bytes.size() / sizeof(float));
      if (!bytes.empty()) std::memcpy(rows_.data() + old, bytes.data(), bytes.size());
    }
  }
  [[nodiscard]] const float* row(int64_t global) const {
    const auto at = std::lower_bound(wanted_.begin(), wanted_.end(), global) - wanted_.begin();
    return rows_.data() + at * width_;
  }

 private:
  std::vector<int64_t> wanted_;
  int64_t width_;
  std::vector<float> rows_;
};

/// Replaces the bound of every candidate by the ordered product of the rows, and drops those below the
/// threshold. Collective.
void settle(std::vector<Pair>& pairs, const Rows& rows, double threshold, const Communicator& comm) {
  const auto local = [&](int64_t row) { return row >= rows.first && row < rows.first + rows.count; };
  const auto chunk = static_cast<size_t>(
      comm.size() == 1
          ? std::numeric_limits<int64_t>::max()
          : std::max<int64_t>(1, kFetchBytes / (rows.width * static_cast<int64_t>(sizeof(float)))));
  const int64_t chunks = comm.max(static_cast<int64_t>(pairs.size() / chunk + (pairs.size() % chunk != 0)));
  for (int64_t c = 0; c < chunks; ++c) {
    const size_t begin = std::min(pairs.size(), static_cast<size_t>(c) * chunk);
    const size_t end = begin + std::min(chunk, pairs.size() - begin);
    std::vector<int64_t> wanted;
    for (size_t p = begin; p < end; ++p) {
      for (const int64_t row : {pairs[p].source, pairs[p].target}) {
        if (!local(row)) wanted.push_back(row);
      }
    }
    std::sort(wanted.begin(), wanted.end());
    wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
    const RemoteRows remote(rows, std::move(wanted), comm);
    const auto find = [&](int64_t row) {
      return local(row) ? rows.data + (row - rows.first) * rows.width : remote.row(row);
    };
#pragma omp parallel for schedule(dynamic, 16)
    for (size_t p = begin; p < end; p += static_cast<size_t>(exact::kChains)) {
      if (stop_requested()) continue;
      const float *left[exact::kChains], *right[exact::kChains];
      float products[exact::kChains];
      const size_t count = std::min(end - p, static_cast<size_t>(exact::kChains));
      for (size_t i = 0; i < count; ++i) {
        left[i] = find(pairs[p + i].source);
        right[i] = find(pairs[p + i].target);
      }
      exact::ordered_dots(left, right, static_cast<int64_t>(count), rows.width, products);
      for (size_t i = 0; i < count; ++i) pairs[p + i].value = products[i];
    }
  }
  std::erase_if(pairs, [&](const Pair& pair) { return !(static_cast<double>(pair.value) >= threshold); });
}

std::vector<Edge> gather_edges(const std::vector<Edge>& mine, const Communicator& comm) {
  std::vector<Edge> edges = comm.all_gather_values<Edge>(mine);
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) {
    return a.source != b.source ? a.source < b.source : a.target < b.target;
  });
  // A pair whose rows visit each other's list was found in both.
  const auto last = std::unique(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) {
    return a.source == b.source && a.target == b.target;
  });
  edges.erase(last, edges.end());
  return edges;
}

[[noreturn]] void fail_too_many(const JoinConfig& config) {
  throw DataError("cannot join: --threshold " + std::to_string(config.threshold) + ": more than " +
                  std::to_string(config.max_edges) +
                  " pairs reach it, more than are kept in memory; raise the threshold or --max-pairs, or "
                  "take out rows that repeat");
}

void join_lists(const Rows& rows, const Lists& lists, const JoinConfig& config, const Communicator& comm,
                JoinJournal& journal, JoinResult& result) {
  const Keys keys = rows.keys();
  const JoinPlan plan =
      JoinPlan::make(lists.members, lists.count, keys.stride, journal.joined(lists.count), comm);
  // Rows are of unit length up to rounding, which the factor covers.
  const KeyJoin join{keys.stride, static_cast<float>(config.threshold - 1.01 * rows.basis.rounding() - 1e-6),
                     rows.basis.cuts()};
  std::vector<Edge> edges = journal.edges();
  Progress progress("join", plan.rounds, "rounds");
  for (int32_t round = 0; round < plan.rounds; ++round) {
    const auto gathered = gather_lists(plan, round, lists.members, keys, rows.first, comm);
    bool overflow = false;
    std::vector<Pair> pairs = join_round(gathered, join, std::max(config.max_edges, kCandidates), overflow);
    if (comm.any(overflow)) fail_too_many(config);
    if (rows.basis.cuts()) settle(pairs, rows, config.threshold, comm);
    if (comm.any(stop_requested())) {
      journal.flush();
      throw_stopped();
    }
    std::vector<Edge> settled;
    for (const Pair& pair : pairs) {
      if (static_cast<double>(pair.value) >= config.threshold)
        settled.push_back({pair.source, pair.target, pair.value});
    }
    edges.insert(edges.end(), settled.begin(), settled.end());
    journal.keep_edges(plan.lists_of(comm.rank(), round), settled);
    // A pair may have been found twice.
    if (comm.sum(static_cast<int64_t>(edges.size())) / 2 > config.max_edges) fail_too_many(config);
    progress.add(1);
  }
  journal.settle();
  result.edges = gather_edges(edges, comm);
  if (static_cast<int64_t>(result.edges.size()) > config.max_edges) fail_too_many(config);
  result.multiply_adds += plan.pairs * static_cast<double>(keys.stride);
}

std::string fingerprint_of(ConstTensorView local, int64_t total_rows, const JoinConfig& config,
                           const Communicator& comm) {
  if (config.state.empty()) return {};
  // Rounds and limits do not matter: they change no edge of a list.
  const std::string settings =
      fmt::format("{} x {}, threshold {}, {} lists, {} probes, {} rows per list in {} iterations, seed {}",
                  total_rows, local.dim(1), config.threshold, config.lists, config.probes,
                  config.train_per_list, config.train_iterations, config.seed);
  return partial_fingerprint(local, even_range(total_rows, comm.rank(), comm.size()).begin, settings, comm);
}

}  // namespace

JoinResult threshold_self_join(ConstTensorView local, int64_t total_rows, const JoinConfig& config,
                               const Communicator& comm) {
  if (!(config.threshold > 0 && config.threshold <= 1))
    throw UsageError("cannot join: --threshold: it must be in (0, 1]; a cosine near 0.95 is usual");
  if (config.lists > total_rows && total_rows > 0)
    throw UsageError("cannot join: --lists " + std::to_string(config.lists) + ": there are only " +
                     std::to_string(total_rows) + " rows; ask for fewer lists");
  if (config.probes < 1)
    throw UsageError("cannot join: --probes: a row visits at least one list; give 1 or more");
  const log::Phase phase("join");
  JoinResult result;
  result.seconds = {{"train", 0}, {"assign", 0}, {"join", 0}};
  if (total_rows == 0) return result;

  JoinJournal journal(config.state, fingerprint_of(local, total_rows, config, comm), comm);
  Stopwatch watch;
  Rows rows;
  rows.data = local.dim(0) > 0 ? local.as<float>() : nullptr;
  rows.count = local.dim(0);
  rows.width = local.dim(1);
  rows.total = total_rows;
  rows.first = even_range(total_rows, comm.rank(), comm.size()).begin;
  const int64_t wanted = std::min(total_rows, 4096 + 4 * rows.width);
  const auto sample = gather_sample(stratified_rows(total_rows, wanted, config.seed, kBasisSample), rows.data,
                                    rows.width, rows.width, rows.first, rows.count, comm);
  result.lists = config.lists > 0 ? config.lists : lists_for(total_rows);
  rows.basis = LeadingBasis::fit_join(sample.data(), wanted, rows.width, config.threshold,
                                      pairs_in_vain(result.lists));
  result.seconds["train"] = watch.seconds();
  watch.restart();
  if (rows.basis.cuts()) {
    rows.leading.resize(static_cast<size_t>(rows.count * (rows.basis.kept + 1)));
    rows.basis.project(rows.data, rows.count, rows.leading.data(), rows.basis.kept + 1);
    result.multiply_adds +=
        static_cast<double>(total_rows) * static_cast<double>(rows.width * rows.basis.kept);
  }
  result.seconds["assign"] = watch.seconds();

  const Lists lists = make_lists(rows, config, comm, journal, result);
  watch.restart();
  join_lists(rows, lists, config, comm, journal, result);
  result.seconds["join"] = watch.seconds();
  return result;
}

std::vector<Edge> threshold_cross_join(ConstTensorView local, int64_t first_row, ConstTensorView reference,
                                       double threshold) {
  std::vector<Edge> edges;
  const int64_t n = local.dim(0), m = reference.dim(0);
  if (n == 0 || m == 0) return edges;
  const int64_t width = local.dim(1);
  DINO_CHECK(reference.dim(1) == width, "both sides come from one model");
  const float *rows = local.as<float>(), *others = reference.as<float>();
  const float limit = static_cast<float>(threshold - 1e-6);
#pragma omp parallel
  {
    std::vector<float> products(static_cast<size_t>(kTile * kTile));
    std::vector<Edge> found;
#pragma omp for schedule(dynamic)
    for (int64_t a = 0; a < n; a += kTile) {
      if (stop_requested()) continue;
      const int64_t count = std::min(kTile, n - a);
      for (int64_t b = 0; b < m; b += kTile) {
        const int64_t columns = std::min(kTile, m - b);
        exact::ordered_gemm_nt(count, columns, width, rows + a * width, width, others + b * width, width,
                               products.data(), columns);
        for (int64_t i = 0; i < count; ++i) {
          const float* row = products.data() + i * columns;
          for_each_at_least(row, columns, limit, [&](int64_t j) {
            if (static_cast<double>(row[j]) >= threshold) found.push_back({first_row + a + i, b + j, row[j]});
          });
        }
      }
    }
#pragma omp critical(dino_join_pairs)
    edges.insert(edges.end(), found.begin(), found.end());
  }
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) {
    return a.source != b.source ? a.source < b.source : a.target < b.target;
  });
  return edges;
}

std::vector<Edge> brute_force_join(ConstTensorView rows, double threshold) {
  std::vector<Edge> edges;
  const int64_t n = rows.dim(0), width = rows.dim(1);
  if (n == 0) return edges;
  const float* x = rows.as<float>();
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i + 1; j < n; ++j) {
      const float similarity = exact::ordered_dot(x + i * width, x + j * width, width);
      if (static_cast<double>(similarity) >= threshold) edges.push_back({i, j, similarity});
    }
  }
  return edges;
}

}  // namespace dino
