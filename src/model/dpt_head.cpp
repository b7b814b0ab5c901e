// SPDX-License-Identifier: Apache-2.0
// The decoder of the dense prediction transformer: four layers are brought to a pyramid of grids, and fused
// from the coarsest to the finest.
#include <fmt/format.h>

#include <algorithm>

#include "model/dense_heads.hpp"

namespace dino {
namespace {

constexpr size_t kLevels = 4;

struct Conv {
  ParameterPlace weight, bias;  ///< no bias: not present
};

/// Adds one map to another of its shape.
void add_to(const Context& c, const Maps& sum, const Maps& x) {
  c.ops.axpy(c.stream, 1, x.values, sum.values);
}

Maps copied(const Context& c, const Maps& x) {
  const Maps y = new_maps(c, x.images, x.grid, x.channels());
  copy(c.stream, y.values, x.values);
  return y;
}

/// x + conv(relu(conv(relu(x)))).
struct ResidualUnit {
  Conv first, second;

  Maps forward(const Context& c, const UnitView& w, const Maps& x, Kept& kept) const {
    const Maps a = rectified(c, x), b = rectified(c, convolve(c, a, w(first.weight), {}));
    const Maps y = convolve(c, b, w(second.weight), {});
    add_to(c, y, x);
    kept.keep(a);
    kept.keep(b);
    return y;
  }
  Maps backward(const Context& c, const UnitView& w, Kept& kept, const Maps& dy,
                const UnitGradient& d) const {
    const Maps b = kept.take(), a = kept.take();
    const Maps db = convolve_backward(c, b, dy, w(second.weight), d(second.weight), {});
    c.ops.relu_backward(c.stream, db.values, b.values, db.values);
    const Maps da = convolve_backward(c, a, db, w(first.weight), d(first.weight), {});
    c.ops.relu_backward(c.stream, da.values, a.values, da.values);
    add_to(c, da, dy);
    return da;
  }
};

class Dpt final : public DenseHead {
 public:
  explicit Dpt(const DptConfig& config) : DenseHead("dpt"), config_(config) {
    for (size_t i = 0; i < kLevels; ++i) add_level(static_cast<int64_t>(i));
    for (size_t i = 0; i < kLevels; ++i) {
      const std::string name = fmt::format("dpt.fusion.{}", i);
      // The coarsest has nothing to add to.
      if (i > 0) fusions_[i].skip = residual(name + ".skip");
      fusions_[i].through = residual(name + ".through");
      fusions_[i].project = conv(name + ".project", 1, config.fusion, config.fusion, true);
    }
    project_ = conv("dpt.project", 3, config.fusion, config.fusion, true);
    first_ = conv("dpt.depth.0", 3, config.fusion, config.fusion / 2, true);
    second_ = conv("dpt.depth.1", 3, config.fusion / 2, kLastChannels, true);
    last_ = conv("dpt.depth.2", 1, kLastChannels, 1, true);
  }

  Maps forward(const Context& c, const UnitView& w, std::span<const Maps> inputs,
               Kept* asked) const override {
    DINO_CHECK(inputs.size() == kLevels, "this head reads four layers");
    Kept own;
    Kept& kept = asked == nullptr ? own : *asked;
    std::array<Maps, kLevels> levels;
    for (size_t i = 0; i < kLevels; ++i) levels[i] = level(c, w, i, inputs[i], kept);
    Maps x;
    for (size_t i = 0; i < kLevels; ++i) x = fuse(c, w, fusions_[i], x, levels[kLevels - 1 - i], kept);
    return depth(c, w, x, kept);
  }

  void backward(const Context& c, const UnitView& w, std::span<const Maps> inputs, Kept& kept, const Maps& dy,
                const UnitGradient& d) const override {
    const Arena::Scope scope(c.arena);
    Maps dx = depth_backward(c, w, kept, dy, d);
    std::array<Maps, kLevels> d_levels;
    for (size_t i = kLevels; i-- > 0;)
      dx = fuse_backward(c, w, fusions_[i], kept, dx, d_levels[kLevels - 1 - i], d);
    for (size_t i = kLevels; i-- > 0;) level_backward(c, w, i, inputs[i], kept, d_levels[i], d);
  }

