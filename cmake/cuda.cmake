# What stands behind ops/accelerator.hpp. A target's property DINO_ACCELERATOR names it where it is not the build's own:
# tests that run the GPU's code on the CPU set it to dino_simt (tests/simt).
add_library(dino_no_cuda STATIC ${PROJECT_SOURCE_DIR}/src/ops/no_cuda/accelerator.cpp)
target_link_libraries(dino_no_cuda PUBLIC dino_ops)
set(DINO_DEFAULT_ACCELERATOR dino_no_cuda)

# The GPU's code, as sources: what both builds share, and the wrappers of the GPU's libraries, which the executor replaces.
file(GLOB DINO_CUDA_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/tensor/cuda/*.cpp ${PROJECT_SOURCE_DIR}/src/comm/cuda/*.cpp
     ${PROJECT_SOURCE_DIR}/src/ops/cuda/*.cpp)
file(GLOB DINO_CUDA_KERNELS CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/cuda/*.cu)
set(DINO_CUDA_WRAPPERS ${DINO_CUDA_SOURCES})
list(FILTER DINO_CUDA_WRAPPERS INCLUDE REGEX "/(runtime|blas|nccl)\\.cpp$")
list(FILTER DINO_CUDA_SOURCES EXCLUDE REGEX "/(runtime|blas|nccl)\\.cpp$")

set(accelerator $<TARGET_PROPERTY:DINO_ACCELERATOR>)
target_link_libraries(dino_ops PUBLIC $<IF:$<BOOL:${accelerator}>,${accelerator},${DINO_DEFAULT_ACCELERATOR}>)
