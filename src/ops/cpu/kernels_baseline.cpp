// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/kernels_table.hpp"

namespace dino::ops {

const Kernels& kernels_baseline() {
  return kKernels;
}

}  // namespace dino::ops
