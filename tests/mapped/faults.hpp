// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace dino::testing {

/// Whether reading the byte at `address` would fault: the kernel reads it for us.
inline bool faults(const void* address) {
  std::array<int, 2> ends{};
  EXPECT_EQ(pipe(ends.data()), 0);
  const bool failed = write(ends[1], address, 1) != 1;
  EXPECT_TRUE(!failed || errno == EFAULT);
  close(ends[0]);
  close(ends[1]);
  return failed;
}

}  // namespace dino::testing
