// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "ops/ops.hpp"

namespace dino::ops {

/// What is wrong with a device's matrix products: products of small whole numbers, which every precision has
/// exactly, in each precision. Empty: nothing.
[[nodiscard]] std::string fault_of_products(Backend& backend);

}  // namespace dino::ops
