// SPDX-License-Identifier: Apache-2.0
#include "imaging/pixel_kernels_table.hpp"

namespace dino::imaging {

const PixelKernels& pixel_kernels_avx512vnni() {
  return kKernels;
}

}  // namespace dino::imaging
