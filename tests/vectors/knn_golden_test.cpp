// SPDX-License-Identifier: Apache-2.0
// k-NN scores against those recorded from the reference (eval/knn.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "golden_support.hpp"
#include "storage/hdf5.hpp"
#include "vectors/neighbours.hpp"

namespace dino {
namespace {

TEST(KnnGolden, ScoresAndPredictionsAgreeForEveryK) {
  golden::Report report("knn");
  const auto file = Hdf5File::open(golden::golden_dir() + "/knn.h5");
  const Tensor bank = file.read("/train_features", DType::f32),
               queries = file.read("/test_features", DType::f32);
  const Tensor labels = file.read("/train_labels", DType::i32);
  const auto classes = static_cast<int64_t>(file.attribute_number("/", "n_classes"));
  const double temperature = file.attribute_number("/", "temperature");
  const Tensor indices = file.read("/neighbour_indices", DType::i64);
  const Tensor similarities = file.read("/neighbour_similarities", DType::f32);
  const int64_t most = indices.shape()[1];

  const Neighbours found = nearest(bank, queries, most);
  ASSERT_EQ(indices.numel(), static_cast<int64_t>(found.index.size()));
  EXPECT_TRUE(std::equal(found.index.begin(), found.index.end(), indices.as<int64_t>()));
  report.check("similarities",
               golden::absolute_error(std::span<const float>(found.similarity), similarities.f32()), 1e-6);
  int tested = 0;
  for (const std::string& name : file.list("/")) {
    if (!name.starts_with("scores_k")) continue;
    const int64_t k = std::stoll(name.substr(8));
    const auto scores = weighted_vote(found, {labels.as<int32_t>(), static_cast<size_t>(labels.numel())},
                                      classes, k, temperature);
    const Tensor expected = file.read("/" + name, DType::f32);
    report.check("scores", golden::absolute_error(std::span<const float>(scores), expected.f32()), 5e-6,
                 name);
    const Tensor predicted = file.read("/pred_k" + std::to_string(k), DType::i64);
    for (int64_t q = 0; q < predicted.numel(); ++q) {
      const auto row = scores.begin() + q * classes;
      EXPECT_EQ(std::max_element(row, row + classes) - row, predicted.as<int64_t>()[q]) << name << " " << q;
    }
    ++tested;
  }
  EXPECT_GE(tested, 1);
}

}  // namespace
}  // namespace dino
