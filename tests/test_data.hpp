// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

namespace dino::test {

/// The folder `tests` of the sources, where golden tensors and seeds lie.
[[nodiscard]] std::string data_folder();

}  // namespace dino::test
