// SPDX-License-Identifier: Apache-2.0
#include "trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <exception>
#include <span>
#include <utility>

#include "base/log.hpp"
#include "base/progress.hpp"
#include "base/signals.hpp"
#include "comm/together.hpp"
#include "datasets/on_all_ranks.hpp"
#include "model/weights.hpp"
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

Dataset open_all(const std::vector<std::string>& references, const Communicator& world) {
  Dataset all;
  for (const std::string& reference : references) {
    Dataset part = open_on_all_ranks(reference, world);
    all.reference += (all.reference.empty() ? "" : ", ") + reference;
    std::move(part.records.begin(), part.records.end(), std::back_inserter(all.records));
    std::move(part.faults.begin(), part.faults.end(), std::back_inserter(all.faults));
  }
  return all;
}

Trainer::Trainer(CommandContext& context, TrainConfig config, Start start)
    : context_(context),
      config_(std::move(config)),
      beginning_(std::move(start.beginning)),
      comm_(context.world),
      dataset_(std::move(start.dataset)),
      forecast_(std::move(start.forecast)),
      schedules_(config_),
      place_(ops::backend_named("cpu"), context.world, precision_here(config_.precision)),
      engine_(make_training_config(config_), place_.context(), context.world),
      flops_per_image_(flops_per_image(engine_.config(), config_.global_size, config_.local_size)),
      replaced_(static_cast<int64_t>(dataset_.records.size()), config_.max_replaced) {
  if (forecast_) forecast_->memory.set_state(engine_.state().bytes());
  for (const std::string& fault : dataset_.faults) log::warning(fault);
}

ExitCode Trainer::run() {
  const std::string& run = context_.common.output;
  lock_ = lock_output_folder(context_, output_kind::training);
  on_root(comm_, [&] {
    make_folders(run + "/checkpoints");
    check_data(run, dataset_);
    check_or_write_config(run, context_.config_ini);
  });
  restore();
  if (comm_.root()) {
    log_ = std::make_unique<RunLog>(run, step_);
    replaced_before_ = log_->replaced_before();
    write_run_json(run, context_, dataset_, config_.split, step_);
    if (step_ == 0)
      log_->start(config_, context_, static_cast<int64_t>(dataset_.records.size()), engine_.layout().count(),
                  forecast_ ? &*forecast_ : nullptr);
  }
  if (step_ >= config_.steps) {
    log::info(fmt::format("{}: already trained for {} steps", run, step_));
    return ExitCode::done;
  }
  if (config_.knn_every > 0) {
    knn_ = std::make_unique<OnlineKnn>(config_, comm_);
    knn_vit_ = std::make_unique<Vit>(engine_.config().vit);
    if (step_ == 0) evaluate_knn();
  }

  const LoaderConfig loader_config =
      make_loader_config(config_, static_cast<uint64_t>(context_.common.seed), resolve_threads(context_));
  DataLoader loader(dataset_, loader_config, even_range(config_.batch, comm_.rank(), comm_.size()), step_);
  const log::Phase phase("training");
  Progress progress("pretrain", config_.steps * config_.batch, "images");
  progress.start_at(step_ * config_.batch);
  while (step_ < config_.steps) {
    if (!data_ready(loader)) return stopped(progress);
    // A step that has begun and its checkpoint are worth the time they take.
    const FinishingScope finishing;
    train_step(loader);
    show(progress);
    const bool last = step_ == config_.steps;
    if (knn_ && (step_ % config_.knn_every == 0 || last)) evaluate_knn();
    const bool stop = !last && comm_.any(should_stop());
    if (stop) return stopped(progress);
    if (last || is_best_ || step_ % config_.checkpoint_every == 0) save(last);
  }
  progress.finish();
  if (comm_.root() && replaced_.replaced() > 0)
    log::warning(fmt::format("{} of {} samples were replaced: their images cannot be decoded",
                             replaced_.replaced(), replaced_.samples()));
  if (log_) log_->stop(step_, "done");
  log::info(fmt::format("trained {} steps in {} with {} of memory{}", step_ - first_step_,
                        human_seconds(watch_.seconds()), human_bytes(peak_rss_bytes()),
                        forecast_
                            ? fmt::format(" ({} and {} were expected)", human_seconds(forecast_->seconds),
                                          human_bytes(forecast_->memory.total()))
                            : ""));
  return ExitCode::done;
}

