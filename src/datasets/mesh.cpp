// SPDX-License-Identifier: Apache-2.0
#include "datasets/mesh.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>

#include "base/error.hpp"

namespace dino {
namespace {

constexpr float kLargest = 1e9F;   ///< coordinate, so that squares stay finite
constexpr float kGlass = 0.2F;     ///< opacity below which a material is not drawn
constexpr float kDistance = 2.6F;  ///< camera to centre, in bounding radii
constexpr float kAmbient = 0.35F;  ///< light that reaches every face
constexpr int kSamples = 2;        ///< per pixel and axis

Vec3 operator-(const Vec3& a, const Vec3& b) {
  return {a[0] - b[0], a[1] - b[1], a[2] - b[2]};
}
float dot(const Vec3& a, const Vec3& b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}
Vec3 cross(const Vec3& a, const Vec3& b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

/// Splits off the next word of a line.
std::string_view next_word(std::string_view& line) {
  const size_t begin = std::min(line.find_first_not_of(" \t\r"), line.size());
  const size_t end = std::min(line.find_first_of(" \t\r", begin), line.size());
  const std::string_view word = line.substr(begin, end - begin);
  line.remove_prefix(end);
  return word;
}

std::string rest_of(std::string_view line) {
  const size_t begin = line.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return std::string(line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin));
}

class ObjParser {
 public:
  ObjParser(const std::string& source, const std::function<std::string(const std::string&)>& material_file)
      : source_(source), material_file_(material_file) {
    mesh_.colours.push_back({0.8F, 0.8F, 0.8F});  // before any usemtl
    opacity_.push_back(1);
  }

  Mesh run(std::string_view text) {
    each_line(text, [this](std::string_view line) { read_line(line); });
    return std::move(mesh_);
  }

