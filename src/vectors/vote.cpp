// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "vectors/neighbours.hpp"

namespace dino {
namespace {

/// Weights of one query's neighbours: softmax(similarity / temperature).
void vote_weights(const Neighbours& neighbours, size_t first, double temperature,
                  std::vector<double>& weights) {
  const double highest = static_cast<double>(neighbours.similarity[first]);
  double sum = 0;
  for (size_t j = 0; j < weights.size(); ++j) {
    weights[j] = std::exp((static_cast<double>(neighbours.similarity[first + j]) - highest) / temperature);
    sum += weights[j];
  }
  for (double& weight : weights) weight /= sum;
}

/// The classes that have votes.
struct Tally {
  std::vector<double> votes;   ///< by class
  std::vector<int32_t> voted;  ///< classes with votes

  void add(int32_t label, double weight) {
    if (label < 0 || label >= static_cast<int32_t>(votes.size()) || weight == 0) return;
    double& vote = votes[static_cast<size_t>(label)];
    if (vote == 0) voted.push_back(label);
    vote += weight;
  }
  [[nodiscard]] float score(int32_t label) const {
    return static_cast<float>(votes[static_cast<size_t>(label)]);
  }
  [[nodiscard]] int32_t first() const {
    int32_t best = 0;
    for (const int32_t c : voted)
      if (score(c) > score(best) || (score(c) == score(best) && c < best)) best = c;
    return best;
  }
  [[nodiscard]] int32_t before(int32_t truth) const {
    if (truth < 0 || truth >= static_cast<int32_t>(votes.size()) || !(score(truth) > 0)) return -1;
    int32_t count = 0;
    for (const int32_t c : voted)
      count += score(c) > score(truth) || (score(c) == score(truth) && c < truth) ? 1 : 0;
    return count;
  }
  void clear() {
    for (const int32_t c : voted) votes[static_cast<size_t>(c)] = 0;
    voted.clear();
  }
};

}  // namespace

std::vector<float> weighted_vote(const Neighbours& neighbours, std::span<const int32_t> labels,
                                 int64_t classes, int64_t k, double temperature) {
  DINO_CHECK(k >= 1 && k <= neighbours.k, "as many votes as neighbours at most");
  const int64_t count = static_cast<int64_t>(neighbours.index.size()) / neighbours.k;
  std::vector<float> scores(static_cast<size_t>(count * classes));
  std::vector<double> weights(static_cast<size_t>(neighbours.k));
  for (int64_t q = 0; q < count; ++q) {
    const auto first = static_cast<size_t>(q * neighbours.k);
    vote_weights(neighbours, first, temperature, weights);
    std::vector<double> votes(static_cast<size_t>(classes), 0);
    for (size_t j = 0; j < static_cast<size_t>(k); ++j) {
      const int32_t label = labels[static_cast<size_t>(neighbours.index[first + j])];
      // A neighbour without a label (-1) has no vote.
      if (label >= 0 && label < classes) votes[static_cast<size_t>(label)] += weights[j];
    }
    for (size_t c = 0; c < votes.size(); ++c)
      scores[static_cast<size_t>(q * classes) + c] = static_cast<float>(votes[c]);
  }
  return scores;
}

std::vector<VoteVerdicts> vote_verdicts(const Neighbours& neighbours, std::span<const int32_t> labels,
                                        int64_t classes, std::span<const int64_t> ks, double temperature,
                                        std::span<const int32_t> truth) {
  for (const int64_t k : ks) DINO_CHECK(k >= 1 && k <= neighbours.k, "as many votes as neighbours at most");
  const int64_t count = static_cast<int64_t>(neighbours.index.size()) / neighbours.k;
  DINO_CHECK(classes > 0 && static_cast<int64_t>(truth.size()) == count, "a true class for each query");
  std::vector<VoteVerdicts> verdicts(ks.size());
  for (VoteVerdicts& verdict : verdicts) {
    verdict.first.resize(truth.size());
    verdict.before.resize(truth.size());
  }
  // From the smallest k on, each goes on where the one before ended.
  std::vector<size_t> order(ks.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return ks[a] < ks[b]; });
#pragma omp parallel if (count > 256)
  {
    std::vector<double> weights(static_cast<size_t>(neighbours.k));
    Tally tally{std::vector<double>(static_cast<size_t>(classes)), {}};
#pragma omp for schedule(static)
    for (int64_t q = 0; q < count; ++q) {
      const auto first = static_cast<size_t>(q * neighbours.k), query = static_cast<size_t>(q);
      vote_weights(neighbours, first, temperature, weights);
      size_t j = 0;
      for (const size_t i : order) {
        for (; j < static_cast<size_t>(ks[i]); ++j)
          tally.add(labels[static_cast<size_t>(neighbours.index[first + j])], weights[j]);
        verdicts[i].first[query] = tally.first();
        verdicts[i].before[query] = tally.before(truth[query]);
      }
      tally.clear();
    }
  }
  return verdicts;
}

}  // namespace dino
