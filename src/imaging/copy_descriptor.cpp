// SPDX-License-Identifier: Apache-2.0
// The training-free copy descriptor. Near-copies (another size or encoder, a small crop, mild colour changes)
// keep low frequencies and the layout of edges; different pictures of one kind (icons on white) share most of
// their low frequencies. So frequencies are weighted towards a flat spectrum, edges are taken relative to the
// mean over the grid, and each block is power-normalised so that no single strong edge decides.
//
// Only additions, products, quotients and square roots of numbers whose order is fixed: the same bytes on
// every machine.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "imaging/dct.hpp"
#include "imaging/measures.hpp"

namespace dino {
namespace {

using imaging::dct_low;
using imaging::kDctSide;

constexpr int64_t kGrayTerms = 118;   ///< lowest frequencies of the gray plane without the mean
constexpr int64_t kColourTerms = 21;  ///< of each chroma plane, with the mean
constexpr int64_t kGrid = 6, kOrientations = 8;
constexpr int64_t kEdgeTerms = kGrid * kGrid * kOrientations;
constexpr int64_t kHistogramTerms = 64;  ///< 4 x 4 x 4 colours
static_assert(kGrayTerms + 2 * kColourTerms + kEdgeTerms + kHistogramTerms == kCopyDescriptorSize);

constexpr int64_t kEdgeSide = 48;  ///< pixels that the edges are measured on: 8 x 8 per cell
constexpr double kGrayWeight = 1.0, kColourWeight = 0.5, kEdgeWeight = 1.0, kHistogramWeight = 0.35;

/// Frequencies (u, v) by rising u^2 + v^2, then v: the first ones vary slowest.
struct Frequency {
  int64_t u, v;
};
const std::vector<Frequency>& frequencies() {
  static const std::vector<Frequency> order = [] {
    std::vector<Frequency> all;
    for (int64_t v = 0; v < 16; ++v) {
      for (int64_t u = 0; u < 16; ++u) all.push_back({u, v});
    }
    std::stable_sort(all.begin(), all.end(), [](const Frequency& a, const Frequency& b) {
      return a.u * a.u + a.v * a.v < b.u * b.u + b.v * b.v;
    });
    return all;
  }();
  return order;
}

double signed_root(double x) {
  return x < 0 ? -std::sqrt(-x) : std::sqrt(x);
}

/// Scales a block to `weight` * |x| / sqrt(|x|^2 + floor^2): the noise of a nearly flat picture stays small.
void normalise_block(double* x, int64_t n, double weight, double floor) {
  double squares = floor * floor;
  for (int64_t i = 0; i < n; ++i) squares += x[i] * x[i];
  const double scale = weight / std::sqrt(squares);
  for (int64_t i = 0; i < n; ++i) x[i] *= scale;
}

/// Power-normalised low frequencies, whitened by their radius: natural spectra fall as 1/f. All wanted
/// frequencies have u, v < n.
template <int64_t n>
void frequency_block(const std::array<int32_t, kDctSide * kDctSide>& plane, int64_t first, int64_t terms,
                     double* out) {
  std::array<int64_t, n * n> low{};
  dct_low(plane, n, low.data());
  // One gray level of amplitude is 1 after this: 1024 (mean removal) * 2^14 (one pass) * 512 (32 x 32 / 2).
  constexpr double unit = 1024.0 * 16384.0 * 512.0;
  for (int64_t i = 0; i < terms; ++i) {
    const Frequency f = frequencies()[static_cast<size_t>(first + i)];
    const auto radius = std::sqrt(static_cast<double>(f.u * f.u + f.v * f.v));
    const double value = static_cast<double>(low[static_cast<size_t>(f.v * n + f.u)]) / unit;
    out[i] = signed_root(value * (1.0 + radius));
  }
}

/// 16 * (gray smoothed by 1-2-1 in both directions), edges repeated: aliased and smooth renderings of one
/// outline then have like gradients.
std::array<int32_t, kEdgeSide * kEdgeSide> smoothed(const Image& gray) {
  std::array<int32_t, kEdgeSide * kEdgeSide> rows{}, out{};
  const auto inside = [](int64_t i) { return std::clamp<int64_t>(i, 0, kEdgeSide - 1); };
  for (int64_t y = 0; y < kEdgeSide; ++y) {
    for (int64_t x = 0; x < kEdgeSide; ++x) {
      rows[static_cast<size_t>(y * kEdgeSide + x)] =
          *gray.at(inside(x - 1), y) + 2 * *gray.at(x, y) + *gray.at(inside(x + 1), y);
    }
  }
  for (int64_t y = 0; y < kEdgeSide; ++y) {
    const int32_t* up = rows.data() + inside(y - 1) * kEdgeSide;
    const int32_t* row = rows.data() + y * kEdgeSide;
    const int32_t* down = rows.data() + inside(y + 1) * kEdgeSide;
    for (int64_t x = 0; x < kEdgeSide; ++x) {
      out[static_cast<size_t>(y * kEdgeSide + x)] = up[x] + 2 * row[x] + down[x];
    }
  }
  return out;
}

/// A gradient as a sum of two of the eight directions (multiples of 45 degrees, counted from +x towards +y).
struct Directions {
  int64_t axis, diagonal;                ///< bins
  int64_t axis_weight, diagonal_weight;  ///< lengths along them
};
Directions split_gradient(int64_t dx, int64_t dy) {
  const int64_t ax = std::abs(dx), ay = std::abs(dy);
  Directions d{};
  if (ax >= ay) {
    d.axis = dx >= 0 ? 0 : 4;
  } else {
    d.axis = dy >= 0 ? 2 : 6;
  }
  d.diagonal = dx >= 0 ? (dy >= 0 ? 1 : 7) : (dy >= 0 ? 3 : 5);
  d.axis_weight = std::max(ax, ay) - std::min(ax, ay);
  d.diagonal_weight = std::min(ax, ay) * 181 / 128;  // sqrt(2)
  return d;
}

/// Gradient-orientation histograms over a 6 x 6 grid, shared linearly between neighbouring cells and
/// directions, in integers.
void edge_block(const Image& gray, double* out) {
  constexpr int64_t cell = kEdgeSide / kGrid;
  constexpr int64_t quiet = 6 * 16;  // gradients below six levels are noise of flat areas
  const auto plane = smoothed(gray);
  std::array<int64_t, kEdgeTerms> bins{};
  for (int64_t y = 1; y + 1 < kEdgeSide; ++y) {
    for (int64_t x = 1; x + 1 < kEdgeSide; ++x) {
      const int32_t* at = plane.data() + y * kEdgeSide + x;
      const int64_t dx = at[1] - at[-1], dy = at[kEdgeSide] - at[-kEdgeSide];
      const int64_t strength =
          std::max(std::abs(dx), std::abs(dy)) + std::min(std::abs(dx), std::abs(dy)) / 2;
      if (strength <= quiet) continue;
      const Directions d = split_gradient(dx, dy);
      const int64_t along = d.axis_weight * (strength - quiet) / strength;
      const int64_t across = d.diagonal_weight * (strength - quiet) / strength;
      // Position in half pixels from the first cell's centre.
      const int64_t px = 2 * x + 1 - cell, py = 2 * y + 1 - cell;
      for (int64_t j = 0; j < 2; ++j) {
        const int64_t cy = (py + 2 * cell) / (2 * cell) - 1 + j;
        const int64_t wy = 2 * cell - std::abs(py - cy * 2 * cell);
        if (cy < 0 || cy >= kGrid) continue;
        for (int64_t i = 0; i < 2; ++i) {
          const int64_t cx = (px + 2 * cell) / (2 * cell) - 1 + i;
          const int64_t wx = 2 * cell - std::abs(px - cx * 2 * cell);
          if (cx < 0 || cx >= kGrid) continue;
          int64_t* bin = bins.data() + (cy * kGrid + cx) * kOrientations;
          bin[d.axis] += along * wx * wy;
          bin[d.diagonal] += across * wx * wy;
        }
      }
    }
  }
  double mean = 0;
  for (size_t i = 0; i < bins.size(); ++i) {
    out[i] = std::sqrt(static_cast<double>(bins[i]) / (16.0 * 4 * cell * cell));
    mean += out[i];
  }
  mean /= static_cast<double>(bins.size());
  for (size_t i = 0; i < bins.size(); ++i) out[i] -= mean;
}

/// Soft histogram over 4 levels per channel (linear sharing between neighbours), without its mean.
void histogram_block(const Image& image, double* out) {
  std::array<int64_t, kHistogramTerms> bins{};
  const size_t pixels = static_cast<size_t>(image.width * image.height);
  for (size_t i = 0; i < pixels; ++i) {
    const uint8_t* p = image.pixels.data() + 3 * i;
    int64_t index[3], upper[3];
    for (int c = 0; c < 3; ++c) {
      index[c] = std::min(int64_t{p[c]} * 3 / 255, int64_t{2});
      upper[c] = int64_t{p[c]} * 3 - index[c] * 255;
    }
    for (int64_t corner = 0; corner < 8; ++corner) {
      int64_t weight = 1, bin = 0;
      for (int c = 0; c < 3; ++c) {
        const int64_t high = corner >> c & 1;
        weight *= high != 0 ? upper[c] : 255 - upper[c];
        bin = bin * 4 + index[c] + high;
      }
      bins[static_cast<size_t>(bin)] += weight;
    }
  }
  double mean = 0;
  for (size_t i = 0; i < bins.size(); ++i) {
    out[i] = std::sqrt(static_cast<double>(bins[i]) / (16581375.0 * static_cast<double>(pixels)));
    mean += out[i];
  }
  mean /= static_cast<double>(bins.size());
  for (size_t i = 0; i < bins.size(); ++i) out[i] -= mean;
}

}  // namespace

void copy_descriptor(const Image& image, float* out) {
  const Image medium = resize(image, kEdgeSide, kEdgeSide, Resampling::bilinear);
  const Image small = resize(medium, kDctSide, kDctSide, Resampling::bilinear);
  std::array<int32_t, kDctSide * kDctSide> gray{}, blue{}, red{};
  for (size_t i = 0; i < gray.size(); ++i) {
    const uint8_t* p = small.pixels.data() + 3 * i;
    // 16 steps per level; ITU-R 601 luma and differences.
    gray[i] = (p[0] * 306 + p[1] * 601 + p[2] * 117) >> 6;
    blue[i] = (p[2] * 16) - gray[i];
    red[i] = (p[0] * 16) - gray[i];
  }
  std::array<double, kCopyDescriptorSize> d{};
  double* at = d.data();
  frequency_block<16>(gray, 1, kGrayTerms, at);
  normalise_block(at, kGrayTerms, kGrayWeight, 20.0);
  at += kGrayTerms;
  double mean_blue = 0, mean_red = 0;
  for (size_t i = 0; i < gray.size(); ++i) mean_blue += blue[i], mean_red += red[i];
  frequency_block<6>(blue, 0, kColourTerms, at);
  frequency_block<6>(red, 0, kColourTerms, at + kColourTerms);
  at[0] = signed_root(mean_blue / 1024.0);
  at[kColourTerms] = signed_root(mean_red / 1024.0);
  normalise_block(at, 2 * kColourTerms, kColourWeight, 60.0);
  at += 2 * kColourTerms;
  edge_block(imaging::gray_of(medium), at);
  normalise_block(at, kEdgeTerms, kEdgeWeight, 4.0);
  at += kEdgeTerms;
  histogram_block(medium, at);
  normalise_block(at, kHistogramTerms, kHistogramWeight, 0.1);
  double squares = 0;
  for (double x : d) squares += x * x;
  const double scale = squares > 0 ? 1.0 / std::sqrt(squares) : 0.0;
  for (size_t i = 0; i < d.size(); ++i) out[i] = static_cast<float>(d[i] * scale);
}

}  // namespace dino
