// SPDX-License-Identifier: Apache-2.0
#include "inputs/extractor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <numeric>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "imaging/decode_options.hpp"
#include "inputs/fused_extractor.hpp"
#include "model/preparation.hpp"
#include "model/vit.hpp"
#include "model/weights.hpp"
#include "storage/files.hpp"

namespace dino::eval {

namespace {

constexpr int64_t kDefaultSize = 224;  // of DINOv2's and most others' evaluations

Image prepare_on(const Image& image, Colour background, const FeatureProtocol& protocol) {
  if (!protocol.pad) return resize_center_crop(image, protocol.resize_to(), protocol.size);
  return resize_center_crop(pad_to_square(image, background), protocol.resize_to(), protocol.size);
}

}  // namespace

Image prepare_image(const Image& image, const FeatureProtocol& protocol) {
  return prepare_on(image, protocol.background.colour.value_or(Colour{255, 255, 255}), protocol);
}

LoadedImage load_image(const Record& record, const FeatureProtocol& protocol) {
  LoadedImage out;
  try {
    DecodeOptions options;
    options.background = protocol.background.colour;
    options.limits.max_pixels = protocol.max_pixels;
    options.limits.max_memory = protocol.decode_memory.bytes;
    const Decoded decoded = decode_image(read_record(record), options);
    if (decoded.status == DecodeStatus::ok) {
      out.image = prepare_on(decoded.image, decoded.background, protocol);
      return out;
    }
    out.fault =
        std::string(name_of(decoded.status)) + (decoded.message.empty() ? "" : ": " + decoded.message);
  } catch (const std::bad_alloc&) {
    out.fault = std::string(name_of(DecodeStatus::memory)) + ": the machine has not enough memory for it";
  }
  out.image = {protocol.size, protocol.size, 3,
               std::vector<uint8_t>(static_cast<size_t>(protocol.size * protocol.size * 3))};
  return out;
}

namespace {

std::string model_name(const std::string& reference) {
  std::string path = reference;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const auto last = [](const std::string& p) { return p.substr(p.rfind('/') + 1); };
  const std::string name = last(path);
  // RUN/checkpoints/step_00001000 is named RUN/step_00001000.
  const std::string middle = "/checkpoints/" + name;
  if (path.size() > middle.size() && path.ends_with(middle))
    return last(path.substr(0, path.size() - middle.size())) + "/" + name;
  return name;
}

void check_size(const FeatureProtocol& p, int64_t patch, int64_t depth) {
  if (p.size % patch != 0)
    throw UsageError(fmt::format(
        "extracting features: --size {}: is not a multiple of the patch side {}; use {} or {}", p.size, patch,
        std::max(p.size / patch, int64_t{1}) * patch, (p.size / patch + 1) * patch));
  if (p.resize_to() < p.size)
    throw UsageError(
        fmt::format("extracting features: --resize {}: is smaller than --size {}; make it at least as large",
                    p.resize_to(), p.size));
  if (p.layers > depth)
    throw UsageError(
        fmt::format("extracting features: --layers {}: the model has {} blocks; ask for at most as many",
                    p.layers, depth));
}

/// What the user leaves open is the weights' own, else the default.
void settle_input(const InputOptions& input, const Preparation& told, int64_t patch,
                  FeatureProtocol& protocol) {
  const int64_t own = (told.size > 0 ? told.size : kDefaultSize) * input.enlarge;
  protocol.size = input.size.is_auto() ? std::max(own / patch, int64_t{1}) * patch : input.size.value();
  protocol.pad = input.pad.is_auto() ? told.pad.value_or(false) : input.pad.value();
  protocol.background = input.background.given.value_or(told.background.value_or(Background{}));
  protocol.resize = input.resize;
  // The share of the picture that the crop keeps is the weights' own at other sizes too.
  if (protocol.resize == 0 && !protocol.pad && told.resize > 0 && told.size > 0)
    protocol.resize = std::max(protocol.size, protocol.size * told.resize / told.size);
}

std::string numbers(const std::array<float, 3>& values) {
  return fmt::format("{:g},{:g},{:g}", values[0], values[1], values[2]);
}

/// ModelIdentity::input.
std::string input_json(const Preparation& told) {
  nlohmann::ordered_json json;
  json["from"] = told.source.empty() ? "default" : told.source.substr(told.source.rfind('/') + 1);
  for (const auto& [name, values] :
       {std::pair("mean", told.normalisation.mean), std::pair("std", told.normalisation.std)})
    for (const float value : values) json[name].push_back(std::stod(fmt::format("{:g}", value)));
  return json_line(json);
}

void say_input(const std::string& weights, const InputOptions& input, const Preparation& told,
               const FeatureProtocol& protocol) {
  std::string given;
  const auto add = [&](bool is_given, const char* option) {
    if (is_given) given += (given.empty() ? "; given: " : ", ") + std::string(option);
  };
  add(!input.size.is_auto(), "--size");
  add(input.resize > 0, "--resize");
  add(!input.pad.is_auto(), "--pad");
  add(input.background.given.has_value(), "--background");
  log::info(fmt::format(
      "input of {}: {} x {} pixels, {}, background {}, mean {}, std {}: {}{}", weights, protocol.size,
      protocol.size,
      protocol.pad ? "padded to a square" : fmt::format("the middle of {}", protocol.resize_to()),
      protocol.background.text(), numbers(told.normalisation.mean), numbers(told.normalisation.std),
      told.source.empty() ? "the defaults, no file beside the weights tells" : "from " + told.source, given));
}

/// 16 x 16 RGB pixels, centred per image: the floor that any encoder has to beat. A patch is its 4 x 4 RGB
/// pixels.
class RawPixels final : public Extractor {
 public:
  explicit RawPixels(int64_t patch) : patch_(patch) {}
  void settle(const InputOptions& input, FeatureProtocol& protocol) const override {
    settle_input(input, {}, 1, protocol);
    check_size(protocol, 1, 1 << 30);  // only whoever asks for patches needs them to fit
  }
  int64_t depth() const override { return 1; }
  ModelIdentity identity() const override { return {"raw-pixels", ""}; }
  std::string describe() const override { return "raw pixels, 16 x 16 RGB, centred per image"; }
  FeatureColumns columns(const FeatureProtocol&) const override { return {kSide * kSide * 3, 1, 0}; }
  int64_t patch_width() const override { return kPatchSide * kPatchSide * 3; }
  int64_t patch_side() const override { return patch_; }
  int64_t heads() const override { return 0; }

