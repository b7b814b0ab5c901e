// SPDX-License-Identifier: Apache-2.0
#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/host.hpp"

namespace dino::ops {

void CpuBackend::augment_crops(Stream&, ConstTensorView pixels, ConstTensorView pictures,
                               ConstTensorView crops, Resampling filter, const Normalisation& normalisation,
                               TensorView out) {
  check::augment_crops(pixels, pictures, crops, out);
  const HostCrops source(pixels, pictures, crops, out.dim(2));
  const int64_t values = 3 * out.dim(2) * out.dim(3);
  auto* const to = out.as<float>();
  parallel_for(out.dim(0), values,
               [&](int64_t i) { source.make(i, filter, normalisation, to + i * values); });
}

}  // namespace dino::ops