void Trainer::show(Progress& progress) {
  progress.note(fmt::format("step {} of {}, loss {:.4f}", step_, config_.steps.value(), loss_));
  progress.set(step_ * config_.batch);
}

ExitCode Trainer::stopped(Progress& progress) {
  const FinishingScope finishing;
  if (step_ > 0) save(true);
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
  std::array<int64_t, 3> votes = {!failure.message.empty() && !stop ? 1 : 0, stop ? 1 : 0, awaited.replaced};
  comm_.all_reduce(std::span(votes));
  if (votes[0] > 0) {
    if (step_ > 0) save(false);
    settle(comm_, stop ? RankFailure{} : failure);
  }
  if (votes[1] > 0) return false;
  replaced_.add(step_ * config_.batch, config_.batch, votes[2]);
  if (!replaced_.too_many()) return true;
  std::string examples;
  for (const std::string& text : comm_.all_gather_strings(loader.bad_examples()))
    if (!text.empty()) examples += (examples.empty() ? "" : ", ") + text;
  throw DataError(fmt::format(
      "too many broken images: {}: {} of the first {} samples cannot be decoded, more than --max-replaced "
      "{}: "
      "{}; mend or remove them, or raise it",
      dataset_.reference, replaced_.replaced(), replaced_.samples(), config_.max_replaced, examples));
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
  content.integers = {{"step", step_},
                      {"samples", step_ * config_.batch},
                      {"updates", updates_},
                      {"seed", context_.common.seed}};
  content.model_json = vit_config_to_json(engine_.config().vit);
  content.config_ini = context_.config_ini;
  return content;
}

void Trainer::load(const std::string& folder) {
  CheckpointContent checkpoint = content();
  load_checkpoint(folder, checkpoint, comm_);
  step_ = checkpoint.integers.at("step");
  updates_ = checkpoint.integers.at("updates");
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
  last_saved_ = step_;
  if (comm_.root()) {
    set_aside_checkpoints(run, step_);
    log::info(fmt::format("resumed from {} at step {}", folder, step_));
    if (config_.resume.from == Resume::From::folder)
      say_other_settings(folder, read_checkpoint_header(folder).config_ini, context_.config_ini);
    RunLog(run, step_).resume(step_, folder, comm_.size());
  }
}

void Trainer::save(bool must) {
  const bool is_best = std::exchange(is_best_, false);
  if (last_saved_ == step_) return;
  const log::Phase phase("checkpoint");
  const Stopwatch watch;
  try {
    const std::string folder =
        save_checkpoint(context_.common.output, step_, content(), comm_, config_.keep, config_.keep_every);
    last_saved_ = step_;
    blocked_seconds_ += watch.seconds();
    if (is_best) mark_best(folder);
    if (log_) log_->checkpoint(step_, folder, watch.seconds());
  } catch (const IoError& error) {
    blocked_seconds_ += watch.seconds();
    const std::string last =
        last_saved_ < 0 ? "there is none" : fmt::format("the last one is of step {}", last_saved_);
    if (must)
      throw IoError(fmt::format("{}; without this checkpoint {}: make space or mend it, then start again",
                                error.what(), last));
    if (!log_) return;
    log::warning(fmt::format("checkpoint of step {} left out, {}: {}; it is tried again at the next interval",
                             step_, last, error.what()));
    log_->checkpoint_failed(step_, error.what());
  }
}

void Trainer::mark_best(const std::string& folder) {
  if (!comm_.root()) return;
  try {
    mark_best_checkpoint(context_.common.output, folder);
  } catch (const IoError& error) {
    log::warning(fmt::format("the best checkpoint is {}, but: {}", folder, error.what()));
  }
}

