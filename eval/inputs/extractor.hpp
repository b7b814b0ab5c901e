// SPDX-License-Identifier: Apache-2.0
#pragma once
// Images -> tokens, by a frozen backbone or by the raw-pixel floor.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/auto_setting.hpp"
#include "datasets/dataset.hpp"
#include "imaging/decode_options.hpp"
#include "imaging/image.hpp"
#include "inputs/feature_file.hpp"
#include "model/vit.hpp"
#include "model/weights.hpp"
#include "ops/device_option.hpp"

namespace dino::eval {

/// Which model, as the user names it.
struct ModelOptions {
  std::string weights;  ///< weights reference, random:<preset or weights reference>, or raw-pixels
  std::string name;     ///< name in results; empty = from the reference
  Network which = Network::teacher;  ///< where a checkpoint holds both
  int64_t heads = 0;                 ///< attention heads, where the weights do not tell; 0 = not given
  DeviceChoice device;               ///< settled by whoever makes an extractor
  Auto<Precision> precision = Precision::f32;
  int64_t patch = 14;  ///< of raw-pixels only
};

/// A background, or model: the weights' own.
struct InputBackground {
  std::optional<Background> given;
  static InputBackground from_text(std::string_view text) {
    return text == "model" ? InputBackground{} : InputBackground{Background::from_text(text)};
  }
  [[nodiscard]] std::string text() const { return given ? given->text() : "model"; }
  static const char* type_name() { return Background::type_name(); }
};

/// How images become the model's input, as far as the user says: what is left open comes from the files
/// beside the weights (model/preparation.hpp), else from the defaults of FeatureProtocol.
struct InputOptions {
  Auto<int64_t> size;  ///< auto: the weights' own, rounded down to whole patches
  int64_t resize = 0;  ///< 0 = the weights' own, else size * 256 / 224; with padding: size
  Auto<bool> pad;      ///< auto: the weights' own
  InputBackground background;
  int64_t enlarge = 1;  ///< times the weights' own size
  bool silent = false;  ///< says nothing of where the settings come from
};
/// What a settled protocol says, so that another model takes the same.
[[nodiscard]] InputOptions input_of(const FeatureProtocol& protocol);

/// Decoded image -> the model's square input.
[[nodiscard]] Image prepare_image(const Image& image, const FeatureProtocol& protocol);

/// A record decoded and prepared, or the reason why not: of the bytes, never of the file system (IoError).
struct LoadedImage {
  Image image;  ///< protocol.size squared; all zero when faulty
  std::string fault;
};
[[nodiscard]] LoadedImage load_image(const Record& record, const FeatureProtocol& protocol);

class Extractor {
 public:
  virtual ~Extractor() = default;
  [[nodiscard]] virtual ModelIdentity identity() const = 0;
  [[nodiscard]] virtual std::string describe() const = 0;
  /// Size, resize, pad and background of the protocol: what the user leaves open is the model's own. Says
  /// what was taken from where. UsageError where the size does not suit the patch, or the model has fewer
  /// blocks than protocol.layers.
  virtual void settle(const InputOptions& input, FeatureProtocol& protocol) const = 0;
  [[nodiscard]] virtual FeatureColumns columns(const FeatureProtocol& protocol) const = 0;
  [[nodiscard]] virtual int64_t patch_width() const = 0;
  [[nodiscard]] virtual int64_t patch_side() const = 0;
  [[nodiscard]] virtual int64_t depth() const = 0;  ///< blocks
  /// images: prepared, all of protocol.size. features f32 [B, columns.width()]; patches (may be null) f32
  /// [B, grid * grid, patch_width] of the last block.
  virtual void extract(std::span<const Image> images, const FeatureProtocol& protocol, float* features,
                       float* patches) = 0;
  /// For dense heads: tokens after the named blocks (from 0, rising; the final norm is applied to each).
  /// images: all of one size, whole patches, not necessarily square. cls f32 [B, blocks, patch_width] (may
  /// be null), patches f32 [B, grid_h * grid_w, blocks, patch_width]. Raw pixels have one block, and a class
  /// token of zeros.
  virtual void dense(std::span<const Image> images, std::span<const int64_t> blocks, float* cls,
                     float* patches) = 0;
  /// Class-token attention of the last block, f32 [B, heads, grid * grid]; heads = 0 where there is none.
  [[nodiscard]] virtual int64_t heads() const = 0;
  virtual void attention(std::span<const Image> images, float* maps) = 0;
};

/// UsageError, MissingInputError, DataError as load_backbone. The device is settled before.
[[nodiscard]] std::unique_ptr<Extractor> make_extractor(const ModelOptions& options, uint64_t seed);

}  // namespace dino::eval
