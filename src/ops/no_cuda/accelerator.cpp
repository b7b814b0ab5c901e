// SPDX-License-Identifier: Apache-2.0
#include "ops/accelerator.hpp"

namespace dino::ops {

void choose_gpu(int) {}
Backend* gpu_backend() {
  return nullptr;
}
std::string why_no_gpu() {
  return "this build has no GPU code (preset cuda)";
}
int64_t gpu_memory() {
  return 0;
}
std::string describe_gpu() {
  return "";
}
std::string describe_gpu_libraries() {
  return "";
}

}  // namespace dino::ops
