// SPDX-License-Identifier: Apache-2.0
// Crops against the operations of imaging/, one by one, which are tested against Pillow and torchvision
// (tests/imaging): every backend makes the same bits.
#include <utility>

#include "imaging/augment.hpp"
#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

constexpr std::array kColours = {ColourStep::brightness, ColourStep::contrast, ColourStep::saturation,
                                 ColourStep::hue};

/// Noise on a gradient: neighbours are alike, and every level occurs.
Image picture_of(int64_t width, int64_t height, uint64_t seed) {
  Image image{width, height, 3, std::vector<uint8_t>(at(3 * width * height))};
  Random random(seed, RandomStream::test, 0);
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < 3; ++c)
        image.at(x, y)[c] = static_cast<uint8_t>(
            std::min<uint64_t>(255, at(x * 150 / width + y * 70 / height) + random.below(80)));
  return image;
}

CropSteps whole(const Image& image, int32_t picture = 0) {
  CropSteps steps;
  steps.picture = picture;
  steps.height = static_cast<int32_t>(image.height);
  steps.width = static_cast<int32_t>(image.width);
  return steps;
}

CropSteps one_step(const Image& image, ColourStep colour, float factor) {
  CropSteps steps = whole(image);
  steps.colour[1] = colour;
  steps.factor[1] = factor;
  return steps;
}

CropSteps blurred(const Image& image, double sigma) {
  CropSteps steps = whole(image);
  const std::vector<float> weights = gaussian_weights(sigma, kBlurKernel);
  std::copy(weights.begin(), weights.end(), steps.blur);
  return steps;
}

Image change(Image image, ColourStep colour, float factor) {
  const auto value = static_cast<double>(factor);
  if (colour == ColourStep::brightness) return adjust_brightness(std::move(image), value);
  if (colour == ColourStep::contrast) return adjust_contrast(std::move(image), value);
  if (colour == ColourStep::saturation) return adjust_saturation(std::move(image), value);
  if (colour == ColourStep::hue) return shift_hue(std::move(image), static_cast<uint8_t>(factor));
  return image;
}

Image expected_crop(const Image& image, const CropSteps& steps, int64_t size, Resampling filter) {
  Image crop = resize(image, Box{steps.top, steps.left, steps.height, steps.width}, size, size, filter);
  if (steps.flip == 1) crop = flip_horizontal(std::move(crop));
  for (int i = 0; i < kColourSteps; ++i) crop = change(std::move(crop), steps.colour[i], steps.factor[i]);
  if (steps.grayscale == 1) crop = to_grayscale(std::move(crop));
  if (steps.blur[0] > 0 || steps.blur[4] > 0) crop = blur(crop, steps.blur);
  if (steps.solarize == 1) crop = solarize(std::move(crop), 128);
  return crop;
}

