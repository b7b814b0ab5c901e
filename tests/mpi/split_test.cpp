// SPDX-License-Identifier: Apache-2.0
// A training depends on the batch, not on how it is split: ranks, micro-batches and strategies against one
// process that takes the batch whole.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "batch_part.hpp"
#include "host_model.hpp"
#include "training/counted_step.hpp"

namespace dino {
namespace {

using testing::BatchPart;
using testing::drop_path_of;

constexpr int64_t kImages = 16;
#ifdef DINO_SANITIZE
constexpr int64_t kSteps = 3;  // the sanitizers look at the code, not at how rounding grows
#else
constexpr int64_t kSteps = 20;
#endif

TrainingConfig config_of(const SplitConfig& split, Precision precision = Precision::f32) {
  TrainingConfig config = testing::micro_training(2);
  config.split = split;
  config.precision = precision;
  config.loss_scale = 16;  // no step is to be left out
  return config;
}

struct Training {
  std::vector<double> losses, norms;
  ParameterLayout layout;
  ParameterStore student, teacher;
};

/// `kSteps` steps with warm-up; a rank's part of the images is even. Returns the bytes of the arena.
int64_t train(const TrainingConfig& config, const Communicator& comm, Training& run) {
  HostModel model(config, comm);
  model.initialize(3);
  const Range own = even_range(kImages, comm.rank(), comm.size());
  for (int64_t step = 0; step < kSteps; ++step) {
    const auto seed = static_cast<uint64_t>(step);
    const BatchPart part(config, kImages, own.begin, own.size(), seed, false);
    const double rate = 1e-3 * std::min(1.0, static_cast<double>(step + 1) / 5);
    const StepSchedule schedule{rate, step < 3 ? 0.0 : rate, 0.04, 0.99, 0.05};
    const StepResult result =
        model.forward_backward(part.batch, schedule, drop_path_of(config, kImages, own, seed));
    EXPECT_TRUE(result.finite) << step;
    model.update(schedule, step + 1);
    run.losses.push_back(result.losses.total);
    run.norms.insert(run.norms.end(), result.grad_norms.begin(), result.grad_norms.end());
  }
  HostStream stream;
  run.layout = model.layout();
  run.student = ParameterStore(run.layout);
  run.teacher = ParameterStore(run.layout);
  model.state().student_values().gather(stream, run.student);
  model.state().teacher_values().gather(stream, run.teacher);
  return model.arena_bytes();
}

double largest_relative(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = a.size() == b.size() ? 0 : HUGE_VAL;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    largest = std::max(largest, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return largest;
}

/// The unit that differs most: |a - b| / |b|.
double largest_l2(const ParameterStore& a, const ParameterStore& b) {
  double largest = 0;
  for (size_t unit = 0; unit < a.layout().units().size(); ++unit) {
    const std::span<const float> x = a.unit(static_cast<int64_t>(unit)).f32();
    const std::span<const float> y = b.unit(static_cast<int64_t>(unit)).f32();
    double difference = 0, norm = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double d = static_cast<double>(x[i]) - static_cast<double>(y[i]);
      difference += d * d;
      norm += static_cast<double>(y[i]) * static_cast<double>(y[i]);
    }
    largest = std::max(largest, std::sqrt(difference / norm));
  }
  return largest;
}

const Training& whole() {
  static const Training* const run = [] {
    auto* made = new Training;
    train(config_of({}), Communicator::self(), *made);
    return made;
  }();
  return *run;
}

/// Counts what a rank receives from the groups that are split off: those of the model's state.
class CountingCollective final : public Collective {
 public:
  CountingCollective(std::unique_ptr<Collective> inner, int64_t& received, bool counts)
      : inner_(std::move(inner)), received_(received), counts_(counts) {}
  [[nodiscard]] int rank() const override { return inner_->rank(); }
  [[nodiscard]] int size() const override { return inner_->size(); }
  [[nodiscard]] Event all_reduce(Stream& stream, TensorView values, ReduceOp op) override {
    count(2, values);  // the other ranks' pieces of one's own part, then the other parts' sums
    return inner_->all_reduce(stream, values, op);
  }
  [[nodiscard]] Event all_gather(Stream& stream, TensorView all) override {
    count(1, all);
    return inner_->all_gather(stream, all);
  }
  [[nodiscard]] Event reduce_scatter(Stream& stream, TensorView all) override {
    count(1, all);
    return inner_->reduce_scatter(stream, all);
  }
  [[nodiscard]] std::unique_ptr<Collective> split(const std::function<int(int)>& colour) const override {
    return std::make_unique<CountingCollective>(inner_->split(colour), received_, true);
  }
  void poll() override { inner_->poll(); }
  [[nodiscard]] const CollectiveUse& use() const override { return inner_->use(); }

