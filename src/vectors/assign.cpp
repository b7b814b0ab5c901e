// SPDX-License-Identifier: Apache-2.0
#include "vectors/assign.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.hpp"
#include "base/signals.hpp"
#include "exact/chains.hpp"
#include "exact/ordered_gemm.hpp"
#include "vectors/scan.hpp"

namespace dino {
namespace {

constexpr int64_t kRowBlock = 128;
constexpr int64_t kColumnBlock = 512;
constexpr int64_t kBoundPays = 64;          // clusters from which the bound is worth its set-up
constexpr uint64_t kAssignSample = 1 << 8;  // index of the sampling stream

}  // namespace

double fixed_point_scale(double largest) {
  if (!(largest > 0)) return 1;
  int exponent = 0;
  std::frexp(largest, &exponent);  // largest < 2^exponent
  return std::ldexp(1.0, 30 - exponent);
}

void Best::reset(int64_t rows) {
  score.assign(static_cast<size_t>(rows), -std::numeric_limits<float>::infinity());
  centroid.assign(static_cast<size_t>(rows), -1);
}

Assigner::Assigner(const float* rows, int64_t n, int64_t width, int64_t total, int64_t clusters,
                   bool spherical, uint64_t seed, const Communicator& comm)
    : rows_(rows),
      n_(n),
      width_(width),
      total_(total),
      first_(comm.exclusive_scan(n)),
      spherical_(spherical),
      comm_(comm),
      squared_norm_(static_cast<size_t>(n)) {
  double largest = 0;
#pragma omp parallel for reduction(max : largest) if (n * width > kParallelPays)
  for (int64_t i = 0; i < n; ++i) {
    const float squared = exact::ordered_dot(row(i), row(i), width);
    squared_norm_[static_cast<size_t>(i)] = squared;
    largest = std::max(largest, static_cast<double>(squared));
  }
  largest_norm_ = std::sqrt(comm.max(largest));
  basis_.width = basis_.kept = width;
  if (clusters < kBoundPays) return;
  const int64_t wanted = std::min(total, 4096 + 4 * width);
  std::vector<float> sample;
  for (const int64_t chosen : stratified_rows(total, wanted, seed, kAssignSample)) {
    if (chosen >= first_ && chosen < first_ + n)
      sample.insert(sample.end(), row(chosen - first_), row(chosen - first_) + width);
  }
  const auto gathered = comm.all_gather_values<float>(sample);
  DINO_CHECK(static_cast<int64_t>(gathered.size()) == wanted * width,
             "the ranks' rows do not add up to the total");
  basis_ = LeadingBasis::fit(gathered.data(), wanted, width);
  if (!basis_.cuts()) return;
  const int64_t stride = basis_.kept + 2;
  leading_.resize(static_cast<size_t>(n * stride));
  basis_.project(rows, n, leading_.data(), stride);
  for (int64_t i = 0; i < n; ++i) leading_[static_cast<size_t>(i * stride + stride - 1)] = 1;
}

ScoredCentroids Assigner::prepare(const float* centroids, int64_t count) const {
  ScoredCentroids scored;
  scored.data = centroids;
  scored.count = count;
  scored.half_norm.assign(static_cast<size_t>(count), 0);
  scored.squared_norm.resize(static_cast<size_t>(count));
  double largest = 0;
  for (int64_t c = 0; c < count; ++c) {
    const float squared = exact::ordered_dot(centroids + c * width_, centroids + c * width_, width_);
    scored.squared_norm[static_cast<size_t>(c)] = squared;
    if (!spherical_) scored.half_norm[static_cast<size_t>(c)] = 0.5f * squared;
    largest = std::max(largest, static_cast<double>(squared));
  }
  scored.norm = std::sqrt(largest);
  if (!basis_.cuts()) return scored;
  const int64_t stride = basis_.kept + 2;
  scored.leading.resize(static_cast<size_t>(count * stride));
  basis_.project(centroids, count, scored.leading.data(), stride);
  for (int64_t c = 0; c < count; ++c)
    scored.leading[static_cast<size_t>(c * stride + stride - 1)] = -scored.half_norm[static_cast<size_t>(c)];
  return scored;
}

void Assigner::improve(const ScoredCentroids& centroids, int64_t first_id, Best& best) const {
  if (basis_.cuts())
    improve_bounded(centroids, first_id, best);
  else
    improve_exact(centroids, first_id, best);
  // What a rank left out does not count when all give up.
  if (comm_.any(stop_requested())) throw_stopped();
}

void Assigner::improve_exact(const ScoredCentroids& centroids, int64_t first_id, Best& best) const {
#pragma omp parallel if (n_ * centroids.count * width_ > kParallelPays)
  {
    std::vector<float> tile(static_cast<size_t>(kRowBlock * kColumnBlock));
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < n_; begin += kRowBlock) {
      if (stop_requested()) continue;
      const int64_t block = std::min(kRowBlock, n_ - begin);
      for (int64_t column = 0; column < centroids.count; column += kColumnBlock) {
        const int64_t columns = std::min(kColumnBlock, centroids.count - column);
        exact::ordered_gemm_nt(block, columns, width_, row(begin), width_, centroids.data + column * width_,
                               width_, tile.data(), columns);
        for (int64_t i = 0; i < block; ++i) {
          float* scores = tile.data() + i * columns;
          if (!spherical_) {
            const float* half = centroids.half_norm.data() + column;
            for (int64_t j = 0; j < columns; ++j) scores[j] -= half[j];
          }
          float& score = best.score[static_cast<size_t>(begin + i)];
          int64_t& id = best.centroid[static_cast<size_t>(begin + i)];
          for_each_at_least(scores, columns, score, [&](int64_t j) {
            const int64_t other = first_id + column + j;
            if (!(scores[j] > score || (scores[j] == score && other < id))) return;
            score = scores[j];
            id = other;
          });
        }
      }
    }
  }
}

