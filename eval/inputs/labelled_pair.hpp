// SPDX-License-Identifier: Apache-2.0
#pragma once
// A train and a test feature file with labels: what k-NN, linear probes and the like classify.

#include <memory>
#include <vector>

#include "task.hpp"

namespace dino::eval {

/// Of the features, those that count.
enum class UsedTokens : uint8_t { all, cls, patch };
constexpr auto names_of(UsedTokens) {
  return std::to_array<Named<UsedTokens>>(
      {{"all", UsedTokens::all}, {"cls", UsedTokens::cls}, {"patch", UsedTokens::patch}});
}

/// Test labels are in the training set's classes; rows without a label are left out of training, and count
/// as n - right in testing only when their class exists but is unknown to training.
struct LabelledPair {
  std::shared_ptr<const FeatureSet> train, test;
  std::vector<int64_t> train_rows, test_rows;  ///< those that count
  std::vector<int32_t> test_labels;  ///< by test row; kUnknownClass for a class that training does not know
  int64_t shared_keys = 0;           ///< test keys that are also in training, over the same data reference
};
constexpr int32_t kUnknownClass = -2;

/// The inputs --train and --test of such a task.
[[nodiscard]] std::vector<TaskInput> labelled_inputs();
/// UsageError when they come from different models or protocols, DataError without labels.
[[nodiscard]] LabelledPair pair_of(std::shared_ptr<const FeatureSet> train,
                                   std::shared_ptr<const FeatureSet> test);
[[nodiscard]] LabelledPair read_pair(TaskRun& run);
/// The part of the card that describes both data sets and the features.
[[nodiscard]] Card pair_card(const LabelledPair& pair);
[[nodiscard]] Plan pair_plan(const LabelledPair& pair);
/// Labels of the rows that count, in the training set's classes.
[[nodiscard]] std::vector<int32_t> train_labels(const LabelledPair& pair);
[[nodiscard]] std::vector<int32_t> test_truth(const LabelledPair& pair);
/// With the keys of the test rows that count.
[[nodiscard]] Predictions predictions_of(const LabelledPair& pair, std::vector<int32_t> predicted);

struct RowSplit {
  std::vector<int64_t> fit, validation;
};
/// The training rows by hash of their group (or key), so that views of one object stay together and every
/// model sees the same. DataError when a part would be empty.
[[nodiscard]] RowSplit split_rows(const LabelledPair& pair, double share);

}  // namespace dino::eval
