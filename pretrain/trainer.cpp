// SPDX-License-Identifier: Apache-2.0
#include "trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <exception>
#include <span>
#include <tuple>
#include <utility>

#include "base/log.hpp"
#include "base/progress.hpp"
#include "base/signals.hpp"
#include "comm/together.hpp"
#include "datasets/on_all_ranks.hpp"
#include "model/weights.hpp"
#include "ops/gemm_rate.hpp"
#include "step_draws.hpp"
#include "storage/output_folder.hpp"
#include "training/masks.hpp"

namespace dino::pretrain {
namespace {

/// What the step saw, in 8 hex digits: samples, crops and masks of all ranks.
std::string batch_checksum(int64_t crops, const BatchMasks& masks) {
  const uint32_t first = crc32c(std::as_bytes(std::span(&crops, 1)));
  return hex32(crc32c(std::as_bytes(std::span(masks.masks)), first));
}

/// The checkpoint that --resume means in this run folder; empty: begin anew.
std::string checkpoint_to_resume(const std::string& run, const Resume& resume) {
  remove_unfinished_checkpoints(run);
  if (resume.from == Resume::From::newest) {
    std::string folder = newest_valid_checkpoint(run);
    if (folder.empty()) refuse_lost_checkpoints(run);
    return folder;
  }
  if (resume.from == Resume::From::nothing) {
    if (!list_checkpoints(run).empty())
      throw UsageError(fmt::format(
          "the run exists already: --resume none: {} holds checkpoints; use --resume auto, or another "
          "--output",
          run));
    return {};
  }
  const std::string& folder = resume.folder;
  if (!path_exists(folder))
    throw MissingInputError(fmt::format("cannot resume: --resume {}: no such folder", folder));
  const std::string fault = verify_checkpoint(folder);
  if (!fault.empty()) throw DataError(fmt::format("cannot resume: --resume {}: {}", folder, fault));
  return folder;
}

}  // namespace

Trainer::Trainer(CommandContext& context, TrainConfig config, Start start)
    : context_(context),
      config_(std::move(config)),
      beginning_(std::move(start.beginning)),
      comm_(context.world),
      list_(std::move(start.list)),
      forecast_(std::move(start.forecast)),
      schedules_(config_),
      place_(backend_of(config_.device), context.world,
             precision_here(config_.precision, kind_of(config_.device))),
      crops_(place_.context()),
      engine_(make_training_config(config_), place_.context(), context.world),
      flops_per_image_(flops_per_image(engine_.config(), config_.global_size, config_.local_size)),
      captures_(context.common.output, config_.captures),
      outliers_(config_.outlier_z),
      replaced_(0, config_.max_replaced) {
  if (kind_of(config_.device) != Device::Kind::cpu)
    reserve_activations(place_.context(), forecast_ ? forecast_->memory.activations
                                                    : planned_step(config_, comm_.size()).activations);
  if (forecast_) forecast_->memory.set_state(engine_.state().bytes());
  for (const std::string& fault : list_.faults()) log::warning(fault);
}

ExitCode Trainer::run() {
  const std::string& run = context_.common.output;
  lock_ = lock_output_folder(context_, output_kind::training);
  on_root(comm_, [&] {
    make_folders(run + "/checkpoints");
    check_data(run, list_);
    check_or_write_config(run, context_.config_ini);
  });
  // Few rows: the rate is near that of larger products, and the start of a run does not wait for it.
  gemm_gflops_ = comm_.sum(ops::gemm_rate(place_.context().ops, engine_.config().precision, 512, 3));
  list_ = share_list(std::move(list_), list_path(run), comm_);
  replaced_ = ReplacedSamples(list_.count(), config_.max_replaced);
  restore();
  if (comm_.root()) begin_log();
  if (step_ >= config_.steps) {
    log::info(fmt::format("{}: already trained for {} steps", run, step_));
    return ExitCode::done;
  }
  checkpoints_ =
      std::make_unique<RunCheckpoints>(run, config_, content().stores, comm_, log_.get(), restored_);
  if (config_.knn_every > 0) {
    knn_ = std::make_unique<OnlineKnn>(config_, run, comm_);
    knn_vit_ = std::make_unique<Vit>(engine_.config().vit);
    if (step_ == 0) evaluate_knn();
  }
  const LoaderConfig loader_config =
      make_loader_config(config_, static_cast<uint64_t>(context_.common.seed), resolve_threads(context_));
  DataLoader loader(list_, loader_config, even_range(config_.batch, comm_.rank(), comm_.size()), step_);
  return train(loader);
}

void Trainer::begin_log() {
  const std::string& run = context_.common.output;
  log_ = std::make_unique<RunLog>(run, step_);
  replaced_before_ = log_->replaced_before();
  write_run_json(run, context_, list_, engine_.config(), kind_of(config_.device), step_);
  if (step_ == 0)
    log_->start(config_, context_,
                {list_.count(), engine_.layout().count(), gemm_gflops_, forecast_ ? &*forecast_ : nullptr});
}

ExitCode Trainer::train(DataLoader& loader) {
  const log::Phase phase("training");
  Progress progress("pretrain", config_.steps * config_.batch, "images");
  progress.start_at(step_ * config_.batch);
  static_cast<void>(collectives_since());
  if (config_.trace > 0) trace_ = std::make_unique<StepTrace>(comm_.rank(), config_.trace);
  while (step_ < config_.steps) {
    write_trace(false);
    const Span span(StepTrace::kStep);
    if (!data_ready(loader)) return stopped(progress);
    // A step that has begun and its checkpoint are worth the time they take.
    const FinishingScope finishing;
    train_step(loader);
    show(progress);
    const bool last = step_ == config_.steps;
    if (knn_ && (step_ % config_.knn_every == 0 || last)) evaluate_knn();
    if (last) {
      save(true);
      break;
    }
    const std::array<int64_t, 2> votes = end_of_step_votes();
    if (votes[0] > 0) return stopped(progress);
    if (votes[1] == 0) checkpoints_->finish();
    if (is_best_ || step_ % config_.checkpoint_every == 0)
      checkpoints_->begin(content(), std::exchange(is_best_, false));
  }
  write_trace(true);
  progress.finish();
  if (log_) log_->stop(step_, "done");
  say_done();
  return ExitCode::done;
}

/// Of all ranks: to stop; a checkpoint still being written.
std::array<int64_t, 2> Trainer::end_of_step_votes() const {
  const log::Phase phase("vote after the step");
  std::array<int64_t, 2> votes = {should_stop() ? 1 : 0, checkpoints_->writing() ? 1 : 0};
  comm_.all_reduce(std::span(votes), ReduceOp::max);
  return votes;
}

void Trainer::say_done() const {
  if (comm_.root() && replaced_.replaced() > 0)
    log::warning(fmt::format("{} of {} samples were replaced: their images cannot be decoded ({})",
                             replaced_.replaced(), replaced_.samples(), text_of(replaced_.by_cause())));
  log::info(fmt::format(
      "trained {} steps in {} with {} of memory{}; {:.1f} % of their time went into waiting for images",
      step_ - first_step_, human_seconds(watch_.seconds()), human_bytes(peak_rss_bytes()),
      forecast_ ? fmt::format(" ({} and {} were expected)", human_seconds(forecast_->seconds),
                              human_bytes(forecast_->memory.total()))
                : "",
      100 * waited_seconds_ / std::max(1e-9, stepped_seconds_)));
}

void Trainer::show(Progress& progress) {
  progress.note(fmt::format("step {} of {}, loss {:.4f}", step_, config_.steps.value(), loss_));
  progress.set(step_ * config_.batch);
}

ExitCode Trainer::stopped(Progress& progress) {
  const FinishingScope finishing;
  if (step_ > 0) save(true);
  write_trace(true);
  if (log_) log_->stop(step_, stop_requested() ? "signal" : "limit");
  progress.finish();
  log::info(fmt::format("stopped at step {} of {}; run the same command again to go on", step_,
                        config_.steps.value()));
  return ExitCode::stopped;
}

bool Trainer::data_ready(DataLoader& loader) {
  const log::Phase phase("data wait");
  const DataLoader::Awaited awaited = loader.await();
  const RankFailure failure = failure_of([&] {
    if (awaited.failure) std::rethrow_exception(awaited.failure);
  });
  // Asked to stop while a file was tried again: all ranks stop before the step.
  const bool stop = failure.code == static_cast<int>(ExitCode::stopped);
  ReplacedCounts replaced = awaited.replaced;
  std::array<int64_t, 2 + std::tuple_size_v<ReplacedCounts>> votes = {!failure.message.empty() && !stop,
                                                                      stop};
  std::copy(replaced.begin(), replaced.end(), votes.begin() + 2);
  comm_.all_reduce(std::span(votes));
  std::copy(votes.begin() + 2, votes.end(), replaced.begin());
  if (votes[0] > 0) {
    if (step_ > 0) save(false);
    settle(comm_, stop ? RankFailure{} : failure);
  }
  if (votes[1] > 0) return false;
  replaced_.add(step_ * config_.batch, config_.batch, replaced);
  if (!replaced_.too_many()) return true;
  std::string examples;
  for (const std::string& text : comm_.all_gather_strings(loader.bad_examples()))
    if (!text.empty()) examples += (examples.empty() ? "" : ", ") + text;
  checkpoints_->finish();
  throw DataError(
      fmt::format("too many broken images: {}: {} of the first {} samples cannot be decoded ({}), more than "
                  "--max-replaced {}: {}; mend or remove them, or raise it",
                  list_.reference(), replaced_.replaced(), replaced_.samples(), text_of(replaced_.by_cause()),
                  config_.max_replaced, examples));
}

bool Trainer::should_stop() const {
  if (stop_requested()) return true;
  if (config_.stop_after > 0 && step_ - first_step_ >= config_.stop_after) return true;
  return config_.max_seconds > 0 && watch_.seconds() > config_.max_seconds;
}

CheckpointContent Trainer::content() {
  CheckpointContent content;
  content.stores = {{"student", &engine_.state().student_values()},
                    {"teacher", &engine_.state().teacher_values()},
                    {"adam_m", &engine_.state().adam_m()},
                    {"adam_v", &engine_.state().adam_v()}};
  content.vectors = engine_.objective_state();
  content.vectors["best_knn_accuracy"] = {best_accuracy_};
  content.vectors.merge(outliers_.state());
  content.integers = {{"step", step_},
                      {"samples", step_ * config_.batch},
                      {"updates", updates_},
                      {"skips", skips_},
                      {"seed", context_.common.seed}};
  content.model_json = vit_config_to_json(engine_.config().vit);
  content.config_ini = context_.config_ini;
  content.stream = &place_.context().stream;
  return content;
}

void Trainer::load(const std::string& folder) {
  CheckpointContent checkpoint = content();
  load_checkpoint(folder, checkpoint, comm_);
  step_ = checkpoint.integers.at("step");
  updates_ = checkpoint.integers.at("updates");
  skips_ = checkpoint.integers["skips"];  // 0 in checkpoints of earlier versions
  outliers_.set_state(checkpoint.vectors);
  engine_.set_objective_state(checkpoint.vectors);
  const auto best = checkpoint.vectors.find("best_knn_accuracy");
  if (best != checkpoint.vectors.end() && best->second.size() == 1) best_accuracy_ = best->second[0];
}

void Trainer::restore() {
  const log::Phase phase("resume");
  const std::string& run = context_.common.output;
  std::string folder, weights_only;
  // Rank 0 decides and verifies, so that all ranks load the same checkpoint.
  on_root(comm_, [&] {
    folder = checkpoint_to_resume(run, config_.resume);
    if (!folder.empty() && holds_weights_only(folder)) weights_only.swap(folder);
  });
  comm_.broadcast(folder);
  comm_.broadcast(weights_only);
  if (folder.empty()) {
    begin_from(beginning_, weights_only, config_, engine_, context_);
    return;
  }
  load(folder);
  first_step_ = step_;
  restored_ = step_;
  if (comm_.root()) {
    set_aside_checkpoints(run, step_);
    log::info(fmt::format("resumed from {} at step {}", folder, step_));
    if (config_.resume.from == Resume::From::folder)
      say_other_settings(folder, read_checkpoint_header(folder).config_ini, context_.config_ini);
    RunLog(run, step_).resume(step_, folder, comm_.size(), gemm_gflops_);
  }
}

void Trainer::save(bool must) {
  checkpoints_->save(content(), std::exchange(is_best_, false), must);
}

bool Trainer::train_step(DataLoader& loader) {
  const log::Phase phase("train step");
  const Stopwatch watch;
  const auto seed = static_cast<uint64_t>(context_.common.seed);
  const auto step = static_cast<uint64_t>(step_);
  const Range images = even_range(config_.batch, comm_.rank(), comm_.size());

  const CropSet& crops = loader.next();
  const BatchMasks masks = [&] {
    const Span span("masks");
    return draw_masks(config_, 2 * config_.batch, seed, step);
  }();
  const std::vector<uint8_t> own = masks_of(masks, config_.batch, images);
  const int64_t views = 2 * images.size();
  StepBatch batch;
  batch.images = images.size();
  crops_.give(crops, loader.augment(), batch);
  batch.meanwhile = [&] { send_upcoming(loader, crops_); };
  batch.masks = view_of(own.data(), Shape{views, static_cast<int64_t>(own.size()) / views});
  // Over several ranks the masked views fall where they fall, and no useful bound holds for one of them.
  if (comm_.size() == 1) batch.masked_bound = masks.upper_bound;

  const Stopwatch computing;
  const double waited = place_.context().collective.use().wait_seconds();
  StepLine line;
  line.schedule = schedules_.at(step_, updates_);
  line.result = engine_.forward_backward(batch, line.schedule, drop_path_of(config_, images, seed, step));
  line.step = ++step_;
  if (is_left_out(line, crops, masks)) {
    on_skip(line.result);
    return false;
  }
  skips_ = 0;
  loss_ = line.result.losses.total;
  engine_.update(line.schedule, ++updates_);
  line.communication_seconds = place_.context().collective.use().wait_seconds() - waited;
  line.compute_seconds =
      std::max(0.0, engine_.device_seconds().value_or(computing.seconds()) - line.communication_seconds);
  line.phases = engine_.phase_seconds();
  line.data_wait_seconds = loader.wait_seconds();
  line.step_seconds = watch.seconds() + line.data_wait_seconds;
  account(line, crops, masks);
  return true;
}

void Trainer::account(StepLine& line, const CropSet& crops, const BatchMasks& masks) {
  waited_seconds_ += line.data_wait_seconds;
  stepped_seconds_ += line.step_seconds;
  line.samples = step_ * config_.batch;
  line.replaced = replaced_before_;
  line.replaced += replaced_.by_cause();
  line.images_per_second = static_cast<double>(config_.batch.value()) / line.step_seconds;
  line.achieved_gflops = flops_per_image_ * line.images_per_second * 1e-9;
  line.mfu = line.achieved_gflops / gemm_gflops_;
  if (step_ % config_.log_every != 0 && step_ != config_.steps) return;
  const Span span("log");
  line.batch_crc = batch_checksum(comm_.sum(crops.checksum), masks);
  line.collectives = collectives_since();
  line.checkpoint_blocked_seconds = checkpoints_->take_blocked_seconds();
  if (log_) log_->step(line);
}

void Trainer::on_skip(const StepResult& result) {
  if (result.scale_fell) {
    log::info(fmt::format("step {} left out: its gradients overflow fp16; the loss scale falls to {}", step_,
                          engine_.loss_scale()));
    if (log_) log_->loss_scale(step_, engine_.loss_scale());
    return;
  }
  if (log_) log_->skip(step_, result);
  log::warning(fmt::format("step {} skipped: {}", step_,
                           result.finite ? "it is an outlier" : "its loss or gradient is not finite"));
  if (++skips_ < config_.max_skips) return;
  checkpoints_->finish();  // one from before, which may be the newest
  std::string folder;
  if (comm_.root()) folder = newest_valid_checkpoint(context_.common.output);
  comm_.broadcast(folder);
  if (folder.empty() || rollbacks_ > 0) {
    throw DivergedError(
        fmt::format("training diverged: {}: {} steps in a row before step {} were skipped; lower --lr, raise "
                    "--warmup, or use --precision fp32",
                    context_.common.output, skips_, step_));
  }
  // Weights go back; the data go on, so that the same batches are not met again.
  const int64_t step = step_;
  load(folder);
  step_ = step;
  skips_ = 0;
  ++rollbacks_;
  log::warning(fmt::format("rolled back to the weights of {}", folder));
  if (log_) log_->rollback(step_, folder);
}

void Trainer::evaluate_knn() {
  const log::Phase phase("online k-NN");
  const OnlineKnn::Score score = knn_->evaluate(place_.context(), *knn_vit_, engine_.state().teacher());
  is_best_ = step_ > 0 && score.cls > best_accuracy_;
  if (is_best_) best_accuracy_ = score.cls;
  if (log_) log_->knn(step_, score, config_.knn_k, is_best_);
  log::info(
      fmt::format("step {}: online k-NN {:.1f} % (class token), {:.1f} % (mean patch), {:.1f} % (both) of {}",
                  step_, 100 * score.cls, 100 * score.patches, 100 * score.all, score.n));
}

}  // namespace dino::pretrain
