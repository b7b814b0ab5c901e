// SPDX-License-Identifier: Apache-2.0
#include "imaging/mask_measures.hpp"

#include <algorithm>
#include <cmath>

#include "base/error.hpp"

namespace dino {
namespace {

void check_pair(const MaskView& a, const MaskView& b) {
  DINO_CHECK(a.width == b.width && a.height == b.height && a.pixels.size() == b.pixels.size(),
             "masks of two sizes");
}

std::vector<uint8_t> boundary_of(const MaskView& mask) {
  std::vector<uint8_t> out(mask.pixels.size());
  for (int64_t y = 0; y < mask.height; ++y)
    for (int64_t x = 0; x < mask.width; ++x) {
      // Beyond the border stands the pixel itself.
      const int64_t right = std::min(x + 1, mask.width - 1), below = std::min(y + 1, mask.height - 1);
      const bool here = mask.at(x, y);
      const bool differs =
          here != mask.at(right, y) || here != mask.at(x, below) || here != mask.at(right, below);
      out[static_cast<size_t>(y * mask.width + x)] = differs ? 1 : 0;
    }
  return out;
}

std::vector<uint8_t> dilated(const std::vector<uint8_t>& mask, int64_t width, int64_t height,
                             int64_t radius) {
  std::vector<uint8_t> out(mask.size());
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      if (mask[static_cast<size_t>(y * width + x)] == 0) continue;
      for (int64_t j = std::max(-radius, -y); j <= std::min(radius, height - 1 - y); ++j) {
        const auto reach = static_cast<int64_t>(std::sqrt(static_cast<double>(radius * radius - j * j)));
        const int64_t first = std::max<int64_t>(0, x - reach), last = std::min(width - 1, x + reach);
        std::fill_n(out.begin() + (y + j) * width + first, last - first + 1, uint8_t{1});
      }
    }
  return out;
}

int64_t count(const std::vector<uint8_t>& mask) {
  return std::count(mask.begin(), mask.end(), uint8_t{1});
}

/// Of the pixels of `mask`, the share that `near` has too.
double share_within(const std::vector<uint8_t>& mask, const std::vector<uint8_t>& near) {
  int64_t both = 0;
  for (size_t i = 0; i < mask.size(); ++i) both += mask[i] & near[i];
  return static_cast<double>(both) / static_cast<double>(count(mask));
}

}  // namespace

double region_similarity(MaskView predicted, MaskView truth) {
  check_pair(predicted, truth);
  int64_t both = 0, either = 0;
  for (size_t i = 0; i < truth.pixels.size(); ++i) {
    const bool a = predicted.pixels[i] != 0, b = truth.pixels[i] != 0;
    both += a && b ? 1 : 0;
    either += a || b ? 1 : 0;
  }
  return either == 0 ? 1 : static_cast<double>(both) / static_cast<double>(either);
}

double boundary_accuracy(MaskView predicted, MaskView truth, double tolerance) {
  check_pair(predicted, truth);
  const std::vector<uint8_t> a = boundary_of(predicted), b = boundary_of(truth);
  const bool in_a = count(a) > 0, in_b = count(b) > 0;
  if (!in_a || !in_b) return in_a == in_b ? 1 : 0;
  const double diagonal = std::hypot(static_cast<double>(truth.width), static_cast<double>(truth.height));
  const auto radius = static_cast<int64_t>(std::ceil(tolerance * diagonal));
  const double precision = share_within(a, dilated(b, truth.width, truth.height, radius)),
               recall = share_within(b, dilated(a, truth.width, truth.height, radius));
  return precision + recall == 0 ? 0 : 2 * precision * recall / (precision + recall);
}

std::vector<uint8_t> connected_part(MaskView mask, int64_t x, int64_t y) {
  std::vector<uint8_t> out(mask.pixels.size());
  std::vector<int64_t> open;
  const auto visit = [&](int64_t i, int64_t j) {
    if (i < 0 || j < 0 || i >= mask.width || j >= mask.height || !mask.at(i, j)) return;
    uint8_t& seen = out[static_cast<size_t>(j * mask.width + i)];
    if (seen != 0) return;
    seen = 1;
    open.push_back(j * mask.width + i);
  };
  visit(x, y);
  while (!open.empty()) {
    const int64_t i = open.back() % mask.width, j = open.back() / mask.width;
    open.pop_back();
    visit(i - 1, j), visit(i + 1, j), visit(i, j - 1), visit(i, j + 1);
  }
  return out;
}

Box bounding_box(MaskView mask) {
  int64_t left = mask.width, right = 0, top = mask.height, bottom = 0;
  for (int64_t y = 0; y < mask.height; ++y)
    for (int64_t x = 0; x < mask.width; ++x) {
      if (!mask.at(x, y)) continue;
      left = std::min(left, x), right = std::max(right, x + 1);
      top = std::min(top, y), bottom = std::max(bottom, y + 1);
    }
  if (right == 0) return {};
  return {top, left, bottom - top, right - left};
}

double box_overlap(const Box& a, const Box& b) {
  const int64_t width = std::min(a.left + a.width, b.left + b.width) - std::max(a.left, b.left),
                height = std::min(a.top + a.height, b.top + b.height) - std::max(a.top, b.top);
  const int64_t both = width > 0 && height > 0 ? width * height : 0;
  const int64_t either = a.width * a.height + b.width * b.height - both;
  return either == 0 ? 0 : static_cast<double>(both) / static_cast<double>(either);
}

std::vector<double> cell_shares(MaskView mask, int64_t grid) {
  DINO_CHECK(grid > 0 && mask.width % grid == 0 && mask.height % grid == 0, "cells of whole pixels");
  const int64_t wide = mask.width / grid, high = mask.height / grid;
  std::vector<double> shares(static_cast<size_t>(grid * grid));
  for (int64_t y = 0; y < mask.height; ++y)
    for (int64_t x = 0; x < mask.width; ++x)
      shares[static_cast<size_t>(y / high * grid + x / wide)] += mask.at(x, y) ? 1 : 0;
  for (double& share : shares) share /= static_cast<double>(wide * high);
  return shares;
}

}  // namespace dino
