// SPDX-License-Identifier: Apache-2.0
// After the first steps a training step allocates nothing: no tensor, and nothing large by other means. What
// is left are index lists and names of some kilobytes, and what oneDNN keeps per call.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <new>
#include <set>

#include "base/random.hpp"
#include "host_model.hpp"
#include "training/engine.hpp"
#include "training/masks.hpp"

namespace {

constexpr size_t kLarge = size_t{64} << 10;
std::atomic<int64_t> large_allocations{0};

void* counted(size_t bytes) {
  if (bytes >= kLarge) ++large_allocations;
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) {
  return counted(bytes);
}
void* operator new[](size_t bytes) {
  return counted(bytes);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, size_t) noexcept {
  std::free(memory);
}

namespace dino {
namespace {

TrainingConfig config_of(Centering centering, bool separate_head) {
  TrainingConfig config;
  config.vit = vit_preset("vit_micro");
  config.vit.layerscale = 0.1;
  config.objective.dino_head = {config.vit.width, 256, 3, 64, 4096};
  config.objective.ibot_head = config.objective.dino_head;
  config.objective.separate_ibot_head = separate_head;
  config.objective.centering = centering;
  config.local_crops = 8;
  return config;
}

Tensor crops(int64_t count, int64_t side, uint64_t id) {
  Tensor tensor(Shape{count, 3, side, side});
  Random random(3, RandomStream::test, id);
  for (float& value : tensor.f32()) value = random.uniform() * 3.4F - 1.7F;
  return tensor;
}

TEST(Allocation, AStepOfKnownShapesAllocatesNothingAfterTheFirstTwo) {
  constexpr int64_t kImages = 16, kSide = 96, kGrid = 12;
  const Communicator self = Communicator::self();
  const Tensor global = crops(2 * kImages, kSide, 1), local = crops(8 * kImages, 40, 2);
  BlockMaskSettings blocks;
  blocks.grid_h = blocks.grid_w = kGrid;
  blocks.max_patches = default_max_mask_patches(kSide, 8);
  for (const Centering centering : {Centering::sinkhorn, Centering::softmax}) {
    HostModel model(config_of(centering, centering == Centering::sinkhorn), self);
    model.initialize(1);
    for (int64_t step = 1; step <= 6; ++step) {
      const BatchMasks masks = batch_masks({}, blocks, 2 * kImages, 4, static_cast<uint64_t>(step));
      StepBatch batch{kImages, global, local, view_of(masks.masks.data(), Shape{2 * kImages, kGrid * kGrid}),
                      0};
      batch.masked_bound = masks.upper_bound;
      const StepSchedule schedule{1e-3, 1e-3, 0.04, 0.99, 0.05};
      const int64_t tensors = Tensor::bytes_allocated(), large = large_allocations;
      const StepResult result = model.forward_backward(batch, schedule, {});
      ASSERT_TRUE(result.finite);
      model.update(schedule, step);
      if (step <= 2) continue;
      EXPECT_EQ(Tensor::bytes_allocated() - tensors, 0) << "step " << step;
      EXPECT_EQ(large_allocations - large, 0) << "step " << step;
    }
  }
}

/// One rank's part of a larger batch under stochastic depth: how many rows it keeps changes a little from
/// step to step.
TEST(Allocation, NorDoesAStepWithStochasticDepthOnOneOfSeveralRanks) {
  constexpr int64_t kImages = 8, kTotal = 24, kSide = 96, kGrid = 12;
  const Communicator self = Communicator::self();
  const Tensor global = crops(2 * kImages, kSide, 1), local = crops(8 * kImages, 40, 2);
  BlockMaskSettings blocks;
  blocks.grid_h = blocks.grid_w = kGrid;
  blocks.max_patches = default_max_mask_patches(kSide, 8);
  TrainingConfig config = config_of(Centering::sinkhorn, true);
  config.vit.drop_path = 0.3;
  HostModel model(config, self);
  model.initialize(1);
  const std::array<DropPathEntry, 2> entries{DropPathEntry{2, kTotal, 8, kImages}, {8, kTotal, 8, kImages}};
  std::set<size_t> counts;
  for (int64_t step = 1; step <= 10; ++step) {
    const BatchMasks masks = batch_masks({}, blocks, 2 * kImages, 4, static_cast<uint64_t>(step));
    StepBatch batch{kImages, global, local, view_of(masks.masks.data(), Shape{2 * kImages, kGrid * kGrid}),
                    0};
    batch.masked_bound = masks.upper_bound;
    const StepSchedule schedule{1e-3, 1e-3, 0.04, 0.99, 0.05};
    const DropPathPlan plan = draw_drop_path(config.vit, entries, 5, static_cast<uint64_t>(step));
    for (const auto& block : plan.kept)
      for (const auto& branch : block) counts.insert(branch[1].rows.size());
    const int64_t tensors = Tensor::bytes_allocated(), large = large_allocations;
    const StepResult result = model.forward_backward(batch, schedule, [&](Range) { return plan; });
    ASSERT_TRUE(result.finite);
    model.update(schedule, step);
    if (step <= 2) continue;
    EXPECT_EQ(Tensor::bytes_allocated() - tensors, 0) << "step " << step;
    EXPECT_EQ(large_allocations - large, 0) << "step " << step;
  }
  EXPECT_EQ(counts, (std::set<size_t>{44, 45}));  // of 64 local crops, int(192 * 0.7) of 192 in all
}

}  // namespace
}  // namespace dino
