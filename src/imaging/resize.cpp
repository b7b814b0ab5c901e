// SPDX-License-Identifier: Apache-2.0
// Pillow 12.3's resampling of 8-bit images: filter weights are scaled by 2^22 and rounded, the horizontal
// pass comes first, and each pass rounds to 8 bits. Only what is asked for is computed.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "imaging/image.hpp"
#include "imaging/pixel_kernels.hpp"

namespace dino {
namespace {

using imaging::kDigits;
using imaging::kRowsAtOnce;
using imaging::kTapsAtOnce;
using imaging::kWeightBits;

struct Filter {
  double support;
  double (*weight)(double);
};

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}
double bilinear(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}
double box(double x) {
  return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
}

Filter filter_of(Resampling filter) {
  switch (filter) {
    case Resampling::bicubic:
      return {2.0, bicubic};
    case Resampling::bilinear:
      return {1.0, bilinear};
    case Resampling::box:
      return {0.5, box};
  }
  return {2.0, bicubic};
}

/// See imaging::TapsView.
struct Taps {
  int64_t stride = 0;
  std::vector<int64_t> first, count;
  std::vector<int32_t> weights;
  std::vector<uint32_t> digits;
  [[nodiscard]] imaging::TapsView view() const {
    return {static_cast<int64_t>(first.size()),
            stride,
            first.data(),
            count.data(),
            weights.data(),
            digits.data()};
  }
};

std::vector<uint32_t> digits_of(const std::vector<int32_t>& weights) {
  std::vector<uint32_t> digits(weights.size() / kTapsAtOnce * kDigits);
  for (size_t i = 0; i < weights.size(); ++i) {
    int32_t rest = weights[i];
    for (size_t d = 0; d < kDigits; ++d) {
      digits[i / kTapsAtOnce * kDigits + d] |= static_cast<uint32_t>(rest & 255) << 8 * (i % kTapsAtOnce);
      rest = (rest + 128) >> 8;  // the digit is rest & 255 as a signed byte
    }
  }
  return digits;
}

int64_t rounded_up(int64_t taps) {
  return (taps + kTapsAtOnce - 1) / kTapsAtOnce * kTapsAtOnce;
}

/// Of outputs [begin, begin + count) of `out`.
Taps make_taps(int64_t in, int64_t out, const Filter& filter, int64_t begin, int64_t count) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double filter_scale = std::max(scale, 1.0);  // the support widens only when shrinking
  const double support = filter.support * filter_scale;
  Taps taps;
  taps.stride = rounded_up(static_cast<int64_t>(std::ceil(support)) * 2 + 1);
  taps.first.resize(static_cast<size_t>(count));
  taps.count.resize(static_cast<size_t>(count));
  taps.weights.assign(static_cast<size_t>(count * taps.stride), 0);
  std::vector<double> row(static_cast<size_t>(taps.stride));
  for (int64_t i = 0; i < count; ++i) {
    const double center = (static_cast<double>(begin + i) + 0.5) * scale;
    const int64_t low = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const int64_t high = std::min<int64_t>(static_cast<int64_t>(center + support + 0.5), in);
    double sum = 0;
    for (int64_t x = low; x < high; ++x) {
      const double w = filter.weight((static_cast<double>(x) - center + 0.5) * (1.0 / filter_scale));
      row[static_cast<size_t>(x - low)] = w;
      sum += w;
    }
    taps.first[static_cast<size_t>(i)] = low;
    taps.count[static_cast<size_t>(i)] = high - low;
    for (int64_t x = 0; x < high - low; ++x) {
      double w = row[static_cast<size_t>(x)];
      if (sum != 0.0) w /= sum;
      const double scaled = w * (1 << kWeightBits);
      taps.weights[static_cast<size_t>(i * taps.stride + x)] =
          static_cast<int32_t>(w < 0 ? scaled - 0.5 : scaled + 0.5);
    }
  }
  taps.digits = digits_of(taps.weights);
  return taps;
}

Image empty_image(int64_t width, int64_t height, int64_t channels) {
  Image out{width, height, channels, {}};
  out.pixels.resize(static_cast<size_t>(width * height * channels));
  return out;
}

/// Python's round(): halves go to the even number.
int64_t round_even(double value) {
  return static_cast<int64_t>(std::nearbyint(value));
}

/// The rows of a box after the horizontal pass, made when they are asked for, in rising order, some at a
/// time, and kept while the vertical pass may still read them: a tall picture never has all its rows widened
/// at once.
class WideRows {
 public:
  /// Columns [left, left + count) of the box at `width`; `kept` rows are held.
  WideRows(ImageView image, Box from, int64_t width, const Filter& filter, int64_t left, int64_t count,
           int64_t kept)
      : image_(image), box_(from), left_(left), same_(width == from.width), bytes_(count * image.channels) {
    if (same_) return;
    DINO_CHECK(image.channels == 1 || image.channels == 3 || image.channels == 4, "channels");
    taps_ = make_taps(from.width, width, filter, left, count);
    kept_ = std::max<int64_t>(kept, 1) + kRowsAtOnce;
    ring_.resize(static_cast<size_t>(kept_ * bytes_));
    scratch_.resize(static_cast<size_t>(imaging::columns_scratch(image.channels, taps_.view())));
  }
  const uint8_t* at(int64_t y) {
    if (same_) return image_.at(box_.left + left_, box_.top + y);
    if (y >= next_) make(y);  // rows before it that nothing read are not made
    return ring_.data() + y % kept_ * bytes_;
  }

