// SPDX-License-Identifier: Apache-2.0
#include "raster.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dino::render {
namespace {

constexpr int64_t kSamples = 2;    ///< per axis
constexpr float kDistance = 3.2F;  ///< camera to centre, in bounding radii
constexpr float kAmbient = 0.35F;

struct Sample {
  std::array<float, 3> colour{};
  float depth = std::numeric_limits<float>::infinity();
};

struct Projected {
  std::array<float, 3> x, y, inverse_depth;
};

Vec3 subtract(const Vec3& a, const Vec3& b) {
  return {a[0] - b[0], a[1] - b[1], a[2] - b[2]};
}
float dot(const Vec3& a, const Vec3& b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}
Vec3 cross(const Vec3& a, const Vec3& b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}
Vec3 normalized(const Vec3& a) {
  const float length = std::max(std::sqrt(dot(a, a)), 1e-20F);
  return {a[0] / length, a[1] / length, a[2] / length};
}

std::array<float, 3> texel(const Image& texture, float u, float v) {
  const auto wrap = [](float t, int64_t n) {
    const float fraction = t - std::floor(t);
    return std::clamp(static_cast<int64_t>(fraction * static_cast<float>(n)), int64_t{0}, n - 1);
  };
  const uint8_t* p = texture.at(wrap(u, texture.width), wrap(1.0F - v, texture.height));
  return {static_cast<float>(p[0]) / 255.0F, static_cast<float>(p[1]) / 255.0F,
          static_cast<float>(p[2]) / 255.0F};
}

/// Centre and radius of the bounding box's sphere.
std::pair<Vec3, float> bounds(const Mesh& mesh) {
  Vec3 low, high;
  low.fill(std::numeric_limits<float>::max());
  high.fill(std::numeric_limits<float>::lowest());
  for (const Triangle& triangle : mesh.triangles) {
    for (const Vec3& p : triangle.position) {
      for (size_t i = 0; i < 3; ++i) {
        low[i] = std::min(low[i], p[i]);
        high[i] = std::max(high[i], p[i]);
      }
    }
  }
  const Vec3 half = {(high[0] - low[0]) / 2, (high[1] - low[1]) / 2, (high[2] - low[2]) / 2};
  return {{low[0] + half[0], low[1] + half[1], low[2] + half[2]},
          std::max(std::sqrt(dot(half, half)), 1e-12F)};
}

void fill(const Triangle& triangle, const Material& material, const Projected& p, float shade, int64_t side,
          std::vector<Sample>& samples) {
  const float area = (p.x[1] - p.x[0]) * (p.y[2] - p.y[0]) - (p.x[2] - p.x[0]) * (p.y[1] - p.y[0]);
  if (std::abs(area) < 1e-9F) return;
  const auto bound = [&](float value) {
    return std::clamp<int64_t>(static_cast<int64_t>(value), 0, side - 1);
  };
  const int64_t x0 = bound(std::floor(std::min({p.x[0], p.x[1], p.x[2]}))),
                x1 = bound(std::ceil(std::max({p.x[0], p.x[1], p.x[2]})));
  const int64_t y0 = bound(std::floor(std::min({p.y[0], p.y[1], p.y[2]}))),
                y1 = bound(std::ceil(std::max({p.y[0], p.y[1], p.y[2]})));
  for (int64_t y = y0; y <= y1; ++y) {
    for (int64_t x = x0; x <= x1; ++x) {
      const float cx = static_cast<float>(x) + 0.5F, cy = static_cast<float>(y) + 0.5F;
      const float w1 = ((cx - p.x[0]) * (p.y[2] - p.y[0]) - (p.x[2] - p.x[0]) * (cy - p.y[0])) / area;
      const float w2 = ((p.x[1] - p.x[0]) * (cy - p.y[0]) - (cx - p.x[0]) * (p.y[1] - p.y[0])) / area;
      const float w0 = 1.0F - w1 - w2;
      if (w0 < 0 || w1 < 0 || w2 < 0) continue;
      const float inverse = w0 * p.inverse_depth[0] + w1 * p.inverse_depth[1] + w2 * p.inverse_depth[2];
      Sample& sample = samples[static_cast<size_t>(y * side + x)];
      if (inverse <= 0 || 1.0F / inverse >= sample.depth) continue;
      sample.depth = 1.0F / inverse;
      std::array<float, 3> colour = material.diffuse;
      if (material.texture) {
        // Perspective-correct texture coordinates.
        const std::array<float, 3> w = {w0 * p.inverse_depth[0] / inverse, w1 * p.inverse_depth[1] / inverse,
                                        w2 * p.inverse_depth[2] / inverse};
        const float u = w[0] * triangle.uv[0][0] + w[1] * triangle.uv[1][0] + w[2] * triangle.uv[2][0];
        const float v = w[0] * triangle.uv[0][1] + w[1] * triangle.uv[1][1] + w[2] * triangle.uv[2][1];
        if (std::isfinite(u) && std::isfinite(v)) colour = texel(*material.texture, u, v);
      }
      for (size_t c = 0; c < 3; ++c) sample.colour[c] = std::min(1.0F, colour[c] * shade);
    }
  }
}

Image resolve(const std::vector<Sample>& samples, int64_t side, int64_t fine) {
  Image image;
  image.width = image.height = side;
  image.channels = 4;
  image.pixels.resize(static_cast<size_t>(side * side * 4));
  for (int64_t y = 0; y < side; ++y) {
    for (int64_t x = 0; x < side; ++x) {
      std::array<float, 3> colour{};
      float covered = 0;
      for (int64_t s = 0; s < kSamples * kSamples; ++s) {
        const Sample& sample =
            samples[static_cast<size_t>((y * kSamples + s / kSamples) * fine + x * kSamples + s % kSamples)];
        if (!std::isfinite(sample.depth)) continue;
        covered += 1;
        for (size_t c = 0; c < 3; ++c) colour[c] += sample.colour[c];
      }
      uint8_t* pixel = image.at(x, y);
      for (size_t c = 0; c < 3; ++c)
        pixel[c] = covered > 0 ? static_cast<uint8_t>(std::lround(255.0F * colour[c] / covered)) : 0;
      pixel[3] = static_cast<uint8_t>(std::lround(255.0F * covered / (kSamples * kSamples)));
    }
  }
  return image;
}

}  // namespace

