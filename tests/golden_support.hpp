// SPDX-License-Identifier: Apache-2.0
#pragma once
// Comparison with recorded tensors of the reference (tests/golden; DINO_GOLDEN_DIR reads another folder of
// the same layout). Every quantity is printed as "quantity: measured error / tolerance".

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace dino::golden {

inline std::string golden_dir() {
  const char* folder = std::getenv("DINO_GOLDEN_DIR");
  return folder != nullptr && *folder != '\0' ? folder : std::string(DINO_TEST_DATA) + "/golden";
}

/// Files of a folder below golden_dir() whose names start and end so, sorted.
inline std::vector<std::string> golden_files(const std::string& prefix, const std::string& suffix,
                                             const std::string& folder = "") {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(golden_dir() + "/" + folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix) && name.ends_with(suffix)) found.push_back(entry.path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// max |a - b| / max |b| over a tensor; max |a| where b is zero throughout; infinite for other lengths or a
/// value that is not finite.
template <class A, class B>
double relative_error(std::span<const A> a, std::span<const B> b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double difference = 0;
  double scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double distance = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!std::isfinite(distance)) return HUGE_VAL;
    difference = std::max(difference, distance);
    scale = std::max(scale, std::abs(static_cast<double>(b[i])));
  }
  return scale > 0 ? difference / scale : difference;
}

/// max |a - b|.
template <class A, class B>
double absolute_error(std::span<const A> a, std::span<const B> b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double distance = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!std::isfinite(distance)) return HUGE_VAL;
    difference = std::max(difference, distance);
  }
  return difference;
}

/// Checks as it goes, keeps the worst error of each quantity, and prints the table at the end.
class Report {
 public:
  explicit Report(std::string title) : title_(std::move(title)) {}
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;
  ~Report() {
    for (const auto& [quantity, line] : lines_)
      std::printf("%s %s: %.2e / %.0e (%d compared)\n", title_.c_str(), quantity.c_str(), line.error,
                  line.tolerance, line.count);
    std::fflush(stdout);
  }
  /// `detail` names the tensor in a failure.
  void check(const std::string& quantity, double error, double tolerance, const std::string& detail = "") {
    Line& line = lines_[quantity];
    line.error = std::max(line.error, error);
    line.tolerance = tolerance;
    ++line.count;
    EXPECT_LE(error, tolerance) << title_ << " " << quantity << " " << detail;
  }
  [[nodiscard]] int compared() const {
    int total = 0;
    for (const auto& [quantity, line] : lines_) total += line.count;
    return total;
  }

 private:
  struct Line {
    double error = 0, tolerance = 0;
    int count = 0;
  };
  std::string title_;
  std::map<std::string, Line> lines_;
};

}  // namespace dino::golden
