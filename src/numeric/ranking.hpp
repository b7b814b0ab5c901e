// SPDX-License-Identifier: Apache-2.0
#pragma once
// How good rankings are: average precisions and recalls of retrieval and copy detection.

#include <cstdint>
#include <span>
#include <vector>

namespace dino {

/// One row of a ranking: its score, and whether it should be there.
struct Scored {
  double score = 0;
  bool relevant = false;
};

/// A point of the precision-recall curve: everything with a score of at least `threshold` is accepted.
struct PrecisionRecall {
  double threshold = 0, precision = 0, recall = 0;
};

/// One point per distinct score, largest first, so that tied rows are accepted together (as scikit-learn's
/// precision_recall_curve, in the other direction). `positives` is what recall divides by: relevant rows may
/// be missing among the scored. Empty without rows or positives.
[[nodiscard]] std::vector<PrecisionRecall> precision_recall_curve(std::vector<Scored> rows,
                                                                  int64_t positives);

/// sum over the curve of (recall_i - recall_(i-1)) precision_i: scikit-learn's average_precision_score where
/// `positives` are all relevant rows. Over the predictions of all queries it is micro-AP, the measure of the
/// image similarity challenge (arXiv 2106.09672), and with one prediction a query the global average
/// precision (GAP) of landmark and instance recognition (arXiv 2202.01747). 0 without positives.
[[nodiscard]] double average_precision(std::span<const PrecisionRecall> curve);

/// The largest recall at a precision of at least `precision`; 0 where that is never reached.
[[nodiscard]] double recall_at_precision(std::span<const PrecisionRecall> curve, double precision);

/// What one query's ground truth says of a row of the database.
enum class Relevance : uint8_t { negative, positive, junk };

/// Zero-based ranks of the positives in a ranking (best first), where junk is taken out first, as if it were
/// not in the database.
[[nodiscard]] std::vector<int64_t> positive_ranks(std::span<const Relevance> ranking);

/// mean over positives of precision at their rank: `ranks` ascend, `positives` counts those that are not
/// ranked too. 0 without positives.
[[nodiscard]] double average_precision_at_ranks(std::span<const int64_t> ranks, int64_t positives);

/// The area under the precision-recall curve by trapezoids, of the Oxford and Paris buildings (Philbin et
/// al., CVPR 2007) and their revision (Radenovic et al., CVPR 2018): each positive adds the mean of the
/// precisions before and at it, where the precision before the first rank is 1.
[[nodiscard]] double trapezoid_average_precision(std::span<const int64_t> ranks, int64_t positives);

/// Micro average precision of the predictions of all queries, where a query can count several times, as a
/// bootstrap over queries draws it: the predictions are sorted once, then `value` takes a count per query.
class MicroAveragePrecision {
 public:
  struct Prediction {
    Scored scored;
    int64_t query = 0;
  };
  /// `positives`: right answers that the database has for each query; what a query without any predicts can
  /// only do harm.
  MicroAveragePrecision(std::vector<Prediction> predictions, std::vector<int64_t> positives);
  [[nodiscard]] double value(std::span<const int64_t> counts) const;

 private:
  std::vector<Prediction> predictions_;  ///< largest score first
  std::vector<int64_t> positives_;
};

}  // namespace dino
