// SPDX-License-Identifier: Apache-2.0
#include "vectors/similarities.hpp"

#include <algorithm>
#include <vector>

#include "base/error.hpp"
#include "base/loop_failure.hpp"
#include "exact/ordered_gemm.hpp"

namespace dino {

void for_each_similarity_row(ConstTensorView bank, ConstTensorView queries,
                             const std::function<void(int64_t, std::span<const float>)>& visit) {
  const int64_t n = bank.dim(0), width = bank.dim(1), count = queries.dim(0);
  if (count == 0) return;
  DINO_CHECK(queries.dim(1) == width, "rows of two widths");
  const float *rows = bank.as<float>(), *asked = queries.as<float>();
  // Few queries at a time: a thread holds their products with the whole bank.
  constexpr int64_t kQueryBlock = 8, kBankBlock = 512;
  LoopFailure failure;
#pragma omp parallel
  {
    std::vector<float> products(static_cast<size_t>(kQueryBlock * n));
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < count; begin += kQueryBlock)
      failure.guard([&] {
        const int64_t block = std::min(kQueryBlock, count - begin);
        for (int64_t first = 0; first < n; first += kBankBlock)
          exact::ordered_gemm_nt(block, std::min(kBankBlock, n - first), width, asked + begin * width, width,
                                 rows + first * width, width, products.data() + first, n);
        for (int64_t i = 0; i < block; ++i)
          visit(begin + i,
                std::span<const float>(products).subspan(static_cast<size_t>(i * n), static_cast<size_t>(n)));
      });
  }
  failure.rethrow();
}

}  // namespace dino
