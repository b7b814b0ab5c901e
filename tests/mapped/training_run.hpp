// SPDX-License-Identifier: Apache-2.0
#pragma once
// A short training, and what is left of it, to be compared between devices.

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "batch_part.hpp"
#include "mapped/backend.hpp"
#include "mapped/collective.hpp"
#include "ops/context.hpp"
#include "training/engine.hpp"

namespace dino::testing {

struct TrainingCase {
  std::string name;
  TrainingConfig config;
  int64_t frozen = 0;  ///< first steps with a frozen backbone
  int64_t steps = 8;
};

inline void PrintTo(const TrainingCase& given, std::ostream* out) {
  *out << given.name;
}

inline std::vector<TrainingCase> training_cases() {
  TrainingConfig config = micro_training(3);
  std::vector<TrainingCase> cases{{"sinkhorn", config, 0}};
  config.precision = Precision::bf16;
  cases.push_back({"bf16", config, 0});
  config.precision = Precision::f16;
  config.loss_scale = 1024;
  cases.push_back({"fp16", config, 0});
  config.precision = Precision::f32;
  config.objective.centering = Centering::softmax;
  config.objective.separate_ibot_head = false;
  config.vit.registers = 2;
  config.vit.ffn = FfnKind::swiglu;
  config.vit.hidden = swiglu_hidden(config.vit.width);
  cases.push_back({"softmax_registers_swiglu_frozen", config, 2});
  return cases;
}

struct TrainingRun {
  /// Losses, gradient norms and health of each; the last is a share of prototypes.
  std::vector<std::vector<double>> steps;
  std::vector<float> student, teacher, adam_v;
  std::map<std::string, std::vector<double>> centres;
  std::vector<std::map<std::string, double>> phases;  ///< of each step
  std::vector<std::optional<double>> device_seconds;
};

inline std::vector<double> numbers_of(const StepResult& result) {
  const LossTerms& l = result.losses;
  const StepHealth& h = result.health;
  std::vector<double> values{l.total, l.dino_local, l.dino_global, l.ibot, l.koleo};
  values.insert(values.end(), result.grad_norms.begin(), result.grad_norms.end());
  values.insert(values.end(),
                {h.teacher_entropy, h.information, h.kl, h.feature_std, h.effective_rank, h.prototype_usage});
  return values;
}

inline std::vector<float> values_of(const ParameterStore& host) {
  std::vector<float> values;
  for (size_t unit = 0; unit < host.layout().units().size(); ++unit) {
    const std::span<const float> part = host.unit(static_cast<int64_t>(unit)).f32();
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

inline std::vector<float> values_of(Stream& stream, const ParameterStore& store) {
  ParameterStore host(store.layout());
  host.copy_from(stream, store);
  stream.synchronize();
  return values_of(host);
}

inline std::vector<float> values_of(Stream& stream, const ShardedValues& values) {
  ParameterStore host(values.layout());
  values.gather(stream, host);
  return values_of(host);
}

inline TrainingRun train(const TrainingCase& given, ops::Backend& backend,
                         std::unique_ptr<Collective> collective, const Communicator& comm) {
  constexpr int64_t kImages = 12;
  const TrainingConfig& config = given.config;
  const Range own = even_range(kImages, comm.rank(), comm.size());
  Workplace place(backend, std::move(collective), config.precision);
  TrainingRun run;
  Engine model(config, place.context(), comm);
  model.initialize(3);
  for (int64_t step = 0; step < given.steps; ++step) {
    const auto seed = static_cast<uint64_t>(step);
    const BatchPart part(config, kImages, own.begin, own.size(), seed, false);
    const StepSchedule schedule{1e-3, step == 0 ? 0.0 : 1e-3, 0.04,        0.99,
                                0.05, step < given.frozen,    given.frozen};
    const StepResult result =
        model.forward_backward(part.batch, schedule, drop_path_of(config, kImages, own, seed));
    EXPECT_TRUE(result.finite) << step;
    model.update(schedule, step + 1);
    run.steps.push_back(numbers_of(result));
    run.phases.push_back(model.phase_seconds());
    run.device_seconds.push_back(model.device_seconds());
  }
  Stream& stream = place.context().stream;
  run.student = values_of(stream, model.state().student_values());
  run.teacher = values_of(stream, model.state().teacher_values());
  run.adam_v = values_of(stream, model.state().adam_v());
  run.centres = model.objective_state();
  return run;
}

inline TrainingRun train(const TrainingCase& given, ops::Backend& backend, const Communicator& comm) {
  return train(given, backend, backend.new_collective(comm), comm);
}

inline TrainingRun train(const TrainingCase& given, MappedBackend& backend, const Communicator& comm) {
  return train(given, backend, make_mapped_collective(backend.memory(), make_mpi_collective(comm)), comm);
}

/// Bit for bit.
inline void expect_same(const TrainingRun& a, const TrainingRun& b) {
  EXPECT_EQ(a.steps, b.steps);
  EXPECT_TRUE(a.student == b.student);
  EXPECT_TRUE(a.teacher == b.teacher);
  EXPECT_TRUE(a.adam_v == b.adam_v);
  EXPECT_EQ(a.centres, b.centres);
}

}  // namespace dino::testing
