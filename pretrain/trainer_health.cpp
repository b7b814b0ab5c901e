// SPDX-License-Identifier: Apache-2.0
// Of the training loop: steps that are not finite, outliers, and where the time goes.
#include <fmt/format.h>

#include <map>
#include <optional>

#include "base/cpu.hpp"
#include "base/log.hpp"
#include "model/weights.hpp"
#include "trainer.hpp"

namespace dino::pretrain {

bool Trainer::is_left_out(const StepLine& line, const CropSet& crops, const BatchMasks& masks) {
  const StepResult& result = line.result;
  if (!result.finite) {
    // An overflow that the loss scale has answered is nothing to look into.
    if (!result.scale_fell) capture("not_finite", line, crops, masks);
    return true;
  }
  const std::optional<Outlier> outlier = outliers_.add(result.losses.total, result.grad_norm());
  if (!outlier) return false;
  if (log_) log_->outlier(line.step, *outlier, config_.skip_outliers);
  if (comm_.root())
    log::warning(fmt::format("step {} is an outlier: {} {:.4g} lies {:.1f} deviations above {:.4g}",
                             line.step, outlier->quantity, outlier->value, outlier->z, outlier->mean));
  capture("outlier", line, crops, masks);
  return config_.skip_outliers;
}

void Trainer::capture(const std::string& kind, const StepLine& line, const CropSet& crops,
                      const BatchMasks& masks) {
  const Stopwatch watch;
  const TrainingConfig& training = engine_.config();
  CaptureFacts facts;
  facts.kind = kind;
  facts.step = line.step;
  facts.seed = context_.common.seed;
  facts.batch = config_.batch;
  facts.ranks = comm_.size();
  facts.accumulate = training.split.accumulate;
  facts.strategy = name_of(training.split.strategy);
  facts.precision = name_of(training.precision);
  facts.cpu = cpu_level_name(cpu_level());
  facts.schedule = line.schedule;
  facts.losses = line.result.losses;
  facts.grad_norms = line.result.grad_norms;
  facts.model_json = vit_config_to_json(training.vit);
  facts.config_ini = context_.config_ini;
  facts.objective_state = engine_.objective_state();
  const SampleOrder order(list_.count(), static_cast<uint64_t>(facts.seed));
  const auto key_of = [&](int64_t image) {
    const int64_t sample = (line.step - 1) * config_.batch + image;
    return list_.at(order.record(sample)).key;
  };
  CropSet buffer;
  const std::string file =
      captures_.write(facts, {crops_.on_host(crops, buffer), masks, key_of}, engine_, comm_);
  if (file.empty()) return;
  log::info(fmt::format("step {} captured: dino-pretrain replay {}", line.step, file));
  if (log_) log_->capture(line.step, file, watch.seconds());
}

std::map<std::string, OperationUse> Trainer::collectives_since() {
  const CollectiveUse& use = place_.context().collective.use();
  const std::map<std::string, OperationUse> now{{"all_gather", use.all_gather},
                                                {"reduce_scatter", use.reduce_scatter},
                                                {"all_reduce", use.all_reduce},
                                                {"control", control_use()}};
  std::map<std::string, OperationUse> since;
  for (const auto& [name, total] : now) since[name] = total.since(collectives_[name]);
  collectives_ = now;
  return since;
}

void Trainer::write_trace(bool now) {
  if (!trace_ || (!now && !trace_->complete())) return;
  const std::string folder = context_.common.output + "/trace";
  try {
    trace_->write(folder);
    log::info(fmt::format("the trace of the first steps is in {}", folder));
  } catch (const Error& error) {
    log::warning(fmt::format("no trace of this rank: {}; the training goes on", error.what()));
  }
  trace_.reset();
}

}  // namespace dino::pretrain
