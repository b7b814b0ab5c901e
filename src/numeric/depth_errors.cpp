// SPDX-License-Identifier: Apache-2.0
#include "numeric/depth_errors.hpp"

#include <algorithm>
#include <cmath>

#include "base/error.hpp"

namespace dino {

DepthErrors depth_errors(std::span<const float> predicted, std::span<const float> truth,
                         std::span<const uint8_t> valid, double least, double most) {
  DINO_CHECK(predicted.size() == truth.size() && valid.size() == truth.size(), "maps of other sizes");
  DepthErrors sum;
  double log_error = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    if (valid[i] == 0) continue;
    const double t = static_cast<double>(truth[i]),
                 d = std::clamp(static_cast<double>(predicted[i]), least, most);
    DINO_CHECK(t > 0, "a valid depth is positive");
    const double off = d - t, log_off = std::log(d) - std::log(t), ratio = std::max(d / t, t / d);
    ++sum.pixels;
    sum.rmse += off * off;
    sum.abs_rel += std::abs(off) / t;
    sum.sq_rel += off * off / t;
    sum.rmse_log += log_off * log_off;
    sum.log10 += std::abs(log_off) / std::log(10.0);
    log_error += log_off;
    sum.delta1 += ratio < 1.25 ? 1 : 0;
    sum.delta2 += ratio < 1.25 * 1.25 ? 1 : 0;
    sum.delta3 += ratio < 1.25 * 1.25 * 1.25 ? 1 : 0;
  }
  if (sum.pixels == 0) return sum;
  const auto n = static_cast<double>(sum.pixels);
  for (const NamedDepthError& error : depth_error_names()) sum.*error.member /= n;
  // A constant factor leaves a difference of two equal numbers, which rounding may put below 0.
  sum.silog = 100 * std::sqrt(std::max(0.0, sum.rmse_log - log_error / n * (log_error / n)));
  sum.rmse = std::sqrt(sum.rmse);
  sum.rmse_log = std::sqrt(sum.rmse_log);
  return sum;
}

DepthErrors mean_errors(std::span<const DepthErrors> images) {
  DepthErrors mean;
  double count = 0;
  for (const DepthErrors& image : images) {
    if (image.pixels == 0) continue;
    ++count;
    mean.pixels += image.pixels;
    for (const NamedDepthError& error : depth_error_names()) mean.*error.member += image.*error.member;
  }
  for (const NamedDepthError& error : depth_error_names()) mean.*error.member /= std::max(count, 1.0);
  return mean;
}

std::span<const NamedDepthError> depth_error_names() {
  static constexpr std::array<NamedDepthError, 9> names = {{{"rmse", &DepthErrors::rmse, false},
                                                            {"abs_rel", &DepthErrors::abs_rel, false},
                                                            {"sq_rel", &DepthErrors::sq_rel, false},
                                                            {"rmse_log", &DepthErrors::rmse_log, false},
                                                            {"log10", &DepthErrors::log10, false},
                                                            {"silog", &DepthErrors::silog, false},
                                                            {"delta1", &DepthErrors::delta1, true},
                                                            {"delta2", &DepthErrors::delta2, true},
                                                            {"delta3", &DepthErrors::delta3, true}}};
  return names;
}

}  // namespace dino
