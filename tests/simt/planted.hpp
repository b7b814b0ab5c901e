// SPDX-License-Identifier: Apache-2.0
#pragma once
// For tests of the executor.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.hpp"
#include "ops/cuda/device_code.hpp"
#include "simt/watch.hpp"

namespace dino::simt {

template <class Function>
std::string error_in(const Function& function) {
  try {
    function();
  } catch (const InternalError& error) {
    return error.what();
  }
  return "";
}

inline ::testing::AssertionResult has(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    if (text.find(part) == std::string::npos)
      return ::testing::AssertionFailure() << '"' << text << "\" lacks \"" << part << '"';
  return ::testing::AssertionSuccess();
}

}  // namespace dino::simt