  void extract(std::span<const Image> images, const FeatureProtocol& protocol, float* features,
               float* patches) override {
    const int64_t grid = protocol.size / patch_, width = columns(protocol).width();
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < images.size(); ++i) {
      const auto image = static_cast<int64_t>(i);
      centred(resize(images[i], kSide, kSide, Resampling::bilinear), features + image * width);
      if (patches != nullptr) cut(images[i], patches + image * grid * grid * patch_width());
    }
  }
  void dense(std::span<const Image> images, std::span<const int64_t> blocks, float* cls,
             float* patches) override {
    DINO_CHECK(blocks.size() == 1 && blocks[0] == 0, "raw pixels are one block");
    const auto batch = static_cast<int64_t>(images.size());
    if (cls != nullptr) std::fill_n(cls, batch * patch_width(), 0.0F);
    const int64_t count = (images.front().width / patch_) * (images.front().height / patch_);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < batch; ++i)
      cut(images[static_cast<size_t>(i)], patches + i * count * patch_width());
  }
  void attention(std::span<const Image>, float*) override {
    DINO_CHECK(false, "raw pixels have no attention");
  }

 private:
  static constexpr int64_t kSide = 16, kPatchSide = 4;
  /// Every patch of the image, row by row.
  void cut(const Image& image, float* out) const {
    const int64_t columns = image.width / patch_, count = columns * (image.height / patch_);
    for (int64_t p = 0; p < count; ++p, out += patch_width()) {
      const Box box{p / columns * patch_, p % columns * patch_, patch_, patch_};
      const Image small = resize(image, box, kPatchSide, kPatchSide, Resampling::bilinear);
      for (size_t v = 0; v < small.pixels.size(); ++v)
        out[v] = static_cast<float>(small.pixels[v]) / 255.0F - 0.5F;
    }
  }
  static void centred(const Image& image, float* out) {
    double sum = 0;
    for (const uint8_t v : image.pixels) sum += v;
    const auto mean = static_cast<float>(sum / static_cast<double>(image.pixels.size()));
    for (size_t v = 0; v < image.pixels.size(); ++v)
      out[v] = (static_cast<float>(image.pixels[v]) - mean) / 255.0F;
  }
  int64_t patch_;
};

