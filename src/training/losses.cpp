// SPDX-License-Identifier: Apache-2.0
#include "training/losses.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "training/targets.hpp"

namespace dino {

void prototype_cross_entropy(const Context& c, ConstTensorView unit, ConstTensorView prototypes,
                             std::span<const TargetRows> segments, double temperature, ConstTensorView weight,
                             TensorView loss, TensorView d_unit, TensorView d_prototypes) {
  const int64_t rows = unit.dim(0);
  const int64_t k = prototypes.dim(0);
  int64_t covered = 0;
  for (const TargetRows& segment : segments) {
    DINO_CHECK(segment.first == covered, "target segments leave a gap");
    covered += segment.count;
  }
  DINO_CHECK(covered == rows, "target segments do not cover the rows");

  const Arena::Scope scope(c.arena);
  const int64_t step = std::min(rows, logits_chunk_rows(c, k));
  const TensorView buffer = c.arena.make(Shape{step, k});
  size_t s = 0;
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(begin + step, rows);
    const Arena::Scope chunk(c.arena);
    const TensorView logits = buffer.rows(0, end - begin);
    const ConstTensorView x = prototype_logits(c, unit.rows(begin, end - begin), prototypes, logits);
    // A chunk may hold the ends of several segments.
    for (int64_t row = begin; row < end;) {
      const TargetRows& segment = segments[s];
      const int64_t segment_end = segment.first + segment.count;
      const int64_t count = std::min(end, segment_end) - row;
      const TensorView own = logits.rows(row - begin, count);
      if (count > 0 && segment.targets) {
        c.ops.cross_entropy(c.stream, own, segment.targets(row - segment.first, count),
                            static_cast<float>(temperature), weight.rows(row, count), loss.rows(row, count));
      } else if (count > 0) {
        fill(c.stream, own, 0);
        fill(c.stream, loss.rows(row, count), 0);
      }
      row += count;
      if (row == segment_end) ++s;
    }
    const ConstTensorView d_logits = in_dtype(c, logits, prototypes.dtype);
    c.ops.linear_backward_input(c.stream, d_logits, prototypes, d_unit.rows(begin, end - begin), false);
    c.ops.linear_backward_weight(c.stream, d_logits, x, d_prototypes, {});
  }
}

}  // namespace dino
