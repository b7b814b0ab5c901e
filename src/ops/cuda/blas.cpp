// SPDX-License-Identifier: Apache-2.0
// Products by cuBLASLt. Its matrices are column-major: a row-major matrix is its transpose there, so that
// c = op(a) op(b) is asked for as c^T = op(b)^T op(a)^T, without moving anything.
//
// GELU is not fused into the product: the library's epilogue computes the tanh approximation, the model the
// exact function, and its weights are trained with that. A kernel follows instead.
#include "ops/cuda/blas.hpp"

#include <cublasLt.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>

#include "base/error.hpp"
#include "base/log.hpp"
#include "ops/choice_file.hpp"

namespace dino::cuda {
namespace {

/// What the library's documentation asks for on sm_90.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
/// No kernel reads more at once.
constexpr uint32_t kBestAlignment = 16;

void check(cublasStatus_t status, const std::string& what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw InternalError(fmt::format("cuBLASLt: {}: {}", what, cublasLtGetStatusString(status)));
}

cudaDataType_t type_of(DType dtype) {
  if (dtype == DType::f32) return CUDA_R_32F;
  if (dtype == DType::bf16) return CUDA_R_16BF;
  DINO_CHECK(dtype == DType::f16, std::string("a product of ") + name_of(dtype));
  return CUDA_R_16F;
}

uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<uintptr_t>(address) | kBestAlignment;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

const char* operands_of(const Product& p) {
  return p.tf32 ? "tf32" : name_of(p.operands);
}

std::string text_of(const Product& p) {
  return fmt::format("[{}, {}]{} by [{}, {}]{} in {} to {}{}{}", p.m, p.k, p.transpose_a ? "'" : "", p.k, p.n,
                     p.transpose_b ? "'" : "", operands_of(p), name_of(p.result),
                     p.bias != nullptr ? " + bias" : "", p.accumulate ? ", added" : "");
}

/// All that an algorithm depends on, for a quick look.
using PlanKey = std::array<int64_t, 4>;
PlanKey plan_key(const Product& p) {
  int64_t rest = (p.transpose_a ? 1 : 0) | (p.transpose_b ? 2 : 0) | (p.accumulate ? 4 : 0) |
                 (p.bias != nullptr ? 8 : 0) | (p.tf32 ? 16 : 0);
  for (const uint32_t next : {static_cast<uint32_t>(p.operands), static_cast<uint32_t>(p.result),
                              alignment_of(p.a), alignment_of(p.b), alignment_of(p.c)})
    rest = rest << 8 | next;
  return {p.m, p.n, p.k, rest};
}
/// The same for the file.
std::string key_of(const Product& p) {
  return fmt::format("{}x{}x{}{}{}-{}-{}{}{}-{}.{}.{}", p.m, p.n, p.k, p.transpose_a ? "t" : "n",
                     p.transpose_b ? "t" : "n", operands_of(p), name_of(p.result),
                     p.bias != nullptr ? "-bias" : "", p.accumulate ? "-add" : "", alignment_of(p.a),
                     alignment_of(p.b), alignment_of(p.c));
}

struct Description {
  explicit Description(const Product& p) {
    check(cublasLtMatmulDescCreate(&operation, p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                                   CUDA_R_32F),
          "a product");
    // The library's A is b, its B is a.
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.bias != nullptr) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);  // along the columns' length, which is n
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(p.result));
      set_bias(p.bias);
    }
    first = layout(p.operands, p.transpose_b ? p.k : p.n, p.transpose_b ? p.n : p.k);
    second = layout(p.operands, p.transpose_a ? p.m : p.k, p.transpose_a ? p.k : p.m);
    result = layout(p.result, p.n, p.m);
  }
  ~Description() {
    for (const cublasLtMatrixLayout_t each : {first, second, result})
      if (each != nullptr) cublasLtMatrixLayoutDestroy(each);
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  void set_bias(const void* bias) { set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias); }

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t which, const T& value) {
    check(cublasLtMatmulDescSetAttribute(operation, which, &value, sizeof value), "a product's description");
  }
  static cublasLtMatrixLayout_t layout(DType dtype, int64_t rows, int64_t columns) {
    cublasLtMatrixLayout_t made = nullptr;
    check(cublasLtMatrixLayoutCreate(&made, type_of(dtype), static_cast<uint64_t>(rows),
                                     static_cast<uint64_t>(columns), rows),
          "a matrix");
    return made;
  }
};

/// What limits the heuristic's choice.
class Preference {
 public:
  explicit Preference(const Product& p) {
    check(cublasLtMatmulPreferenceCreate(&handle_), "a preference");
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    // Partial sums over k meet in f32, not in the result's type.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.c));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.c));
  }
  ~Preference() { cublasLtMatmulPreferenceDestroy(handle_); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  [[nodiscard]] cublasLtMatmulPreference_t handle() const { return handle_; }

 private:
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t which, const T& value) {
    check(cublasLtMatmulPreferenceSetAttribute(handle_, which, &value, sizeof value), "a preference");
  }
  cublasLtMatmulPreference_t handle_ = nullptr;
};

