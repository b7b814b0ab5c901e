// SPDX-License-Identifier: Apache-2.0
#include "inputs/composite.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <new>

#include "base/error.hpp"
#include "storage/files.hpp"

namespace dino::eval {

namespace {

using Mixed = std::array<double, 3>;

Mixed draw_colour(Random& random) {
  return {random.uniform(0, 255), random.uniform(0, 255), random.uniform(0, 255)};
}

/// Bilinear interpolation of a coarse grid of random values: smooth noise in [0, 1].
class Noise {
 public:
  Noise(int64_t cells, Random& random)
      : cells_(cells), values_(static_cast<size_t>((cells + 1) * (cells + 1))) {
    for (double& v : values_) v = random.uniform_double();
  }
  [[nodiscard]] double at(double x, double y) const {  // x, y in [0, 1)
    const double u = x * static_cast<double>(cells_), v = y * static_cast<double>(cells_);
    const auto i = static_cast<int64_t>(u), j = static_cast<int64_t>(v);
    const double fx = u - static_cast<double>(i), fy = v - static_cast<double>(j);
    const auto get = [&](int64_t a, int64_t b) { return values_[static_cast<size_t>(b * (cells_ + 1) + a)]; };
    return (get(i, j) * (1 - fx) + get(i + 1, j) * fx) * (1 - fy) +
           (get(i, j + 1) * (1 - fx) + get(i + 1, j + 1) * fx) * fy;
  }

 private:
  int64_t cells_;
  std::vector<double> values_;
};

}  // namespace

Image draw_background(int64_t size, Random& random) {
  enum class Kind : uint8_t { plain, gradient, stripes, checks, noise };
  const auto kind = static_cast<Kind>(random.below(5));
  const Mixed first = draw_colour(random), second = draw_colour(random);
  const double angle = random.uniform(0, 3.141592653589793), period = random.uniform(0.08, 0.4),
               phase = random.uniform_double();
  const Noise noise(static_cast<int64_t>(3 + random.below(10)), random);
  const double dx = std::cos(angle), dy = std::sin(angle);
  Image out{size, size, 3, std::vector<uint8_t>(static_cast<size_t>(size * size * 3))};
  for (int64_t y = 0; y < size; ++y)
    for (int64_t x = 0; x < size; ++x) {
      const double u = static_cast<double>(x) / static_cast<double>(size),
                   v = static_cast<double>(y) / static_cast<double>(size);
      const double along = u * dx + v * dy, across = v * dx - u * dy;
      const auto odd = [&](double t) {
        return std::floor(t / period + phase) - 2 * std::floor((t / period + phase) / 2);
      };
      double mix = 0;
      if (kind == Kind::gradient) mix = std::clamp(0.5 + 0.5 * along, 0.0, 1.0);
      if (kind == Kind::stripes) mix = odd(along);
      if (kind == Kind::checks) mix = std::abs(odd(along) - odd(across));
      if (kind == Kind::noise) mix = noise.at(u, v);
      for (size_t c = 0; c < 3; ++c)
        out.at(x, y)[c] = static_cast<uint8_t>(std::lround(first[c] * (1 - mix) + second[c] * mix));
    }
  return out;
}

Composite composite_on_background(const Image& rgba, int64_t size, Random& random) {
  Composite out;
  if (rgba.channels != 4) {
    out.fault = "has no alpha channel";
    return out;
  }
  // Colours are multiplied by alpha before resampling, so that transparent pixels do not bleed into the edge.
  Image colours{rgba.width, rgba.height, 3,
                std::vector<uint8_t>(static_cast<size_t>(rgba.width * rgba.height * 3))};
  Image alpha = colours;  // three equal channels
  for (int64_t y = 0; y < rgba.height; ++y)
    for (int64_t x = 0; x < rgba.width; ++x) {
      const uint8_t* from = rgba.at(x, y);
      for (int c = 0; c < 3; ++c) {
        colours.at(x, y)[c] = static_cast<uint8_t>((from[c] * from[3] + 127) / 255);
        alpha.at(x, y)[c] = from[3];
      }
    }
  colours = pad_to_square(colours, {0, 0, 0});
  alpha = pad_to_square(alpha, {0, 0, 0});
  colours = resize(colours, size, size, Resampling::bilinear);
  alpha = resize(alpha, size, size, Resampling::bilinear);
  out.image = draw_background(size, random);
  out.mask.resize(static_cast<size_t>(size * size));
  int64_t covered = 0;
  for (int64_t y = 0; y < size; ++y)
    for (int64_t x = 0; x < size; ++x) {
      const int a = alpha.at(x, y)[0];
      uint8_t* to = out.image.at(x, y);
      for (int c = 0; c < 3; ++c)
        to[c] = static_cast<uint8_t>(std::min(255, colours.at(x, y)[c] + (to[c] * (255 - a) + 127) / 255));
      out.mask[static_cast<size_t>(y * size + x)] = a >= 128 ? 1 : 0;
      covered += a >= 128 ? 1 : 0;
    }
  if (covered == 0 || covered == size * size)
    out.fault = covered == 0 ? "is fully transparent" : "is fully opaque";
  return out;
}

Composite load_composite(const Record& record, int64_t size, int64_t decode_memory, uint64_t seed) {
  Composite out;
  try {
    DecodeOptions options;
    options.keep_alpha = true;
    options.limits.max_memory = decode_memory;
    const Decoded decoded = decode_image(read_record(record), options);
    if (decoded.status == DecodeStatus::ok) {
      Random random(seed, RandomStream::render, xxh3(std::as_bytes(std::span(record.key))));
      out = composite_on_background(decoded.image, size, random);
    } else {
      out.fault =
          std::string(name_of(decoded.status)) + (decoded.message.empty() ? "" : ": " + decoded.message);
    }
  } catch (const std::bad_alloc&) {
    out.fault = std::string(name_of(DecodeStatus::memory)) + ": the machine has not enough memory for it";
  }
  if (!out.fault.empty()) {
    out.image = {size, size, 3, std::vector<uint8_t>(static_cast<size_t>(size * size * 3))};
    out.mask.assign(static_cast<size_t>(size * size), 0);
  }
  return out;
}

}  // namespace dino::eval
