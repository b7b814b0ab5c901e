// SPDX-License-Identifier: Apache-2.0
#include "model/map_layers.hpp"

#include <algorithm>
#include <vector>

#include "base/error.hpp"

namespace dino {
namespace {

Maps shaped_like(const Context& c, const Maps& x) {
  return new_maps(c, x.images, x.grid, x.channels());
}

/// Applies a map of one image's pixels to every image.
void apply(const Context& c, const SparseMap& map, const Maps& x, const Maps& y) {
  const Arena::Scope scope(c.arena);
  const ops::SparseRows rows = uploaded(c, map);
  for (int64_t i = 0; i < x.images; ++i)
    c.ops.sparse_rows(c.stream, rows, x.values.rows(i * x.grid.pixels(), x.grid.pixels()),
                      y.values.rows(i * y.grid.pixels(), y.grid.pixels()), false);
}

GridSize strided(GridSize grid, int64_t stride) {
  return {(grid.height + stride - 1) / stride, (grid.width + stride - 1) / stride};
}

/// Where the nine neighbours of pixels [first, first + count) of the output lie among the input's pixels;
/// `padding` stands for those beyond its border.
std::vector<int64_t> neighbourhood(const Maps& x, GridSize out, int64_t stride, int64_t first, int64_t count,
                                   int64_t padding) {
  std::vector<int64_t> rows;
  rows.reserve(static_cast<size_t>(9 * count));
  for (int64_t r = first; r < first + count; ++r) {
    const int64_t image = r / out.pixels(), py = r % out.pixels() / out.width * stride,
                  px = r % out.width * stride;
    for (int64_t y = py - 1; y <= py + 1; ++y)
      for (int64_t column = px - 1; column <= px + 1; ++column) {
        const bool inside = y >= 0 && y < x.grid.height && column >= 0 && column < x.grid.width;
        rows.push_back(inside ? image * x.grid.pixels() + y * x.grid.width + column : padding);
      }
  }
  return rows;
}

/// Output rows worked on at a time, so that what is gathered stays small.
int64_t rows_at_once(const Context& c, int64_t channels) {
  const int64_t bytes = 9 * channels * static_cast<int64_t>(sizeof(float));
  return std::max<int64_t>(64, c.ops.block_sizes().product_bytes / bytes);
}

/// The pixels of a map with a row of zeros behind them, which stands for what is beyond the border.
TensorView padded(const Context& c, const Maps& x) {
  const int64_t rows = x.values.dim(0);
  const TensorView out = c.arena.make({rows + 1, x.channels()});
  copy(c.stream, out.rows(0, rows), x.values);
  fill(c.stream, out.rows(rows, 1), 0);
  return out;
}

/// Which row of enlarged squares [pixels * k * k] each pixel of the result is.
std::vector<int64_t> squares(const Maps& x, int64_t k) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < x.images; ++i)
    for (int64_t y = 0; y < x.grid.height * k; ++y)
      for (int64_t column = 0; column < x.grid.width * k; ++column) {
        const int64_t pixel = i * x.grid.pixels() + y / k * x.grid.width + column / k;
        rows.push_back((pixel * k + y % k) * k + column % k);
      }
  return rows;
}

}  // namespace

Maps new_maps(const Context& c, int64_t images, GridSize grid, int64_t channels) {
  return {c.arena.make({images * grid.pixels(), channels}), images, grid};
}

Maps resample(const Context& c, const Maps& x, GridSize to, bool align_corners) {
  const Maps y = new_maps(c, x.images, to, x.channels());
  apply(c, bilinear_map(x.grid, to, align_corners, 0, to.pixels()), x, y);
  return y;
}

Maps resample_backward(const Context& c, const Maps& dy, GridSize from, bool align_corners) {
  const Maps dx = new_maps(c, dy.images, from, dy.channels());
  apply(c, transposed(bilinear_map(from, dy.grid, align_corners, 0, dy.grid.pixels()), from.pixels()), dy,
        dx);
  return dx;
}

Maps pointwise(const Context& c, const Maps& x, ConstTensorView w, ConstTensorView b) {
  const Maps y = new_maps(c, x.images, x.grid, w.dim(0));
  c.ops.linear(c.stream, x.values, w, b, ops::Activation::none, y.values, {});
  return y;
}

Maps pointwise_backward(const Context& c, const Maps& x, const Maps& dy, ConstTensorView w, TensorView dw,
                        TensorView db) {
  const Maps dx = shaped_like(c, x);
  c.ops.linear_backward_weight(c.stream, dy.values, x.values, dw, db);
  c.ops.linear_backward_input(c.stream, dy.values, w, dx.values, false);
  return dx;
}

