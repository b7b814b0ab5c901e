// SPDX-License-Identifier: Apache-2.0
// The augmentation operations against torchvision on Pillow 12.3 (augment.h5): integer operations exactly,
// the blur within one level on 0.1 % of the values. What is tested is what the file holds.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <sstream>

#include "golden_support.hpp"
#include "imaging/augment.hpp"
#include "storage/hdf5.hpp"

namespace dino {
namespace {

using golden::Report;

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

/// Blurred values of the whole file, and how many of them differ: the bound is on their fraction, of which a
/// small picture alone tells nothing.
struct BlurCounts {
  double values = 0, different = 0;
};

/// One picture of the file: everything that belongs to it, and what has been compared.
class Picture {
 public:
  Picture(const Hdf5File& file, const std::string& name, BlurCounts& blurs)
      : file_(file),
        blurs_(blurs),
        root_("/" + name + "/"),
        report_("augment.h5/" + name),
        original_(read_image(file, root_ + "original")) {}

  void check_all() {
    for (const std::string& child : file_.list(root_)) {
      if (child == "original" || child == "base") continue;
      if (child == "base_normalized") {
        check_normalized(read_image(file_, root_ + "base"), child);
      } else if (child.starts_with("crop")) {
        check_crops(child);
      } else if (child.starts_with("seq")) {
        check_sequence(child);
      } else if (child.starts_with("eval_resize")) {
        check_evaluation(child);
      } else {
        check_single(child);
      }
    }
  }

 private:
  /// `child` is a dataset below the picture.
  void check_image(const std::string& quantity, const Image& actual, const std::string& child) {
    const Image expected = read_image(file_, root_ + child);
    ASSERT_EQ(actual.width, expected.width) << child;
    ASSERT_EQ(actual.height, expected.height) << child;
    ASSERT_EQ(actual.pixels.size(), expected.pixels.size()) << child;
    double different = 0, largest = 0;
    for (size_t i = 0; i < expected.pixels.size(); ++i) {
      const int gap = std::abs(int{actual.pixels[i]} - int{expected.pixels[i]});
      different += gap != 0 ? 1 : 0;
      largest = std::max(largest, static_cast<double>(gap));
    }
    const bool blurred = quantity == "blur";
    report_.check(quantity + " largest difference", largest, blurred ? 1 : 0, root_ + child);
    if (!blurred) return;
    blurs_.different += different;
    blurs_.values += static_cast<double>(expected.pixels.size());
  }

  void check_normalized(const Image& image, const std::string& child) {
    Normalisation normalisation;
    const std::vector<double> mean = file_.attribute_numbers("/", "normalize_mean");
    const std::vector<double> deviation = file_.attribute_numbers("/", "normalize_std");
    for (size_t c = 0; c < 3; ++c) {
      normalisation.mean[c] = static_cast<float>(mean.at(c));
      normalisation.std[c] = static_cast<float>(deviation.at(c));
    }
    const Tensor expected = file_.read(root_ + child, DType::f32);
    std::vector<float> actual(static_cast<size_t>(image.width * image.height * image.channels));
    normalize_to(image, normalisation, actual.data());
    report_.check(
        "normalized",
        golden::absolute_error(std::span<const float>(actual), std::span<const float>(expected.f32())), 1e-6,
        root_ + child);
  }

  /// The blur's kernel: of the object, or as long as the file's kernels.
  [[nodiscard]] int kernel_of(const std::string& path) const {
    if (file_.has_attribute(path, "kernel_size"))
      return static_cast<int>(file_.attribute_number(path, "kernel_size"));
    const std::vector<std::string> kernels = file_.list("/gaussian_kernel1d");
    if (kernels.empty()) throw DataError("augment.h5: no size of the blur's kernel for " + path);
    return static_cast<int>(file_.info("/gaussian_kernel1d/" + kernels.front()).shape.numel());
  }

  [[nodiscard]] Image apply(const Image& image, const std::string& operation, double value,
                            const std::string& path) const {
    if (operation == "brightness") return adjust_brightness(image, value);
    if (operation == "contrast") return adjust_contrast(image, value);
    if (operation == "saturation") return adjust_saturation(image, value);
    if (operation == "hue") return adjust_hue(image, value);
    if (operation == "grayscale") return to_grayscale(image);
    if (operation == "blur") return gaussian_blur(image, value, kernel_of(path));
    if (operation == "solarize") return solarize(image, static_cast<int>(value));
    if (operation == "hflip") return flip_horizontal(image);
    throw DataError("augment.h5 holds an unknown operation: " + path);
  }

