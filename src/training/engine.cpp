// SPDX-License-Identifier: Apache-2.0
#include "training/engine.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <string_view>

#include "base/error.hpp"
#include "base/span.hpp"
#include "base/timing.hpp"
#include "training/health.hpp"

namespace dino {
namespace {

/// The phase that lies within others, and is not counted in them.
constexpr const char* kReduce = "reduce";

/// Adds the time until its end to a phase, but for what is spent on reductions; where the stream has a clock,
/// that tells the time later.
class PhaseTimer {
 public:
  PhaseTimer(std::map<std::string, double>& phases, const char* name, const ParameterState& state,
             Stream& stream)
      : span_(name),
        clock_(stream.clock()),
        on_device_(clock_, name),
        seconds_(phases[name]),
        state_(state),
        waited_(state.wait_seconds()) {}
  ~PhaseTimer() {
    if (clock_ == nullptr) seconds_ += watch_.seconds() - (state_.wait_seconds() - waited_);
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;
  /// The rest is the host's alone.
  void enqueued() { on_device_.stop(); }

 private:
  Span span_;
  StreamClock* clock_;
  ClockSpan on_device_;
  double& seconds_;
  const ParameterState& state_;
  double waited_;
  Stopwatch watch_;
};

ParameterLayout make_layout(const TrainingConfig& config, const Objective& objective) {
  ParameterLayout layout;
  append_vit_layout(layout, config.vit);
  objective.declare(layout);
  return layout;
}

std::vector<std::string> modules_of(const Objective& objective) {
  std::vector<std::string> modules{"backbone"};
  for (std::string& module : objective.modules()) modules.push_back(std::move(module));
  return modules;
}

}  // namespace

Engine::Engine(const TrainingConfig& config, Context& context, const Communicator& comm)
    : config_(config),
      c_(context),
      comm_(comm),
      objective_(make_objective(config, context)),
      layout_(make_layout(config, *objective_)),
      state_(layout_, config.split.strategy, config.split.hybrid_ranks, dtype_of(config.reduce_precision),
             context),
      student_(config.vit),
      teacher_(config.vit),
      optimizer_(config, layout_, modules_of(*objective_)),
      host_matrix_(Shape{kRankRows * kRankRows}),
      loss_scale_(config) {
  DINO_CHECK(context.precision == config.precision, "a context of another precision");
  const auto modules = static_cast<int64_t>(optimizer_.modules().size());
  scalars_ = Tensor(Shape{modules + objective_->scalars().count}, DType::f64, context.ops.memory());
  host_scalars_ = Tensor(scalars_.shape(), DType::f64);
  matrix_ = Tensor(Shape{kRankRows * kRankRows}, DType::f32, context.ops.memory());
  factors_ = Tensor(Shape{modules}, DType::f32, context.ops.memory());
  finite_ = Tensor(Shape{1}, DType::f32, context.ops.memory());
}

void Engine::initialize(uint64_t seed) {
  begin_with([&](int64_t unit, TensorView values) { draw_unit(layout_, unit, seed, values.f32()); });
}

void Engine::begin_with(const std::function<void(int64_t unit, TensorView values)>& fill) {
  // One unit at a time: a rank that keeps parts never holds the whole.
  const auto units = static_cast<int64_t>(layout_.units().size());
  for (int64_t unit = 0; unit < units; ++unit) {
    Tensor values(Shape{layout_.units()[static_cast<size_t>(unit)].padded});
    fill(unit, values);
    state_.student_values().set_unit(c_.stream, unit, values);
    c_.stream.synchronize();
  }
  state_.teacher_values().copy_from(c_.stream, state_.student_values());
  state_.adam_m().zero(c_.stream);
  state_.adam_v().zero(c_.stream);
  objective_->start();
  loss_scale_ = LossScale(config_);
}

std::map<std::string, std::vector<double>> Engine::objective_state() const {
  std::map<std::string, std::vector<double>> state = objective_->state(c_.stream);
  state.merge(loss_scale_.state());
  return state;
}

void Engine::set_objective_state(const std::map<std::string, std::vector<double>>& state) {
  objective_->set_state(c_.stream, state);
  loss_scale_.set_state(state);
}

void Engine::begin_step(const StepBatch& batch) {
  const PhaseTimer timer(seconds_, "prepare", state_, c_.stream);
  const int64_t b = batch.images, crops = local_crops();
  masked_ = objective_->needs().masked_patches ? masked_patches(batch) : MaskedPatches{};
  const std::array<int64_t, 2> own{b, masked_.masked};
  const std::vector<int64_t> all = comm_.all_gather_values(std::span<const int64_t>(own));
  split_ = {{}, comm_.rank()};
  masked_total_ = 0;
  for (size_t i = 0; i < all.size(); i += 2) {
    split_.counts.push_back(all[i]);
    masked_total_ += all[i + 1];
  }
  DINO_CHECK(*std::min_element(split_.counts.begin(), split_.counts.end()) >= config_.split.accumulate,
             "a rank has fewer images than micro-batches");
  DINO_CHECK(batch.global_crops && batch.global_crops.dim(0) == 2 * b, "two global crops per image");
  DINO_CHECK(crops == 0 || (batch.local_crops && batch.local_crops.dim(0) == crops * b),
             "local crops do not match the configuration");
  if (batch.masks) {
    const int64_t patches =
        batch.global_crops.dim(2) / config_.vit.patch * (batch.global_crops.dim(3) / config_.vit.patch);
    DINO_CHECK(batch.masks.dim(0) == 2 * b && batch.masks.dim(1) == patches, "masks do not match the crops");
  }
  c_.arena.reset();
  state_.begin_step();
  fill(c_.stream, scalars_, 0);
}

BatchTokens Engine::make_tokens(int64_t images, int64_t local_crops) {
  const int64_t rows = (local_crops + 2) * images + masked_.count();
  return {images, local_crops, c_.arena.make({rows, config_.vit.width})};
}

void Engine::observe_pass(const char* pass, Range images) const {
  if (c_.observer != nullptr) c_.observer->begin_pass(pass, images.begin, images.size());
}

Range Engine::micro_images(int64_t images, int64_t micro) const {
  return even_range(images, static_cast<int>(micro), static_cast<int>(config_.split.accumulate));
}

void Engine::teacher_tokens(const StepBatch& batch, const BatchTokens& tokens) {
  const PhaseTimer timer(seconds_, "teacher", state_, c_.stream);
  for (int64_t i = 0; i < config_.split.accumulate; ++i) {
    const Arena::Scope scope(c_.arena);
    const MicroBatch micro = micro_batch(c_, batch, micro_images(batch.images, i), false, false);
    const TokenRows rows(c_, config_.vit, micro, batch.images, 0, masked_);
    observe_pass("teacher", micro.images);
    VitForwardOptions options;
    options.read_rows = rows.read();
    rows.take(c_, teacher_.forward(c_, state_.teacher(), micro.crops, options).norm, tokens);
  }
}

VitOutput Engine::student_forward(const MicroBatch& micro, const TokenRows& rows, const DropPathPlan& plan,
                                  std::shared_ptr<VitSaved>* saved) {
  const PhaseTimer timer(seconds_, "student_forward", state_, c_.stream);
  observe_pass("student", micro.images);
  VitForwardOptions options;
  if (!plan.empty()) options.drop_path = &plan;
  options.read_rows = rows.read();
  options.recompute = config_.split.recompute;
  return student_.forward(c_, state_.student(), micro.crops, options, saved);
}

void Engine::student_backward(const MicroBatch& micro, const TokenRows& rows, const VitOutput& output,
                              const BatchTokens& gradient) {
  const PhaseTimer timer(seconds_, "backward", state_, c_.stream);
  observe_pass("backward", micro.images);
  const TensorView d_norm = c_.arena.zeros(c_.stream, output.norm.shape);
  rows.put(c_, gradient, d_norm);
  student_.backward(c_, state_.student(), *saved_, d_norm, {}, state_.gradients());
}

TensorView Engine::run_objective(const StepContext& step, const StepTokens& tokens) {
  const PhaseTimer timer(seconds_, "losses", state_, c_.stream);
  observe_pass("losses", {0, step.split.own()});
  state_.begin_pass(true);
  // Targets and logits give their memory back to the backward pass.
  const Arena::Scope scope(c_.arena);
  const TensorView made = objective_->batch(step, tokens.student, tokens.teacher, tokens.gradient);
  const TensorView matrix = matrix_.view().rows(0, made.numel()).reshaped(made.shape);
  copy(c_.stream, matrix, made);
  return matrix;
}

TensorView Engine::whole_step(const StepBatch& batch, const DropPathDraw& drop_path, const StepContext& step,
                              const StepTokens& tokens, bool backward) {
  const Range images{0, batch.images};
  const MicroBatch micro = micro_batch(c_, batch, images, true, true);
  const TokenRows rows(c_, config_.vit, micro, batch.images, local_crops(), masked_);
  const DropPathPlan plan = drop_path ? drop_path(images) : DropPathPlan{};
  const VitOutput output = student_forward(micro, rows, plan, &saved_);
  rows.take(c_, output.norm, tokens.student);
  const TensorView matrix = run_objective(step, tokens);
  if (backward) student_backward(micro, rows, output, tokens.gradient);
  return matrix;
}

TensorView Engine::split_step(const StepBatch& batch, const DropPathDraw& drop_path, const StepContext& step,
                              const StepTokens& tokens, bool backward) {
  const auto each = [&](const auto& pass) {
    for (int64_t i = 0; i < config_.split.accumulate; ++i) {
      const Arena::Scope scope(c_.arena);
      const Range images = micro_images(batch.images, i);
      const MicroBatch micro = micro_batch(c_, batch, images, true, true);
      const TokenRows rows(c_, config_.vit, micro, batch.images, local_crops(), masked_);
      pass(i, micro, rows, drop_path ? drop_path(images) : DropPathPlan{});
    }
  };
  each([&](int64_t, const MicroBatch& micro, const TokenRows& rows, const DropPathPlan& plan) {
    rows.take(c_, student_forward(micro, rows, plan, nullptr).norm, tokens.student);
  });
  const TensorView matrix = run_objective(step, tokens);
  if (!backward) return matrix;
  each([&](int64_t i, const MicroBatch& micro, const TokenRows& rows, const DropPathPlan& plan) {
    state_.begin_pass(i == config_.split.accumulate - 1);
    student_backward(micro, rows, student_forward(micro, rows, plan, &saved_), tokens.gradient);
  });
  return matrix;
}

StepResult Engine::forward_backward(const StepBatch& batch, const StepSchedule& schedule,
                                    const DropPathDraw& drop_path) {
  for (auto& [phase, seconds] : seconds_) seconds = 0;
  state_.reset_wait_seconds();
  begin_step(batch);
  StepTokens tokens{make_tokens(batch.images, local_crops()), {}, make_tokens(batch.images, local_crops())};
  if (objective_->needs().teacher) {
    tokens.teacher = make_tokens(batch.images, 0);
    teacher_tokens(batch, tokens.teacher);
  }
  const auto modules = static_cast<int64_t>(optimizer_.modules().size());
  const StepContext step{c_,
                         state_.student(),
                         state_.teacher(),
                         state_.gradients(),
                         split_,
                         masked_,
                         masked_total_,
                         schedule.teacher_temperature,
                         loss_scale_.value(),
                         scalars_.view().rows(modules, objective_->scalars().count)};
  const bool backward = !schedule.backbone_frozen;
  const TensorView matrix = config_.split.accumulate == 1
                                ? whole_step(batch, drop_path, step, tokens, backward)
                                : split_step(batch, drop_path, step, tokens, backward);
  {
    const Span span(kReduce);
    state_.finish_step();
  }
  seconds_[kReduce] = c_.stream.clock() == nullptr ? state_.wait_seconds() : 0;
  PhaseTimer timer(seconds_, "settle", state_, c_.stream);
  settle_update();
  const TensorView host_matrix = enqueue_read_back(matrix);
  timer.enqueued();
  if (batch.meanwhile) batch.meanwhile();
  c_.stream.synchronize();
  take_device_times();
  return read_back(host_matrix);
}

void Engine::settle_update() {
  const auto modules = static_cast<int64_t>(optimizer_.modules().size());
  const TensorView squares = scalars_.view().rows(0, modules);
  const TensorView decisive = scalars_.view().rows(0, modules + objective_->scalars().summed);
  optimizer_.add_squares(c_, state_, squares);
  c_.stream.wait(c_.collective.all_reduce(c_.stream, decisive));
  c_.ops.all_finite(c_.stream, decisive, finite_);
  c_.ops.clip_factors(c_.stream, squares, loss_scale_.value(), config_.optimizer.clip, factors_);
}

TensorView Engine::enqueue_read_back(TensorView matrix) {
  const TensorView host_matrix = host_matrix_.view().rows(0, matrix.numel()).reshaped(matrix.shape);
  copy(c_.stream, host_scalars_, scalars_);
  copy(c_.stream, host_matrix, matrix);
  return host_matrix;
}

void Engine::take_device_times() {
  StreamClock* const clock = c_.stream.clock();
  if (clock == nullptr) return;
  device_seconds_ = 0;
  SpanListener::Told around{};
  for (const SpanListener::Told& told : clock->take()) {
    tell_span(told);
    if (std::string_view(told.category) != "phase") continue;
    const double seconds = std::chrono::duration<double>(told.end - told.begin).count();
    seconds_[told.name] += seconds;
    const bool is_reduction = std::string_view(told.name) == kReduce;
    const bool is_within = is_reduction && around.name != nullptr && told.end <= around.end;
    if (is_within) seconds_[around.name] -= seconds;
    if (!is_within) *device_seconds_ += seconds;
    if (!is_reduction) around = told;
  }
}

StepResult Engine::read_back(TensorView host_matrix) {
  const size_t modules = optimizer_.modules().size();
  const std::span<const double> all(host_scalars_.as<double>(), static_cast<size_t>(host_scalars_.numel()));
  StepResult result;
  objective_->report(all.subspan(modules), host_matrix, split_.total(), result);
  result.loss_scale = loss_scale_.value();
  for (const double squares : all.first(modules))
    result.grad_norms.push_back(std::sqrt(squares) / result.loss_scale);
  const auto decisive = all.first(modules + static_cast<size_t>(objective_->scalars().summed));
  result.finite = std::all_of(decisive.begin(), decisive.end(), [](double x) { return std::isfinite(x); });
  result.scale_fell = loss_scale_.settle(result.finite);
  return result;
}

void Engine::update(const StepSchedule& schedule, int64_t step) {
  const PhaseTimer timer(seconds_, "optimizer", state_, c_.stream);
  optimizer_.update(c_, state_, schedule, step, factors_, finite_);
}

}  // namespace dino
