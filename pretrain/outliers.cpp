// SPDX-License-Identifier: Apache-2.0
#include "outliers.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace dino::pretrain {
namespace {

/// How far a value lies above a window.
Outlier above(const char* name, const std::deque<double>& window, double value) {
  const auto n = static_cast<double>(window.size());
  const double mean = std::accumulate(window.begin(), window.end(), 0.0) / n;
  double squares = 0;
  for (const double x : window) squares += (x - mean) * (x - mean);
  const double least = OutlierDetector::kLeastDeviation * std::abs(mean);
  const double deviation = std::max(std::sqrt(squares / n), least);
  return {name, value, mean, deviation > 0 ? (value - mean) / deviation : 0.0};
}

}  // namespace

std::optional<Outlier> OutlierDetector::add(double loss, double grad_norm) {
  if (limit_ == 0) return std::nullopt;
  std::optional<Outlier> found;
  for (const auto& [series, value] : {std::pair{&loss_, loss}, std::pair{&grad_norm_, grad_norm}}) {
    if (series->window.size() >= kLeast) {
      const Outlier one = above(series->name, series->window, value);
      if (one.z > limit_ && (!found || one.z > found->z)) found = one;
    }
    series->window.push_back(value);
    if (series->window.size() > kWindow) series->window.pop_front();
  }
  return found;
}

std::map<std::string, std::vector<double>> OutlierDetector::state() const {
  std::map<std::string, std::vector<double>> state;
  for (const Series* series : {&loss_, &grad_norm_})
    if (!series->window.empty())
      state[std::string("outlier_window_") + series->name] = {series->window.begin(), series->window.end()};
  return state;
}

void OutlierDetector::set_state(const std::map<std::string, std::vector<double>>& state) {
  for (Series* series : {&loss_, &grad_norm_}) {
    series->window.clear();
    const auto it = state.find(std::string("outlier_window_") + series->name);
    if (it == state.end()) continue;
    const size_t kept = std::min(it->second.size(), kWindow);
    series->window.assign(it->second.end() - static_cast<std::ptrdiff_t>(kept), it->second.end());
  }
}

}  // namespace dino::pretrain