std::string library_version() {
  const size_t version = cublasLtGetVersion();
  return fmt::format("{}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
}

std::string hex_of(const cublasLtMatmulAlgo_t& algorithm) {
  std::string text;
  for (const uint64_t word : algorithm.data) text += fmt::format("{:016x}", word);
  return text;
}

bool read_hex(const std::string& text, cublasLtMatmulAlgo_t& algorithm) {
  constexpr size_t kDigits = 16, kWords = std::size(decltype(algorithm.data){});
  if (text.size() != kDigits * kWords || text.find_first_not_of("0123456789abcdef") != std::string::npos)
    return false;
  for (size_t i = 0; i < kWords; ++i)
    algorithm.data[i] = std::stoull(text.substr(kDigits * i, kDigits), nullptr, 16);
  return true;
}

/// Of one GPU, for all streams and threads of the process.
class Library {
 public:
  explicit Library(int device) : choices_(cache_path_of(device)) {
    check(cublasLtCreate(&handle_), "start on the GPU");
  }
  void multiply(CudaStream& stream, const Product& p) {
    const std::lock_guard lock(mutex_);
    Plan& plan = plan_for(p);
    if (p.bias != nullptr) plan.description.set_bias(p.bias);
    const float one = 1, beta = p.accumulate ? 1 : 0;
    const Description& d = plan.description;
    check(cublasLtMatmul(handle_, d.operation, &one, p.b, d.first, p.a, d.second, &beta, p.c, d.result, p.c,
                         d.result, &plan.algorithm, workspace_of(stream), kWorkspaceBytes,
                         reinterpret_cast<cudaStream_t>(stream.handle())),
          text_of(p));
  }

 private:
  struct Plan {
    explicit Plan(const Product& p) : description(p) {}
    Description description;
    cublasLtMatmulAlgo_t algorithm{};
  };
  static std::string cache_path_of(int device) {
    std::string gpu = facts(device).name;
    std::replace_if(
        gpu.begin(), gpu.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '-');
    return ops::cache_path(fmt::format("cublaslt-{}-{}.txt", library_version(), gpu));
  }

  /// The first one that the heuristic names, which for one GPU and library is always the same: ranks and
  /// later runs agree. Asking takes longer than a small product, so that what it said is kept.
  Plan& plan_for(const Product& p) {
    std::unique_ptr<Plan>& kept = plans_[plan_key(p)];
    if (kept) return *kept;
    auto plan = std::make_unique<Plan>(p);
    const Description& d = plan->description;
    const std::string key = key_of(p);
    if (const auto choice = choices_.find(key); !choice || !usable(*choice, d, plan->algorithm)) {
      const Preference preference(p);
      cublasLtMatmulHeuristicResult_t found{};
      int count = 0;
      const cublasStatus_t status =
          cublasLtMatmulAlgoGetHeuristic(handle_, d.operation, d.first, d.second, d.result, d.result,
                                         preference.handle(), 1, &found, &count);
      check(status == CUBLAS_STATUS_SUCCESS && count == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : status, text_of(p));
      plan->algorithm = found.algo;
      choices_.keep(key, hex_of(found.algo));
    }
    kept = std::move(plan);
    return *kept;
  }

  bool usable(const std::string& text, const Description& d, cublasLtMatmulAlgo_t& algorithm) {
    cublasLtMatmulHeuristicResult_t result{};
    const bool good = read_hex(text, algorithm) &&
                      cublasLtMatmulAlgoCheck(handle_, d.operation, d.first, d.second, d.result, d.result,
                                              &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
                      result.workspaceSize <= kWorkspaceBytes;
    if (!good && !said_)
      log::warning("an algorithm kept for products does not fit the library; it is chosen anew");
    said_ = said_ || !good;
    return good;
  }

  /// Not the stream's scratch, which holds an operator's own data around its products.
  void* workspace_of(const CudaStream& stream) {
    void*& workspace = workspaces_[stream.handle()];
    if (workspace == nullptr) workspace = allocate(kWorkspaceBytes);
    if (workspace == nullptr)
      throw IoError(
          fmt::format("out of memory: {} bytes for matrix products on the GPU; use a smaller batch or model",
                      kWorkspaceBytes));
    return workspace;
  }

  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  ops::ChoiceFile choices_;
  std::map<PlanKey, std::unique_ptr<Plan>> plans_;
  std::map<StreamHandle, void*> workspaces_;
  bool said_ = false;
};

Library& library_of(int device) {
  static std::mutex mutex;
  // Never destroyed: the driver may be gone before static objects are.
  static auto* const libraries = new std::map<int, std::unique_ptr<Library>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Library>& library = (*libraries)[device];
  if (!library) library = std::make_unique<Library>(device);
  return *library;
}

}  // namespace

void multiply(CudaStream& stream, const Product& product) {
  stream.make_current();
  library_of(stream.device().index).multiply(stream, product);
}

std::string describe_blas() {
  return "cuBLASLt " + library_version();
}

}  // namespace dino::cuda
