// SPDX-License-Identifier: Apache-2.0
// k-NN scores against those recorded from the reference (eval/knn.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "golden_support.hpp"
#include "storage/hdf5.hpp"
#include "vectors/neighbours.hpp"

namespace dino {
namespace {

using golden::Report;

/// The recommended bound for scores; also how near two similarities or scores must be for their order to be
/// a matter of rounding.
constexpr double kScores = 5e-6;

/// Recorded neighbours that are not the found ones, other than by the order of equal similarities.
int64_t wrong_neighbours(const Neighbours& found, const Tensor& indices, const Tensor& bank,
                         const Tensor& queries) {
  const int64_t width = bank.shape()[1];
  int64_t wrong = 0;
  for (size_t i = 0; i < found.index.size(); ++i) {
    const int64_t theirs = indices.as<int64_t>()[i];
    if (theirs == found.index[i]) continue;
    const float* query = queries.as<float>() + static_cast<int64_t>(i) / found.k * width;
    const double similarity =
        std::inner_product(query, query + width, bank.as<float>() + theirs * width, 0.0);
    wrong += std::abs(similarity - static_cast<double>(found.similarity[i])) > kScores ? 1 : 0;
  }
  return wrong;
}

void check_k(Report& report, const Hdf5File& file, const Neighbours& found, int64_t k) {
  const Tensor labels = file.read("/train_labels", DType::i32);
  const Tensor truth = file.read("/test_labels", DType::i64);
  const auto classes = static_cast<int64_t>(file.attribute_number("/", "n_classes"));
  const auto scores = weighted_vote(found, {labels.as<int32_t>(), static_cast<size_t>(labels.numel())},
                                    classes, k, file.attribute_number("/", "temperature"));
  const std::string suffix = "_k" + std::to_string(k);
  for (const std::string& record : {"/scores" + suffix, "/fp64/scores" + suffix}) {
    if (!file.exists(record)) continue;
    const Tensor wanted = file.read(record, DType::f64);
    report.check("scores" + suffix,
                 golden::absolute_error(
                     std::span<const float>(scores),
                     std::span<const double>(wanted.as<double>(), static_cast<size_t>(wanted.numel()))),
                 kScores, record);
  }
  const Tensor predicted = file.read("/pred" + suffix, DType::i64);
  ASSERT_EQ(predicted.numel() * classes, static_cast<int64_t>(scores.size()));
  int64_t wrong = 0, correct = 0;
  for (int64_t q = 0; q < predicted.numel(); ++q) {
    const auto row = scores.begin() + q * classes;
    const auto best = std::max_element(row, row + classes);
    const int64_t theirs = predicted.as<int64_t>()[q];
    wrong += best - row != theirs && static_cast<double>(*best - row[theirs]) > kScores ? 1 : 0;
    correct += theirs == truth.as<int64_t>()[q] ? 1 : 0;
  }
  report.check("predictions" + suffix, static_cast<double>(wrong), 0);
  if (file.has_attribute("/pred" + suffix, "accuracy"))
    report.check("accuracy" + suffix,
                 std::abs(static_cast<double>(correct) / static_cast<double>(predicted.numel()) -
                          file.attribute_number("/pred" + suffix, "accuracy")),
                 1e-9);
}

TEST(KnnGolden, ScoresAndPredictionsAgreeForEveryK) {
  Report report("knn.h5");
  const Hdf5File file = golden::open_golden("knn.h5");
  const Tensor bank = file.read("/train_features", DType::f32),
               queries = file.read("/test_features", DType::f32);
  const Tensor indices = file.read("/neighbour_indices", DType::i64);
  const Tensor similarities = file.read("/neighbour_similarities", DType::f32);

  const Neighbours found = nearest(bank, queries, indices.shape()[1]);
  ASSERT_EQ(indices.numel(), static_cast<int64_t>(found.index.size()));
  report.check("neighbours", static_cast<double>(wrong_neighbours(found, indices, bank, queries)), 0);
  report.check("similarities",
               golden::absolute_error(std::span<const float>(found.similarity), similarities.f32()), 1e-6);
  const std::vector<double> ks = file.attribute_numbers("/", "ks");
  ASSERT_FALSE(ks.empty()) << "knn.h5 names no k";
  for (const double k : ks) check_k(report, file, found, static_cast<int64_t>(k));
}

}  // namespace
}  // namespace dino
