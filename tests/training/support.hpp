// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "golden_support.hpp"
#include "host_place.hpp"
#include "storage/hdf5.hpp"
#include "training/targets.hpp"

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

inline std::vector<ops::Backend*> all_backends() {
  return {&ops::backend_named("reference"), &ops::backend_named("cpu")};
}

/// Logits become targets in place, one problem each.
inline void make_sinkhorn_targets(const Context& c, const std::vector<TensorView>& logits, double temperature,
                                  int64_t iterations) {
  std::vector<TeacherTargets> problems(logits.begin(), logits.end());
  std::vector<TeacherTargets*> pointers;
  for (TeacherTargets& problem : problems) pointers.push_back(&problem);
  const Arena::Scope scope(c.arena);
  sinkhorn(c, pointers, temperature, iterations);
}

inline Tensor read_f32(const Hdf5File& file, const std::string& name) {
  return file.read(name, DType::f32);
}

}  // namespace dino::testing
