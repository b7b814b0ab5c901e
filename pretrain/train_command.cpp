// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "auto_settings.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "commands.hpp"
#include "datasets/on_all_ranks.hpp"
#include "split_options.hpp"
#include "survey.hpp"
#include "trainer.hpp"

namespace dino::pretrain {
namespace {

void settle_batch(TrainConfig& config, int ranks) {
  if (config.batch_per_rank == 0) return;
  if (!config.batch.is_auto())
    throw UsageError(fmt::format(
        "contradictory options: --batch-per-rank {}: --batch is {} already; give one of them (--batch "
        "auto sets aside a recipe's)",
        config.batch_per_rank, config.batch.value()));
  config.batch = config.batch_per_rank * ranks;
  config.batch_per_rank = 0;
}

/// Chooses what was not given: as the run's earlier starts did, else from the images and the machine. Returns
/// what to expect, nothing where a run goes on. Collective.
std::optional<Forecast> settle_settings(TrainConfig& config, const RecordList& list,
                                        CommandContext& context) {
  const Communicator& comm = context.world;
  const std::string& run = context.common.output;
  settle_batch(config, comm.size());
  const bool goes_on = take_from_run(config, run, comm);
  std::vector<std::string> open;
  for_each_auto(config, [&](const char* name, const auto& field) {
    if (field.is_auto()) open.emplace_back(name);
  });
  const ImageFacts images = survey_images(list, comm);
  const MachineFacts machine =
      survey_machine(context, config.device, precision_here(config.precision, kind_of(config.device)));
  settle_groups(config.split, comm);
  choose_settings(config, images, machine);
  check_pieces(config.split, config.batch, comm.size());
  TrainConfig trial = config;
  trial.steps.choose(std::max<int64_t>(kLeastSteps, trial.warmup.of(1)));
  validate(trial);
  std::optional<Forecast> forecast;
  if (goes_on && !config.steps.is_auto() && !context.common.dry_run) {
    choose_steps(config, images, 1);
  } else {
    const ForecastQuestion question{list, images, machine, context.common.dry_run};
    forecast = make_forecast(config, question, context);
    for_each_auto(config, [&](const std::string& name, const auto& field) {
      // Weights may be of no preset.
      if (!field.text().empty() && std::find(open.begin(), open.end(), name) != open.end())
        forecast->chosen.push_back(fmt::format("{} {}", name, field.text()));
    });
    for (const std::string& line : describe(*forecast, config, question)) log::info(line);
    if (forecast->device_memory)
      refuse_too_large(*forecast->device_memory, machine.memory);
    else if (forecast->memory.total() > machine.memory)
      log::warning(
          fmt::format("the memory may not do: {} are expected and {} are free for a rank; lower --batch, or "
                      "choose a smaller --preset",
                      human_bytes(forecast->memory.total()), human_bytes(machine.memory)));
  }
  validate(config);
  complete(config);
  return forecast;
}

std::string dry_run_json(const TrainConfig& config, const Forecast& forecast, int64_t images) {
  nlohmann::ordered_json json{{"command", "train"},
                              {"dry_run", true},
                              {"preset", config.preset.value()},
                              {"images", images},
                              {"parameters", forecast.parameters},
                              {"batch", config.batch.value()},
                              {"steps", config.steps.value()},
                              {"chosen", forecast.chosen},
                              {"timed", forecast.is_timed},
                              {"step_seconds", forecast.step_seconds},
                              {"seconds", forecast.seconds},
                              {"bytes", bytes_object(forecast.memory)},
                              {"bytes_max", forecast.memory.total()},
                              {"disk_bytes", forecast.disk}};
  if (forecast.device_memory) json["device_bytes"] = device_bytes_object(*forecast.device_memory);
  return json_line(json);
}

ExitCode train(TrainConfig& config, const OptionTable& table, CommandContext& context) {
  if (context.common.output.empty() && !context.common.dry_run)
    throw UsageError("missing option: --output: the run folder is needed; give --output RUN");
  settle_device(config.device, context.world);
  log::info(fmt::format("reading the list of images: {}", fmt::join(config.data, ", ")));
  // A dry run writes nothing: its list lies in memory.
  const std::string& run = context.common.output;
  RecordList list = list_images(config.data, context.common.dry_run ? "" : nearest_folder(run),
                                run.empty() ? "" : list_path(run), context.world);
  Beginning beginning = settle_beginning(config, table, context);
  std::optional<Forecast> forecast = settle_settings(config, list, context);
  context.config_ini = table.to_ini();
  if (context.common.dry_run) {
    log::info("a dry run: nothing was written");
    context.result = dry_run_json(config, *forecast, list.count());
    return ExitCode::done;
  }
  install_stop_handlers();
  Trainer trainer(context, config, {std::move(list), std::move(forecast), std::move(beginning)});
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
      "--data REF --output RUN [--config RECIPE] [--steps N] [--weights REF] [--resume auto|none|PATH]";
  command.description =
      "Without a recipe the model, the crops, the batch and the steps are chosen from the number and the "
      "size "
      "of the images and from the machine, for a training of --minutes; each can be given, alone or in a "
      "recipe, and what is given constrains the rest. A step is timed, and the settings, the expected time, "
      "memory and disk are printed before the first step. --dry-run prints the same and writes nothing. What "
      "was chosen stands in RUN/config.ini, where later starts of the run find it.\n"
      "Trains student and teacher on the images of --data and writes checkpoints, metrics.jsonl, config.ini, "
      "run.json and the list of the images, which all ranks map, into RUN. Started again with the same "
      "command it goes on "
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
      "optimizer begins anew. Heads are fresh, unless the weights come with heads of the sizes set here. A "
      "checkpoint without optimizer state (dino-pretrain import) does the same through --resume. "
      "Going on with such a run needs the weights no more.\n"
      "The batch is counted over all ranks, so samples, crops and masks do not depend on their number.";
  command.examples = {
      {"--data photos --output run", "All settings from the images and the machine."},
      {"--config photos_vits14 --data curated --output run --steps 20000"},
      {"--data photos --output run --weights facebook/dinov2-small --freeze-backbone-steps 10%",
       "A new run from weights that were trained before."}};
  // The table stays with the settings: what is chosen for the user is printed by it.
  command.make = [](OptionTable& table) {
    auto config = std::make_shared<TrainConfig>();
    table.bind(train_options(), *config);
    return [config, &table](CommandContext& context) { return train(*config, table, context); };
  };
  return command;
}

}  // namespace dino::pretrain
