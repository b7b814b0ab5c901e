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
int64_t gpu_memory_used() {
  return 0;
}
std::string describe_gpu() {
  return "";
}
int gpu_count() {
  return 0;
}
GpuFacts gpu_facts(int) {
  return {};
}
std::unique_ptr<Backend> new_gpu_backend(int) {
  return nullptr;
}
std::string describe_gpu_libraries() {
  return "";
}

}  // namespace dino::ops
