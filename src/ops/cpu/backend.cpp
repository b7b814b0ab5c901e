// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include "base/cpu.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/dnnl.hpp"
#include "ops/cpu/kernels.hpp"

namespace dino::ops {

const Kernels& kernels() {
  switch (cpu_level()) {
    case CpuLevel::baseline:
      return kernels_baseline();
    case CpuLevel::avx2:
      return kernels_avx2();
    case CpuLevel::avx512:
      return kernels_avx512();
    case CpuLevel::avx512bf16:
      return kernels_avx512bf16();
  }
  return kernels_baseline();
}

std::string describe_backend() {
  return dnnl::describe() + ", " + cpu_level_name(cpu_level()) + " kernels";
}

void set_threads(int threads) {
  DINO_CHECK(threads >= 1, "at least one thread");
  omp_set_num_threads(threads);
}

}  // namespace dino::ops
