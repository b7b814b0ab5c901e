// SPDX-License-Identifier: Apache-2.0
#pragma once
// 8-bit images and everything that is computed from pixels.

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.hpp"
#include "tensor/tensor.hpp"

namespace dino {

/// Interleaved 8-bit image, row-major, no padding.
struct Image {
  int64_t width = 0, height = 0, channels = 3;
  std::vector<uint8_t> pixels;
  [[nodiscard]] const uint8_t* at(int64_t x, int64_t y) const {
    return pixels.data() + (y * width + x) * channels;
  }
  [[nodiscard]] uint8_t* at(int64_t x, int64_t y) { return pixels.data() + (y * width + x) * channels; }
};

/// Somebody's image.
struct ImageView {
  const uint8_t* pixels = nullptr;
  int64_t width = 0, height = 0, channels = 3;
  ImageView(const uint8_t* bytes, int64_t columns, int64_t rows, int64_t samples)
      : pixels(bytes), width(columns), height(rows), channels(samples) {}
  ImageView(const Image& image)  // NOLINT(google-explicit-constructor)
      : ImageView(image.pixels.data(), image.width, image.height, image.channels) {}
  [[nodiscard]] const uint8_t* at(int64_t x, int64_t y) const { return pixels + (y * width + x) * channels; }
};

/// memory: decoding would need more than DecodeLimits::max_memory, or the machine had no more.
enum class DecodeStatus : uint8_t { ok, not_an_image, truncated, corrupt, too_large, unsupported, memory };
[[nodiscard]] const char* name_of(DecodeStatus status);

/// What is worth knowing of a picture that was decoded. The numbers are written into ledgers: they are never
/// reused. A picture has one: the first that applies.
enum class DecodeNote : uint8_t {
  none = 0,
  end_missing = 1,      ///< every pixel is there, the file's end marker is not
  declared_range = 2,   ///< samples were scaled to 8 bits from the range that the file declares
  unit_range = 3,       ///< ... from [0, 1]: floating point within it
  measured_range = 4,   ///< ... from their own smallest and largest value
  extra_bands = 5,      ///< bands that are neither colour nor alpha were left out
  dark_background = 6,  ///< composited on black, since nothing would be seen on white
};
[[nodiscard]] const std::vector<std::string>& note_names();

struct DecodeLimits {
  int64_t max_pixels = 178'956'970;  ///< Pillow's decompression-bomb limit
  int64_t max_bytes = int64_t{1} << 30;
  /// The file, what its decoder holds and the finished picture together; estimated from the header, before
  /// anything is allocated.
  int64_t max_memory = int64_t{1} << 30;
};

using Colour = std::array<uint8_t, 3>;

struct DecodeOptions {
  DecodeLimits limits;
  bool apply_orientation = true;  ///< EXIF, else XMP
  bool keep_alpha =
      false;  ///< true: four channels where the file has alpha; false: composited on `background`
  std::optional<Colour> background;  ///< none: the rule of visible_background
  int64_t min_short_side =
      0;  ///< > 0: JPEG may be decoded at 1/2, 1/4, 1/8 scale while the short side stays >= this
};

struct Decoded {
  DecodeStatus status = DecodeStatus::corrupt;
  std::string message;  ///< why, when not ok
  DecodeNote note = DecodeNote::none;
  Image image;                          ///< RGB (or RGBA with keep_alpha)
  Colour background = {255, 255, 255};  ///< what stands behind its transparent parts
  std::string format;  ///< "jpeg", "png", "webp", "gif", "bmp", "tiff", "ppm", ... from the magic bytes
  int64_t file_width = 0, file_height = 0;  ///< of the file, after orientation, before scaled decoding
};

/// Sniffs the format by magic bytes and decodes. Never throws for bad input or want of memory: every fault is
/// a status and a message. 16-bit -> 8, CMYK -> RGB, animated -> first frame, gray -> RGB. A truncated file
/// is `truncated`, not half an image.
[[nodiscard]] Decoded decode_image(std::span<const uint8_t> bytes, const DecodeOptions& options = {});

/// The extension of the format that the first bytes of a file tell (32 are enough); empty when they are of
/// none.
[[nodiscard]] std::string_view image_extension_of(std::span<const uint8_t> first_bytes);

[[nodiscard]] std::vector<uint8_t> encode_png(const Image& image);
[[nodiscard]] std::vector<uint8_t> encode_jpeg(const Image& image, int quality);

// ---- geometry: Pillow 12.3's integer resampling (coefficients scaled by 2^22, horizontal pass first,
// rounded to 8 bits after each pass) ------------------------
struct Box {
  int64_t top = 0, left = 0, height = 0, width = 0;
};
enum class Resampling : uint8_t { bicubic, bilinear, box };
/// Crops `box` and resizes it; pixels outside the box do not contribute.
[[nodiscard]] Image resize(ImageView image, Box box, int64_t width, int64_t height,
                           Resampling filter = Resampling::bicubic);
[[nodiscard]] Image resize(const Image& image, int64_t width, int64_t height,
                           Resampling filter = Resampling::bicubic);
/// torchvision Resize(shorter side) then CenterCrop. Only what the crop shows is computed, so that a picture
/// of 1 x 1,000,000 costs no more than another.
[[nodiscard]] Image resize_center_crop(const Image& image, int64_t resize_to, int64_t crop);
[[nodiscard]] Image flip_horizontal(Image image);
/// RGBA -> RGB over `background`, rounded.
[[nodiscard]] Image composite(const Image& image, Colour background);
/// What curation, training and evaluation put behind transparency: white, as most programs show it, unless
/// nothing can be seen there (a white logo); then black, where something can.
[[nodiscard]] Colour visible_background(const Image& rgba);
/// Pads to a square with a colour (sprites). A picture that is more than twice as long as wide, and longer
/// than 8,192, is reduced to that length first: the square of 1 x 1,000,000 has no place.
[[nodiscard]] Image pad_to_square(const Image& image, Colour colour);

// ---- colour: PIL blends (truncating)
// ------------------------------------------------------------------------------------------------------------------------
[[nodiscard]] Image adjust_brightness(Image image, double factor);
[[nodiscard]] Image adjust_contrast(Image image, double factor);
[[nodiscard]] Image adjust_saturation(Image image, double factor);
[[nodiscard]] Image adjust_hue(Image image, double factor);  ///< factor in [-0.5, 0.5]
[[nodiscard]] uint8_t hue_shift(double factor);              ///< what it adds to the 8-bit hue, modulo 256
[[nodiscard]] Image shift_hue(Image image, uint8_t shift);
[[nodiscard]] Image to_grayscale(Image image);  ///< three equal channels
[[nodiscard]] Image gaussian_blur(const Image& image, double sigma, int kernel = 9);
[[nodiscard]] std::vector<float> gaussian_weights(double sigma, int kernel);
/// With weights of an odd number, downwards and across.
[[nodiscard]] Image blur(const Image& image, std::span<const float> weights);
[[nodiscard]] Image solarize(Image image, int threshold = 128);

struct Normalisation {
  std::array<float, 3> mean = {0.485F, 0.456F, 0.406F};
  std::array<float, 3> std = {0.229F, 0.224F, 0.225F};
};
/// out f32 [3,H,W] = (pixel / 255 - mean) / std.
void normalize_to(const Image& image, const Normalisation& normalisation, float* out);

}  // namespace dino
