// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/json_line.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "commands.hpp"
#include "trainer.hpp"

namespace dino::pretrain {
namespace {

void dry_run(const TrainConfig& config, const CommandContext& context) {
  const Dataset dataset = open_all(config.data, context.world);
  ParameterLayout layout;
  const SslConfig ssl = make_ssl_config(config);
  append_vit_layout(layout, ssl.vit);
  append_head_layout(layout, ssl.dino_head, "dino_head");
  if (ssl.separate_ibot_head) append_head_layout(layout, ssl.ibot_head, "ibot_head");
  if (!context.world.root()) return;
  log::info(fmt::format(
      "would train {} ({} parameters with heads, {}) on {} images for {} steps of {} images ({:.2f} passes) "
      "on {} ranks; nothing was written",
      config.preset, layout.count(), name_of(ssl.precision), dataset.records.size(), config.steps,
      config.batch,
      static_cast<double>(config.steps * config.batch) / static_cast<double>(dataset.records.size()),
      context.world.size()));
}

ExitCode train(TrainConfig& config, const OptionTable& table, CommandContext& context) {
  if (context.common.output.empty())
    throw UsageError("missing option: --output: the run folder is needed; give --output RUN");
  Beginning beginning = settle_beginning(config, table, context);
  context.config_ini = table.to_ini();
  validate(config);
  if (context.common.dry_run) {
    dry_run(config, context);
    return ExitCode::done;
  }
  install_stop_handlers();
  Trainer trainer(context, config, std::move(beginning));
  const ExitCode code = trainer.run();
  if (context.world.root()) {
    const auto checkpoints = list_checkpoints(context.common.output);
    context.result = json_line({{"run", context.common.output},
                                {"checkpoint", checkpoints.empty() ? "" : checkpoints.front()},
                                {"stopped", code == ExitCode::stopped}});
  }
  return code;
}

}  // namespace

Command train_command() {
  Command command;
  command.name = "train";
  command.summary = "train a backbone on images";
  command.usage =
      "--config RECIPE --data REF --output RUN [--steps N] [--weights REF] [--resume auto|none|PATH]";
  command.description =
      "Trains student and teacher on the images of --data and writes checkpoints, metrics.jsonl, config.ini "
      "and run.json into RUN. Started again with the same command it goes on "
      "from the newest valid checkpoint, on any number of ranks; damaged ones are passed over with a "
      "warning, "
      "and when none is left it fails with 65 rather than begin anew. Other settings are refused (64), and "
      "other images (65); where the images lie may change. SIGUSR2 or SIGTERM, --max-seconds and "
      "--stop-after end it with a checkpoint and exit code 75. An image that cannot be read on some rank "
      "ends it "
      "with 74, after a checkpoint; a checkpoint that does not fit on the disk is left out with a warning, "
      "unless "
      "it is the last one (74).\n"
      "--weights begins a new run with a backbone that was trained before: its sizes, and the mean and "
      "deviation of its pixels, are the file's, its table of positions is resampled to the crops, and the "
      "optimizer begins anew. Heads are fresh, unless the weights are a checkpoint with heads of the sizes "
      "set here. A checkpoint without optimizer state (dino-pretrain import) does the same through --resume. "
      "Going on with such a run needs the weights no more.\n"
      "The batch is counted over all ranks, so samples, crops and masks do not depend on their number.";
  command.make = [](OptionTable& table) {
    auto config = std::make_shared<TrainConfig>();
    declare_train_options(table, *config);
    return [config, &table](CommandContext& context) { return train(*config, table, context); };
  };
  return command;
}

}  // namespace dino::pretrain