  /// <operation>[_<value>] applied to `base`. An attribute has more digits than the name.
  void check_single(const std::string& child) {
    const size_t underscore = child.find('_');
    const std::string operation = child.substr(0, underscore);
    double value = underscore == std::string::npos ? 0 : std::stod(child.substr(underscore + 1));
    for (const char* attribute : {"factor", "sigma", "threshold"})
      if (file_.has_attribute(root_ + child, attribute))
        value = file_.attribute_number(root_ + child, attribute);
    check_image(operation, apply(read_image(file_, root_ + "base"), operation, value, root_ + child), child);
  }

  void check_crops(const std::string& child) {
    for (const std::string& size : file_.list(root_ + child)) {
      const std::string dataset = child + "/" + size;
      const Image expected = read_image(file_, root_ + dataset);
      check_image("crop and resize",
                  resize(original_, read_box(file_, root_ + child), expected.width, expected.height),
                  dataset);
    }
  }

  void check_sequence(const std::string& child) {
    const std::string group = root_ + child;
    Image current = read_image(file_, group + "/0_crop");
    check_image("crop and resize", resize(original_, read_box(file_, group), current.width, current.height),
                child + "/0_crop");
    if (file_.exists(group + "/0_hflip")) {
      current = flip_horizontal(current);
      check_image("hflip", current, child + "/0_hflip");
    }
    std::istringstream order(file_.attribute_string(group, "order"));
    const std::vector<double> values = file_.attribute_numbers(group, "params");
    std::string operation;
    for (size_t i = 0; order >> operation; ++i) {
      const std::string dataset = child + "/" + std::to_string(i + 1) + "_" + operation;
      check_image(operation, apply(current, operation, values.at(i), group), dataset);
      // A blur may differ by one level; what follows starts from the stored one.
      current = read_image(file_, root_ + dataset);
    }
    check_normalized(current, child + "/normalized");
  }

  /// eval_resize<shorter side>_crop<side>
  void check_evaluation(const std::string& child) {
    int shorter = 0, side = 0;
    ASSERT_EQ(std::sscanf(child.c_str(), "eval_resize%d_crop%d", &shorter, &side), 2) << child;
    check_image("resize and centre crop", resize_center_crop(original_, shorter, side), child);
  }

  const Hdf5File& file_;
  BlurCounts& blurs_;
  std::string root_;
  Report report_;
  Image original_;
};

TEST(AugmentGolden, EveryPictureOfTheFile) {
  const Hdf5File file = golden::open_golden("augment.h5");
  BlurCounts blurs;
  int pictures = 0;
  for (const std::string& name : file.list("/")) {
    if (name == "gaussian_kernel1d") continue;
    Picture(file, name, blurs).check_all();
    ++pictures;
  }
  EXPECT_GT(pictures, 0) << "augment.h5 holds no picture";
  if (blurs.values > 0)
    Report("augment.h5").check("blur fraction of values", blurs.different / blurs.values, 1e-3);
}

TEST(AugmentGolden, GaussianKernel) {
  // The kernel is read back from the blur of a bright line: 255 * k within the rounding of one level.
  const Hdf5File file = golden::open_golden("augment.h5");
  Report report("augment.h5/gaussian_kernel1d");
  for (const std::string& child : file.list("/gaussian_kernel1d")) {
    const Tensor kernel = file.read("/gaussian_kernel1d/" + child, DType::f32);
    const int64_t half = kernel.numel() / 2;
    const int64_t side = 4 * half + 1;
    Image line{side, side, 3, std::vector<uint8_t>(static_cast<size_t>(side * side * 3), 0)};
    for (int64_t y = 0; y < side; ++y) std::memset(line.at(2 * half, y), 255, 3);
    const double sigma = std::stod(child.substr(child.find('_') + 1));
    const Image blurred = gaussian_blur(line, sigma, static_cast<int>(kernel.numel()));
    for (int64_t i = 0; i < kernel.numel(); ++i) {
      const double ours = *blurred.at(half + i, 2 * half);
      report.check("levels of a line", std::abs(ours - 255 * static_cast<double>(kernel.as<float>()[i])),
                   0.51, child);
    }
  }
}

}  // namespace
}  // namespace dino
