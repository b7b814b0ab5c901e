// SPDX-License-Identifier: Apache-2.0
#pragma once
// What k-NN and linear probes share, in a form that `sweep` can call.

#include <string>
#include <vector>

#include "base/options.hpp"
#include "comm/communicator.hpp"
#include "feature_file.hpp"
#include "results.hpp"

namespace dino::eval {

struct ProbeInput {
  std::string train, test;  ///< feature files
  std::string dataset;      ///< name in results; empty = from the test set's data reference
  bool force = false;
  int64_t seed = 0;
};

/// Of the features, those that count.
enum class UsedTokens : uint8_t { all, cls, patch };
constexpr auto names_of(UsedTokens) {
  return std::to_array<Named<UsedTokens>>(
      {{"all", UsedTokens::all}, {"cls", UsedTokens::cls}, {"patch", UsedTokens::patch}});
}

struct KnnConfig {
  ProbeInput input;
  std::vector<int64_t> k = {5, 10, 20};
  double temperature = 0.07;
  UsedTokens columns = UsedTokens::all;
  bool gallery = true;
  bool k_as_fits = false;  ///< leave out those k of which the training set has too few images, and say so
};
/// Collective; appends a row per k and metric to `output`/results.jsonl. Returns the rows as JSON lines
/// (root).
std::vector<std::string> run_knn(const Communicator& world, const KnnConfig& config,
                                 const std::string& output);

struct LinearConfig {
  ProbeInput input;
  /// The reference's grid, before scaling by batch / 256.
  std::vector<double> lr = {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1};
  int64_t epochs = 10, batch = 128;
  double validation = 0.1;  ///< share of the training groups that selects the head
};
std::vector<std::string> run_linear(const Communicator& world, const LinearConfig& config,
                                    const std::string& output);

/// A train and a test file with labels in the training set's classes; rows without a label are left out of
/// training, and count as n - right in testing only when their class exists but is unknown to training.
struct LabelledPair {
  FeatureSet train, test;
  std::vector<int64_t> train_rows, test_rows;
  std::vector<int32_t> test_labels;  ///< by test row; kUnknownClass for a class that training does not know
  int64_t shared_keys = 0;           ///< test keys that are also in training, over the same data reference
};
constexpr int32_t kUnknownClass = -2;
[[nodiscard]] LabelledPair read_pair(const ProbeInput& input);
/// The part of the card that describes both data sets and the features.
[[nodiscard]] Card pair_card(const LabelledPair& pair);
[[nodiscard]] ResultRow pair_row(const LabelledPair& pair, const ProbeInput& input, const std::string& task,
                                 const Card& card, const std::string& metric);

[[nodiscard]] Schema<ProbeInput> probe_options();
// What the commands and `sweep` have in common.
void declare_vote(Schema<KnnConfig>& schema);
void declare_heads(Schema<LinearConfig>& schema);

}  // namespace dino::eval
