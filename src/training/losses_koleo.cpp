// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "base/error.hpp"
#include "training/losses.hpp"

namespace dino {
namespace {

TensorView matrix(TensorView x) {
  return x.reshaped(Shape{x.dim(0) * x.dim(1), x.dim(2)});
}

/// The part of one view, [N, D] of [views, N, D].
template <class View>
View of_view(View x, int64_t view) {
  return x.rows(view, 1).reshaped(Shape{x.dim(1), x.dim(2)});
}

}  // namespace

TensorView gather_batch(const Context& c, ConstTensorView own, const BatchSplit& split) {
  const int64_t views = own.dim(0);
  const int64_t width = own.dim(2);
  const auto ranks = static_cast<int64_t>(split.counts.size());
  DINO_CHECK(own.dim(1) == split.own() && ranks == c.collective.size(), "features of another batch");
  const TensorView batch = c.arena.make(Shape{views, split.total(), width});
  const Arena::Scope scope(c.arena);
  // [ranks, views, capacity, D]: parts of equal size are gathered in place.
  const int64_t capacity = *std::max_element(split.counts.begin(), split.counts.end());
  const TensorView parts = c.arena.zeros(c.stream, Shape{ranks * views * capacity, width});
  for (int64_t view = 0; view < views; ++view)
    copy(c.stream, parts.rows((split.rank * views + view) * capacity, split.own()), of_view(own, view));
  c.stream.wait(c.collective.all_gather(c.stream, parts));
  std::vector<int64_t> rows;
  for (int64_t view = 0; view < views; ++view)
    for (int64_t rank = 0; rank < ranks; ++rank)
      for (int64_t i = 0; i < split.counts[static_cast<size_t>(rank)]; ++i)
        rows.push_back((rank * views + view) * capacity + i);
  c.ops.gather_rows(c.stream, parts, c.arena.upload(c.stream, std::span<const int64_t>(rows)), matrix(batch));
  return batch;
}

void koleo(const Context& c, ConstTensorView batch, const BatchSplit& split, double weight, TensorView loss,
           TensorView d_unit, TensorView neighbours) {
  const int64_t views = batch.dim(0);
  const int64_t total = batch.dim(1);
  DINO_CHECK(total == split.total(), "features of another batch");
  fill(c.stream, neighbours, 0);
  if (total < 2) {
    fill(c.stream, d_unit, 0);
    return;
  }
  // A rank seeks its anchors' neighbours, and needs to know who points at its rows: 0 + an index is the
  // index.
  for (int64_t v = 0; v < views; ++v) {
    const Arena::Scope scope(c.arena);
    const ConstTensorView all = of_view(batch, v);
    const TensorView dots = c.arena.make(Shape{split.own(), total});
    c.ops.linear(c.stream, all.rows(split.first(), split.own()), all, {}, ops::Activation::none, dots, {});
    c.ops.nearest_other(
        c.stream, dots, split.first(),
        neighbours.reshaped(Shape{views * total}).rows(v * total + split.first(), split.own()));
  }
  c.stream.wait(c.collective.all_reduce(c.stream, neighbours));
  for (int64_t v = 0; v < views; ++v)
    c.ops.koleo(c.stream, of_view(batch, v), neighbours.rows(v, 1).reshaped(Shape{total}), split.first(),
                weight, loss, of_view(d_unit, v));
}

}  // namespace dino