 private:
  struct Level {
    Conv readout, project, resize, out;
  };
  struct Fusion {
    ResidualUnit skip, through;
    Conv project;
  };
  static constexpr int64_t kLastChannels = 32;

  Conv conv(const std::string& name, int64_t side, int64_t from, int64_t to, bool bias) {
    const int64_t reads = side * side * from;
    Conv made;
    made.weight =
        add_weight(name + ".weight", side == 1 ? Shape{to, from} : Shape{to, side, side, from}, reads);
    if (bias) made.bias = add_bias(name + ".bias", to, reads);
    return made;
  }
  ResidualUnit residual(const std::string& name) {
    return {conv(name + ".0", 3, config_.fusion, config_.fusion, false),
            conv(name + ".1", 3, config_.fusion, config_.fusion, false)};
  }
  void add_level(int64_t i) {
    Level& made = levels_[static_cast<size_t>(i)];
    const int64_t channels = std::max<int64_t>(1, config_.width >> (3 - i));
    const std::string name = fmt::format("dpt.level.{}", i);
    made.readout = conv(name + ".readout", 1, 2 * config_.width, config_.width, true);
    made.project = conv(name + ".project", 1, config_.width, channels, true);
    if (i < 2) {
      const int64_t k = i == 0 ? 4 : 2, reads = k * k * channels;
      made.resize.weight = add_weight(name + ".resize.weight", {k, k, channels, channels}, reads);
      made.resize.bias = add_bias(name + ".resize.bias", channels, reads);
    } else if (i == 3) {
      made.resize = conv(name + ".resize", 3, channels, channels, true);
    }
    made.out = conv(name + ".out", 3, channels, config_.fusion, false);
  }

  Maps resized(const Context& c, const UnitView& w, size_t i, const Maps& x) const {
    const Conv& conv = levels_[i].resize;
    if (i < 2) return enlarge(c, x, w(conv.weight), w(conv.bias));
    return i == 2 ? x : convolve(c, x, w(conv.weight), w(conv.bias), 2);
  }
  Maps level(const Context& c, const UnitView& w, size_t i, const Maps& x, Kept& kept) const {
    const Level& l = levels_[i];
    const Maps read = new_maps(c, x.images, x.grid, config_.width),
               pre = new_maps(c, x.images, x.grid, config_.width);
    c.ops.linear(c.stream, x.values, w(l.readout.weight), w(l.readout.bias), ops::Activation::gelu,
                 read.values, pre.values);
    const Maps projected = pointwise(c, read, w(l.project.weight), w(l.project.bias));
    const Maps at_size = resized(c, w, i, projected);
    for (const Maps& maps : {pre, read, projected, at_size}) kept.keep(maps);
    return convolve(c, at_size, w(l.out.weight), {});
  }
  void level_backward(const Context& c, const UnitView& w, size_t i, const Maps& x, Kept& kept,
                      const Maps& dy, const UnitGradient& d) const {
    const Level& l = levels_[i];
    const Maps at_size = kept.take(), projected = kept.take(), read = kept.take(), pre = kept.take();
    const Maps d_size = convolve_backward(c, at_size, dy, w(l.out.weight), d(l.out.weight), {});
    Maps d_projected = d_size;
    if (i < 2)
      d_projected =
          enlarge_backward(c, projected, d_size, w(l.resize.weight), d(l.resize.weight), d(l.resize.bias));
    if (i == 3)
      d_projected = convolve_backward(c, projected, d_size, w(l.resize.weight), d(l.resize.weight),
                                      d(l.resize.bias), 2);
    const Maps d_read =
        pointwise_backward(c, read, d_projected, w(l.project.weight), d(l.project.weight), d(l.project.bias));
    c.ops.gelu_backward(c.stream, d_read.values, pre.values, d_read.values, {});
    c.ops.linear_backward_weight(c.stream, d_read.values, x.values, d(l.readout.weight), d(l.readout.bias));
  }

