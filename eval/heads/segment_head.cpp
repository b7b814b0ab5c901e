// SPDX-License-Identifier: Apache-2.0
#include "heads/segment_head.hpp"

#include <algorithm>
#include <cmath>

#include "base/random.hpp"
#include "base/working.hpp"

namespace dino::eval {

SegmentHead::SegmentHead(int64_t width)
    : width_(width),
      mean_(static_cast<size_t>(width)),
      scale_(static_cast<size_t>(width), 1.0F),
      weight_(static_cast<size_t>(width) + 1) {}

namespace {

/// Share of foreground pixels in each patch.
std::vector<float> targets_of(const std::vector<uint8_t>& masks, int64_t images, int64_t grid, int64_t size) {
  const int64_t side = size / grid;
  std::vector<float> out(static_cast<size_t>(images * grid * grid));
  for (int64_t i = 0; i < images; ++i)
    for (int64_t y = 0; y < size; ++y)
      for (int64_t x = 0; x < size; ++x)
        out[static_cast<size_t>((i * grid + y / side) * grid + x / side)] +=
            masks[static_cast<size_t>((i * size + y) * size + x)];
  for (float& t : out) t /= static_cast<float>(side * side);
  return out;
}

struct AdamW {
  std::vector<double> m, v;
  int64_t step = 0;
  /// torch.optim.AdamW with betas (0.9, 0.999), eps 1e-8; the bias (last element) is not decayed.
  void update(std::vector<float>& w, const std::vector<double>& gradient, double lr, double decay) {
    m.resize(w.size());
    v.resize(w.size());
    ++step;
    const double c1 = 1 - std::pow(0.9, static_cast<double>(step)),
                 c2 = 1 - std::pow(0.999, static_cast<double>(step));
    for (size_t d = 0; d < w.size(); ++d) {
      m[d] = 0.9 * m[d] + 0.1 * gradient[d];
      v[d] = 0.999 * v[d] + 0.001 * gradient[d] * gradient[d];
      const double kept = static_cast<double>(w[d]) * (d + 1 < w.size() ? 1 - lr * decay : 1.0);
      w[d] = static_cast<float>(kept - lr * (m[d] / c1) / (std::sqrt(v[d] / c2) + 1e-8));
    }
  }
};

}  // namespace

void SegmentHead::fit(const std::vector<float>& patches, const std::vector<uint8_t>& masks, int64_t grid,
                      int64_t size, const Training& training) {
  const int64_t per_image = grid * grid, rows = static_cast<int64_t>(patches.size()) / width_,
                images = rows / per_image;
#pragma omp parallel for
  for (int64_t d = 0; d < width_; ++d) {
    double sum = 0, squares = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const auto x = static_cast<double>(patches[static_cast<size_t>(r * width_ + d)]);
      sum += x;
      squares += x * x;
    }
    const double mean = sum / static_cast<double>(rows),
                 variance = std::max(0.0, squares / static_cast<double>(rows) - mean * mean);
    mean_[static_cast<size_t>(d)] = static_cast<float>(mean);
    scale_[static_cast<size_t>(d)] = static_cast<float>(1 / std::sqrt(variance + 1e-5));
  }
  const std::vector<float> targets = targets_of(masks, images, grid, size);
  const int64_t batch = std::min(training.batch, images), per_epoch = (images + batch - 1) / batch,
                steps = per_epoch * training.epochs;
  AdamW optimizer;
  std::vector<double> gradient(weight_.size());
  for (int64_t epoch = 0, step = 0; epoch < training.epochs; ++epoch) {
    Random random(training.seed, RandomStream::probe, static_cast<uint64_t>(epoch));
    const std::vector<int64_t> order = permutation(random, images);
    for (int64_t b = 0; b < per_epoch; ++b, ++step) {
      work_point();
      std::fill(gradient.begin(), gradient.end(), 0.0);
      const int64_t end = std::min((b + 1) * batch, images), count = (end - b * batch) * per_image;
      for (int64_t i = b * batch; i < end; ++i)
        for (int64_t p = 0; p < per_image; ++p) {
          const int64_t row = order[static_cast<size_t>(i)] * per_image + p;
          const float* x = patches.data() + row * width_;
          double z = static_cast<double>(weight_.back());
          for (int64_t d = 0; d < width_; ++d) {
            const auto at = static_cast<size_t>(d);
            z += static_cast<double>((x[d] - mean_[at]) * scale_[at] * weight_[at]);
          }
          const double dz =
              (1 / (1 + std::exp(-z)) - static_cast<double>(targets[static_cast<size_t>(row)])) /
              static_cast<double>(count);
          for (int64_t d = 0; d < width_; ++d) {
            const auto at = static_cast<size_t>(d);
            gradient[at] += dz * static_cast<double>((x[d] - mean_[at]) * scale_[at]);
          }
          gradient.back() += dz;
        }
      optimizer.update(weight_, gradient,
                       training.lr * (1 - static_cast<double>(step) / static_cast<double>(steps)), 1e-4);
    }
  }
}

std::vector<float> upsample(const std::vector<float>& map, int64_t grid, int64_t size) {
  std::vector<float> out(static_cast<size_t>(size * size));
  const auto place = [&](int64_t i, int64_t& low, int64_t& high) {
    const double at = std::clamp(
        (static_cast<double>(i) + 0.5) * static_cast<double>(grid) / static_cast<double>(size) - 0.5, 0.0,
        static_cast<double>(grid - 1));
    low = static_cast<int64_t>(at);
    high = std::min(low + 1, grid - 1);
    return static_cast<float>(at - static_cast<double>(low));
  };
  for (int64_t y = 0; y < size; ++y) {
    int64_t y0 = 0, y1 = 0;
    const float fy = place(y, y0, y1);
    for (int64_t x = 0; x < size; ++x) {
      int64_t x0 = 0, x1 = 0;
      const float fx = place(x, x0, x1);
      const auto get = [&](int64_t j, int64_t i) { return map[static_cast<size_t>(j * grid + i)]; };
      out[static_cast<size_t>(y * size + x)] = (get(y0, x0) * (1 - fx) + get(y0, x1) * fx) * (1 - fy) +
                                               (get(y1, x0) * (1 - fx) + get(y1, x1) * fx) * fy;
    }
  }
  return out;
}

std::vector<uint8_t> SegmentHead::segment(const float* patches, int64_t grid, int64_t size) const {
  std::vector<float> logits(static_cast<size_t>(grid * grid));
  for (int64_t p = 0; p < grid * grid; ++p) {
    double z = static_cast<double>(weight_.back());
    for (int64_t d = 0; d < width_; ++d) {
      const auto at = static_cast<size_t>(d);
      z += static_cast<double>((patches[p * width_ + d] - mean_[at]) * scale_[at] * weight_[at]);
    }
    logits[static_cast<size_t>(p)] = static_cast<float>(z);
  }
  const std::vector<float> full = upsample(logits, grid, size);
  std::vector<uint8_t> out(full.size());
  for (size_t i = 0; i < full.size(); ++i) out[i] = full[i] > 0 ? 1 : 0;
  return out;
}

}  // namespace dino::eval