Maps convolve(const Context& c, const Maps& x, ConstTensorView w, ConstTensorView b, int64_t stride) {
  const int64_t inputs = x.channels(), outputs = w.dim(0);
  const Maps y = new_maps(c, x.images, strided(x.grid, stride), outputs);
  const Arena::Scope scope(c.arena);
  const TensorView source = padded(c, x);
  const int64_t rows = y.values.dim(0), most = rows_at_once(c, inputs);
  for (int64_t first = 0; first < rows; first += most) {
    const Arena::Scope block(c.arena);
    const int64_t count = std::min(most, rows - first);
    const TensorView list = c.arena.upload(
        c.stream, std::span<const int64_t>(neighbourhood(x, y.grid, stride, first, count, x.values.dim(0))));
    const TensorView gathered = c.arena.make({9 * count, inputs});
    c.ops.gather_rows(c.stream, source, list, gathered);
    c.ops.linear(c.stream, gathered.reshaped({count, 9 * inputs}), w.reshaped({outputs, 9 * inputs}), b,
                 ops::Activation::none, y.values.rows(first, count), {});
  }
  return y;
}

Maps convolve_backward(const Context& c, const Maps& x, const Maps& dy, ConstTensorView w, TensorView dw,
                       TensorView db, int64_t stride) {
  const int64_t inputs = x.channels(), outputs = w.dim(0), pixels = x.values.dim(0);
  const Maps dx = shaped_like(c, x);
  const Arena::Scope scope(c.arena);
  const TensorView source = padded(c, x), sum = c.arena.zeros(c.stream, {pixels + 1, inputs});
  const int64_t rows = dy.values.dim(0), most = rows_at_once(c, inputs);
  for (int64_t first = 0; first < rows; first += most) {
    const Arena::Scope block(c.arena);
    const int64_t count = std::min(most, rows - first);
    const TensorView list = c.arena.upload(
        c.stream, std::span<const int64_t>(neighbourhood(x, dy.grid, stride, first, count, pixels)));
    const TensorView gathered = c.arena.make({9 * count, inputs}), part = dy.values.rows(first, count);
    c.ops.gather_rows(c.stream, source, list, gathered);
    c.ops.linear_backward_weight(c.stream, part, gathered.reshaped({count, 9 * inputs}),
                                 dw.reshaped({outputs, 9 * inputs}), db);
    c.ops.linear_backward_input(c.stream, part, w.reshaped({outputs, 9 * inputs}),
                                gathered.reshaped({count, 9 * inputs}), false);
    c.ops.scatter_add_rows(c.stream, gathered, list, sum);
  }
  copy(c.stream, dx.values, sum.rows(0, pixels));
  return dx;
}

Maps enlarge(const Context& c, const Maps& x, ConstTensorView w, ConstTensorView b) {
  const int64_t k = w.dim(0), outputs = w.dim(2), inputs = w.dim(3), pixels = x.values.dim(0);
  const Maps y = new_maps(c, x.images, {x.grid.height * k, x.grid.width * k}, outputs);
  const Arena::Scope scope(c.arena);
  const TensorView each = c.arena.make({k * k, outputs});
  const std::vector<int64_t> same(static_cast<size_t>(k * k), 0);
  c.ops.gather_rows(c.stream, b.reshaped({1, outputs}),
                    c.arena.upload(c.stream, std::span<const int64_t>(same)), each);
  const TensorView made = c.arena.make({pixels, k * k * outputs});
  c.ops.linear(c.stream, x.values, w.reshaped({k * k * outputs, inputs}), each.reshaped({k * k * outputs}),
               ops::Activation::none, made, {});
  c.ops.gather_rows(c.stream, made.reshaped({pixels * k * k, outputs}),
                    c.arena.upload(c.stream, std::span<const int64_t>(squares(x, k))), y.values);
  return y;
}

Maps enlarge_backward(const Context& c, const Maps& x, const Maps& dy, ConstTensorView w, TensorView dw,
                      TensorView db) {
  const int64_t k = w.dim(0), outputs = w.dim(2), inputs = w.dim(3), pixels = x.values.dim(0);
  const Maps dx = shaped_like(c, x);
  const Arena::Scope scope(c.arena);
  const TensorView d_made = c.arena.zeros(c.stream, {pixels * k * k, outputs});
  c.ops.scatter_add_rows(c.stream, dy.values,
                         c.arena.upload(c.stream, std::span<const int64_t>(squares(x, k))), d_made);
  c.ops.weighted_column_sums(c.stream, d_made, {}, db);
  const TensorView flat = d_made.reshaped({pixels, k * k * outputs});
  c.ops.linear_backward_weight(c.stream, flat, x.values, dw.reshaped({k * k * outputs, inputs}), {});
  c.ops.linear_backward_input(c.stream, flat, w.reshaped({k * k * outputs, inputs}), dx.values, false);
  return dx;
}

Maps rectified(const Context& c, const Maps& x) {
  const Maps y = shaped_like(c, x);
  c.ops.relu(c.stream, x.values, y.values);
  return y;
}

}  // namespace dino
