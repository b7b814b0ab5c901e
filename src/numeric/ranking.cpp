// SPDX-License-Identifier: Apache-2.0
#include "numeric/ranking.hpp"

#include <algorithm>
#include <utility>

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

MicroAveragePrecision::MicroAveragePrecision(std::vector<Prediction> predictions,
                                             std::vector<int64_t> positives)
    : predictions_(std::move(predictions)), positives_(std::move(positives)) {
  std::sort(predictions_.begin(), predictions_.end(),
            [](const Prediction& a, const Prediction& b) { return a.scored.score > b.scored.score; });
}

double MicroAveragePrecision::value(std::span<const int64_t> counts) const {
  DINO_CHECK(counts.size() == positives_.size(), "one count a query");
  int64_t positives = 0;
  for (size_t q = 0; q < counts.size(); ++q) positives += positives_[q] * counts[q];
  if (positives == 0) return 0;
  double sum = 0;
  int64_t seen = 0, right = 0;
  // Tied predictions are accepted together, as on the curve.
  for (size_t begin = 0, end = 0; begin < predictions_.size(); begin = end) {
    const double score = predictions_[begin].scored.score;
    int64_t gained = 0;
    for (; end < predictions_.size() && predictions_[end].scored.score == score; ++end) {
      const int64_t count = counts[static_cast<size_t>(predictions_[end].query)];
      seen += count;
      gained += predictions_[end].scored.relevant ? count : 0;
    }
    right += gained;
    if (gained > 0)
      sum += static_cast<double>(gained) * static_cast<double>(right) / static_cast<double>(seen);
  }
  return sum / static_cast<double>(positives);
}

}  // namespace dino