 private:
  void count(int64_t times, TensorView values) {
    if (counts_)
      received_ +=
          times * (size() - 1) * values.numel() * static_cast<int64_t>(size_of(values.dtype)) / size();
  }
  std::unique_ptr<Collective> inner_;
  int64_t& received_;
  bool counts_;
};

class SplitTest : public ::testing::TestWithParam<Strategy> {};

TEST_P(SplitTest, TrainsAsOneProcessDoes) {
  const Communicator world = Communicator::world();
  if (GetParam() == Strategy::hybrid && world.size() < 4) GTEST_SKIP() << "a hybrid of one group is full";
  for (const int64_t accumulate : {1, 2, 4}) {
    const SplitConfig split{GetParam(), world.size() == 4 ? 2 : world.size(), accumulate};
    Training run;
    train(config_of(split), world, run);
    const double loss = largest_relative(run.losses, whole().losses);
    const double norm = largest_relative(run.norms, whole().norms);
    const double student = largest_l2(run.student, whole().student);
    const double teacher = largest_l2(run.teacher, whole().teacher);
    if (world.root())
      std::printf("split  %d ranks  %-9s  accumulate %lld  losses %.1e  gradient norms %.1e  weights %.1e\n",
                  world.size(), std::string(name_of(GetParam())).c_str(), static_cast<long long>(accumulate),
                  loss, norm, student);
    EXPECT_LE(loss, 1e-4);
    EXPECT_LE(student, 1e-4);
    EXPECT_LE(teacher, 1e-4);
  }
}

/// Gradients that travel in 16 bits are rounded twice, by 2^-9 or 2^-11: losses stay near those of fp32.
TEST_P(SplitTest, GradientsTravelIn16Bits) {
  const Communicator world = Communicator::world();
  if (world.size() == 1) GTEST_SKIP() << "nothing travels";
  if (GetParam() == Strategy::hybrid && world.size() < 4) GTEST_SKIP() << "a hybrid of one group is full";
  for (const Precision reduce : {Precision::bf16, Precision::f16})
    for (const int64_t accumulate : {1, 2}) {
      TrainingConfig config = config_of({GetParam(), world.size() == 4 ? 2 : world.size(), accumulate});
      config.reduce_precision = reduce;
      Training run;
      train(config, world, run);
      const double loss = largest_relative(run.losses, whole().losses);
      const double norm = largest_relative(run.norms, whole().norms);
      if (world.root())
        std::printf(
            "split  %d ranks  %-9s  accumulate %lld  reduced in %s  losses %.1e  gradient norms %.1e\n",
            world.size(), std::string(name_of(GetParam())).c_str(), static_cast<long long>(accumulate),
            std::string(name_of(reduce)).c_str(), loss, norm);
      EXPECT_LE(loss, 2e-3);
      EXPECT_NE(run.norms, whole().norms) << "they did not travel in 16 bits";
    }
}

INSTANTIATE_TEST_SUITE_P(All, SplitTest,
                         ::testing::Values(Strategy::replicate, Strategy::optimizer, Strategy::gradients,
                                           Strategy::full, Strategy::hybrid),
                         [](const auto& given) { return std::string(name_of(given.param)); });

/// fp16 rounds what each image computes, which no split changes: as near to one process as fp32 to fp32, but
/// for products whose last bit an order of sums decides.
TEST(Split, Fp16TrainsAsOneProcessDoes) {
  const Communicator world = Communicator::world();
  Training alone, run;
  train(config_of({}, Precision::f16), Communicator::self(), alone);
  for (const int64_t accumulate : {1, 2}) {
    run = {};
    train(config_of({Strategy::full, 0, accumulate}, Precision::f16), world, run);
    const double loss = largest_relative(run.losses, alone.losses);
    const double to_f32 = largest_relative(run.losses, whole().losses);
    if (world.root())
      std::printf("split  %d ranks  fp16  accumulate %lld  losses %.1e  of fp32's %.1e\n", world.size(),
                  static_cast<long long>(accumulate), loss, to_f32);
    EXPECT_LE(loss, 1e-3);
    EXPECT_LE(to_f32, 5e-3);
  }
}

/// Making activations again changes no bit, and needs less memory.
TEST(Split, RecomputedActivationsAreTheSame) {
  const Communicator world = Communicator::world();
  for (const int64_t accumulate : {1, 2}) {
    std::vector<Training> runs(3);
    // Large enough for activations to outweigh the heads.
    std::vector<int64_t> bytes;
    for (const Recompute recompute : {Recompute::none, Recompute::selective, Recompute::block}) {
      TrainingConfig config = config_of({Strategy::full, 0, accumulate, recompute});
      config.vit.depth = 8;
      bytes.push_back(train(config, world, runs[bytes.size()]));
    }
    for (size_t i = 1; i < runs.size(); ++i) {
      EXPECT_EQ(runs[i].losses, runs[0].losses);
      EXPECT_EQ(runs[i].norms, runs[0].norms);
      EXPECT_EQ(largest_l2(runs[i].student, runs[0].student), 0);
      EXPECT_LT(bytes[i], bytes[i - 1]);
    }
  }
}

/// So does making the teacher's targets again, with or without rows of the patches' head on a rank.
TEST(Split, TargetsMadeAgainAreTheSame) {
  const Communicator world = Communicator::world();
  for (const Centering centering : {Centering::sinkhorn, Centering::softmax})
    for (const bool separate : {true, false}) {
      std::vector<Training> runs(2);
      for (size_t i = 0; i < runs.size(); ++i) {
        TrainingConfig config = config_of({Strategy::full});
        config.split.targets_gib = i == 0 ? 1 : 0;
        config.objective.centering = centering;
        config.objective.separate_ibot_head = separate;
        train(config, world, runs[i]);
      }
      EXPECT_EQ(runs[1].losses, runs[0].losses);
      EXPECT_EQ(largest_l2(runs[1].student, runs[0].student), 0);
      EXPECT_EQ(largest_l2(runs[1].teacher, runs[0].teacher), 0);
    }
}

/// What is planned without a model, against one that has trained a step.
TEST(Split, BytesAreAsPlanned) {
  const Communicator world = Communicator::world();
  for (const Strategy strategy :
       {Strategy::replicate, Strategy::optimizer, Strategy::gradients, Strategy::full, Strategy::hybrid})
    for (const auto& [reduce, accumulate] :
         {std::pair{Precision::f32, 1}, {Precision::f32, 2}, {Precision::bf16, 1}, {Precision::f16, 2}}) {
      const int64_t group = world.size() == 4 ? 2 : world.size();
      TrainingConfig config = config_of({strategy, group, accumulate});
      config.reduce_precision = reduce;
      config.vit.depth = 4;
      if (accumulate == 2) config.split.targets_gib = 0;
      int64_t received = 0;
      Workplace place(ops::backend_named("cpu"),
                      std::make_unique<CountingCollective>(make_mpi_collective(world), received, false),
                      config.precision);
      Engine model(config, place.context(), world);
      model.initialize(1);
      const Range own = even_range(kImages, world.rank(), world.size());
      const BatchPart part(config, kImages, own.begin, own.size(), 1, false);
      const StepSchedule schedule{1e-3, 1e-3, 0.04, 0.99, 0.05};
      // The first step's update is what the second one has to fetch.
      for (int64_t step = 1; step <= 2; ++step) {
        received = 0;
        ASSERT_TRUE(model.forward_backward(part.batch, schedule, {}).finite);
        model.update(schedule, step);
      }
      SCOPED_TRACE(std::string(name_of(strategy)) + " " + std::string(name_of(reduce)));
      StepSizes sizes;
      sizes.ranks = world.size();
      sizes.images = own.size();
      sizes.global_side = BatchPart::kGlobal;
      sizes.local_side = BatchPart::kLocal;
      sizes.masks = part.batch.masks;
      const CountedStep planned = count_step(config, sizes, ops::backend_named("cpu"));
      EXPECT_EQ(received, planned.received) << accumulate;
      const StateBytes held = model.state().bytes();
      EXPECT_EQ(held.parameters, planned.state.parameters);
      EXPECT_EQ(held.gradients, planned.state.gradients);
      EXPECT_EQ(held.moments, planned.state.moments);
      EXPECT_EQ(held.buffers, planned.state.buffers) << accumulate;
      // Where every rank has as many images, the batch is the planned one.
      if (kImages % world.size() == 0) {
        EXPECT_EQ(model.arena_bytes(), planned.activations) << accumulate;
      }
    }
}

/// What a rank keeps, in bytes per parameter of a whole (f32 student, teacher, gradients, two moments).
TEST(Split, ARankKeepsItsParts) {
  const Communicator world = Communicator::world();
  const auto held = [&](Strategy strategy) {
    HostModel model(config_of({strategy, world.size(), 1}), world);
    ParameterState& state = model.state();
    int64_t numel = 0, whole = 0;
    for (ShardedValues* values : {&state.student_values(), &state.teacher_values(), &state.gradient_values(),
                                  &state.adam_m(), &state.adam_v()})
      for (size_t unit = 0; unit < model.layout().units().size(); ++unit)
        numel += values->unit(static_cast<int64_t>(unit)).numel();
    for (size_t unit = 0; unit < model.layout().units().size(); ++unit)
      whole += state.plan().buffer_numel(static_cast<int64_t>(unit));
    return static_cast<double>(numel) / static_cast<double>(whole);
  };
  const double part = 1.0 / world.size();
  EXPECT_DOUBLE_EQ(held(Strategy::replicate), 5);
  EXPECT_DOUBLE_EQ(held(Strategy::optimizer), 3 + 2 * part);
  EXPECT_DOUBLE_EQ(held(Strategy::gradients), 2 + 3 * part);
  EXPECT_DOUBLE_EQ(held(Strategy::full), 5 * part);
}

}  // namespace
}  // namespace dino
