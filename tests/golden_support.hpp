// SPDX-License-Identifier: Apache-2.0
#pragma once
// Comparison with recorded tensors of the reference (tests/golden; DINO_GOLDEN_DIR reads another folder of
// the same layout). Every quantity is printed as
//   golden  <file>/<case>/<quantity>  error 1.2e-06  tolerance 1.0e-05  (<tensors> compared)
// and a report in which nothing was compared fails.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "test_data.hpp"

namespace dino::golden {

inline std::string golden_dir() {
  const char* folder = std::getenv("DINO_GOLDEN_DIR");
  return folder != nullptr && *folder != '\0' ? folder : dino::test::data_folder() + "/golden";
}

inline std::string file_name(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

/// A file of the set, to read; MissingInputError and DataError name it.
inline Hdf5File open_golden(const std::string& name) {
  return Hdf5File::open(golden_dir() + "/" + name);
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

/// Rows of a CSV file of the set, as column name -> text. There must be some.
inline std::vector<std::map<std::string, std::string>> read_golden_csv(const std::string& name) {
  const std::string path = golden_dir() + "/" + name;
  std::istringstream in(read_text(path));
  std::string line, cell;
  std::vector<std::string> header;
  std::vector<std::map<std::string, std::string>> rows;
  while (std::getline(in, line)) {
    std::istringstream cells(line);
    std::vector<std::string> values;
    while (std::getline(cells, cell, ',')) values.push_back(cell);
    if (header.empty()) {
      header = values;
      continue;
    }
    auto& row = rows.emplace_back();
    for (size_t i = 0; i < header.size(); ++i) row[header[i]] = i < values.size() ? values[i] : "";
  }
  if (rows.empty()) throw DataError(path + ": no rows");
  return rows;
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
  /// `title` is the file, or file/case.
  explicit Report(std::string title) : title_(std::move(title)) {}
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;
  ~Report() {
    for (const auto& [quantity, line] : lines_) {
      std::string name = title_ + "/" + quantity;
      std::replace(name.begin(), name.end(), ' ', '_');
      std::printf("golden  %s  error %.1e  tolerance %.1e  (%d compared)\n", name.c_str(), line.error,
                  line.tolerance, line.count);
    }
    std::fflush(stdout);
    if (lines_.empty()) ADD_FAILURE() << title_ << ": nothing in it was compared";
  }
  /// `detail` names the tensor in a failure.
  void check(const std::string& quantity, double error, double tolerance, const std::string& detail = "") {
    Line& line = lines_[quantity];
    line.error = std::max(line.error, error);
    line.tolerance = tolerance;
    ++line.count;
    EXPECT_LE(error, tolerance) << title_ << " " << quantity << " " << detail;
  }
  /// The relative error against the record `path` and against its fp64 twin; one of them must be there.
  template <class A>
  void check_record(const Hdf5File& file, const std::string& quantity, std::span<const A> ours,
                    const std::string& path, double tolerance) {
    int found = 0;
    for (const std::string& record : {path, "/fp64" + path}) {
      if (!file.exists(record)) continue;
      const Tensor wanted = file.read(record, DType::f64);
      const std::span<const double> values(wanted.as<double>(), static_cast<size_t>(wanted.numel()));
      check(quantity, relative_error(ours, values), tolerance, record);
      ++found;
    }
    EXPECT_GT(found, 0) << title_ << " has no " << path;
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
