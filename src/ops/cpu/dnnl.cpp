// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/dnnl.hpp"

#include <omp.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "base/cpu.hpp"
#include "base/error.hpp"
#include "ops/cpu/scratch.hpp"

#include <dnnl.hpp>

namespace dino::ops::dnnl {
namespace {

using Memory = ::dnnl::memory;
using Primitive = ::dnnl::matmul;

/// Variable token counts make many shapes; beyond this many the cache starts anew.
constexpr size_t kMaxPrimitives = 1024;
constexpr int64_t kPackRows = 1024;

/// oneDNN must not run instructions that DINO_CPU forbids or that not all ranks have. It listens only before
/// its first primitive.
void limit_instructions() {
  using ::dnnl::cpu_isa;
  switch (cpu_level()) {
    case CpuLevel::baseline:
      ::dnnl::set_max_cpu_isa(cpu_isa::sse41);
      break;
    case CpuLevel::avx2:
      ::dnnl::set_max_cpu_isa(cpu_isa::avx2);
      break;
    case CpuLevel::avx512:
      ::dnnl::set_max_cpu_isa(cpu_isa::avx512_core);
      break;
    case CpuLevel::avx512bf16:
      // Where the ranks differ, one of them may have AMX.
      if (cpu_is_limited()) ::dnnl::set_max_cpu_isa(cpu_isa::avx512_core_bf16);
      break;
  }
}

Memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? Memory::data_type::bf16 : Memory::data_type::f32;
}

Memory::desc matrix(int64_t rows, int64_t columns, DType dtype, bool transposed) {
  const Memory::dims strides = transposed ? Memory::dims{1, std::max<int64_t>(rows, 1)}
                                          : Memory::dims{std::max<int64_t>(columns, 1), 1};
  return {{rows, columns}, type_of(dtype), strides};
}

/// A primitive with its memory objects; execution only swaps the pointers.
struct Prepared {
  Primitive primitive;
  Memory a, b, c, bias, scratchpad;
  size_t scratchpad_bytes = 0;
  std::unordered_map<int, Memory> arguments;
  ::dnnl::reorder packing;  ///< with pack_b, of `unpacked` into b
  Memory unpacked;
  size_t packed_bytes = 0;
};

Memory::desc weights(const Matmul& p) {
  return p.pack_b ? Memory::desc({p.k, p.n}, type_of(p.b), Memory::format_tag::any)
                  : matrix(p.k, p.n, p.b, p.transpose_b);
}

Primitive::primitive_desc describe_primitive(const Matmul& p, const ::dnnl::engine& engine) {
  ::dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(::dnnl::scratchpad_mode::user);
  ::dnnl::post_ops post;
  if (p.accumulate) post.append_sum(1.0f);
  attributes.set_post_ops(post);
  const Memory::desc a = matrix(p.m, p.k, p.a, p.transpose_a);
  const Memory::desc b = weights(p);
  const Memory::desc c = matrix(p.m, p.n, p.c, false);
  const Memory::desc bias = matrix(1, p.n, DType::f32, false);
#if DNNL_VERSION_MAJOR >= 3
  return p.bias ? Primitive::primitive_desc(engine, a, b, bias, c, attributes)
                : Primitive::primitive_desc(engine, a, b, c, attributes);
#else
  return p.bias ? Primitive::primitive_desc(Primitive::desc(a, b, bias, c), attributes, engine)
                : Primitive::primitive_desc(Primitive::desc(a, b, c), attributes, engine);
#endif
}

std::unique_ptr<Prepared> prepare(const Matmul& p, const ::dnnl::engine& engine) {
  const Primitive::primitive_desc description = describe_primitive(p, engine);
  auto made = std::make_unique<Prepared>();
  made->primitive = Primitive(description);
  made->a = Memory(matrix(p.m, p.k, p.a, p.transpose_a), engine, nullptr);
  made->b = Memory(description.weights_desc(), engine, nullptr);
  made->c = Memory(matrix(p.m, p.n, p.c, false), engine, nullptr);
  made->scratchpad = Memory(description.scratchpad_desc(), engine, nullptr);
  made->scratchpad_bytes = description.scratchpad_desc().get_size();
  made->arguments = {{DNNL_ARG_SRC, made->a},
                     {DNNL_ARG_WEIGHTS, made->b},
                     {DNNL_ARG_DST, made->c},
                     {DNNL_ARG_SCRATCHPAD, made->scratchpad}};
  if (p.bias) {
    made->bias = Memory(matrix(1, p.n, DType::f32, false), engine, nullptr);
    made->arguments.emplace(DNNL_ARG_BIAS, made->bias);
  }
  if (p.pack_b) {
    made->unpacked = Memory(matrix(p.k, p.n, DType::f32, p.transpose_b), engine, nullptr);
    made->packing = ::dnnl::reorder(made->unpacked, made->b);
    made->packed_bytes = description.weights_desc().get_size();
  }
  return made;
}

/// Engine, stream and primitives. One product at a time: it already uses all threads.
class Library {
 public:
  Library() {
    limit_instructions();
    engine_ = ::dnnl::engine(::dnnl::engine::kind::cpu, 0);
    stream_ = ::dnnl::stream(engine_);
  }

