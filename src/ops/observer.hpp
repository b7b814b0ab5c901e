// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who looks at what the modules of a step make, in the order in which they make it (dino-pretrain replay).

#include <cstdint>
#include <string>

#include "tensor/tensor.hpp"

namespace dino {

/// What the rows of an observed tensor are.
enum class ObservedRows : uint8_t {
  packed,      ///< tokens of the pass's crops, as the model packs them (TokenEntry)
  batch,       ///< class tokens of all local crops, of both global views, and masked patches (BatchTokens)
  views,       ///< class tokens of both global views
  masked,      ///< masked patches
  parameters,  ///< none: a unit's values, flat
  scalar,
};

class Observer {
 public:
  virtual ~Observer() = default;
  /// A pass over these of the rank's images begins: "teacher", "student", "losses" or "backward".
  virtual void begin_pass(const char* pass, int64_t first_image, int64_t images) = 0;
  /// f32 or f64, on the stream's device; valid during the call. A pass in micro-batches tells of a module
  /// once for each.
  virtual void saw(Stream& stream, const std::string& module, const char* tensor, ConstTensorView values,
                   ObservedRows rows) = 0;
};

}  // namespace dino
