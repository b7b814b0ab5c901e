// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "training/losses.hpp"

namespace dino {
namespace {

/// Added to each component of the difference, and again to the distance, as torch.nn.PairwiseDistance and the
/// reference do.
constexpr float kEps = 1e-8F;
/// Unit rows in f32 are told apart no further than this. Class tokens that saw no image (stochastic depth
/// left out all attention, or LayerScale is tiny) are equal but for rounding; 1 / distance would turn that
/// into a gradient of any size and direction, other ones on other numbers of ranks.
constexpr double kResolution = 1e-6;

/// Where a row of the global batch lives.
struct Place {
  int rank = 0;
  int64_t row = 0;
};

std::vector<Place> places(const GatheredRows& gathered) {
  std::vector<Place> all;
  for (size_t rank = 0; rank < gathered.counts.size(); ++rank)
    for (int64_t row = 0; row < gathered.counts[rank]; ++row) all.push_back({static_cast<int>(rank), row});
  return all;
}

/// Nearest neighbour of each of a rank's rows by the largest dot product, the first among equals.
void nearest(const GatheredRows& gathered, int64_t view, int rank, std::span<float> neighbour, Arena& arena,
             ops::Backend& backend) {
  const Arena::Scope scope(arena);
  const ConstTensorView own = gathered.part(rank, view);
  const int64_t rows = own.dim(0);
  const TensorView buffer = arena.make(Shape{rows, gathered.features.dim(2)});
  std::vector<float> best(static_cast<size_t>(rows), -2.0F);
  int64_t first = 0;
  for (int other = 0; other < static_cast<int>(gathered.counts.size()); ++other) {
    const ConstTensorView candidates = gathered.part(other, view);
    const int64_t count = candidates.dim(0);
    const TensorView dots = view_of(buffer.as<float>(), Shape{rows, count});
    backend.linear(own, candidates, {}, ops::Activation::none, dots, {});
    const std::span<const float> d = dots.f32();
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < count; ++j) {
        if (other == rank && j == i) continue;
        const float dot = d[static_cast<size_t>(i * count + j)];
        if (dot > best[static_cast<size_t>(i)]) {
          best[static_cast<size_t>(i)] = dot;
          neighbour[static_cast<size_t>(i)] = static_cast<float>(first + j);
        }
      }
    first += count;
  }
}

/// |a - b + eps|.
double distance(const float* a, const float* b, int64_t width) {
  double sum = 0;
  for (int64_t c = 0; c < width; ++c) {
    const double difference = static_cast<double>(a[c] - b[c] + kEps);
    sum += difference * difference;
  }
  return std::sqrt(sum);
}

/// out += factor * d(-log(|a - b + eps| + eps)) / da; the gradient for b is its negative.
void add_gradient(const float* a, const float* b, int64_t width, double d, double factor, float* out) {
  const double scale = -factor / ((d + static_cast<double>(kEps)) * d);
  for (int64_t c = 0; c < width; ++c)
    out[c] += static_cast<float>(scale * static_cast<double>(a[c] - b[c] + kEps));
}

}  // namespace

ConstTensorView GatheredRows::part(int rank, int64_t view) const {
  const int64_t capacity = features.dim(2);
  const int64_t first = (rank * features.dim(1) + view) * capacity;
  return features.reshaped(Shape{features.numel() / width(), width()})
      .rows(first, counts[static_cast<size_t>(rank)]);
}

KoLeoResult koleo(const GatheredRows& gathered, double weight, TensorView d_unit, const Communicator& comm,
                  Arena& arena, ops::Backend& backend) {
  const auto ranks = static_cast<int64_t>(gathered.counts.size());
  const int64_t capacity = gathered.features.dim(2);
  const int64_t views = gathered.views();
  const int64_t width = gathered.width();
  const int64_t total = gathered.total();
  const int me = comm.rank();
  const int64_t own_rows = gathered.counts[static_cast<size_t>(me)];
  DINO_CHECK(ranks == comm.size(), "features of another number of ranks");
  DINO_CHECK(total < (int64_t{1} << 24), "neighbour indices are exchanged as f32");
  d_unit.zero();
  KoLeoResult result;
  result.neighbour.assign(static_cast<size_t>(views * own_rows), 0);
  if (total < 2) return result;

  // Neighbours of all anchors, [ranks, views, capacity]: each rank needs to know who points at its rows.
  const Arena::Scope scope(arena);
  const TensorView neighbours = arena.zeros(Shape{ranks, views, capacity});
  for (int64_t v = 0; v < views; ++v)
    nearest(gathered, v, me,
            neighbours.f32().subspan(static_cast<size_t>((me * views + v) * capacity),
                                     static_cast<size_t>(own_rows)),
            arena, backend);
  comm.all_gather_in_place(neighbours.f32());

  const float* index = neighbours.as<float>();
  const double share = 1.0 / static_cast<double>(total);
  const std::vector<Place> place = places(gathered);
  for (int64_t v = 0; v < views; ++v) {
    float* gradient = d_unit.as<float>() + v * own_rows * width;
    const auto features = [&](const Place& at) {
      return gathered.part(at.rank, v).as<float>() + at.row * width;
    };
    // Anchors in global order, whichever rank they are on: the sums come out the same for any split.
    for (const Place& anchor : place) {
      const auto nn = static_cast<int64_t>(index[(anchor.rank * views + v) * capacity + anchor.row]);
      const Place& neighbour = place[static_cast<size_t>(nn)];
      if (anchor.rank != me && neighbour.rank != me) continue;
      const float* a = features(anchor);
      const float* b = features(neighbour);
      const double d = distance(a, b, width);
      if (anchor.rank == me) {
        result.loss -= std::log(std::max(d, kResolution) + static_cast<double>(kEps)) * share;
        result.neighbour[static_cast<size_t>(v * own_rows + anchor.row)] = nn;
      }
      if (d < kResolution) continue;
      if (anchor.rank == me) add_gradient(a, b, width, d, weight * share, gradient + anchor.row * width);
      if (neighbour.rank == me)
        add_gradient(a, b, width, d, -weight * share, gradient + neighbour.row * width);
    }
  }
  return result;
}

}  // namespace dino
