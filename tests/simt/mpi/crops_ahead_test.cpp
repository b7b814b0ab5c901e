// SPDX-License-Identifier: Apache-2.0
// Pictures are sent beside the step before, in every order of the streams' work: the crops are those that the
// CPU makes, to the bit.
#include "step_crops.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "base/random.hpp"
#include "ops/accelerator.hpp"
#include "simt/device.hpp"

namespace dino::pretrain {
namespace {

constexpr int64_t kSteps = 6, kImages = 3;

std::vector<std::shared_ptr<const Image>> pictures() {
  std::vector<std::shared_ptr<const Image>> images;
  for (int64_t i = 0; i < 7; ++i) {
    const int64_t side = 18 + 3 * i;  // later steps need more room than earlier ones
    Image image{side, side, 3, std::vector<uint8_t>(static_cast<size_t>(3 * side * side))};
    Random random(3, RandomStream::test, static_cast<uint64_t>(i));
    for (uint8_t& value : image.pixels) value = static_cast<uint8_t>(random.below(256));
    images.push_back(std::make_shared<const Image>(std::move(image)));
  }
  return images;
}

LoaderConfig settings(bool only_draw) {
  LoaderConfig config;
  config.augment.global_size = 16;
  config.augment.local_size = 8;
  config.augment.local_count = 2;
  config.batch = kImages;
  config.only_draw = only_draw;
  return config;
}

class CropsAhead : public ::testing::TestWithParam<uint64_t> {};

TEST_P(CropsAhead, AreTheCpus) {
  ops::choose_gpu(0);
  ASSERT_NE(ops::gpu_backend(), nullptr);
  Workplace place(*ops::gpu_backend(), Communicator::world(), Precision::f32);
  Context& c = place.context();
  const RecordList no_list;
  DataLoader made(no_list, settings(false), {0, kImages}, 0, pictures());
  DataLoader drawn(no_list, settings(true), {0, kImages}, 0, pictures());
  StepCrops crops(c);
  simt::set_order(GetParam());
  std::vector<Tensor> expected, got;
  for (int64_t step = 0; step < kSteps; ++step) {
    const CropSet& of_cpu = made.next();
    StepBatch batch;
    crops.give(drawn.next(), drawn.augment(), batch);
    for (const auto& [there, here] :
         {std::pair<ConstTensorView, const Tensor&>{batch.global_crops, of_cpu.global_crops},
          {batch.local_crops, of_cpu.local_crops}}) {
      expected.push_back(here.clone());
      got.push_back(Tensor::uninitialised(there.shape, DType::f32));
      copy(c.stream, got.back(), there);
    }
    // Every third step finds nothing ready.
    (void)drawn.await();
    if (step % 3 != 1) send_upcoming(drawn, crops);
  }
  c.stream.synchronize();
  simt::set_order(0);
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(std::memcmp(got[i].as<float>(), expected[i].as<float>(), static_cast<size_t>(got[i].bytes())),
              0)
        << "step " << i / 2;
  EXPECT_GT(crops.bytes(), 2 * 3 * 18 * 18 * kImages);
}

INSTANTIATE_TEST_SUITE_P(Orders, CropsAhead, ::testing::Values(0, 1, 2, 3, 4, 5),
                         [](const auto& values) { return std::to_string(values.param); });

}  // namespace
}  // namespace dino::pretrain
