// SPDX-License-Identifier: Apache-2.0
#include "training/counted_step.hpp"

#include "comm/absent_ranks.hpp"
#include "ops/counting.hpp"

namespace dino {

CountedStep count_step(const TrainingConfig& config, const StepSizes& sizes, const ops::Backend& backend) {
  const Communicator ranks = Communicator::alike(sizes.ranks);
  CountedStep counted;
  ops::CountingBackend nowhere(backend);
  Workplace place(nowhere, make_absent_ranks(sizes.ranks, Communicator::self(), counted.received),
                  config.precision);
  Engine engine(config, place.context(), ranks);

  const auto crops = [&](int64_t count, int64_t side) {
    return Tensor::uninitialised(Shape{count, config.vit.channels, side, side}, DType::f32, nowhere.memory());
  };
  const Tensor global = crops(2 * sizes.images, sizes.global_side);
  const Tensor local = crops(config.local_crops * sizes.images, sizes.local_side);
  StepBatch batch;
  batch.images = sizes.images;
  batch.global_crops = global;
  if (config.local_crops > 0) batch.local_crops = local;
  batch.masks = sizes.masks;
  batch.masked_bound = sizes.masked_bound;
  const StepSchedule schedule;
  (void)engine.forward_backward(batch, schedule, sizes.drop_path);
  if (sizes.ranks > 1) {
    // What a step receives, the update of the step before included.
    engine.update(schedule, 1);
    counted.received = 0;
    (void)engine.forward_backward(batch, schedule, sizes.drop_path);
    engine.update(schedule, 2);
  }
  counted.state = engine.state().bytes();
  counted.activations = engine.arena_bytes();
  return counted;
}

}  // namespace dino
