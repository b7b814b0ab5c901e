// SPDX-License-Identifier: Apache-2.0
#include "imaging/corruptions.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.hpp"

namespace dino {
namespace {

constexpr double kPi = 3.14159265358979323846;
using Degrees = std::array<double, kSeverities>;

/// Levels in [0, 1] -> 8 bits, cut off as the published pictures are; the hair keeps a level that rounding
/// has put just below its own.
uint8_t level(double value) {
  return static_cast<uint8_t>(std::clamp(value + 1e-6, 0.0, 1.0) * 255);
}

double share(uint8_t value) {
  return static_cast<double>(value) / 255;
}

/// A new value of every sample from its level in [0, 1].
template <class Function>
Image each_sample(Image image, Function&& function) {
  for (uint8_t& value : image.pixels) value = level(function(share(value)));
  return image;
}

/// The index of the nearest pixel of the picture.
int64_t inside(int64_t i, int64_t n) {
  return std::clamp<int64_t>(i, 0, n - 1);
}

// ---- noise

double poisson(double mean, double uniform) {
  double probability = std::exp(-mean), below = probability, count = 0;
  // The bound ends the search where rounding keeps the sum below `uniform`.
  while (uniform >= below && count < 1000) {
    ++count;
    probability *= mean / count;
    below += probability;
  }
  return count;
}

Image impulse(const Image& image, double amount, Random& random) {
  return each_sample(image, [&](double value) {
    const double chance = random.uniform_double();
    const bool salt = random.bernoulli(0.5);
    return chance >= amount ? value : (salt ? 1.0 : 0.0);
  });
}

// ---- blurs

struct Kernel {
  int64_t radius = 0;
  std::vector<double> weights;  ///< [2 radius + 1]^2, sum 1
  [[nodiscard]] double at(int64_t x, int64_t y) const {
    return weights[static_cast<size_t>((y + radius) * (2 * radius + 1) + x + radius)];
  }
};

/// A disk whose edge is smoothed by a Gaussian of `ring` pixels around each, so that it does not alias.
Kernel disk_kernel(double radius, double deviation) {
  const int64_t disk = static_cast<int64_t>(std::max(8.0, radius)), ring = radius <= 8 ? 1 : 2;
  Kernel out{disk + ring, {}};
  const int64_t side = 2 * out.radius + 1;
  out.weights.assign(static_cast<size_t>(side * side), 0);
  double sum = 0;
  for (int64_t y = -disk; y <= disk; ++y)
    for (int64_t x = -disk; x <= disk; ++x) {
      if (static_cast<double>(x * x + y * y) > radius * radius) continue;
      for (int64_t j = -ring; j <= ring; ++j)
        for (int64_t i = -ring; i <= ring; ++i) {
          const double weight = std::exp(-static_cast<double>(i * i + j * j) / (2 * deviation * deviation));
          out.weights[static_cast<size_t>((y + j + out.radius) * side + x + i + out.radius)] += weight;
          sum += weight;
        }
    }
  for (double& weight : out.weights) weight /= sum;
  return out;
}

Image filter(const Image& image, const Kernel& kernel) {
  // Only the taps that count: a disk fills a small part of the square.
  struct Tap {
    int64_t x, y;
    float weight;
  };
  std::vector<Tap> taps;
  for (int64_t y = -kernel.radius; y <= kernel.radius; ++y)
    for (int64_t x = -kernel.radius; x <= kernel.radius; ++x)
      if (kernel.at(x, y) > 0) taps.push_back({x, y, static_cast<float>(kernel.at(x, y))});
  Image out = image;
  const int64_t samples = image.width * 3;
  // Rows with the border's pixels repeated left and right, so that a tap is one run over a row.
  const int64_t margin = kernel.radius * 3, stride = samples + 2 * margin;
  std::vector<float> padded(static_cast<size_t>(image.height * stride));
  for (int64_t y = 0; y < image.height; ++y)
    for (int64_t i = 0; i < stride; ++i) {
      const int64_t at = i - margin;
      const int64_t x = inside(at < 0 ? (at - 2) / 3 : at / 3, image.width), channel = ((at % 3) + 3) % 3;
      padded[static_cast<size_t>(y * stride + i)] = image.at(x, y)[channel];
    }
  std::vector<float> sum(static_cast<size_t>(samples));
  for (int64_t y = 0; y < image.height; ++y) {
    std::fill(sum.begin(), sum.end(), 0.0F);
    for (const Tap& tap : taps) {
      const float* from = padded.data() + inside(y + tap.y, image.height) * stride + margin + tap.x * 3;
      for (int64_t i = 0; i < samples; ++i) sum[static_cast<size_t>(i)] += tap.weight * from[i];
    }
    for (int64_t i = 0; i < samples; ++i)
      out.at(0, y)[i] = level(static_cast<double>(sum[static_cast<size_t>(i)]) / 255);
  }
  return out;
}

Image gaussian(const Image& image, double deviation) {
  return gaussian_blur(image, deviation, 2 * static_cast<int>(4 * deviation + 0.5) + 1);
}

Image glass(const Image& image, double deviation, int64_t reach, int64_t rounds, Random& random) {
  Image out = gaussian(image, deviation);
  const auto offset = [&] {
    return static_cast<int64_t>(random.below(static_cast<uint64_t>(2 * reach))) - reach;
  };
  for (int64_t round = 0; round < rounds; ++round)
    for (int64_t y = image.height - reach - 1; y >= reach; --y)
      for (int64_t x = image.width - reach - 1; x >= reach; --x) {
        const int64_t dx = offset(), dy = offset();
        std::swap_ranges(out.at(x, y), out.at(x, y) + 3, out.at(x + dx, y + dy));
      }
  return gaussian(out, deviation);
}

/// One half of a Gaussian along a line, as ImageMagick blurs motion.
Image motion(const Image& image, int64_t radius, double deviation, double angle) {
  struct Tap {
    int64_t x, y;
    double weight;
  };
  std::vector<Tap> taps;
  double sum = 0;
  for (int64_t i = 0; i <= 2 * radius; ++i) {
    const auto distance = static_cast<double>(i);
    taps.push_back({std::lround(distance * std::cos(angle)), std::lround(distance * std::sin(angle)),
                    std::exp(-distance * distance / (2 * deviation * deviation))});
    sum += taps.back().weight;
  }
  Image out = image;
  for (int64_t y = 0; y < image.height; ++y)
    for (int64_t x = 0; x < image.width; ++x) {
      std::array<double, 3> mean = {};
      for (const Tap& tap : taps) {
        const uint8_t* from = image.at(inside(x + tap.x, image.width), inside(y + tap.y, image.height));
        for (size_t c = 0; c < 3; ++c) mean[c] += tap.weight * from[c];
      }
      for (size_t c = 0; c < 3; ++c) out.at(x, y)[c] = level(mean[c] / sum / 255);
    }
  return out;
}

/// Mean of the picture and of its enlargements about the centre (bilinear) by 1, 1 + step, ... below `end`.
Image zoom(const Image& image, double end, double step) {
  std::vector<double> sum(image.pixels.size());
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = share(image.pixels[i]);
  int64_t count = 1;
  for (double factor = 1; factor < end - 1e-9; factor += step, ++count)
    for (int64_t y = 0; y < image.height; ++y)
      for (int64_t x = 0; x < image.width; ++x) {
        const auto from = [&](int64_t i, int64_t n) {
          const double centre = static_cast<double>(n - 1) / 2;
          return centre + (static_cast<double>(i) - centre) / factor;
        };
        const double u = from(x, image.width), v = from(y, image.height);
        const auto left = static_cast<int64_t>(u), top = static_cast<int64_t>(v);
        const int64_t right = inside(left + 1, image.width), bottom = inside(top + 1, image.height);
        const double fx = u - static_cast<double>(left), fy = v - static_cast<double>(top);
        for (int64_t c = 0; c < 3; ++c) {
          const double above = share(image.at(left, top)[c]) * (1 - fx) + share(image.at(right, top)[c]) * fx;
          const double below =
              share(image.at(left, bottom)[c]) * (1 - fx) + share(image.at(right, bottom)[c]) * fx;
          sum[static_cast<size_t>((y * image.width + x) * 3 + c)] += above * (1 - fy) + below * fy;
        }
      }
  Image out = image;
  for (size_t i = 0; i < sum.size(); ++i) out.pixels[i] = level(sum[i] / static_cast<double>(count));
  return out;
}

// ---- weather and colour

/// Midpoint displacement by diamonds and squares on a torus of `side` = 2^n: [side, side] in [0, 1]. The
/// displacement shrinks by decay^2 a level.
std::vector<double> plasma(int64_t side, double decay, Random& random) {
  std::vector<double> map(static_cast<size_t>(side * side));
  const auto at = [&](int64_t x, int64_t y) -> double& {
    return map[static_cast<size_t>((y & (side - 1)) * side + (x & (side - 1)))];
  };
  double displacement = 1;
  for (int64_t step = side; step >= 2; step /= 2, displacement /= decay * decay) {
    const int64_t half = step / 2;
    const auto moved = [&](double sum) { return sum / 4 + displacement * random.uniform(-1, 1); };
    for (int64_t y = half; y < side; y += step)
      for (int64_t x = half; x < side; x += step)
        at(x, y) = moved(at(x - half, y - half) + at(x + half, y - half) + at(x - half, y + half) +
                         at(x + half, y + half));
    for (int64_t y = 0; y < side; y += half)
      for (int64_t x = (y / half) % 2 == 0 ? half : 0; x < side; x += step)
        at(x, y) = moved(at(x - half, y) + at(x + half, y) + at(x, y - half) + at(x, y + half));
  }
  const auto [low, high] = std::minmax_element(map.begin(), map.end());
  const double base = *low, span = std::max(*high - base, 1e-12);
  for (double& value : map) value = (value - base) / span;
  return map;
}

Image fog_over(const Image& image, double strength, double decay, Random& random) {
  const auto side = static_cast<int64_t>(
      std::bit_ceil(static_cast<uint64_t>(std::max({image.width, image.height, int64_t{256}}))));
  const std::vector<double> map = plasma(side, decay, random);
  const double highest = share(*std::max_element(image.pixels.begin(), image.pixels.end()));
  Image out = image;
  for (int64_t y = 0; y < image.height; ++y)
    for (int64_t x = 0; x < image.width; ++x)
      for (int64_t c = 0; c < 3; ++c) {
        const double foggy = share(image.at(x, y)[c]) + strength * map[static_cast<size_t>(y * side + x)];
        out.at(x, y)[c] = level(foggy * highest / (highest + strength));
      }
  return out;
}

/// A colour of saturation and value changed by `change`, its hue kept.
template <class Change>
Image change_colours(const Image& image, Change&& change) {
  Image out = image;
  for (int64_t i = 0; i < image.width * image.height; ++i) {
    uint8_t* pixel = out.pixels.data() + 3 * i;
    const auto [low, high] = std::minmax({pixel[0], pixel[1], pixel[2]});
    const double old_value = share(high), spread = share(high) - share(low);
    const double old_saturation = old_value == 0 ? 0 : spread / old_value;
    double saturation = old_saturation, value = old_value;
    change(saturation, value);
    saturation = std::clamp(saturation, 0.0, 1.0), value = std::clamp(value, 0.0, 1.0);
    for (int c = 0; c < 3; ++c) {
      // How far the channel is from the largest, as a share of the spread; gray counts as red.
      const double below = spread == 0 ? (c == 0 ? 0 : 1) : (old_value - share(pixel[c])) / spread;
      pixel[c] = level(value * (1 - saturation * below));
    }
  }
  return out;
}

Image less_contrast(const Image& image, double factor) {
  std::array<double, 3> mean = {};
  const int64_t pixels = image.width * image.height;
  for (int64_t i = 0; i < pixels; ++i)
    for (size_t c = 0; c < 3; ++c) mean[c] += share(image.pixels[static_cast<size_t>(3 * i) + c]);
  Image out = image;
  for (int64_t i = 0; i < pixels; ++i)
    for (size_t c = 0; c < 3; ++c) {
      uint8_t& value = out.pixels[static_cast<size_t>(3 * i) + c];
      const double centre = mean[c] / static_cast<double>(pixels);
      value = level((share(value) - centre) * factor + centre);
    }
  return out;
}

// ---- digital

Image smaller_and_back(const Image& image, double factor, Resampling filter) {
  const auto reduced = [&](int64_t side) {
    return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(side) * factor));
  };
  return resize(resize(image, reduced(image.width), reduced(image.height), filter), image.width, image.height,
                filter);
}

