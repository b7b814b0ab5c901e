// SPDX-License-Identifier: Apache-2.0
#pragma once
// How relevant patches are, and how many tokens each gets for it.

#include <cstdint>
#include <span>
#include <vector>

namespace dino {

/// H = -sum_i p_i log(p_i + 1e-8) in nats, p = softmax over the features of one patch: between 0 (one feature
/// stands out) and log(width).
[[nodiscard]] double feature_entropy(std::span<const float> patch);

/// Of each row of patches [patches, width].
[[nodiscard]] std::vector<double> patch_entropies(const float* values, int64_t patches, int64_t width);

/// Cosine of two vectors of one length; 0 where either is zero.
[[nodiscard]] double cosine(std::span<const float> a, std::span<const float> b);

struct TokenBounds {
  int64_t min = 64, max = 400;
};

/// floor(min + (max - min) (r - lowest) / (highest - lowest + 1e-8)) of each patch of one image. (The
/// constant keeps even the most relevant patch below `max`: it gets max - 1 unless the span of r is large.)
[[nodiscard]] std::vector<int64_t> token_counts(std::span<const double> relevance, TokenBounds bounds);

/// Integers within the bounds that sum to `budget` exactly: the counts above before they are rounded, scaled
/// by one factor and held within the bounds so that they sum to it, then rounded by largest remainder (ties:
/// the smaller index). patches * min <= budget <= patches * max (check_token_options).
[[nodiscard]] std::vector<int64_t> token_counts(std::span<const double> relevance, TokenBounds bounds,
                                                int64_t budget);

/// UsageError, naming the options, where the bounds are in the wrong order, or a budget (0 = none) cannot be
/// met by `patches` patches.
void check_token_options(int64_t patches, TokenBounds bounds, int64_t budget);

/// The share of tokens that fall on the object: sum of tokens * mass / sum of tokens, where `mass` is the
/// share of each patch that the object covers. With equal tokens it is the object's share of the image.
[[nodiscard]] double token_share(std::span<const int64_t> tokens, std::span<const double> mass);

}  // namespace dino
