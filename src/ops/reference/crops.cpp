// SPDX-License-Identifier: Apache-2.0
#include "ops/checks.hpp"
#include "ops/host.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {

void ReferenceBackend::augment_crops(Stream&, ConstTensorView pixels, ConstTensorView pictures,
                                     ConstTensorView crops, Resampling filter,
                                     const Normalisation& normalisation, TensorView out) {
  check::augment_crops(pixels, pictures, crops, out);
  const HostCrops source(pixels, pictures, crops, out.dim(2));
  for (int64_t i = 0; i < out.dim(0); ++i)
    source.make(i, filter, normalisation, out.as<float>() + i * 3 * out.dim(2) * out.dim(3));
}

}  // namespace dino::ops