 private:
  template <class Use>
  void each_line(std::string_view text, const Use& use) {
    line_ = 0;
    while (!text.empty()) {
      const size_t end = std::min(text.find('\n'), text.size());
      ++line_;
      use(text.substr(0, end));
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }

  [[noreturn]] void fail(const std::string& why) const {
    throw DataError(fmt::format("bad model: {}: line {}: {}", source_, line_, why));
  }

  float next_number(std::string_view& line) const {
    const std::string_view word = next_word(line);
    float value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    const bool number = error == std::errc() && end == word.data() + word.size();
    if (!number || !(std::abs(value) < kLargest)) fail("not a number, or too large a one");
    return value;
  }

  void read_line(std::string_view line) {
    const std::string_view key = next_word(line);
    if (key == "v") {
      const float x = next_number(line), y = next_number(line), z = next_number(line);
      mesh_.points.push_back({x, y, z});
    } else if (key == "f") {
      read_face(line);
    } else if (key == "usemtl") {
      const auto found = materials_.find(rest_of(line));
      material_ = found == materials_.end() ? 0 : found->second;
    } else if (key == "mtllib") {
      const int64_t line_number = line_;
      each_line(material_file_(rest_of(line)), [this](std::string_view l) { read_material_line(l); });
      line_ = line_number;
    }
  }

  void read_material_line(std::string_view line) {
    const std::string_view key = next_word(line);
    if (key == "newmtl") {
      materials_[rest_of(line)] = static_cast<uint32_t>(mesh_.colours.size());
      mesh_.colours.push_back(mesh_.colours[0]);
      opacity_.push_back(1);
    } else if (key == "Kd") {
      for (float& channel : mesh_.colours.back()) channel = std::clamp(next_number(line), 0.0F, 1.0F);
    } else if (key == "d") {
      opacity_.back() = next_number(line);
    }
  }

  void read_face(std::string_view line) {
    std::vector<uint32_t> corners;
    for (std::string_view word = next_word(line); !word.empty(); word = next_word(line)) {
      int64_t index = 0;
      const auto parsed = std::from_chars(word.data(), word.data() + word.size(), index);
      const auto count = static_cast<int64_t>(mesh_.points.size());
      if (index < 0) index += count + 1;  // counted from the end
      if (parsed.ec != std::errc() || index < 1 || index > count)
        fail("a face has a corner that does not exist");
      corners.push_back(static_cast<uint32_t>(index - 1));
    }
    if (opacity_[material_] < kGlass) return;
    for (size_t i = 2; i < corners.size(); ++i)
      mesh_.triangles.push_back({{corners[0], corners[i - 1], corners[i]}, material_});
  }

  const std::string& source_;
  const std::function<std::string(const std::string&)>& material_file_;
  Mesh mesh_;
  std::vector<float> opacity_;  ///< of each colour
  std::map<std::string, uint32_t> materials_;
  uint32_t material_ = 0;
  int64_t line_ = 0;
};

struct Projected {
  float x, y, inverse_z;  ///< pixels of the sample grid, 1 / depth
};

/// Samples of one picture before they are averaged.
struct Buffer {
  int width;
  std::vector<float> inverse_z;
  std::vector<Vec3> colour;
  std::vector<int32_t> material;
};

void draw(Buffer& buffer, const std::array<Projected, 3>& p, const Vec3& colour, uint32_t material) {
  const float area = (p[1].x - p[0].x) * (p[2].y - p[0].y) - (p[1].y - p[0].y) * (p[2].x - p[0].x);
  if (std::abs(area) < 1e-12F) return;
  const auto low = [&](float a, float b, float c) {
    return std::max(0, static_cast<int>(std::floor(std::min({a, b, c}))));
  };
  const auto high = [&](float a, float b, float c) {
    return std::min(buffer.width - 1, static_cast<int>(std::ceil(std::max({a, b, c}))));
  };
  for (int y = low(p[0].y, p[1].y, p[2].y); y <= high(p[0].y, p[1].y, p[2].y); ++y)
    for (int x = low(p[0].x, p[1].x, p[2].x); x <= high(p[0].x, p[1].x, p[2].x); ++x) {
      const float px = static_cast<float>(x) + 0.5F, py = static_cast<float>(y) + 0.5F;
      const float a = ((p[1].x - px) * (p[2].y - py) - (p[1].y - py) * (p[2].x - px)) / area;
      const float b = ((p[2].x - px) * (p[0].y - py) - (p[2].y - py) * (p[0].x - px)) / area;
      const float c = 1 - a - b;
      if (a < 0 || b < 0 || c < 0) continue;
      // 1/z is linear on the screen, z is not.
      const float inverse_z = a * p[0].inverse_z + b * p[1].inverse_z + c * p[2].inverse_z;
      const auto at = static_cast<size_t>(y) * static_cast<size_t>(buffer.width) + static_cast<size_t>(x);
      if (inverse_z <= buffer.inverse_z[at]) continue;
      buffer.inverse_z[at] = inverse_z;
      buffer.colour[at] = colour;
      buffer.material[at] = static_cast<int32_t>(material);
    }
}

Rendering average(const Buffer& buffer, int size) {
  Rendering out;
  out.size = size;
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x) {
      Vec3 sum{};
      float nearest = 0;
      int32_t material = -1;
      for (int s = 0; s < kSamples * kSamples; ++s) {
        const auto at = static_cast<size_t>(y * kSamples + s / kSamples) * static_cast<size_t>(buffer.width) +
                        static_cast<size_t>(x * kSamples + s % kSamples);
        for (size_t c = 0; c < 3; ++c) sum[c] += buffer.colour[at][c];
        if (buffer.inverse_z[at] <= nearest) continue;
        nearest = buffer.inverse_z[at];
        material = buffer.material[at];
      }
      for (const float channel : sum)
        out.rgb.push_back(static_cast<uint8_t>(std::lround(255 * channel / (kSamples * kSamples))));
      out.depth.push_back(nearest > 0 ? 1 / nearest : 0);
      out.material.push_back(material);
    }
  return out;
}

}  // namespace

Mesh parse_obj(std::string_view text, const std::string& source,
               const std::function<std::string(const std::string& name)>& material_file) {
  return ObjParser(source, material_file).run(text);
}

void fit_mesh(Mesh& mesh, const std::array<float, 9>& rotation, Vec3 size) {
  Vec3 low, high;
  low.fill(std::numeric_limits<float>::max());
  high.fill(std::numeric_limits<float>::lowest());
  for (Vec3& point : mesh.points) {
    const Vec3 old = point;
    for (size_t i = 0; i < 3; ++i) {
      point[i] = rotation[3 * i] * old[0] + rotation[3 * i + 1] * old[1] + rotation[3 * i + 2] * old[2];
      low[i] = std::min(low[i], point[i]);
      high[i] = std::max(high[i], point[i]);
    }
  }
  for (Vec3& point : mesh.points)
    for (size_t i = 0; i < 3; ++i) {
      const float extent = high[i] - low[i];
      point[i] = (point[i] - (low[i] + high[i]) / 2) * (extent > 0 ? size[i] / extent : 1);
    }
}

double Rendering::coverage() const {
  const auto shown = std::count_if(depth.begin(), depth.end(), [](float z) { return z > 0; });
  return depth.empty() ? 0 : static_cast<double>(shown) / static_cast<double>(depth.size());
}

Rendering render_from(const Mesh& mesh, const Camera& camera, const View& view, int size) {
  const int width = size * kSamples;
  const auto samples = static_cast<size_t>(width) * static_cast<size_t>(width);
  Buffer buffer{width, std::vector<float>(samples, 0), {}, std::vector<int32_t>(samples, -1)};
  for (int y = 0; y < width; ++y) {
    const float down = (static_cast<float>(y) + 0.5F) / static_cast<float>(width);
    Vec3 colour;
    for (size_t c = 0; c < 3; ++c) colour[c] = view.sky[c] * (1 - down) + view.ground[c] * down;
    buffer.colour.insert(buffer.colour.end(), static_cast<size_t>(width), colour);
  }
  const float ca = std::cos(camera.azimuth), sa = std::sin(camera.azimuth);
  const float ce = std::cos(camera.elevation), se = std::sin(camera.elevation);
  const Vec3 right{ca, 0, -sa}, up{-sa * se, ce, -ca * se}, back{sa * ce, se, ca * ce};
  const float focal = camera.focal * static_cast<float>(width);
  std::vector<Projected> projected(mesh.points.size());
  for (size_t i = 0; i < mesh.points.size(); ++i) {
    const Vec3 point = mesh.points[i] - camera.target;
    const float z = camera.distance - dot(point, back);
    projected[i] = {0.5F * static_cast<float>(width) + focal * dot(point, right) / z,
                    0.5F * static_cast<float>(width) - focal * dot(point, up) / z, 1 / z};
  }
  for (const auto& triangle : mesh.triangles) {
    const auto& [a, b, c] = triangle.corner;
    const auto behind = [&](uint32_t corner) { return !(projected[corner].inverse_z > 0); };
    if (behind(a) || behind(b) || behind(c)) continue;
    const Vec3 normal = cross(mesh.points[b] - mesh.points[a], mesh.points[c] - mesh.points[a]);
    const float length = std::sqrt(dot(normal, normal));
    if (length <= 0) continue;
    // Both sides are lit alike, since many models have faces wound either way.
    const float shade = kAmbient + (1 - kAmbient) * std::abs(dot(normal, view.light)) / length;
    Vec3 colour = mesh.colours[triangle.material];
    for (float& channel : colour) channel *= shade;
    draw(buffer, {projected[a], projected[b], projected[c]}, colour, triangle.material);
  }
  return average(buffer, size);
}

Rendering render(const Mesh& mesh, const View& view, int size) {
  float radius = 0;
  for (const Vec3& point : mesh.points) radius = std::max(radius, std::sqrt(dot(point, point)));
  Camera camera;
  camera.azimuth = view.azimuth;
  camera.elevation = view.elevation;
  camera.distance = kDistance * radius;
  // The bounding sphere just fits: its outline is seen under asin(1 / kDistance).
  camera.focal = 0.5F * std::sqrt(kDistance * kDistance - 1);
  return render_from(mesh, camera, view, size);
}

}  // namespace dino
