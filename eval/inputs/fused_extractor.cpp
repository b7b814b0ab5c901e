// SPDX-License-Identifier: Apache-2.0
#include "inputs/fused_extractor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "base/json.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"

namespace dino::eval {

namespace {

/// What fused.json says of one encoder.
struct FusedPart {
  std::string weights, sha256;
};

std::vector<FusedPart> read_parts(const std::string& path) {
  const std::string text = read_text(path);
  const auto fail = [&](const std::string& why) {
    throw DataError(fmt::format("bad weights: {}: {}; make it again with fuse", path, why));
  };
  if (!has_json_seal(text)) fail("no checksum");
  check_sealed_json(text, path, "make it again with fuse");
  const Json json = Json::parse(text, nullptr, false);
  std::vector<FusedPart> parts;
  if (json.is_object() && json.contains("encoders") && json.at("encoders").is_array())
    for (const Json& part : json.at("encoders"))
      if (part.is_object() && part.value("weights", Json()).is_string() &&
          part.value("sha256", Json()).is_string())
        parts.push_back({part.at("weights").get<std::string>(), part.at("sha256").get<std::string>()});
  if (parts.size() != 2) fail("it does not name two encoders");
  return parts;
}

/// Copies a token, scaled to a root mean square of 1; zeros stay zeros.
float* put_scaled(const float* from, int64_t width, float* to) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += static_cast<double>(from[d]) * static_cast<double>(from[d]);
  const double scale = sum > 0 ? std::sqrt(static_cast<double>(width) / sum) : 0;
  for (int64_t d = 0; d < width; ++d) to[d] = static_cast<float>(static_cast<double>(from[d]) * scale);
  return to + width;
}

/// Where a row or column of one grid lies in another: half-pixel centres, edges repeated.
struct GridPlace {
  int64_t low = 0, high = 0;
  float share = 0;  ///< of high
};
GridPlace place_in(int64_t i, int64_t from, int64_t to) {
  const double at =
      std::clamp((static_cast<double>(i) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5,
                 0.0, static_cast<double>(from - 1));
  const auto low = static_cast<int64_t>(at);
  return {low, std::min(low + 1, from - 1), static_cast<float>(at - static_cast<double>(low))};
}

struct Grid {
  int64_t height = 0, width = 0;
  [[nodiscard]] int64_t cells() const { return height * width; }
};

/// One image's tokens [cells, values] on another grid.
void resample(const float* from, Grid of, int64_t values, Grid wanted, float* to) {
  for (int64_t y = 0; y < wanted.height; ++y) {
    const GridPlace row = place_in(y, of.height, wanted.height);
    for (int64_t x = 0; x < wanted.width; ++x, to += values) {
      const GridPlace column = place_in(x, of.width, wanted.width);
      const auto at = [&](int64_t r, int64_t c) { return from + (r * of.width + c) * values; };
      const float *a = at(row.low, column.low), *b = at(row.low, column.high), *c = at(row.high, column.low),
                  *d = at(row.high, column.high);
      for (int64_t v = 0; v < values; ++v) {
        const float above = a[v] + column.share * (b[v] - a[v]), below = c[v] + column.share * (d[v] - c[v]);
        to[v] = above + row.share * (below - above);
      }
    }
  }
}

class FusedExtractor final : public Extractor {
 public:
  FusedExtractor(std::unique_ptr<Extractor> first, std::unique_ptr<Extractor> second, ModelIdentity identity)
      : first_(std::move(first)), second_(std::move(second)), identity_(std::move(identity)) {
    InputOptions own;
    own.silent = true;
    FeatureProtocol protocol;
    first_->settle(own, protocol);
    first_size_ = protocol.size;
    protocol = {};
    second_->settle(own, protocol);
    second_size_ = protocol.size;
  }
  ModelIdentity identity() const override { return identity_; }
  std::string describe() const override {
    return fmt::format("{}, beside {}", first_->describe(), second_->describe());
  }
  void settle(const InputOptions& input, FeatureProtocol& protocol) const override {
    first_->settle(input, protocol);
    InputOptions own;
    own.silent = true;
    FeatureProtocol second = protocol;  // its blocks and tokens are looked at, its size is another
    second_->settle(own, second);
  }
  FeatureColumns columns(const FeatureProtocol& p) const override {
    const FeatureColumns a = first_->columns(p), b = second_->columns(p);
    return {a.class_width + b.class_width, a.layers, a.mean_width + b.mean_width};
  }
  int64_t patch_width() const override { return first_->patch_width() + second_->patch_width(); }
  int64_t patch_side() const override { return first_->patch_side(); }
  int64_t depth() const override { return std::min(first_->depth(), second_->depth()); }
  int64_t heads() const override { return first_->heads(); }
  void attention(std::span<const Image> images, float* maps) override { first_->attention(images, maps); }

  void extract(std::span<const Image> images, const FeatureProtocol& protocol, float* features,
               float* patches) override {
    const std::vector<Image> others = for_second(images);
    FeatureProtocol second = protocol;
    second.size = others.front().width;
    const Grid grid = grid_of(*first_, images), other = grid_of(*second_, others);
    const int64_t wa = first_->columns(protocol).width(), wb = second_->columns(protocol).width();
    const int64_t pa = patches == nullptr ? 0 : first_->patch_width(),
                  pb = patches == nullptr ? 0 : second_->patch_width();
    const size_t batch = images.size();
    std::vector<float> a(batch * to_size(wa)), b(batch * to_size(wb)),
        pa_rows(batch * to_size(grid.cells() * pa)), pb_rows(batch * to_size(other.cells() * pb));
    first_->extract(images, protocol, a.data(), patches == nullptr ? nullptr : pa_rows.data());
    second_->extract(others, second, b.data(), patches == nullptr ? nullptr : pb_rows.data());
    for (int64_t i = 0; i < std::ssize(images); ++i) {
      features = put_columns(a.data() + i * wa, b.data() + i * wb, protocol, features);
      if (patches != nullptr)
        patches = put_grid(pa_rows.data() + i * grid.cells() * pa, pb_rows.data() + i * other.cells() * pb,
                           grid, other, 1, patches);
    }
  }

  void dense(std::span<const Image> images, std::span<const int64_t> blocks, float* cls,
             float* patches) override {
    const std::vector<Image> others = for_second(images);
    // The same distance from the last block.
    std::vector<int64_t> of_first(blocks.begin(), blocks.end()), of_second = of_first;
    for (int64_t& block : of_first) block += first_->depth() - depth();
    for (int64_t& block : of_second) block += second_->depth() - depth();
    const Grid grid = grid_of(*first_, images), other = grid_of(*second_, others);
    const int64_t layers = std::ssize(blocks), pa = first_->patch_width(), pb = second_->patch_width();
    const size_t batch = images.size();
    std::vector<float> ca(cls == nullptr ? 0 : batch * to_size(layers * pa)),
        cb(cls == nullptr ? 0 : batch * to_size(layers * pb)), a(batch * to_size(grid.cells() * layers * pa)),
        b(batch * to_size(other.cells() * layers * pb));
    first_->dense(images, of_first, cls == nullptr ? nullptr : ca.data(), a.data());
    second_->dense(others, of_second, cls == nullptr ? nullptr : cb.data(), b.data());
    for (int64_t i = 0; i < std::ssize(images); ++i) {
      for (int64_t l = 0; cls != nullptr && l < layers; ++l)
        cls = put_scaled(cb.data() + (i * layers + l) * pb, pb,
                         put_scaled(ca.data() + (i * layers + l) * pa, pa, cls));
      patches = put_grid(a.data() + i * grid.cells() * layers * pa,
                         b.data() + i * other.cells() * layers * pb, grid, other, layers, patches);
    }
  }

 private:
  static size_t to_size(int64_t n) { return static_cast<size_t>(n); }
  static Grid grid_of(const Extractor& extractor, std::span<const Image> images) {
    return {images.front().height / extractor.patch_side(), images.front().width / extractor.patch_side()};
  }
  /// The same pictures at the second's size: its own where the first has its own, else as many times as
  /// large.
  [[nodiscard]] std::vector<Image> for_second(std::span<const Image> images) const {
    const auto side = [&](int64_t pixels) {
      const double scaled =
          static_cast<double>(pixels) * static_cast<double>(second_size_) / static_cast<double>(first_size_);
      const int64_t patch = second_->patch_side();
      return std::max<int64_t>(1, std::llround(scaled / static_cast<double>(patch))) * patch;
    };
    std::vector<Image> resized(images.size());
#pragma omp parallel for
    for (size_t i = 0; i < images.size(); ++i)
      resized[i] = resize(images[i], side(images[i].width), side(images[i].height));
    return resized;
  }
  /// Class tokens layer by layer, then the mean token, each of both encoders.
  float* put_columns(const float* a, const float* b, const FeatureProtocol& protocol, float* to) const {
    const FeatureColumns of_a = first_->columns(protocol), of_b = second_->columns(protocol);
    for (int64_t layer = 0; layer < of_a.layers; ++layer) {
      to = put_scaled(b, of_b.class_width, put_scaled(a, of_a.class_width, to));
      a += of_a.class_width;
      b += of_b.class_width;
    }
    return put_scaled(b, of_b.mean_width, put_scaled(a, of_a.mean_width, to));
  }
  /// [cells, layers, widths of both].
  float* put_grid(const float* a, const float* b, Grid grid, Grid other, int64_t layers, float* to) const {
    const int64_t pa = first_->patch_width(), pb = second_->patch_width();
    std::vector<float> moved(to_size(grid.cells() * layers * pb));
    resample(b, other, layers * pb, grid, moved.data());
    for (int64_t t = 0; t < grid.cells() * layers; ++t)
      to = put_scaled(moved.data() + t * pb, pb, put_scaled(a + t * pa, pa, to));
    return to;
  }

  std::unique_ptr<Extractor> first_, second_;
  ModelIdentity identity_;
  int64_t first_size_ = 0, second_size_ = 0;
};

}  // namespace

std::unique_ptr<Extractor> make_fused_extractor(const ModelOptions& options, uint64_t seed) {
  const std::string path = options.weights + kFusedFile;
  std::vector<std::unique_ptr<Extractor>> made;
  ModelIdentity identity;
  std::string digests;
  for (const FusedPart& part : read_parts(path)) {
    ModelOptions single = options;
    single.weights = part.weights;
    if (is_folder(part.weights) && path_exists(part.weights + kFusedFile))
      throw DataError(fmt::format("bad weights: {}: {} is of two encoders itself", path, part.weights));
    made.push_back(make_extractor(single, seed));
    identity = made.back()->identity();
    if (identity.weights != part.sha256)
      throw DataError(fmt::format(
          "bad weights: {}: {} is not what it was when they were fused; run fuse again", path, part.weights));
    digests += identity.weights + "\n";
  }
  std::string folder = options.weights;
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  identity.name = options.name.empty() ? folder.substr(folder.rfind('/') + 1) : options.name;
  identity.weights = sha256_hex(std::as_bytes(std::span(digests)));
  identity.input = made.front()->identity().input;
  return std::make_unique<FusedExtractor>(std::move(made[0]), std::move(made[1]), std::move(identity));
}

}  // namespace dino::eval
