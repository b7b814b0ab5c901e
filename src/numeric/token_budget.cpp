// SPDX-License-Identifier: Apache-2.0
#include "numeric/token_budget.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "base/error.hpp"

namespace dino {

namespace {

/// Counts before they are rounded.
std::vector<double> wanted_tokens(std::span<const double> relevance, TokenBounds bounds) {
  DINO_CHECK(bounds.min >= 0 && bounds.min <= bounds.max, "token bounds");
  std::vector<double> wanted(relevance.size());
  if (relevance.empty()) return wanted;
  const auto [lowest, highest] = std::minmax_element(relevance.begin(), relevance.end());
  const double span = *highest - *lowest + 1e-8;
  for (size_t i = 0; i < wanted.size(); ++i)
    wanted[i] = static_cast<double>(bounds.min) +
                static_cast<double>(bounds.max - bounds.min) * (relevance[i] - *lowest) / span;
  return wanted;
}

/// wanted * factor within the bounds, where the factor makes the sum `budget`. The sum grows with the factor
/// without jumps, so that halving an interval finds it.
void scale_to_sum(std::vector<double>& wanted, TokenBounds bounds, double budget) {
  // Without a lower bound nothing would be wanted of the least relevant patch, whatever the factor.
  for (double& w : wanted) w = std::max(w, 1e-6 * static_cast<double>(std::max<int64_t>(bounds.max, 1)));
  const auto scaled = [&](double w, double factor) {
    return std::clamp(w * factor, static_cast<double>(bounds.min), static_cast<double>(bounds.max));
  };
  // At the upper end every patch has reached its upper bound.
  double low = 0, high = 1e6 * 2;
  for (int step = 0; step < 200; ++step) {
    const double factor = (low + high) / 2;
    double sum = 0;
    for (const double w : wanted) sum += scaled(w, factor);
    (sum < budget ? low : high) = factor;
  }
  for (double& w : wanted) w = scaled(w, high);
}

}  // namespace

double feature_entropy(std::span<const float> patch) {
  if (patch.empty()) return 0;
  const double highest = static_cast<double>(*std::max_element(patch.begin(), patch.end()));
  double total = 0;
  for (const float value : patch) total += std::exp(static_cast<double>(value) - highest);
  double entropy = 0;
  for (const float value : patch) {
    const double p = std::exp(static_cast<double>(value) - highest) / total;
    entropy -= p * std::log(p + 1e-8);
  }
  return entropy;
}

std::vector<double> patch_entropies(const float* values, int64_t patches, int64_t width) {
  std::vector<double> out(static_cast<size_t>(patches));
  for (int64_t p = 0; p < patches; ++p)
    out[static_cast<size_t>(p)] =
        feature_entropy(std::span<const float>(values + p * width, static_cast<size_t>(width)));
  return out;
}

double cosine(std::span<const float> a, std::span<const float> b) {
  DINO_CHECK(a.size() == b.size(), "vectors of two lengths");
  double dot = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    dot += x * y, aa += x * x, bb += y * y;
  }
  return aa == 0 || bb == 0 ? 0 : dot / (std::sqrt(aa) * std::sqrt(bb));
}

std::vector<int64_t> token_counts(std::span<const double> relevance, TokenBounds bounds) {
  std::vector<int64_t> tokens;
  for (const double wanted : wanted_tokens(relevance, bounds))
    tokens.push_back(static_cast<int64_t>(std::floor(wanted)));
  return tokens;
}

std::vector<int64_t> token_counts(std::span<const double> relevance, TokenBounds bounds, int64_t budget) {
  DINO_CHECK(static_cast<int64_t>(relevance.size()) * bounds.min <= budget &&
                 budget <= static_cast<int64_t>(relevance.size()) * bounds.max,
             "a budget out of reach");
  std::vector<double> wanted = wanted_tokens(relevance, bounds);
  scale_to_sum(wanted, bounds, static_cast<double>(budget));
  std::vector<int64_t> tokens(wanted.size()), order(wanted.size());
  int64_t left = budget;
  for (size_t i = 0; i < wanted.size(); ++i) {
    tokens[i] = static_cast<int64_t>(std::floor(wanted[i]));
    wanted[i] -= static_cast<double>(tokens[i]);
    left -= tokens[i];
  }
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return wanted[static_cast<size_t>(a)] > wanted[static_cast<size_t>(b)];
  });
  for (const int64_t i : order) {
    int64_t& count = tokens[static_cast<size_t>(i)];
    if (left > 0 && count < bounds.max) ++count, --left;
  }
  DINO_CHECK(left == 0, "tokens are left over");
  return tokens;
}

void check_token_options(int64_t patches, TokenBounds bounds, int64_t budget) {
  if (bounds.min > bounds.max)
    throw UsageError("cannot share out tokens: --min-tokens " + std::to_string(bounds.min) +
                     ": is more than --max-tokens " + std::to_string(bounds.max) + "; give a smaller one");
  if (budget != 0 && (budget < patches * bounds.min || budget > patches * bounds.max))
    throw UsageError("cannot share out tokens: --budget " + std::to_string(budget) + ": " +
                     std::to_string(patches) + " patches of " + std::to_string(bounds.min) + " to " +
                     std::to_string(bounds.max) + " tokens take " + std::to_string(patches * bounds.min) +
                     " to " + std::to_string(patches * bounds.max) +
                     "; give a budget in that range, or other --min-tokens and --max-tokens");
}

double token_share(std::span<const int64_t> tokens, std::span<const double> mass) {
  DINO_CHECK(tokens.size() == mass.size(), "one mass a patch");
  double covered = 0, all = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    covered += static_cast<double>(tokens[i]) * mass[i];
    all += static_cast<double>(tokens[i]);
  }
  return all == 0 ? 0 : covered / all;
}

}  // namespace dino
