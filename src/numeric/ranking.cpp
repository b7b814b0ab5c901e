// SPDX-License-Identifier: Apache-2.0
#include "numeric/ranking.hpp"

#include <algorithm>
#include <numeric>

#include "base/error.hpp"

namespace dino {

std::vector<PrecisionRecall> precision_recall_curve(std::vector<Scored> rows, int64_t positives) {
  std::vector<PrecisionRecall> curve;
  if (positives == 0) return curve;
  std::sort(rows.begin(), rows.end(), [](const Scored& a, const Scored& b) { return a.score > b.score; });
  int64_t right = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    right += rows[i].relevant ? 1 : 0;
    if (i + 1 < rows.size() && rows[i + 1].score == rows[i].score) continue;
    curve.push_back({rows[i].score, static_cast<double>(right) / static_cast<double>(i + 1),
                     static_cast<double>(right) / static_cast<double>(positives)});
  }
  DINO_CHECK(right <= positives, "more relevant rows than positives");
  return curve;
}

double average_precision(std::span<const PrecisionRecall> curve) {
  double sum = 0, before = 0;
  for (const PrecisionRecall& point : curve) {
    sum += (point.recall - before) * point.precision;
    before = point.recall;
  }
  return sum;
}

double recall_at_precision(std::span<const PrecisionRecall> curve, double precision) {
  double best = 0;
  for (const PrecisionRecall& point : curve)
    if (point.precision >= precision) best = std::max(best, point.recall);
  return best;
}

std::vector<int64_t> positive_ranks(std::span<const Relevance> ranking) {
  std::vector<int64_t> ranks;
  int64_t rank = 0;
  for (const Relevance relevance : ranking) {
    if (relevance == Relevance::junk) continue;
    if (relevance == Relevance::positive) ranks.push_back(rank);
    ++rank;
  }
  return ranks;
}

double average_precision_at_ranks(std::span<const int64_t> ranks, int64_t positives) {
  if (positives == 0) return 0;
  DINO_CHECK(static_cast<int64_t>(ranks.size()) <= positives, "more ranks than positives");
  double sum = 0;
  for (size_t i = 0; i < ranks.size(); ++i)
    sum += static_cast<double>(i + 1) / static_cast<double>(ranks[i] + 1);
  return sum / static_cast<double>(positives);
}

double trapezoid_average_precision(std::span<const int64_t> ranks, int64_t positives) {
  if (positives == 0) return 0;
  DINO_CHECK(static_cast<int64_t>(ranks.size()) <= positives, "more ranks than positives");
  double sum = 0;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const double before = ranks[i] == 0 ? 1 : static_cast<double>(i) / static_cast<double>(ranks[i]);
    const double at = static_cast<double>(i + 1) / static_cast<double>(ranks[i] + 1);
    sum += (before + at) / 2;
  }
  return sum / static_cast<double>(positives);
}

GlobalAveragePrecision::GlobalAveragePrecision(std::span<const Scored> predictions,
                                               std::span<const uint8_t> answerable)
    : predictions_(predictions.begin(), predictions.end()),
      answerable_(answerable.begin(), answerable.end()),
      order_(predictions.size()) {
  DINO_CHECK(predictions.size() == answerable.size(), "one prediction a query");
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) {
    return predictions_[static_cast<size_t>(a)].score > predictions_[static_cast<size_t>(b)].score;
  });
}

double GlobalAveragePrecision::value(std::span<const int64_t> counts) const {
  DINO_CHECK(counts.size() == order_.size(), "one count a query");
  int64_t positives = 0;
  for (size_t q = 0; q < counts.size(); ++q) positives += answerable_[q] != 0 ? counts[q] : 0;
  if (positives == 0) return 0;
  double sum = 0;
  int64_t seen = 0, right = 0;
  // Tied predictions are accepted together, as on the curve.
  for (size_t begin = 0, end = 0; begin < order_.size(); begin = end) {
    const double score = predictions_[static_cast<size_t>(order_[begin])].score;
    int64_t gained = 0;
    for (; end < order_.size() && predictions_[static_cast<size_t>(order_[end])].score == score; ++end) {
      const auto query = static_cast<size_t>(order_[end]);
      seen += counts[query];
      gained += predictions_[query].relevant ? counts[query] : 0;
    }
    right += gained;
    if (gained > 0)
      sum += static_cast<double>(gained) * static_cast<double>(right) / static_cast<double>(seen);
  }
  return sum / static_cast<double>(positives);
}

}  // namespace dino