void Assigner::improve_bounded(const ScoredCentroids& centroids, int64_t first_id, Best& best) const {
  const int64_t stride = basis_.kept + 2;
  const auto margin =
      static_cast<float>(1.01 * basis_.rounding() * centroids.norm * (largest_norm_ + centroids.norm));
#pragma omp parallel if (n_ * centroids.count * stride > kParallelPays)
  {
    std::vector<float> tile(static_cast<size_t>(kRowBlock * kColumnBlock));
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < n_; begin += kRowBlock) {
      if (stop_requested()) continue;
      const int64_t block = std::min(kRowBlock, n_ - begin);
      for (int64_t column = 0; column < centroids.count; column += kColumnBlock) {
        const int64_t columns = std::min(kColumnBlock, centroids.count - column);
        exact::ordered_gemm_nt(block, columns, stride, leading_.data() + begin * stride, stride,
                               centroids.leading.data() + column * stride, stride, tile.data(), columns);
        for (int64_t i = 0; i < block; ++i) {
          const float* bounds = tile.data() + i * columns;
          const float* x = row(begin + i);
          float& score = best.score[static_cast<size_t>(begin + i)];
          int64_t& id = best.centroid[static_cast<size_t>(begin + i)];
          const auto compete = [&](int64_t j) {
            const int64_t other = first_id + column + j;
            if (other == id) return;
            const float value = exact::ordered_dot(x, centroids.data + (column + j) * width_, width_) -
                                centroids.half_norm[static_cast<size_t>(column + j)];
            if (!(value > score || (value == score && other < id))) return;
            score = value;
            id = other;
          };
          // Without a start the centroid of the highest bound makes a good one.
          if (std::isinf(score)) compete(std::max_element(bounds, bounds + columns) - bounds);
          float limit = score - margin;
          for_each_at_least(bounds, columns, limit, [&](int64_t j) {
            if (bounds[j] < limit) return;
            compete(j);
            limit = score - margin;
          });
        }
      }
    }
  }
}

void Assigner::rescore(const ScoredCentroids& centroids, Best& best) const {
#pragma omp parallel for schedule(dynamic, 16) if (n_ * width_ > kParallelPays)
  for (int64_t begin = 0; begin < n_; begin += exact::kChains) {
    const float *left[exact::kChains], *right[exact::kChains];
    int64_t at[exact::kChains], count = 0;
    float products[exact::kChains];
    for (int64_t i = begin; i < std::min(n_, begin + exact::kChains); ++i) {
      const int64_t id = best.centroid[static_cast<size_t>(i)];
      if (id < 0) continue;
      left[count] = row(i);
      right[count] = centroids.data + id * width_;
      at[count++] = i;
    }
    exact::ordered_dots(left, right, count, width_, products);
    for (int64_t c = 0; c < count; ++c) {
      const auto i = static_cast<size_t>(at[c]);
      best.score[i] = products[c] - centroids.half_norm[static_cast<size_t>(best.centroid[i])];
    }
  }
}

float Assigner::squared_distance(int64_t row, const ScoredCentroids& centroids, int64_t centroid,
                                 float score) const {
  const auto c = static_cast<size_t>(centroid);
  const double product = static_cast<double>(score) + static_cast<double>(centroids.half_norm[c]);
  const double squared = static_cast<double>(squared_norm_[static_cast<size_t>(row)]) +
                         static_cast<double>(centroids.squared_norm[c]) - 2 * product;
  return static_cast<float>(std::max(0.0, squared));
}

}  // namespace dino