class VitExtractor final : public Extractor {
 public:
  VitExtractor(std::unique_ptr<Backbone> backbone, Preparation preparation, ops::Backend& backend,
               Precision precision, ModelIdentity identity, std::string weights)
      : backbone_(std::move(backbone)),
        preparation_(std::move(preparation)),
        vit_(backbone_->config),
        identity_(std::move(identity)),
        weights_(std::move(weights)),
        place_(backend, Communicator::self(), precision) {
    bring_to_device(*backbone_, place_.context());
  }
  ModelIdentity identity() const override { return identity_; }
  std::string describe() const override { return backbone_->description; }
  void settle(const InputOptions& input, FeatureProtocol& protocol) const override {
    settle_input(input, preparation_, backbone_->config.patch, protocol);
    check_size(protocol, backbone_->config.patch, backbone_->config.depth);
    if (is_clip() && protocol.tokens != Tokens::patch && protocol.layers > 1)
      throw UsageError(
          fmt::format("extracting features: --layers {}: {} has one feature of an image, its projected "
                      "embedding; leave the option out, or ask for --tokens patch",
                      protocol.layers, weights_));
    if (!input.silent) say_input(weights_, input, preparation_, protocol);
  }
  int64_t depth() const override { return backbone_->config.depth; }
  FeatureColumns columns(const FeatureProtocol& p) const override {
    const int64_t width = backbone_->config.width;
    return {class_width(), p.tokens == Tokens::patch ? 0 : p.layers, p.tokens == Tokens::cls ? 0 : width};
  }
  int64_t patch_width() const override { return backbone_->config.width; }
  int64_t patch_side() const override { return backbone_->config.patch; }
  int64_t heads() const override { return backbone_->config.heads; }

  void extract(std::span<const Image> images, const FeatureProtocol& protocol, float* features,
               float* patches) override {
    VitForwardOptions options;
    const int64_t depth = backbone_->config.depth;
    if (protocol.tokens != Tokens::patch && protocol.layers > 1)
      for (int64_t b = depth - protocol.layers; b < depth - 1; ++b) options.intermediate_blocks.push_back(b);
    const VitOutput out = forward(images, options);
    const TokenEntry& entry = out.entries.front();
    const int64_t width = backbone_->config.width, count = entry.grid_h * entry.grid_w;
    const auto row = [&](ConstTensorView tokens, int64_t index) {
      return tokens.as<float>() + index * width;
    };
    const std::vector<ConstTensorView> intermediate = intermediate_of(out);
    const ConstTensorView norm = host_view(place_.context(), out.norm, norm_);
    ConstTensorView projected;
    if (is_clip()) projected = host_view(place_.context(), out.projected, projected_);
    for (int64_t i = 0; i < entry.batch; ++i) {
      if (protocol.tokens != Tokens::patch) {
        for (const ConstTensorView& block : intermediate)
          features = std::copy_n(row(block, entry.cls_row(i)), width, features);
        features = is_clip() ? std::copy_n(projected.as<float>() + i * class_width(), class_width(), features)
                             : std::copy_n(row(norm, entry.cls_row(i)), width, features);
      }
      const float* first = row(norm, entry.patch_row(i, 0, backbone_->config.registers));
      if (protocol.tokens != Tokens::cls) features = mean_of(first, count, width, features);
      if (patches != nullptr) patches = std::copy_n(first, count * width, patches);
    }
  }

  void dense(std::span<const Image> images, std::span<const int64_t> blocks, float* cls,
             float* patches) override {
    VitForwardOptions options;
    const int64_t depth = backbone_->config.depth, width = backbone_->config.width;
    for (const int64_t b : blocks) {
      DINO_CHECK(b >= 0 && b < depth, "the model has no such block");
      if (b < depth - 1) options.intermediate_blocks.push_back(b);
    }
    const VitOutput out = forward(images, options);
    const TokenEntry& entry = out.entries.front();
    std::vector<ConstTensorView> tokens = intermediate_of(out);
    if (tokens.size() < blocks.size()) tokens.push_back(host_view(place_.context(), out.norm, norm_));
    const auto layers = static_cast<int64_t>(tokens.size());
    const int64_t count = entry.grid_h * entry.grid_w;
#pragma omp parallel for
    for (int64_t i = 0; i < entry.batch; ++i)
      for (int64_t l = 0; l < layers; ++l) {
        const float* const rows = tokens[static_cast<size_t>(l)].as<float>();
        if (cls != nullptr)
          std::copy_n(rows + entry.cls_row(i) * width, width, cls + (i * layers + l) * width);
        const float* from = rows + entry.patch_row(i, 0, backbone_->config.registers) * width;
        for (int64_t p = 0; p < count; ++p, from += width)
          std::copy_n(from, width, patches + ((i * count + p) * layers + l) * width);
      }
  }

