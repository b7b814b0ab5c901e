// SPDX-License-Identifier: Apache-2.0
#pragma once
// The precision of a step, as options.

#include "base/options.hpp"
#include "ops/precision.hpp"

namespace dino::pretrain {

/// Of settings with `precision` and `reduce_precision`.
template <class C>
void add_precision(Schema<C>& schema) {
  schema.add("precision", &C::precision,
             "Activations and products; auto: bf16 on a GPU and where the CPU has bf16 instructions, else "
             "fp32. fp16 has dynamic loss scaling, and on a CPU no speed. tf32 is fp32 whose products a GPU "
             "rounds to 10 bits behind the point.");
  schema
      .add("reduce-precision", &C::reduce_precision,
           "Gradients on their way to their sums over ranks; bf16 and fp16 send half the bytes. The sums "
           "over micro-batches stay fp32.")
      .choices({"fp32", "bf16", "fp16"});
}

}  // namespace dino::pretrain
