// SPDX-License-Identifier: Apache-2.0
#include "timed_steps.hpp"

#include <algorithm>

#include "base/random.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"
#include "comm/absent_ranks.hpp"
#include "ops/accelerator.hpp"
#include "resources.hpp"
#include "step_crops.hpp"
#include "step_draws.hpp"
#include "training/engine.hpp"

namespace dino::pretrain {

void fill_normal(TensorView view, uint64_t index) {
  Random random(0, RandomStream::synthetic, index);
  for (float& value : view.f32()) value = random.uniform() * 3.46F - 1.73F;
}

namespace {

/// `comm`: the ranks of the steps; `here`: those of them that are there.
Timings time_steps_at(Workplace& place, const TrainConfig& config, const Communicator& comm,
                      const Communicator& here, int64_t warmup, int64_t steps, DataLoader* loader) {
  Engine engine(make_training_config(config), place.context(), comm);
  engine.initialize(0);
  if (kind_of(config.device) != Device::Kind::cpu)
    reserve_activations(place.context(), planned_step(config, comm.size()).activations);
  const Range images = even_range(config.batch, comm.rank(), comm.size());
  const int64_t n = images.size();
  const int64_t side = config.global_size, small = config.local_size, locals = config.local_count;
  Tensor global, local;
  if (loader == nullptr) {
    global = Tensor(Shape{2 * n, 3, side, side});
    local = Tensor(Shape{locals * n, 3, small, small});
    fill_normal(global, 100 + static_cast<uint64_t>(comm.rank()));
    fill_normal(local, 200 + static_cast<uint64_t>(comm.rank()));
  }
  TrainConfig learning = config;
  learning.freeze_backbone_steps = {};
  const Schedules schedules(learning);
  StepCrops crops(place.context());
  Timings timings;
  for (int64_t step = 0; step < warmup + steps; ++step) {
    if (here.any(stop_requested())) throw_stopped();
    const StepDraws draws(config, images, static_cast<uint64_t>(comm.rank()), static_cast<uint64_t>(step));
    StepBatch batch;
    batch.images = n;
    batch.masks = draws.masks();
    batch.masked_bound = draws.masked_bound();
    here.barrier();
    const int64_t allocated = Tensor::bytes_allocated(), faults = page_faults();
    const Stopwatch watch;
    if (loader != nullptr) {
      crops.give(loader->next(), loader->augment(), batch);
      batch.meanwhile = [&] { send_upcoming(*loader, crops); };
    } else {
      batch.global_crops = global;
      if (locals > 0) batch.local_crops = local;
    }
    const StepResult result = engine.forward_backward(batch, schedules.at(step + 1, step), draws.drop_path());
    timings.finite = timings.finite && (result.finite || result.scale_fell);
    engine.update(schedules.at(step + 1, step), step + 1);
    here.barrier();
    if (step < warmup) continue;
    timings.seconds.push_back(watch.seconds());
    timings.allocated_bytes += Tensor::bytes_allocated() - allocated;
    timings.page_faults += page_faults() - faults;
    for (const auto& [name, seconds] : engine.phase_seconds())
      timings.phases[name] += seconds / static_cast<double>(steps);
    timings.loss = result.losses.total;
  }
  timings.arena_bytes = engine.arena_bytes();
  if (kind_of(config.device) != Device::Kind::cpu) timings.device_used_bytes = ops::gpu_memory_used();
  timings.state = engine.state().bytes();
  return timings;
}

}  // namespace

Timings time_steps(const TrainConfig& config, const Communicator& comm, int64_t warmup, int64_t steps,
                   DataLoader* loader) {
  Workplace place(backend_of(config.device), comm, make_training_config(config).precision);
  return time_steps_at(place, config, comm, comm, warmup, steps, loader);
}

Timings time_steps_of_first(const TrainConfig& config, int ranks, const Communicator& here, int64_t warmup,
                            int64_t steps) {
  int64_t received = 0;
  Workplace place(backend_of(config.device), make_absent_ranks(ranks, here, received),
                  make_training_config(config).precision);
  return time_steps_at(place, config, Communicator::alike(ranks), here, warmup, steps, nullptr);
}

}  // namespace dino::pretrain