  void attention(std::span<const Image> images, float* maps) override {
    VitForwardOptions options;
    options.attention_of_class_token = true;
    const VitOutput out = forward(images, options);
    const TokenEntry& entry = out.entries.front();
    const int64_t count = entry.grid_h * entry.grid_w, skip = 1 + backbone_->config.registers;
    const float* const all = host_view(place_.context(), out.last_attention, norm_).as<float>();
    for (int64_t m = 0; m < entry.batch * heads(); ++m)
      maps = std::copy_n(all + m * entry.tokens + skip, count, maps);
  }

 private:
  /// The class token is then not the feature itself.
  [[nodiscard]] bool is_clip() const {
    return backbone_->config.projection > 0;
  }
  [[nodiscard]] int64_t class_width() const {
    return is_clip() ? backbone_->config.projection : backbone_->config.width;
  }
  VitOutput forward(std::span<const Image> images, const VitForwardOptions& options) {
    Context& c = place_.context();
    c.arena.reset();
    const auto batch = static_cast<int64_t>(images.size());
    const int64_t height = images.front().height, width = images.front().width, pixels = 3 * height * width;
    const Shape shape{batch, 3, height, width};
    if (input_.shape() != shape) input_ = Tensor::uninitialised(shape);
    float* const input = input_.as<float>();
#pragma omp parallel for
    for (int64_t i = 0; i < batch; ++i)
      normalize_to(images[static_cast<size_t>(i)], preparation_.normalisation, input + i * pixels);
    const CropBatch crops{device_view(c, input_), {}};
    return vit_.forward(c, backbone_->weights, std::span(&crops, 1), options);
  }
  std::vector<ConstTensorView> intermediate_of(const VitOutput& out) {
    std::vector<ConstTensorView> views;
    intermediate_.resize(out.intermediate.size());
    for (size_t b = 0; b < out.intermediate.size(); ++b)
      views.push_back(host_view(place_.context(), out.intermediate[b], intermediate_[b]));
    return views;
  }
  static float* mean_of(const float* rows, int64_t count, int64_t width, float* out) {
    for (int64_t d = 0; d < width; ++d) {
      double sum = 0;
      for (int64_t p = 0; p < count; ++p) sum += static_cast<double>(rows[p * width + d]);
      out[d] = static_cast<float>(sum / static_cast<double>(count));
    }
    return out + width;
  }

  std::unique_ptr<Backbone> backbone_;
  Preparation preparation_;
  Vit vit_;
  ModelIdentity identity_;
  std::string weights_;  ///< as the user names them
  Workplace place_;
  Tensor input_, norm_, projected_;   ///< the host's, of the last batch
  std::vector<Tensor> intermediate_;  ///< likewise
};

}  // namespace

InputOptions input_of(const FeatureProtocol& protocol) {
  return {protocol.size, protocol.resize_to(), protocol.pad, {protocol.background}, 1, true};
}

std::unique_ptr<Extractor> make_extractor(const ModelOptions& options, uint64_t seed) {
  const std::string& w = options.weights;
  if (is_folder(w) && path_exists(w + kFusedFile)) return make_fused_extractor(options, seed);
  if (w == "raw-pixels") return std::make_unique<RawPixels>(options.patch);
  std::unique_ptr<Backbone> backbone;
  ModelIdentity identity;
  Preparation preparation;
  if (w.starts_with("random:")) {
    const std::string source = w.substr(7);
    const auto names = vit_preset_names();
    const bool preset = std::find(names.begin(), names.end(), source) != names.end();
    VitConfig config = preset || !path_exists(source)
                           ? vit_preset(source)
                           : load_backbone(source, LoadOptions{options.which, options.heads})->config;
    // With the published LayerScale of 1e-5 the class token of fresh weights is the same for every image, and
    // the floor would be chance. Blocks at full strength make the stronger, honest floor.
    if (config.layerscale > 0) config.layerscale = 1;
    backbone = random_backbone(config, seed);
    identity.name = "random-weights";
    if (!preset) preparation = preparation_of(source, config);
  } else {
    backbone = load_backbone(w, LoadOptions{options.which, options.heads});
    identity.name = model_name(w);
    preparation = preparation_of(w, backbone->config);
  }
  identity.weights = backbone->sha256;
  if (!options.name.empty()) identity.name = options.name;
  identity.input = input_json(preparation);
  return std::make_unique<VitExtractor>(
      std::move(backbone), std::move(preparation), backend_of(options.device),
      precision_here(options.precision, kind_of(options.device)), std::move(identity), w);
}

}  // namespace dino::eval