  void run(const Matmul& p, const void* a, const void* b, const float* bias, void* c) {
    const std::lock_guard lock(mutex_);
    auto found = prepared_.find(p);
    if (found == prepared_.end()) {
      if (prepared_.size() >= kMaxPrimitives) prepared_.clear();
      found = prepared_.emplace(p, prepare(p, engine_)).first;
    }
    Prepared& it = *found->second;
    it.a.set_data_handle(const_cast<void*>(a));
    if (p.pack_b) {
      it.unpacked.set_data_handle(const_cast<void*>(b));
      it.b.set_data_handle(packed_.bytes(it.packed_bytes));
      it.packing.execute(stream_, it.unpacked, it.b);
    } else {
      it.b.set_data_handle(const_cast<void*>(b));
    }
    it.c.set_data_handle(c);
    if (p.bias) it.bias.set_data_handle(const_cast<float*>(bias));
    it.scratchpad.set_data_handle(scratchpad_.bytes(it.scratchpad_bytes));
    it.primitive.execute(stream_, it.arguments);
    stream_.wait();
  }

 private:
  std::mutex mutex_;
  ::dnnl::engine engine_;
  ::dnnl::stream stream_;
  std::map<Matmul, std::unique_ptr<Prepared>> prepared_;
  Scratch scratchpad_, packed_;
};

Library& library() {
  static Library instance;
  return instance;
}

}  // namespace

void run(Matmul problem, const void* a, const void* b, const float* bias, void* c) {
  for (const DType dtype : {problem.a, problem.b, problem.c})
    DINO_CHECK(dtype == DType::f32 || dtype == DType::bf16, std::string("a product of ") + name_of(dtype));
  problem.threads = omp_get_max_threads();
  problem.bias = bias != nullptr;
  try {
    library().run(problem, a, b, bias, c);
  } catch (const ::dnnl::error& error) {
    throw InternalError("oneDNN: matrix product [" + std::to_string(problem.m) + ", " +
                        std::to_string(problem.k) + "] x [" + std::to_string(problem.k) + ", " +
                        std::to_string(problem.n) + "]: " + error.what());
  }
}

bool gains_by_packing(const Matmul& p) {
  return cpu_level() >= CpuLevel::avx512 && !p.transpose_a && p.m >= kPackRows;
}

bool has_bf16() {
  return cpu_level() >= CpuLevel::avx512bf16;
}

std::string describe() {
  const dnnl_version_t* v = dnnl_version();
  return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." +
         std::to_string(v->patch);
}

}  // namespace dino::ops::dnnl
