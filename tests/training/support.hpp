// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <span>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "golden_support.hpp"
#include "ops/ops.hpp"
#include "storage/hdf5.hpp"

namespace dino::testing {

using golden::golden_dir;

/// golden::relative_error of any two contiguous ranges.
template <class A, class B>
double relative_error(const A& a, const B& b) {
  using X = std::remove_cvref_t<decltype(*std::data(a))>;
  using Y = std::remove_cvref_t<decltype(*std::data(b))>;
  return golden::relative_error(std::span<const X>(std::data(a), std::size(a)),
                                std::span<const Y>(std::data(b), std::size(b)));
}

/// Prints the measured error beside its tolerance and fails above it.
inline void expect_within(const std::string& what, double error, double tolerance) {
  std::printf("  %-64s %.2e  (tolerance %.0e)\n", what.c_str(), error, tolerance);
  EXPECT_LE(error, tolerance) << what;
}

inline std::vector<ops::Backend*> all_backends() {
  return {&ops::reference_backend(), &ops::backend()};
}

/// The number after "T" at the end of a group's name: "sinkhorn_T0.07" -> 0.07.
inline double temperature_of(const std::string& name) {
  return std::stod(name.substr(name.rfind('T') + 1));
}

inline Tensor read_f32(const Hdf5File& file, const std::string& name) {
  return file.read(name, DType::f32);
}

/// Rows of a CSV file with a header, as column name -> text.
inline std::vector<std::map<std::string, std::string>> read_csv(const std::string& path) {
  std::ifstream in(path);
  std::string line, cell;
  std::vector<std::string> header;
  std::vector<std::map<std::string, std::string>> rows;
  while (std::getline(in, line)) {
    std::stringstream cells(line);
    std::vector<std::string> values;
    while (std::getline(cells, cell, ',')) values.push_back(cell);
    if (header.empty()) {
      header = values;
      continue;
    }
    auto& row = rows.emplace_back();
    for (size_t i = 0; i < header.size(); ++i) row[header[i]] = i < values.size() ? values[i] : "";
  }
  return rows;
}

}  // namespace dino::testing