Image through_jpeg(const Image& image, int quality) {
  Decoded decoded = decode_image(encode_jpeg(image, quality));
  DINO_CHECK(decoded.status == DecodeStatus::ok, "own JPEG does not decode: " + decoded.message);
  return std::move(decoded.image);
}

Image occlude(const Image& image, double part, Random& random) {
  constexpr int64_t kCells = 14;
  const std::vector<int64_t> order = permutation(random, kCells * kCells);
  const auto hidden = static_cast<size_t>(std::lround(part * kCells * kCells));
  Image out = image;
  for (size_t i = 0; i < hidden; ++i) {
    const int64_t row = order[i] / kCells, column = order[i] % kCells;
    for (int64_t y = row * image.height / kCells; y < (row + 1) * image.height / kCells; ++y)
      std::fill(out.at(column * image.width / kCells, y), out.at((column + 1) * image.width / kCells, y), 0);
  }
  return out;
}

Image noisy(const Image& image, Corruption kind, size_t s, Random& random) {
  constexpr Degrees normal = {0.08, 0.12, 0.18, 0.26, 0.38}, photons = {60, 25, 12, 5, 3},
                    flipped = {0.03, 0.06, 0.09, 0.17, 0.27}, speckles = {0.15, 0.2, 0.35, 0.45, 0.6};
  switch (kind) {
    case Corruption::gaussian_noise:
      return each_sample(image, [&](double v) { return v + normal[s] * random.normal(); });
    case Corruption::shot_noise:
      return each_sample(
          image, [&](double v) { return poisson(v * photons[s], random.uniform_double()) / photons[s]; });
    case Corruption::impulse_noise:
      return impulse(image, flipped[s], random);
    default:
      return each_sample(image, [&](double v) { return v + v * speckles[s] * random.normal(); });
  }
}