 private:
  /// Rows from y on. The last ones stand for those beyond the box, whose place nothing reads.
  void make(int64_t y) {
    const uint8_t* sources[kRowsAtOnce];
    uint8_t* targets[kRowsAtOnce];
    for (int64_t r = 0; r < kRowsAtOnce; ++r) {
      sources[r] = image_.at(box_.left, box_.top + std::min(y + r, box_.height - 1));
      targets[r] = ring_.data() + (y + r) % kept_ * bytes_;
    }
    imaging::pixel_kernels().columns(sources, image_.channels, taps_.view(), scratch_.data(), targets);
    next_ = y + kRowsAtOnce;
  }
  ImageView image_;
  Box box_;
  int64_t left_;
  bool same_;
  int64_t bytes_, kept_ = 0, next_ = 0;
  Taps taps_;
  std::vector<uint8_t> ring_, scratch_;
};

/// The part `window` of box_ resized to width x height: the same bytes as cutting it out of the whole.
Image resize_window(ImageView image, Box box_, int64_t width, int64_t height, Box window, Resampling filter) {
  const Filter chosen = filter_of(filter);
  Image out = empty_image(window.width, window.height, image.channels);
  const int64_t samples = window.width * image.channels;
  if (height == box_.height) {
    WideRows rows(image, box_, width, chosen, window.left, window.width, 1);
    for (int64_t y = 0; y < window.height; ++y)
      std::memcpy(out.at(0, y), rows.at(window.top + y), static_cast<size_t>(samples));
    return out;
  }
  const Taps taps = make_taps(box_.height, height, chosen, window.top, window.height);
  const int64_t most = *std::max_element(taps.count.begin(), taps.count.end());
  WideRows rows(image, box_, width, chosen, window.left, window.width, most);
  std::vector<const uint8_t*> read(static_cast<size_t>(taps.stride));
  for (int64_t y = 0; y < out.height; ++y) {
    const auto i = static_cast<size_t>(y);
    for (int64_t k = 0; k < taps.count[i]; ++k) read[static_cast<size_t>(k)] = rows.at(taps.first[i] + k);
    // Those of weight 0 may be any.
    for (int64_t k = taps.count[i]; k < taps.stride; ++k) read[static_cast<size_t>(k)] = read[0];
    imaging::pixel_kernels().rows(read.data(), taps.view(), y, samples, out.at(0, y));
  }
  return out;
}

}  // namespace

Image resize(ImageView image, Box box_, int64_t width, int64_t height, Resampling filter) {
  DINO_CHECK(width > 0 && height > 0, "size");
  DINO_CHECK(box_.left >= 0 && box_.top >= 0 && box_.width > 0 && box_.height > 0 &&
                 box_.left + box_.width <= image.width && box_.top + box_.height <= image.height,
             "the box leaves the image");
  return resize_window(image, box_, width, height, Box{0, 0, height, width}, filter);
}

Image resize(const Image& image, int64_t width, int64_t height, Resampling filter) {
  return resize(image, Box{0, 0, image.height, image.width}, width, height, filter);
}

Image resize_center_crop(const Image& image, int64_t resize_to, int64_t crop) {
  const int64_t short_side = std::min(image.width, image.height);
  // torchvision: the longer side is int(size * long / short).
  const auto scaled = [&](int64_t side) {
    return side == short_side ? resize_to
                              : static_cast<int64_t>(static_cast<double>(resize_to * side) /
                                                     static_cast<double>(short_side));
  };
  const int64_t width = scaled(image.width), height = scaled(image.height);
  const int64_t left = round_even(static_cast<double>(width - crop) / 2.0);
  const int64_t top = round_even(static_cast<double>(height - crop) / 2.0);
  const Box window{std::max<int64_t>(0, top), std::max<int64_t>(0, left), std::min(crop, height),
                   std::min(crop, width)};
  const Image shown =
      resize_window(image, Box{0, 0, image.height, image.width}, width, height, window, Resampling::bicubic);
  if (left >= 0 && top >= 0) return shown;
  // CenterCrop pads with black where the image is smaller than the crop.
  Image out = empty_image(crop, crop, image.channels);
  const int64_t to_x = left < 0 ? (crop - width) / 2 : 0, to_y = top < 0 ? (crop - height) / 2 : 0;
  for (int64_t y = 0; y < shown.height; ++y) {
    std::memcpy(out.at(to_x, to_y + y), shown.at(0, y), static_cast<size_t>(shown.width * image.channels));
  }
  return out;
}

Image flip_horizontal(Image image) {
  const int64_t channels = image.channels;
  for (int64_t y = 0; y < image.height; ++y) {
    uint8_t* left = image.at(0, y);
    uint8_t* right = image.at(image.width - 1, y);
    for (; left < right; left += channels, right -= channels)
      for (int64_t c = 0; c < channels; ++c) std::swap(left[c], right[c]);
  }
  return image;
}

Image pad_to_square(const Image& image, Colour colour) {
  constexpr int64_t kSide = 1 << 13;
  const int64_t side = std::max(image.width, image.height);
  if (side > kSide && side > 2 * std::min(image.width, image.height)) {
    const auto reduced = [&](int64_t length) { return std::max<int64_t>(1, length * kSide / side); };
    return pad_to_square(resize(image, reduced(image.width), reduced(image.height)), colour);
  }
  Image out = empty_image(side, side, image.channels);
  for (size_t i = 0; i < out.pixels.size(); ++i) {
    const size_t channel = i % static_cast<size_t>(image.channels);
    out.pixels[i] = channel < 3 ? colour[channel] : 255;
  }
  const int64_t left = (side - image.width) / 2, top = (side - image.height) / 2;
  for (int64_t y = 0; y < image.height; ++y) {
    std::memcpy(out.at(left, top + y), image.at(0, y), static_cast<size_t>(image.width * image.channels));
  }
  return out;
}

}  // namespace dino
