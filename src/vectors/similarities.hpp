// SPDX-License-Identifier: Apache-2.0
#pragma once
// Whole rankings: the inner products of a query with every row of a bank.

#include <cstdint>
#include <functional>
#include <span>

#include "tensor/tensor.hpp"

namespace dino {

/// Calls visit(query, its products with all rows of the bank) for every query, from many threads at once, a
/// query once. bank f32 [N, d], queries f32 [Q, d]. The same bits as `nearest` (vectors/neighbours.hpp). What
/// `visit` throws comes out.
void for_each_similarity_row(ConstTensorView bank, ConstTensorView queries,
                             const std::function<void(int64_t, std::span<const float>)>& visit);

}  // namespace dino