Image render_view(const Mesh& mesh, const View& view, int64_t side) {
  const int64_t fine = side * kSamples;
  std::vector<Sample> samples(static_cast<size_t>(fine * fine));
  const auto [centre, radius] = bounds(mesh);
  const float ca = std::cos(view.azimuth), sa = std::sin(view.azimuth), ce = std::cos(view.elevation),
              se = std::sin(view.elevation);
  const Vec3 light = normalized(view.light);
  // The sphere of radius 1 at kDistance just fits.
  const float focal = 0.5F * static_cast<float>(fine) * std::sqrt(kDistance * kDistance - 1.0F);
  for (const Triangle& triangle : mesh.triangles) {
    std::array<Vec3, 3> camera;
    Projected projected{};
    for (size_t i = 0; i < 3; ++i) {
      Vec3 p = subtract(triangle.position[i], centre);
      for (float& value : p) value /= radius;
      const Vec3 turned = {ca * p[0] + sa * p[2], p[1], -sa * p[0] + ca * p[2]};
      camera[i] = {turned[0], ce * turned[1] - se * turned[2], se * turned[1] + ce * turned[2]};
      const float depth = kDistance - camera[i][2];
      projected.x[i] = 0.5F * static_cast<float>(fine) + focal * camera[i][0] / depth;
      projected.y[i] = 0.5F * static_cast<float>(fine) - focal * camera[i][1] / depth;
      projected.inverse_depth[i] = 1.0F / depth;
    }
    const Vec3 normal = normalized(cross(subtract(camera[1], camera[0]), subtract(camera[2], camera[0])));
    // Catalogue meshes are not consistently wound: light both sides.
    const float shade = kAmbient + (1.0F - kAmbient) * std::abs(dot(normal, light));
    if (!std::isfinite(shade)) continue;
    fill(triangle, mesh.materials[static_cast<size_t>(triangle.material)], projected, shade, fine, samples);
  }
  return resolve(samples, side, fine);
}

}  // namespace dino::render
