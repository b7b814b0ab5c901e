// SPDX-License-Identifier: Apache-2.0
#pragma once
// How far depth maps are from the truth (Eigen et al., arXiv 1406.2283).

#include <array>
#include <cstdint>
#include <span>

namespace dino {

/// Over the valid pixels of one image, with d the prediction and t the truth.
struct DepthErrors {
  double rmse = 0;                            ///< sqrt mean (d - t)^2
  double abs_rel = 0;                         ///< mean |d - t| / t
  double sq_rel = 0;                          ///< mean (d - t)^2 / t
  double rmse_log = 0;                        ///< sqrt mean (ln d - ln t)^2
  double log10 = 0;                           ///< mean |log10 d - log10 t|
  double silog = 0;                           ///< 100 sqrt(mean e^2 - (mean e)^2), e = ln d - ln t
  double delta1 = 0, delta2 = 0, delta3 = 0;  ///< share of max(d/t, t/d) < 1.25, 1.25^2, 1.25^3
  int64_t pixels = 0;                         ///< that are valid; 0: all of the above are 0
};
/// A pixel counts where `valid` is not 0. Depths of such pixels are positive; predictions are cut to
/// [least, most] first.
[[nodiscard]] DepthErrors depth_errors(std::span<const float> predicted, std::span<const float> truth,
                                       std::span<const uint8_t> valid, double least, double most);

/// The published tables' way: the mean over images of each image's errors; images without a valid pixel do
/// not count. `pixels` is the sum.
[[nodiscard]] DepthErrors mean_errors(std::span<const DepthErrors> images);

/// The errors by name, for tables.
struct NamedDepthError {
  const char* name;
  double DepthErrors::*member;
  bool higher_is_better;
};
[[nodiscard]] std::span<const NamedDepthError> depth_error_names();

}  // namespace dino