bool Trainer::train_step(DataLoader& loader) {
  const log::Phase phase("train step");
  const Stopwatch watch;
  const TrainingConfig& training = engine_.config();
  const auto seed = static_cast<uint64_t>(context_.common.seed);
  const auto step = static_cast<uint64_t>(step_);
  const Range images = even_range(config_.batch, comm_.rank(), comm_.size());

  const CropSet& crops = loader.next();
  const int64_t grid = config_.global_size / training.vit.patch;
  BlockMaskSettings blocks;
  blocks.grid_h = blocks.grid_w = grid;
  blocks.min_patches = std::min(config_.mask_min_patches, grid * grid);
  blocks.max_patches = default_max_mask_patches(config_.global_size, training.vit.patch);
  const BatchMasks masks = batch_masks(make_mask_config(config_), blocks, 2 * config_.batch, seed, step);
  // Views are laid out as the global batch is: view 1 of all images, then view 2.
  const int64_t patches = grid * grid;
  std::vector<uint8_t> own;
  own.reserve(static_cast<size_t>(2 * images.size() * patches));
  for (int64_t view = 0; view < 2; ++view) {
    const auto begin = masks.masks.begin() + (view * config_.batch + images.begin) * patches;
    own.insert(own.end(), begin, begin + images.size() * patches);
  }

  StepBatch batch;
  batch.images = images.size();
  batch.global_crops = crops.global_crops;
  if (config_.local_count > 0) batch.local_crops = crops.local_crops;
  batch.masks = view_of(own.data(), Shape{2 * images.size(), patches});
  // Over several ranks the masked views fall where they fall, and no useful bound holds for one of them.
  if (comm_.size() == 1) batch.masked_bound = masks.upper_bound;
  DropPathDraw drop_path;
  if (training.vit.drop_path > 0)
    drop_path = [&](Range some) {
      const Range of_batch{images.begin + some.begin, images.begin + some.end};
      return draw_drop_path(training.vit, drop_path_entries(config_, of_batch), seed, step);
    };

  const Stopwatch computing;
  const double waited = place_.context().collective.wait_seconds();
  StepLine line;
  line.schedule = schedules_.at(step_, updates_);
  line.result = engine_.forward_backward(batch, line.schedule, drop_path);
  ++step_;
  if (!line.result.finite) {
    on_skip(line.result);
    return false;
  }
  skips_ = 0;
  loss_ = line.result.losses.total;
  engine_.update(line.schedule, ++updates_);
  line.step = step_;
  line.samples = step_ * config_.batch;
  line.replaced_samples = replaced_before_ + replaced_.replaced();
  line.communication_seconds = place_.context().collective.wait_seconds() - waited;
  line.compute_seconds = computing.seconds() - line.communication_seconds;
  line.phases = engine_.phase_seconds();
  line.data_wait_seconds = loader.wait_seconds();
  line.step_seconds = watch.seconds() + line.data_wait_seconds;
  const auto images_of_step = static_cast<double>(config_.batch.value());
  line.images_per_second = images_of_step / line.step_seconds;
  line.achieved_gflops = flops_per_image_ * line.images_per_second * 1e-9;
  if (step_ % config_.log_every == 0 || step_ == config_.steps) {
    line.batch_crc = batch_checksum(comm_.sum(crops.checksum), masks);
    line.checkpoint_blocked_seconds = std::exchange(blocked_seconds_, 0.0);
    if (log_) log_->step(line);
  }
  return true;
}

void Trainer::on_skip(const StepResult& result) {
  if (log_) log_->skip(step_, result);
  log::warning(fmt::format("step {} skipped: its loss or gradient is not finite", step_));
  if (++skips_ < config_.max_skips) return;
  std::string folder;
  if (comm_.root()) folder = newest_valid_checkpoint(context_.common.output);
  comm_.broadcast(folder);
  if (folder.empty() || rollbacks_ > 0) {
    throw DivergedError(
        fmt::format("training diverged: {}: {} non-finite steps in a row before step {}; lower --lr, raise "
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
  const OnlineKnn::Score score = knn_->evaluate(*knn_vit_, engine_.state().teacher());
  is_best_ = step_ > 0 && score.cls > best_accuracy_;
  if (is_best_) best_accuracy_ = score.cls;
  if (log_) log_->knn(step_, score, config_.knn_k, is_best_);
  log::info(
      fmt::format("step {}: online k-NN {:.1f} % (class token), {:.1f} % (mean patch), {:.1f} % (both) of {}",
                  step_, 100 * score.cls, 100 * score.patches, 100 * score.all, score.n));
}

}  // namespace dino::pretrain
