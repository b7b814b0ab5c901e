// SPDX-License-Identifier: Apache-2.0
#include "training/contrastive.hpp"

#include <gtest/gtest.h>

#include "base/random.hpp"
#include "ops/context.hpp"

namespace dino {
namespace {

constexpr int64_t kPairs = 12, kWidth = 8;

/// Steps on the pairs of this communicator's ranks; the losses, and what became of the tower.
std::vector<double> train(const Communicator& comm, TextModel& model) {
  Workplace place(ops::backend_named("cpu"), comm, Precision::f32);
  TextTraining training(place.context(), model);
  const int64_t each = kPairs / comm.size();
  std::vector<double> losses;
  for (int step = 0; step < 6; ++step) {
    Random random(41, RandomStream::test, static_cast<uint64_t>(step));
    std::vector<std::vector<int32_t>> texts;
    Tensor images({each, kWidth});
    for (int64_t i = 0; i < kPairs; ++i) {
      std::vector<int32_t> text = {1};
      for (uint64_t n = random.below(5); n > 0; --n)
        text.push_back(static_cast<int32_t>(3 + random.below(8)));
      text.push_back(2);
      const int64_t place_here = i - comm.rank() * each;
      for (int64_t d = 0; d < kWidth; ++d) {
        const auto x = static_cast<float>(random.normal());
        if (place_here >= 0 && place_here < each) images.as<float>()[place_here * kWidth + d] = x;
      }
      if (place_here >= 0 && place_here < each) texts.push_back(text);
    }
    losses.push_back(training.step(texts, images, {}).loss);
  }
  return losses;
}

/// The loss is of all pairs, and so is what it does to the tower.
TEST(Contrastive, RanksTrainTheTowerOfOneRank) {
  const Communicator world = Communicator::world();
  TextConfig config{.vocabulary = 12, .context = 7, .width = 16, .depth = 2, .heads = 2, .hidden = 32};
  config.projection = kWidth;
  const auto alone = random_text_model(config, 1), together = random_text_model(config, 1);
  const std::vector<double> expected = train(Communicator::self(), *alone), losses = train(world, *together);
  ASSERT_EQ(losses.size(), expected.size());
  for (size_t i = 0; i < losses.size(); ++i) EXPECT_NEAR(losses[i], expected[i], 1e-5) << i;
  for (const ParameterInfo& info : alone->layout.parameters())
    for (int64_t i = 0; i < info.shape.numel(); ++i)
      ASSERT_NEAR(together->weights.view(info).f32()[static_cast<size_t>(i)],
                  alone->weights.view(info).f32()[static_cast<size_t>(i)], 2e-4)
          << info.name;
  // All ranks have the same bits.
  for (const ParameterInfo& info : together->layout.parameters()) {
    double sum = 0;
    for (const float x : together->weights.view(info).f32()) sum += static_cast<double>(x);
    EXPECT_EQ(world.max(sum), -world.max(-sum)) << info.name;
  }
}

}  // namespace
}  // namespace dino
