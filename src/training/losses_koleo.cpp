// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "base/error.hpp"
#include "training/losses.hpp"

namespace dino {
namespace {

/// Added to each component of the difference, and again to the distance, as torch.nn.PairwiseDistance and the
/// reference do.
constexpr float kEps = 1e-8F;

/// Rows of one view in global order: rank by rank.
struct View {
  ConstTensorView gathered;
  int64_t index = 0;
  [[nodiscard]] int64_t per_rank() const { return gathered.dim(2); }
  [[nodiscard]] int64_t rows() const { return gathered.dim(0) * per_rank(); }
  [[nodiscard]] const float* row(int64_t i) const {
    const int64_t rank = i / per_rank();
    const int64_t place = (rank * gathered.dim(1) + index) * per_rank() + i % per_rank();
    return gathered.as<float>() + place * gathered.dim(3);
  }
};

/// Nearest neighbour of each of this rank's rows by the largest dot product, the first among equals.
void nearest(const View& view, int64_t first, std::span<float> neighbour, Arena& arena,
             ops::Backend& backend) {
  const Arena::Scope scope(arena);
  const int64_t per_rank = view.per_rank();
  const int64_t width = view.gathered.dim(3);
  const ConstTensorView own = view_of(view.row(first), Shape{per_rank, width});
  const TensorView dots = arena.make(Shape{per_rank, per_rank});
  std::vector<float> best(static_cast<size_t>(per_rank), -2.0F);
  for (int64_t begin = 0; begin < view.rows(); begin += per_rank) {
    backend.linear(own, view_of(view.row(begin), Shape{per_rank, width}), {}, ops::Activation::none, dots,
                   {});
    const std::span<const float> d = dots.f32();
    for (int64_t i = 0; i < per_rank; ++i)
      for (int64_t j = 0; j < per_rank; ++j) {
        if (begin + j == first + i) continue;
        const float dot = d[static_cast<size_t>(i * per_rank + j)];
        if (dot > best[static_cast<size_t>(i)]) {
          best[static_cast<size_t>(i)] = dot;
          neighbour[static_cast<size_t>(i)] = static_cast<float>(begin + j);
        }
      }
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

KoLeoResult koleo(ConstTensorView gathered, double weight, TensorView d_unit, const Communicator& comm,
                  Arena& arena, ops::Backend& backend) {
  const int64_t ranks = gathered.dim(0);
  const int64_t views = gathered.dim(1);
  const int64_t per_rank = gathered.dim(2);
  const int64_t width = gathered.dim(3);
  DINO_CHECK(ranks == comm.size(), "features of another number of ranks");
  DINO_CHECK(ranks * per_rank < (int64_t{1} << 24), "neighbour indices are exchanged as f32");
  d_unit.zero();
  KoLeoResult result;
  result.neighbour.assign(static_cast<size_t>(views * per_rank), 0);
  if (ranks * per_rank < 2) return result;

  // Neighbours of all anchors, [ranks, views, rows]: each rank needs to know who points at its rows.
  const Arena::Scope scope(arena);
  const TensorView neighbours = arena.zeros(Shape{ranks, views, per_rank});
  const int64_t first = comm.rank() * per_rank;
  const auto own = static_cast<size_t>(comm.rank() * views * per_rank);
  for (int64_t v = 0; v < views; ++v)
    nearest({gathered, v}, first,
            neighbours.f32().subspan(own + static_cast<size_t>(v * per_rank), static_cast<size_t>(per_rank)),
            arena, backend);
  comm.all_gather_in_place(neighbours.f32());

  const float* index = neighbours.as<float>();
  const double factor = weight / static_cast<double>(per_rank);
  for (int64_t v = 0; v < views; ++v) {
    const View view{gathered, v};
    float* gradient = d_unit.as<float>() + v * per_rank * width;
    // Anchors in global order, whichever rank they are on: the sums come out the same for any split.
    for (int64_t i = 0; i < view.rows(); ++i) {
      const int64_t rank = i / per_rank;
      const auto nn = static_cast<int64_t>(index[(rank * views + v) * per_rank + i % per_rank]);
      const bool anchor_here = rank == comm.rank();
      const bool neighbour_here = nn / per_rank == comm.rank();
      if (!anchor_here && !neighbour_here) continue;
      const float* a = view.row(i);
      const float* b = view.row(nn);
      const double d = distance(a, b, width);
      if (anchor_here) {
        result.loss -= std::log(d + static_cast<double>(kEps)) / static_cast<double>(per_rank);
        result.neighbour[static_cast<size_t>(v * per_rank + i - first)] = nn;
        add_gradient(a, b, width, d, factor, gradient + (i - first) * width);
      }
      if (neighbour_here) add_gradient(a, b, width, d, -factor, gradient + (nn - first) * width);
    }
  }
  return result;
}

}  // namespace dino