  /// x, which is empty for the coarsest, and the level at its size -> twice the size.
  Maps fuse(const Context& c, const UnitView& w, const Fusion& f, const Maps& x, const Maps& level,
            Kept& kept) const {
    Maps sum = level;
    if (x.images > 0) {
      // Odd grids: half of them, rounded up, and doubled is one too many.
      const Maps fitted = level.grid == x.grid ? level : resample(c, level, x.grid, false);
      sum = f.skip.forward(c, w, fitted, kept);
      add_to(c, sum, x);
    }
    kept.keep({{}, level.images, level.grid});
    const Maps through = f.through.forward(c, w, sum, kept);
    const Maps fine = resample(c, through, {2 * through.grid.height, 2 * through.grid.width}, true);
    kept.keep(fine);
    return pointwise(c, fine, w(f.project.weight), w(f.project.bias));
  }
  Maps fuse_backward(const Context& c, const UnitView& w, const Fusion& f, Kept& kept, const Maps& dy,
                     Maps& d_level, const UnitGradient& d) const {
    const Maps fine = kept.take();
    const Maps d_fine =
        pointwise_backward(c, fine, dy, w(f.project.weight), d(f.project.weight), d(f.project.bias));
    const Maps d_through = resample_backward(c, d_fine, {fine.grid.height / 2, fine.grid.width / 2}, true);
    const Maps d_sum = f.through.backward(c, w, kept, d_through, d);
    const Maps level = kept.take();
    if (!f.skip.first.weight.present()) {
      d_level = d_sum;
      return {};
    }
    const Maps d_fitted = f.skip.backward(c, w, kept, d_sum, d);
    d_level = level.grid == d_fitted.grid ? d_fitted : resample_backward(c, d_fitted, level.grid, false);
    return d_sum;
  }

  Maps depth(const Context& c, const UnitView& w, const Maps& x, Kept& kept) const {
    const Maps projected = rectified(c, convolve(c, x, w(project_.weight), w(project_.bias)));
    const Maps half = convolve(c, projected, w(first_.weight), w(first_.bias));
    const Maps fine = resample(c, half, {2 * half.grid.height, 2 * half.grid.width}, true);
    const Maps narrow = rectified(c, convolve(c, fine, w(second_.weight), w(second_.bias)));
    const Maps out = pointwise(c, narrow, w(last_.weight), w(last_.bias));
    c.ops.relu(c.stream, out.values, out.values);
    for (const Maps& maps : {x, projected, fine, narrow, copied(c, out)}) kept.keep(maps);
    const Maps least = new_maps(c, out.images, out.grid, 1);
    fill(c.stream, least.values, static_cast<float>(config_.least));
    add_to(c, out, least);
    return out;
  }
  Maps depth_backward(const Context& c, const UnitView& w, Kept& kept, const Maps& dy,
                      const UnitGradient& d) const {
    const Maps out = kept.take(), narrow = kept.take(), fine = kept.take(), projected = kept.take(),
               x = kept.take();
    const Maps d_out = copied(c, dy);
    c.ops.relu_backward(c.stream, dy.values, out.values, d_out.values);
    const Maps d_narrow =
        pointwise_backward(c, narrow, d_out, w(last_.weight), d(last_.weight), d(last_.bias));
    c.ops.relu_backward(c.stream, d_narrow.values, narrow.values, d_narrow.values);
    const Maps d_fine =
        convolve_backward(c, fine, d_narrow, w(second_.weight), d(second_.weight), d(second_.bias));
    const Maps d_half = resample_backward(c, d_fine, {fine.grid.height / 2, fine.grid.width / 2}, true);
    const Maps d_projected =
        convolve_backward(c, projected, d_half, w(first_.weight), d(first_.weight), d(first_.bias));
    c.ops.relu_backward(c.stream, d_projected.values, projected.values, d_projected.values);
    return convolve_backward(c, x, d_projected, w(project_.weight), d(project_.weight), d(project_.bias));
  }

  DptConfig config_;
  std::array<Level, kLevels> levels_;
  std::array<Fusion, kLevels> fusions_;
  Conv project_, first_, second_, last_;
};

}  // namespace

std::unique_ptr<DenseHead> make_dpt_depth_head(const DptConfig& config) {
  DINO_CHECK(config.width >= 8 && config.fusion >= 2, "a decoder without channels");
  return std::make_unique<Dpt>(config);
}

}  // namespace dino