class AugmentTest : public OperatorTest {
 protected:
  void expect_crops(const std::vector<Image>& pictures, const std::vector<CropSteps>& crops, int64_t size,
                    Resampling filter, const char* what) {
    const Normalisation normalisation{{0.5F, 0.25F, 0.4F}, {0.3F, 0.2F, 0.7F}};
    const auto count = static_cast<int64_t>(crops.size());
    std::vector<uint8_t> bytes(7, 99);  // the first picture begins at an odd address
    std::vector<int64_t> table;
    for (const Image& picture : pictures) {
      table.insert(table.end(), {static_cast<int64_t>(bytes.size()), picture.height, picture.width});
      bytes.insert(bytes.end(), picture.pixels.begin(), picture.pixels.end());
    }
    Tensor steps({count * static_cast<int64_t>(sizeof(CropSteps))}, DType::u8);
    std::memcpy(steps.as<uint8_t>(), crops.data(), at(steps.bytes()));
    const TensorView out = output({count, 3, size, size});
    ops().augment_crops(stream(), input(tensor_of(bytes)), input(tensor_of(table, 3)), input(steps), filter,
                        normalisation, out);
    const Tensor got = host_copy(out);
    const int64_t values = 3 * size * size;
    std::vector<float> expected(at(values));
    for (int64_t i = 0; i < count; ++i) {
      const CropSteps& crop = crops[at(i)];
      normalize_to(expected_crop(pictures[at(crop.picture)], crop, size, filter), normalisation,
                   expected.data());
      for (int64_t j = 0; j < values; ++j)
        ASSERT_EQ(got.as<float>()[i * values + j], expected[at(j)])
            << what << ", crop " << i << " of " << size << " pixels, value " << j;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, AugmentTest, ::testing::ValuesIn(variants(false)), variant_name);

TEST_P(AugmentTest, ResizesBoxesOfAnyShape) {
  std::vector<Image> pictures;
  std::vector<CropSteps> crops;
  for (const auto& [width, height] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {1, 9}, {9, 1}, {2, 3}, {33, 33}, {33, 20}, {47, 33}, {61, 29}, {64, 3}}) {
    pictures.push_back(picture_of(width, height, pictures.size()));
    crops.push_back(whole(pictures.back(), static_cast<int32_t>(pictures.size() - 1)));
    // A corner each, and flipped.
    CropSteps corner = crops.back();
    corner.width = (corner.width + 1) / 2;
    corner.height = (corner.height + 1) / 2;
    corner.flip = 1;
    crops.push_back(corner);
    corner.left = static_cast<int32_t>(width) - corner.width;
    corner.top = static_cast<int32_t>(height) - corner.height;
    crops.push_back(corner);
  }
  for (const Resampling filter : {Resampling::bicubic, Resampling::bilinear, Resampling::box}) {
    for (const int64_t size : {2, 7, 33}) expect_crops(pictures, crops, size, filter, name_of(filter));
  }
  expect_crops({pictures[0], pictures[3]}, {crops[0], crops[2]}, 1, Resampling::bicubic, "one pixel");
}

/// Where what is between the two passes has no room for a tile at once, and as far as boxes may be reduced.
TEST_P(AugmentTest, ReducesLongBoxes) {
  for (const auto& [width, height] :
       std::vector<std::pair<int64_t, int64_t>>{{33, 528}, {40, 1056}, {1056, 40}, {200, 1056}}) {
    const Image picture = picture_of(width, height, 3);
    for (const Resampling filter : {Resampling::bicubic, Resampling::box})
      expect_crops({picture}, {whole(picture)}, 33, filter, name_of(filter));
  }
  const Image picture = picture_of(96, 96, 4);
  expect_crops({picture}, {whole(picture)}, 3, Resampling::bicubic, "a square");
}

TEST_P(AugmentTest, EveryStepAlone) {
  // Colours of a coarse cube, whose grays are among them, and noise.
  Image cube{80, 80, 3, std::vector<uint8_t>(19200)};
  for (size_t i = 0; i < 6400; ++i) {
    const size_t colour = i < 4913 ? i : (i - 4913) * 16807;
    for (size_t c = 0; c < 3; ++c) {
      const size_t digit = colour / (c == 0 ? 1 : c == 1 ? 17 : 289);
      cube.pixels[3 * i + c] =
          static_cast<uint8_t>(i < 4913 ? std::min<size_t>(255, digit % 17 * 16) : digit);
    }
  }
  std::vector<CropSteps> crops;
  for (const ColourStep colour : {ColourStep::brightness, ColourStep::contrast, ColourStep::saturation})
    for (const float factor : {0.0F, 0.37F, 1.0F, 1.61F}) crops.push_back(one_step(cube, colour, factor));
  for (const float shift : {0.0F, 1.0F, 25.0F, 128.0F, 231.0F, 255.0F})
    crops.push_back(one_step(cube, ColourStep::hue, shift));
  crops.push_back(whole(cube));
  crops.back().grayscale = 1;
  crops.push_back(whole(cube));
  crops.back().solarize = 1;
  expect_crops({cube}, crops, 80, Resampling::bicubic, "a step");
}

TEST_P(AugmentTest, BlurMirrorsAtTheEdges) {
  for (const int64_t size : {1, 2, 3, 5, 8, 41}) {
    const Image picture = picture_of(size, size, at(size));
    std::vector<CropSteps> crops;
    for (const double sigma : {0.1, 0.4, 1.0, 2.0}) crops.push_back(blurred(picture, sigma));
    expect_crops({picture}, crops, size, Resampling::bicubic, "blur");
  }
}

/// Whose bytes have no room in a block's shared memory.
TEST_P(AugmentTest, LargeCrops) {
  const Image picture = picture_of(120, 100, 5);
  CropSteps steps = blurred(picture, 1.3);
  steps.colour[0] = ColourStep::contrast;
  steps.factor[0] = 1.3F;
  steps.solarize = 1;
  expect_crops({picture}, {steps}, 236, Resampling::bicubic, "a large crop");
}

TEST_P(AugmentTest, AllTogetherAsTheyAreDrawn) {
  const std::vector<Image> pictures = {picture_of(50, 37, 6), picture_of(29, 64, 7), picture_of(5, 90, 8)};
  const AugmentConfig config;
  for (const int64_t size : {32, 14}) {
    std::vector<CropSteps> crops;
    for (uint64_t i = 0; i < 24; ++i) {
      Random random(7, RandomStream::augment, i);
      const auto picture = static_cast<int32_t>(i % pictures.size());
      const Image& image = pictures[at(picture)];
      const CropKind kind = i % 4 == 0 ? CropKind::global1 : i % 4 == 1 ? CropKind::global2 : CropKind::local;
      crops.push_back(draw_crop(image.width, image.height, kind, config, random));
      crops.back().picture = picture;
    }
    // Every order of the four steps would be too many; this one has contrast behind what changes its mean.
    crops.push_back(crops.front());
    for (size_t i = 0; i < 4; ++i) {
      crops.back().colour[i] = kColours[3 - i];
      crops.back().factor[i] = i == 0 ? 17.0F : 1.2F;
    }
    expect_crops(pictures, crops, size, Resampling::bicubic, "drawn");
  }
}

TEST_P(AugmentTest, RejectsShapesThatDoNotFit) {
  const Image picture = picture_of(6, 5, 9);
  const ConstTensorView pixels = input(tensor_of(picture.pixels)),
                        table = input(tensor_of<int64_t>({0, 5, 6}, 3));
  const auto steps_of = [&](const CropSteps& steps) {
    Tensor tensor({static_cast<int64_t>(sizeof(CropSteps))}, DType::u8);
    std::memcpy(tensor.as<uint8_t>(), &steps, sizeof(CropSteps));
    return input(tensor);
  };
  const ConstTensorView steps = steps_of(whole(picture));
  const auto rejected = [&](ConstTensorView bytes, ConstTensorView pictures, ConstTensorView crops,
                            TensorView out) {
    EXPECT_THROW(ops().augment_crops(stream(), bytes, pictures, crops, Resampling::bicubic, {}, out),
                 InternalError);
  };
  const TensorView out = zeros({1, 3, 4, 4});
  rejected(table, table, steps, out);
  rejected(pixels, pixels, steps, out);
  rejected(pixels, table, pixels, out);
  rejected(pixels, table, steps, zeros({1, 3, 4, 5}));
  rejected(pixels, table, steps, zeros({1, 1, 4, 4}));
  rejected(pixels, table, steps, zeros({2, 3, 4, 4}));
  if (GetParam().name() == "cuda") return;  // what the tables hold is looked at on the host alone
  CropSteps beyond = whole(picture);
  beyond.left = 1;
  rejected(pixels, table, steps_of(beyond), out);
  beyond = whole(picture, 1);
  rejected(pixels, table, steps_of(beyond), out);
  rejected(pixels, list({0, 6, 6}), steps, out);
  rejected(pixels, input(tensor_of<int64_t>({1, 5, 6}, 3)), steps, out);
  const Image wide = picture_of(33, 1, 1);
  rejected(input(tensor_of(wide.pixels)), input(tensor_of<int64_t>({0, 1, 33}, 3)), steps_of(whole(wide)),
           zeros({1, 3, 1, 1}));
}

}  // namespace
}  // namespace dino::ops::testing
