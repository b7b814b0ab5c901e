// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/kernels_table.hpp"

namespace dino::ops {

const Kernels& kernels_avx512bf16() {
  return kKernels;
}

}  // namespace dino::ops