Image blurred(const Image& image, Corruption kind, size_t s, Random& random) {
  constexpr Degrees disk = {3, 4, 6, 8, 10}, edge = {0.1, 0.5, 0.5, 0.5, 0.5}, wide = {1, 2, 3, 4, 6},
                    glassy = {0.7, 0.9, 1, 1.1, 1.5}, reach = {1, 2, 2, 3, 4}, rounds = {2, 1, 3, 2, 2},
                    length = {10, 15, 15, 15, 20}, fade = {3, 5, 8, 12, 15},
                    zoom_end = {1.11, 1.16, 1.21, 1.26, 1.33}, zoom_step = {0.01, 0.01, 0.02, 0.02, 0.03};
  switch (kind) {
    case Corruption::defocus_blur:
      return filter(image, disk_kernel(disk[s], edge[s]));
    case Corruption::glass_blur:
      return glass(image, glassy[s], static_cast<int64_t>(reach[s]), static_cast<int64_t>(rounds[s]), random);
    case Corruption::gaussian_blur:
      return gaussian(image, wide[s]);
    case Corruption::motion_blur:
      return motion(image, static_cast<int64_t>(length[s]), fade[s], random.uniform(-kPi / 4, kPi / 4));
    default:
      return zoom(image, zoom_end[s], zoom_step[s]);
  }
}

