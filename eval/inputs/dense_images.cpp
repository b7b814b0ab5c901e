// SPDX-License-Identifier: Apache-2.0
#include "inputs/dense_images.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "base/error.hpp"
#include "base/log.hpp"
#include "inputs/composite.hpp"
#include "inputs/features.hpp"
#include "storage/files.hpp"

namespace dino::eval {

namespace {

uint8_t clipped(double value) {
  return static_cast<uint8_t>(std::lround(std::clamp(value, 0.0, 255.0)));
}

/// Every channel of every pixel by a table.
void map_pixels(Image& image, const std::array<std::array<uint8_t, 256>, 3>& tables) {
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = tables[i % 3][image.pixels[i]];
}

template <class F>
void map_pixels(Image& image, const F& value_of) {
  std::array<std::array<uint8_t, 256>, 3> tables;
  for (size_t c = 0; c < 3; ++c)
    for (size_t v = 0; v < 256; ++v) tables[c][v] = clipped(value_of(static_cast<double>(v), c));
  map_pixels(image, tables);
}

/// mmsegmentation's PhotoMetricDistortion: brightness +-32, contrast and saturation .5 to 1.5, hue +-18 of
/// 180, each half of the time; contrast before or after the colours.
Image distort_colours(Image image, Random& random) {
  const auto contrast = [&] {
    if (!random.bernoulli(0.5)) return;
    const double factor = random.uniform(0.5, 1.5);
    map_pixels(image, [&](double v, size_t) { return v * factor; });
  };
  if (random.bernoulli(0.5)) {
    const double add = random.uniform(-32, 32);
    map_pixels(image, [&](double v, size_t) { return v + add; });
  }
  const bool contrast_first = random.bernoulli(0.5);
  if (contrast_first) contrast();
  if (random.bernoulli(0.5)) image = adjust_saturation(std::move(image), random.uniform(0.5, 1.5));
  if (random.bernoulli(0.5)) image = adjust_hue(std::move(image), random.uniform(-0.1, 0.1));
  if (!contrast_first) contrast();
  return image;
}

/// The depth toolbox's ColorAug, half of the time: gamma .9 to 1.1, brightness .75 to 1.25, each colour .9 to
/// 1.1.
Image vary_colours(Image image, Random& random) {
  if (!random.bernoulli(0.5)) return image;
  const double gamma = random.uniform(0.9, 1.1), brightness = random.uniform(0.75, 1.25);
  const std::array<double, 3> colours = {random.uniform(0.9, 1.1), random.uniform(0.9, 1.1),
                                         random.uniform(0.9, 1.1)};
  map_pixels(image,
             [&](double v, size_t c) { return 255 * std::pow(v / 255, gamma) * brightness * colours[c]; });
  return image;
}

template <class Map, class T>
void mirror(Map& map, std::vector<T>& values) {
  for (int64_t y = 0; y < map.height; ++y)
    std::reverse(values.begin() + y * map.width, values.begin() + (y + 1) * map.width);
}

/// Image (bilinear) and depth (nearest) turned around the middle; what comes from outside is black and not
/// valid.
void rotate(DenseSample& sample, double angle) {
  const Image from = sample.image;
  const DepthMap depth = sample.depth;
  const double ca = std::cos(angle), sa = std::sin(angle);
  const double cx = 0.5 * static_cast<double>(from.width - 1),
               cy = 0.5 * static_cast<double>(from.height - 1);
  for (int64_t y = 0; y < from.height; ++y)
    for (int64_t x = 0; x < from.width; ++x) {
      const double dx = static_cast<double>(x) - cx, dy = static_cast<double>(y) - cy;
      const double u = ca * dx + sa * dy + cx, v = -sa * dx + ca * dy + cy;
      const bool inside = u >= 0 && v >= 0 && u <= static_cast<double>(from.width - 1) &&
                          v <= static_cast<double>(from.height - 1);
      sample.depth.metres[static_cast<size_t>(y * from.width + x)] =
          inside ? depth.metres[static_cast<size_t>(std::lround(v) * from.width + std::lround(u))] : 0;
      const auto x0 = static_cast<int64_t>(std::clamp(u, 0.0, 2 * cx)),
                 y0 = static_cast<int64_t>(std::clamp(v, 0.0, 2 * cy));
      const int64_t x1 = std::min(x0 + 1, from.width - 1), y1 = std::min(y0 + 1, from.height - 1);
      const double fx = u - static_cast<double>(x0), fy = v - static_cast<double>(y0);
      for (int c = 0; c < 3; ++c)
        sample.image.at(x, y)[c] =
            inside ? clipped((from.at(x0, y0)[c] * (1 - fx) + from.at(x1, y0)[c] * fx) * (1 - fy) +
                             (from.at(x0, y1)[c] * (1 - fx) + from.at(x1, y1)[c] * fx) * fy)
                   : uint8_t{0};
    }
}

void resize_sample(DenseSample& sample, DenseTask task, int64_t width, int64_t height) {
  sample.image = resize(sample.image, width, height, Resampling::bilinear);
  if (task == DenseTask::segmentation)
    sample.labels = resize_nearest(sample.labels, width, height);
  else
    sample.depth = resize_nearest(sample.depth, width, height);
}

/// Cuts a box of the crop's size; where the image is smaller, black pixels that do not count are added at the
/// right and below.
void cut(DenseSample& sample, DenseTask task, Box box) {
  const int64_t width = sample.image.width, height = sample.image.height;
  const Box inside{box.top, box.left, std::min(box.height, height - box.top),
                   std::min(box.width, width - box.left)};
  const Image image = crop(sample.image, inside);
  sample.image = {box.width, box.height, 3,
                  std::vector<uint8_t>(static_cast<size_t>(box.width * box.height * 3))};
  for (int64_t y = 0; y < inside.height; ++y)
    std::copy_n(image.at(0, y), inside.width * 3, sample.image.at(0, y));
  const auto place = [&](const auto& part, auto& values, auto missing) {
    std::remove_cvref_t<decltype(values)> whole(static_cast<size_t>(box.width * box.height), missing);
    for (int64_t y = 0; y < inside.height; ++y)
      std::copy_n(part.begin() + y * inside.width, inside.width, whole.begin() + y * box.width);
    values = std::move(whole);
  };
  if (task == DenseTask::segmentation) {
    const LabelMap part = crop(sample.labels, inside);
    place(part.labels, sample.labels.labels, kIgnoredLabel);
    sample.labels.width = box.width, sample.labels.height = box.height;
  } else {
    const DepthMap part = crop(sample.depth, inside);
    place(part.metres, sample.depth.metres, 0.0F);
    sample.depth.width = box.width, sample.depth.height = box.height;
  }
}

/// Share of the most frequent class among the labels of a box that count.
double largest_share(const LabelMap& labels, Box box) {
  std::vector<int64_t> areas;
  int64_t counted = 0;
  for (const int16_t label : crop(labels, box).labels) {
    if (label < 0) continue;
    if (static_cast<size_t>(label) >= areas.size()) areas.resize(static_cast<size_t>(label) + 1);
    ++areas[static_cast<size_t>(label)];
    ++counted;
  }
  return counted == 0 ? 1
                      : static_cast<double>(*std::max_element(areas.begin(), areas.end())) /
                            static_cast<double>(counted);
}

/// A random box. In segmentation no class should fill more than three quarters of it: ten tries.
Box draw_box(const DenseSample& sample, DenseTask task, GridSize size, Random& random) {
  constexpr double kMostOfOneClass = 0.75;
  constexpr int kTries = 10;
  const int64_t down = std::max<int64_t>(sample.image.height - size.height, 0),
                right = std::max<int64_t>(sample.image.width - size.width, 0);
  Box box;
  for (int i = 0; i < kTries; ++i) {
    box = {static_cast<int64_t>(random.below(static_cast<uint64_t>(down + 1))),
           static_cast<int64_t>(random.below(static_cast<uint64_t>(right + 1))), size.height, size.width};
    if (task == DenseTask::depth) break;
    const Box inside{box.top, box.left, std::min(box.height, sample.image.height - box.top),
                     std::min(box.width, sample.image.width - box.left)};
    if (largest_share(sample.labels, inside) < kMostOfOneClass) break;
  }
  return box;
}

}  // namespace

DenseImages::DenseImages(const Source& source, DenseTask task, int64_t limit, int64_t side,
                         DecodeLimits limits, uint64_t seed)
    : side_(side), limits_(limits), seed_(seed) {
  std::vector<int64_t> all;
  const auto take = [&](const Record& record, size_t at) {
    if (in_split(record, source.split, source.test_fraction)) all.push_back(static_cast<int64_t>(at));
  };
  if (auto set = find_dense_dataset(source.reference, task)) {
    set_ = std::move(*set);
    for (size_t i = 0; i < set_.pairs.size(); ++i) take(set_.pairs[i].image, i);
  } else {
    if (task == DenseTask::depth) set_ = open_dense_dataset(source.reference, task);  // says what it may be
    cut_outs_ = true;
    cut_out_records_ = open_dataset(source.reference);
    set_.name = dataset_name(source.reference);
    set_.reference = source.reference;
    set_.classes = {"background", "foreground"};
    for (size_t i = 0; i < cut_out_records_.records.size(); ++i) take(cut_out_records_.records[i], i);
  }
  const auto n = static_cast<int64_t>(all.size());
  if (n == 0)
    throw DataError(fmt::format("cannot use as data: {}: its part {} holds no image; change --test-fraction",
                                source.reference, name_of(source.split)));
  for (int64_t i = 0; i < std::min(n, limit); ++i)
    chosen_.push_back(all[static_cast<size_t>(n <= limit ? i : i * n / limit)]);
}

const std::string& DenseImages::key(int64_t i) const {
  const auto at = static_cast<size_t>(chosen_[static_cast<size_t>(i)]);
  return cut_outs_ ? cut_out_records_.records[at].key : set_.pairs[at].key;
}

std::vector<std::string> DenseImages::keys() const {
  std::vector<std::string> out;
  for (int64_t i = 0; i < size(); ++i) out.push_back(key(i));
  return out;
}

DenseSample DenseImages::read(int64_t i, bool training) const {
  const int64_t at = chosen_[static_cast<size_t>(i)];
  if (!cut_outs_) return read_dense_sample(set_, at, limits_, training);
  Composite made =
      load_composite(cut_out_records_.records[static_cast<size_t>(at)], side_, limits_.max_memory, seed_);
  DenseSample sample;
  sample.fault = std::move(made.fault);
  sample.image = std::move(made.image);
  sample.labels = {side_, side_, std::vector<int16_t>(made.mask.begin(), made.mask.end())};
  return sample;
}

std::string no_cut_outs(const DenseImages& images) {
  return fmt::format(
      "segmentation: {}: holds no image with a partly transparent alpha channel; give cut-outs (PNG "
      "or WebP with alpha), or images with label maps",
      images.set().reference);
}

DenseSample training_crop(DenseSample sample, DenseTask task, GridSize size, double least_scale,
                          double most_scale, DenseAugment augment, Random random) {
  const bool varied = augment == DenseAugment::published;
  if (varied && task == DenseTask::depth && random.bernoulli(0.5))
    rotate(sample, random.uniform(-2.5, 2.5) * std::numbers::pi / 180);
  // The crop is covered at scale 1; smaller scales leave part of it empty.
  const double cover = std::max(static_cast<double>(size.height) / static_cast<double>(sample.image.height),
                                static_cast<double>(size.width) / static_cast<double>(sample.image.width));
  const double scale = cover * (varied ? random.uniform(least_scale, most_scale) : 1);
  const auto scaled = [&](int64_t side) {
    return std::max<int64_t>(1, std::llround(static_cast<double>(side) * scale));
  };
  resize_sample(sample, task, scaled(sample.image.width), scaled(sample.image.height));
  const Box box =
      varied ? draw_box(sample, task, size, random)
             : Box{std::max<int64_t>(sample.image.height - size.height, 0) / 2,
                   std::max<int64_t>(sample.image.width - size.width, 0) / 2, size.height, size.width};
  cut(sample, task, box);
  if (!varied) return sample;
  if (random.bernoulli(0.5)) {
    sample.image = flip_horizontal(std::move(sample.image));
    if (task == DenseTask::segmentation)
      mirror(sample.labels, sample.labels.labels);
    else
      mirror(sample.depth, sample.depth.metres);
  }
  sample.image = task == DenseTask::segmentation ? distort_colours(std::move(sample.image), random)
                                                 : vary_colours(std::move(sample.image), random);
  return sample;
}

Image scaled_to(const Image& image, int64_t side) {
  const int64_t least = std::min(image.width, image.height);
  const auto scaled = [&](int64_t s) { return std::max<int64_t>(side, (s * side + least / 2) / least); };
  return resize(image, scaled(image.width), scaled(image.height), Resampling::bilinear);
}

Image padded_to_patches(const Image& image, int64_t patch, Box& inner) {
  const auto whole = [&](int64_t side) { return (side + patch - 1) / patch * patch; };
  Image out{whole(image.width), whole(image.height), 3, {}};
  out.pixels.resize(static_cast<size_t>(out.width * out.height * 3));
  inner = {(out.height - image.height) / 2, (out.width - image.width) / 2, image.height, image.width};
  for (int64_t y = 0; y < image.height; ++y)
    std::copy_n(image.at(0, y), image.width * 3, out.at(inner.left, inner.top + y));
  return out;
}

}  // namespace dino::eval
