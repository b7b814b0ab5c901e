// SPDX-License-Identifier: Apache-2.0
// The augmentation operations against torchvision on Pillow 12.3 (tests/golden/augment.h5): integer
// operations exactly, the blur within one level on 0.1 % of the values. What is tested is what the file
// holds.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "imaging/augment.hpp"
#include "storage/hdf5.hpp"

namespace dino {
namespace {

Hdf5File open_golden() {
  const char* folder = std::getenv("DINO_GOLDEN_DIR");
  const std::string root = folder != nullptr ? folder : std::string(DINO_TEST_DATA) + "/golden";
  return Hdf5File::open(root + "/augment.h5");
}

Image read_image(const Hdf5File& file, const std::string& name) {
  const Tensor pixels = file.read(name, DType::u8);
  Image image{pixels.shape()[1], pixels.shape()[0], pixels.shape()[2], {}};
  image.pixels.assign(pixels.as<uint8_t>(), pixels.as<uint8_t>() + pixels.numel());
  return image;
}

Box read_box(const Hdf5File& file, const std::string& group) {
  const std::vector<double> b = file.attribute_numbers(group, "box_top_left_height_width");
  return {static_cast<int64_t>(b.at(0)), static_cast<int64_t>(b.at(1)), static_cast<int64_t>(b.at(2)),
          static_cast<int64_t>(b.at(3))};
}

void expect_equal(const Image& actual, const Image& expected, const std::string& name) {
  ASSERT_EQ(actual.width, expected.width) << name;
  ASSERT_EQ(actual.height, expected.height) << name;
  size_t different = 0;
  int largest = 0;
  for (size_t i = 0; i < expected.pixels.size(); ++i) {
    const int gap = std::abs(int{actual.pixels[i]} - int{expected.pixels[i]});
    different += gap != 0;
    largest = std::max(largest, gap);
  }
  EXPECT_EQ(different, 0U) << name << ": largest difference " << largest;
}

void expect_blur(const Image& actual, const Image& expected, const std::string& name) {
  ASSERT_EQ(actual.pixels.size(), expected.pixels.size()) << name;
  size_t different = 0;
  for (size_t i = 0; i < expected.pixels.size(); ++i) {
    const int gap = std::abs(int{actual.pixels[i]} - int{expected.pixels[i]});
    different += gap != 0;
    EXPECT_LE(gap, 1) << name;
  }
  EXPECT_LE(static_cast<double>(different), 0.001 * static_cast<double>(expected.pixels.size())) << name;
}

void expect_normalized(const Hdf5File& file, const Image& image, const std::string& name) {
  const Tensor expected = file.read(name, DType::f32);
  std::vector<float> actual(static_cast<size_t>(expected.numel()));
  normalize_to(image, Normalisation{}, actual.data());
  for (size_t i = 0; i < actual.size(); ++i) ASSERT_NEAR(actual[i], expected.as<float>()[i], 1e-6F) << name;
}

Image apply(const Image& image, const std::string& operation, double value) {
  if (operation == "brightness") return adjust_brightness(image, value);
  if (operation == "contrast") return adjust_contrast(image, value);
  if (operation == "saturation") return adjust_saturation(image, value);
  if (operation == "hue") return adjust_hue(image, value);
  if (operation == "grayscale") return to_grayscale(image);
  if (operation == "blur") return gaussian_blur(image, value);
  if (operation == "solarize") return solarize(image, static_cast<int>(value));
  if (operation == "hflip") return flip_horizontal(image);
  throw DataError("augment.h5 holds an unknown operation: " + operation);
}

/// <operation>[_<value>] applied to `base`.
void check_single(const Hdf5File& file, const std::string& image, const std::string& child) {
  const std::string name = "/" + image + "/" + child;
  const std::string operation = child.substr(0, child.find('_'));
  double value = 0;
  if (file.has_attribute(name, "factor")) {
    value = file.attribute_number(name, "factor");
  } else if (file.has_attribute(name, "sigma")) {
    value = file.attribute_number(name, "sigma");
  } else if (child.find('_') != std::string::npos) {
    value = std::stod(child.substr(child.find('_') + 1));
  }
  const Image actual = apply(read_image(file, "/" + image + "/base"), operation, value);
  if (operation == "blur") return expect_blur(actual, read_image(file, name), name);
  expect_equal(actual, read_image(file, name), name);
}

void check_crops(const Hdf5File& file, const std::string& image, const std::string& child) {
  const std::string group = "/" + image + "/" + child;
  const Image original = read_image(file, "/" + image + "/original");
  for (const std::string& size : file.list(group)) {
    const int64_t side = std::stoll(size.substr(4));
    expect_equal(resize(original, read_box(file, group), side, side), read_image(file, group + "/" + size),
                 group + "/" + size);
  }
}

void check_sequence(const Hdf5File& file, const std::string& image, const std::string& child) {
  const std::string group = "/" + image + "/" + child;
  const Image original = read_image(file, "/" + image + "/original");
  Image current = read_image(file, group + "/0_crop");
  expect_equal(resize(original, read_box(file, group), current.width, current.height), current, group);
  if (file.exists(group + "/0_hflip")) {
    current = flip_horizontal(current);
    expect_equal(current, read_image(file, group + "/0_hflip"), group + "/0_hflip");
  }
  std::istringstream order(file.attribute_string(group, "order"));
  const std::vector<double> values = file.attribute_numbers(group, "params");
  std::string operation;
  for (size_t i = 0; order >> operation; ++i) {
    const std::string name = group + "/" + std::to_string(i + 1) + "_" + operation;
    current = apply(current, operation, values.at(i));
    const Image expected = read_image(file, name);
    if (operation == "blur") {
      expect_blur(current, expected, name);
    } else {
      expect_equal(current, expected, name);
    }
    current = expected;  // a blur may differ by one level; what follows starts from the stored one
  }
  expect_normalized(file, current, group + "/normalized");
}

TEST(AugmentGolden, EveryOperationOfTheFile) {
  const Hdf5File file = open_golden();
  int crops = 0, sequences = 0, singles = 0;
  for (const std::string& image : file.list("/")) {
    if (!file.exists("/" + image + "/original")) continue;
    for (const std::string& child : file.list("/" + image)) {
      const std::string name = "/" + image + "/" + child;
      if (child == "original" || child == "base") continue;
      if (child.starts_with("crop")) {
        check_crops(file, image, child);
        ++crops;
      } else if (child.starts_with("seq")) {
        check_sequence(file, image, child);
        ++sequences;
      } else if (child == "base_normalized") {
        expect_normalized(file, read_image(file, "/" + image + "/base"), name);
      } else if (child.starts_with("eval_resize")) {
        const Image original = read_image(file, "/" + image + "/original");
        int resize_to = 0, crop = 0;
        ASSERT_EQ(std::sscanf(child.c_str(), "eval_resize%d_crop%d", &resize_to, &crop), 2);
        expect_equal(resize_center_crop(original, resize_to, crop), read_image(file, name), name);
      } else {
        check_single(file, image, child);
        ++singles;
      }
    }
  }
  EXPECT_GE(crops, 3);
  EXPECT_GE(sequences, 3);
  EXPECT_GE(singles, 3);
}

TEST(AugmentGolden, GaussianKernel) {
  // The kernel is read back from the blur of a bright line: 255 * k within the rounding of one level.
  const Hdf5File file = open_golden();
  Image line{33, 33, 3, std::vector<uint8_t>(33 * 33 * 3, 0)};
  for (int64_t y = 0; y < 33; ++y) std::memset(line.at(16, y), 255, 3);
  for (const std::string& child : file.list("/gaussian_kernel1d")) {
    const Tensor kernel = file.read("/gaussian_kernel1d/" + child, DType::f32);
    const Image blurred = gaussian_blur(line, std::stod(child.substr(6)), static_cast<int>(kernel.numel()));
    for (int64_t i = 0; i < kernel.numel(); ++i) {
      EXPECT_NEAR(*blurred.at(16 - kernel.numel() / 2 + i, 16), 255.0F * kernel.as<float>()[i], 0.51F)
          << child;
    }
  }
}

}  // namespace
}  // namespace dino
