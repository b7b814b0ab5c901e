// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/progress.hpp"
#include "vectors/lloyd.hpp"
#include "vectors/partial.hpp"

namespace dino {
namespace {

constexpr int64_t kMostPerCluster = 32;  // bounds the cost of a resampling step
constexpr uint64_t kStepsPerLevel = 1 << 10;

/// A member with its distance to the centroid.
struct Member {
  int64_t cluster = 0, row = 0;
  double distance = 0;
};

bool closer(const Member& a, const Member& b) {
  if (a.cluster != b.cluster) return a.cluster < b.cluster;
  return a.distance != b.distance ? a.distance < b.distance : a.row < b.row;
}

void keep_closest(std::vector<Member>& members, int64_t per_cluster) {
  std::sort(members.begin(), members.end(), closer);
  int64_t taken = 0, cluster = -1;
  std::erase_if(members, [&](const Member& member) {
    if (member.cluster != cluster) taken = 0;
    cluster = member.cluster;
    return ++taken > per_cluster;
  });
}

/// The rows closest to their centroids, up to `per_cluster` of each cluster: global rows, ascending, the same
/// on every rank.
std::vector<int64_t> closest_rows(const Assigner& rows, const KMeansResult& result, int64_t per_cluster) {
  std::vector<Member> members(result.assignment.size());
  for (size_t i = 0; i < members.size(); ++i)
    members[i] = {result.assignment[i], rows.first() + static_cast<int64_t>(i),
                  static_cast<double>(result.distance[i])};
  keep_closest(members, per_cluster);
  members = rows.comm().all_gather_values<Member>(members);
  keep_closest(members, per_cluster);
  std::vector<int64_t> chosen(members.size());
  std::transform(members.begin(), members.end(), chosen.begin(), [](const Member& m) { return m.row; });
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

/// Chosen rows laid out over ranks by even_range.
std::vector<float> redistribute(const Assigner& rows, const std::vector<int64_t>& chosen) {
  const Communicator& comm = rows.comm();
  const auto total = static_cast<int64_t>(chosen.size());
  std::vector<std::vector<std::byte>> send(static_cast<size_t>(comm.size()));
  int target = 0;
  for (int64_t i = 0; i < total; ++i) {
    while (i >= even_range(total, target, comm.size()).end) ++target;
    const int64_t local = chosen[static_cast<size_t>(i)] - rows.first();
    if (local < 0 || local >= rows.count()) continue;
    const auto bytes = std::as_bytes(std::span(rows.row(local), static_cast<size_t>(rows.width())));
    auto& buffer = send[static_cast<size_t>(target)];
    buffer.insert(buffer.end(), bytes.begin(), bytes.end());
  }
  std::vector<float> received;
  for (const auto& bytes : comm.all_to_all(send)) {
    const size_t old = received.size();
    received.resize(old + bytes.size() / sizeof(float));
    if (!bytes.empty()) std::memcpy(received.data() + old, bytes.data(), bytes.size());
  }
  return received;
}

/// One resampling step (arXiv 2405.15613, section 3.3): k-means on a sample that takes the same number from
/// each cluster, dense or sparse, then all rows go to the new centroids. Half the mean cluster size is taken,
/// as the paper does.
bool resample(const Assigner& rows, const KMeansConfig& config, KMeansResult& result, const LloydState* start,
              const std::function<void(const LloydState&)>& at_iteration) {
  const int64_t half = rows.total() / (2 * config.clusters);
  const std::vector<int64_t> chosen =
      closest_rows(rows, result, std::clamp<int64_t>(half, 1, kMostPerCluster));
  const auto total = static_cast<int64_t>(chosen.size());
  if (total <= config.clusters) return false;
  const std::vector<float> sample = redistribute(rows, chosen);
  const auto held = static_cast<int64_t>(sample.size()) / rows.width();
  const Assigner sampled(sample.data(), held, rows.width(), total, config.clusters, config.spherical,
                         config.seed, rows.comm());
  result.centroids = run_lloyd(sampled, config, start, at_iteration).centroids;
  assign_rows(rows, result);
  return true;
}

void check(const HierarchyConfig& config, int64_t total_rows) {
  int64_t above = total_rows;
  for (const int64_t clusters : config.levels) {
    if (clusters < 1 || clusters > above)
      throw UsageError("cannot cluster: --levels: " + std::to_string(clusters) + " clusters of " +
                       std::to_string(above) +
                       " points; give falling numbers, the first at most the number of rows");
    above = clusters;
  }
  if (config.levels.empty())
    throw UsageError("cannot cluster: --levels: none is given; give for example 1000,100,10");
}

Tensor copy_of(const std::vector<float>& values, int64_t width) {
  Tensor tensor(Shape{static_cast<int64_t>(values.size()) / width, width});
  std::copy(values.begin(), values.end(), tensor.as<float>());
  return tensor;
}

std::vector<float> values_of(const Tensor& tensor) {
  return {tensor.f32().begin(), tensor.f32().end()};
}

/// The levels one after the other, each a first k-means (step 0) and its resampling steps. What a later start
/// needs are centroids: of the levels that are done, of the last step that is done, and of the iteration.
class HierarchyRun {
 public:
  HierarchyRun(const float* rows, int64_t held, int64_t width, int64_t total, const HierarchyConfig& config,
               const std::string& fingerprint, const Communicator& comm)
      : input_(rows),
        held_(held),
        width_(width),
        total_(total),
        config_(config),
        comm_(comm),
        keeper_(config.state, fingerprint, comm),
        progress_("cluster", static_cast<int64_t>(config.levels.size()) * (config.resample + 1), "steps") {}

  std::vector<Level> run() {
    restore();
    try {
      while (levels_.size() < config_.levels.size()) next_level();
    } catch (const Error& error) {
      if (error.code() == ExitCode::stopped && advanced_) keeper_.save(state());
      throw;
    }
    return std::move(levels_);
  }

 private:
  void restore() {
    std::optional<PartialState> found = keeper_.restore();
    if (!found) return;
    resumed_ = true;
    resume_level_ = static_cast<size_t>(found->numbers.at("level"));
    step_ = static_cast<int64_t>(found->numbers.at("step"));
    current_ = {values_of(found->arrays.at("current")), static_cast<int64_t>(found->numbers.at("iteration")),
                found->numbers.at("before")};
    if (step_ > 0) {
      base_.centroids = std::move(found->arrays.at("base"));
      base_.iterations = static_cast<int64_t>(found->numbers.at("base_iterations"));
    }
    for (size_t l = 0; l < resume_level_; ++l) {
      done_.push_back(std::move(found->arrays.at("level" + std::to_string(l))));
      done_iterations_.push_back(static_cast<int64_t>(found->numbers.at("iterations" + std::to_string(l))));
    }
    log::info("cluster: goes on at level " + std::to_string(resume_level_ + 1) + ", step " +
              std::to_string(step_) + ", iteration " + std::to_string(current_.iterations));
  }

  PartialState state() const {
    PartialState state;
    state.numbers = {{"level", static_cast<double>(level_)},
                     {"step", static_cast<double>(step_)},
                     {"iteration", static_cast<double>(current_.iterations)},
                     {"before", current_.before},
                     {"base_iterations", static_cast<double>(base_.iterations)}};
    state.arrays["current"] = copy_of(current_.centroids, width_);
    if (step_ > 0) state.arrays["base"] = base_.centroids.clone();
    for (size_t l = 0; l < level_; ++l) {
      state.arrays["level" + std::to_string(l)] = levels_[l].centroids.clone();
      state.numbers["iterations" + std::to_string(l)] = static_cast<double>(levels_[l].iterations);
    }
    return state;
  }

  void at_iteration(const LloydState& now, int64_t step) {
    if (!keeper_.keeps()) return;
    if (next_base_.centroids.numel() > 0) base_ = std::exchange(next_base_, {});
    level_ = levels_.size();
    step_ = step;
    current_ = now;
    advanced_ = true;
    if (keeper_.due()) keeper_.save(state());
  }

  void next_level() {
    const size_t l = levels_.size();
    KMeansConfig flat;
    flat.clusters = config_.levels[l];
    flat.iterations = config_.iterations;
    flat.spherical = config_.spherical;
    flat.seed = config_.seed;
    const Assigner rows(input_, held_, width_, total_, flat.clusters, flat.spherical, flat.seed, comm_);
    KMeansResult result;
    if (resumed_ && l < resume_level_) {
      result.centroids = std::move(done_[l]);
      result.iterations = done_iterations_[l];
      assign_rows(rows, result);
      progress_.add(config_.resample + 1);
    } else {
      result = cluster(rows, flat, (l + 1) * kStepsPerLevel, resumed_ && l == resume_level_);
    }
    finish_level(std::move(result));
  }

  KMeansResult cluster(const Assigner& rows, KMeansConfig flat, uint64_t stream, bool resumed) {
    const std::optional<LloydState> start = resumed ? std::optional(current_) : std::nullopt;
    const int64_t from = resumed ? step_ : 0;
    flat.stream = stream;
    KMeansResult result;
    if (from == 0) {
      result = run_lloyd(rows, flat, start ? &*start : nullptr,
                         [&](const LloydState& now) { at_iteration(now, 0); });
    } else {
      result.centroids = base_.centroids.clone();
      result.iterations = base_.iterations;
      assign_rows(rows, result);
    }
    progress_.add(std::max<int64_t>(from, 1));
    for (int64_t step = std::max<int64_t>(from, 1); step <= config_.resample; ++step) {
      flat.stream = stream + static_cast<uint64_t>(step);
      if (keeper_.keeps()) next_base_ = {result.centroids.clone(), result.iterations};
      if (!resample(rows, flat, result, start && step == from ? &*start : nullptr,
                    [&](const LloydState& now) { at_iteration(now, step); }))
        break;
      progress_.add(1);
    }
    return result;
  }

  void finish_level(KMeansResult result) {
    const bool first = levels_.empty();
    Level level;
    level.inertia = result.inertia;
    level.iterations = result.iterations;
    level.centroids = std::move(result.centroids);
    level.assignment =
        first ? std::move(result.assignment) : comm_.all_gather_values<int64_t>(result.assignment);
    level.distance = first ? std::move(result.distance) : comm_.all_gather_values<float>(result.distance);
    // The centroids, each of weight one, are the points of the next level.
    total_ = level.centroids.shape()[0];
    levels_.push_back(std::move(level));
    const Range mine = even_range(total_, comm_.rank(), comm_.size());
    held_ = mine.size();
    input_ = levels_.back().centroids.as<float>() + mine.begin * width_;
  }

  struct Base {
    Tensor centroids;
    int64_t iterations = 0;
  };

  const float* input_;
  int64_t held_, width_, total_;
  const HierarchyConfig& config_;
  const Communicator& comm_;
  StateKeeper keeper_;
  Progress progress_;
  std::vector<Level> levels_;
  // The iteration that began last, and what the step before it left; of an earlier start at first. They
  // change together, so that a stop between two iterations finds what belongs together.
  LloydState current_;
  Base base_, next_base_;
  size_t level_ = 0;
  int64_t step_ = 0;
  bool advanced_ = false;  ///< this start has begun an iteration
  bool resumed_ = false;
  size_t resume_level_ = 0;
  std::vector<Tensor> done_;
  std::vector<int64_t> done_iterations_;
};

std::string settings_of(const HierarchyConfig& config, int64_t rows, int64_t width) {
  std::string text = std::to_string(rows) + " x " + std::to_string(width) + ", levels";
  for (const int64_t clusters : config.levels) text += ' ' + std::to_string(clusters);
  return text + ", " + std::to_string(config.iterations) + " iterations, " + std::to_string(config.resample) +
         " resampling steps, seed " + std::to_string(config.seed) + (config.spherical ? ", spherical" : "");
}

}  // namespace

std::vector<Level> hierarchical_kmeans(ConstTensorView local, int64_t total_rows,
                                       const HierarchyConfig& config, const Communicator& comm) {
  check(config, total_rows);
  const log::Phase phase("clustering");
  const int64_t width = local.dim(1);
  const std::string fingerprint = config.state.empty()
                                      ? ""
                                      : partial_fingerprint(local, comm.exclusive_scan(local.dim(0)),
                                                            settings_of(config, total_rows, width), comm);
  const ScaledRows scaled(local, comm);
  std::vector<Level> levels =
      HierarchyRun(scaled.data(), local.dim(0), width, total_rows, config, fingerprint, comm).run();
  for (Level& level : levels) scaled.undo(level, comm);
  return levels;
}

}  // namespace dino