Image other(const Image& image, Corruption kind, size_t s, Random& random) {
  constexpr Degrees foggy = {1.5, 2, 2.5, 2.5, 3}, decay = {2, 2, 1.7, 1.5, 1.4},
                    brighter = {0.1, 0.2, 0.3, 0.4, 0.5}, flatter = {0.4, 0.3, 0.2, 0.1, 0.05},
                    times = {0.3, 0.1, 2, 5, 20}, plus = {0, 0, 0, 0.1, 0.2},
                    pixels = {0.6, 0.5, 0.4, 0.3, 0.25}, quality = {25, 18, 15, 10, 7},
                    reduced = {1.0 / 2, 1.0 / 3, 1.0 / 4, 1.0 / 6, 1.0 / 8},
                    hidden = {0.1, 0.3, 0.5, 0.7, 0.9};
  switch (kind) {
    case Corruption::fog:
      return fog_over(image, foggy[s], decay[s], random);
    case Corruption::brightness:
      return change_colours(image, [&](double&, double& value) { value += brighter[s]; });
    case Corruption::contrast:
      return less_contrast(image, flatter[s]);
    case Corruption::saturate:
      return change_colours(
          image, [&](double& saturation, double&) { saturation = saturation * times[s] + plus[s]; });
    case Corruption::pixelate:
      return smaller_and_back(image, pixels[s], Resampling::box);
    case Corruption::jpeg:
      return through_jpeg(image, static_cast<int>(quality[s]));
    case Corruption::resolution:
      return smaller_and_back(image, reduced[s], Resampling::bicubic);
    default:
      return occlude(image, hidden[s], random);
  }
}

}  // namespace

Image corrupt(const Image& image, Corruption kind, int severity, Random random) {
  DINO_CHECK(severity >= 1 && severity <= kSeverities, "severity");
  DINO_CHECK(image.channels == 3 && image.width > 0 && image.height > 0, "an RGB picture");
  const auto s = static_cast<size_t>(severity - 1);
  if (kind <= Corruption::speckle_noise) return noisy(image, kind, s, random);
  if (kind <= Corruption::zoom_blur) return blurred(image, kind, s, random);
  return other(image, kind, s, random);
}

}  // namespace dino
