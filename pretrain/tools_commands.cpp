// SPDX-License-Identifier: Apache-2.0
// inspect, diff, import, export: checkpoints and weights on a login node, without MPI.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <optional>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "commands.hpp"
#include "model/checkpoint_reader.hpp"
#include "model/preparation.hpp"
#include "model/weights.hpp"
#include "storage/files.hpp"
#include "storage/output_kind.hpp"
#include "training/checkpoint_writer.hpp"
#include "training/collapse.hpp"

namespace dino::pretrain {
namespace {

/// A checkpoint folder as given, or the newest valid one of a run.
std::string resolve(const std::string& path) {
  if (!path_exists(path))
    throw MissingInputError("no such checkpoint: " + path +
                            ": the folder does not exist; give a checkpoint or run folder");
  if (is_checkpoint(path)) return path;
  const std::string newest = newest_valid_checkpoint(path);
  if (newest.empty())
    throw MissingInputError(
        "no checkpoint: " + path +
        ": holds neither manifest.json nor a complete checkpoint; give a checkpoint or run folder");
  return newest;
}

/// What the run's log says of its health up to a checkpoint, RUN/checkpoints/step_N; nothing for one that was
/// imported or moved.
std::optional<CollapseVerdict> health_of(const std::string& folder, int64_t step) {
  const std::string metrics =
      (std::filesystem::absolute(folder) / "../../metrics.jsonl").lexically_normal().string();
  if (step == 0 || !path_exists(metrics)) return std::nullopt;
  return judge_collapse(read_health_history(metrics, static_cast<double>(step)));
}

struct InspectConfig {
  std::string checkpoint;
};

ExitCode inspect(const InspectConfig& config, CommandContext& context) {
  const std::string& path = config.checkpoint;
  const std::string folder = resolve(path);
  const CheckpointHeader header = read_checkpoint_header(folder);
  const std::string fault = verify_checkpoint(folder);
  const std::optional<CollapseVerdict> health = health_of(folder, header.step);
  if (context.common.json) {
    nlohmann::ordered_json json{{"checkpoint", folder},      {"step", header.step},
                                {"samples", header.samples}, {"ranks", header.ranks},
                                {"version", header.version}, {"commit", header.commit},
                                {"valid", fault.empty()},    {"fault", fault}};
    json["model"] = nlohmann::ordered_json::parse(header.model_json);
    for (const auto& shard : header.shards)
      json["shards"].push_back({{"file", shard.file}, {"bytes", shard.bytes}, {"crc32c", shard.crc32c}});
    for (const auto& tensor : header.tensors)
      json["tensors"].push_back(
          {{"store", tensor.store}, {"name", tensor.name}, {"shape", tensor.shape.str()}});
    if (health)
      json["health"] = {{"level", name_of(health->level)}, {"title", health->title}, {"why", health->why}};
    context.result = json_line(json);
  } else {
    fmt::print("{}\n  step {}, {} samples, written by {} ranks, dinohpc {} ({})\n  model {}\n", folder,
               header.step, header.samples, header.ranks, header.version, header.commit, header.model_json);
    for (const auto& shard : header.shards)
      fmt::print("  shard {} {} bytes crc32c {}\n", shard.file, shard.bytes, shard.crc32c);
    for (const auto& tensor : header.tensors)
      fmt::print("  {:<10} {} {}\n", tensor.store, tensor.name, tensor.shape.str());
    if (health) fmt::print("  health: {}: {}\n", health->title, health->why);
    fmt::print("  {}\n", fault.empty() ? "all checksums match" : "INVALID: " + fault);
  }
  if (!fault.empty()) throw DataError("checkpoint is damaged: " + folder + ": " + fault);
  return ExitCode::done;
}

/// "" when equal, else the first difference in one line.
std::string first_difference(const std::string& a, const std::string& b) {
  const CheckpointHeader first = read_checkpoint_header(a), second = read_checkpoint_header(b);
  if (first.step != second.step) return fmt::format("step: {} against {}", first.step, second.step);
  if (first.tensors.size() != second.tensors.size())
    return fmt::format("number of tensors: {} against {}", first.tensors.size(), second.tensors.size());
  for (size_t i = 0; i < first.tensors.size(); ++i) {
    const auto& x = first.tensors[i];
    const auto& y = second.tensors[i];
    if (x.store != y.store || x.name != y.name)
      return fmt::format("tensor {}: {}/{} against {}/{}", i, x.store, x.name, y.store, y.name);
    if (x.shape != y.shape)
      return fmt::format("{}/{}: shape {} against {}", x.store, x.name, x.shape.str(), y.shape.str());
    const Tensor left = read_checkpoint_tensor(a, x.store, x.name),
                 right = read_checkpoint_tensor(b, y.store, y.name);
    if (std::memcmp(left.as<float>(), right.as<float>(), static_cast<size_t>(left.bytes())) == 0) continue;
    double largest = 0;
    int64_t count = 0;
    for (int64_t j = 0; j < left.numel(); ++j) {
      const double difference = std::abs(static_cast<double>(left.as<float>()[j]) - right.as<float>()[j]);
      largest = std::max(largest, difference);
      count += difference != 0 ? 1 : 0;
    }
    return fmt::format("{}/{}: {} of {} elements differ, by at most {:.3g}", x.store, x.name, count,
                       left.numel(), largest);
  }
  return {};
}

struct DiffConfig {
  std::vector<std::string> checkpoints;
};

ExitCode diff(const DiffConfig& config, CommandContext& context) {
  const std::vector<std::string>& paths = config.checkpoints;
  if (paths.size() != 2) throw UsageError("wrong number of arguments: diff: takes two checkpoints A and B");
  const std::string difference = first_difference(resolve(paths[0]), resolve(paths[1]));
  context.result = json_line({{"equal", difference.empty()}, {"difference", difference}});
  if (!context.common.json) fmt::print("{}\n", difference.empty() ? "equal" : "differ: " + difference);
  return difference.empty() ? ExitCode::done : ExitCode::differ;
}

/// Options of every command that reads weights.
Schema<LoadOptions> load_options() {
  Schema<LoadOptions> schema;
  schema.add("which", &LoadOptions::which, "Which network, where the weights hold both.");
  schema.add("heads", &LoadOptions::heads, "Attention heads, where the weights do not tell (0: they do).")
      .range(0, 1024);
  return schema;
}

struct ImportConfig {
  std::string weights;
  LoadOptions load;
};

ExitCode import_weights(const ImportConfig& config, CommandContext& context) {
  const std::string &output = context.common.output, &reference = config.weights;
  if (!list_checkpoints(output).empty())
    throw UsageError("output exists: --output " + output +
                     ": holds checkpoints already; choose a new folder");
  auto backbone = load_backbone(reference, config.load);
  if (context.common.dry_run) {
    log::info("would import " + backbone->description + "; nothing was written");
    return ExitCode::done;
  }
  refuse_other_output(output, output_kind::training);
  make_folders(output + "/checkpoints");
  const Communicator self = Communicator::self();
  const std::unique_ptr<Collective> alone = make_mpi_collective(self);
  const ShardGroups groups(Strategy::replicate, 1, *alone);
  const ShardPlan plan(backbone->layout, groups.parts());
  ShardedValues weights(backbone->layout, plan, groups, groups.weights(), Memory::host());
  HostStream stream;
  weights.copy_from(stream, backbone->weights);
  CheckpointContent content;
  content.stores = {{"student", &weights}, {"teacher", &weights}};
  content.integers = {{"step", 0}, {"samples", 0}, {"updates", 0}, {"seed", 0}};
  content.model_json = vit_config_to_json(backbone->config);
  const Preparation pixels = preparation_of(reference);
  content.config_ini =
      fmt::format("# imported from {}\nmean = {}\nstd = {}\n", reference,
                  fmt::join(pixels.normalisation.mean, ","), fmt::join(pixels.normalisation.std, ","));
  // Where evaluation and training look for the mean and deviation of the pixels.
  write_file_atomically(output + "/config.ini", content.config_ini);
  const std::string folder = save_checkpoint(output, 0, content, self);
  log::info(fmt::format("imported {} into {}", backbone->description, folder));
  context.result = json_line({{"checkpoint", folder}, {"model", backbone->description}});
  return ExitCode::done;
}

/// hf: for transformers; hub: for the reference's code; full: to go on with.
enum class Layout : uint8_t { hf, hub, full };
constexpr auto names_of(Layout) {
  return std::to_array<Named<Layout>>({{"hf", Layout::hf}, {"hub", Layout::hub}, {"full", Layout::full}});
}

struct ExportConfig {
  std::string checkpoint;
  Layout format = Layout::hf;
  LoadOptions load;
};

/// All of a checkpoint: both networks, the optimizer, the step and the settings.
ExitCode export_full(const std::string& reference, CommandContext& context) {
  const std::string checkpoint = resolve(reference);
  if (const std::string fault = verify_checkpoint(checkpoint); !fault.empty())
    throw DataError(fmt::format("checkpoint is damaged: {}: {}", checkpoint, fault));
  if (context.common.dry_run) {
    log::info("would export " + checkpoint + "; nothing was written");
    return ExitCode::done;
  }
  make_folders(context.common.output);
  const std::string path = context.common.output + "/checkpoint.h5";
  write_full_checkpoint(checkpoint, path);
  log::info(fmt::format("exported {} to {}", checkpoint, path));
  context.result = json_line({{"output", context.common.output}, {"format", "full"}, {"checkpoint", path}});
  return ExitCode::done;
}

ExitCode export_weights(const ExportConfig& config, CommandContext& context) {
  if (config.format == Layout::full) return export_full(config.checkpoint, context);
  const auto backbone = load_backbone(config.checkpoint, config.load);
  if (context.common.dry_run) {
    log::info("would export " + backbone->description + "; nothing was written");
    return ExitCode::done;
  }
  make_folders(context.common.output);
  std::string timm;
  const Preparation pixels = preparation_of(config.checkpoint);
  if (config.format == Layout::hf) {
    export_hugging_face(*backbone, context.common.output, pixels);
    timm = export_timm(*backbone, context.common.output);
  } else {
    export_hub(*backbone, context.common.output, pixels);
  }
  log::info(fmt::format("exported {} to {}", backbone->description, context.common.output));
  if (!timm.empty()) log::info("timm: " + timm);
  nlohmann::ordered_json result{{"output", context.common.output},
                                {"format", name_of(config.format)},
                                {"model", backbone->description}};
  if (!timm.empty()) result["timm"] = timm;
  context.result = json_line(result);
  return ExitCode::done;
}

}  // namespace

Command inspect_command() {
  Command command;
  command.name = "inspect";
  command.summary = "show what a checkpoint holds and verify it";
  command.usage = "CHECKPOINT [--json]";
  command.description =
      "Prints header, tensors, shards and what the run's log says of its health, and checks every checksum "
      "(exit 65 if one fails).";
  command.uses_mpi = false;
  command.examples = {{"run"}};
  Schema<InspectConfig> schema;
  schema.add("checkpoint", &InspectConfig::checkpoint, "Checkpoint or run folder.").positional().required();
  command.make = with_options(schema, inspect);
  return command;
}

Command diff_command() {
  Command command;
  command.name = "diff";
  command.summary = "compare two checkpoints bit for bit";
  command.usage = "A B [--json]";
  command.description =
      "Exit 0: equal; 1: the first differing tensor is named. The numbers of ranks that wrote them do not "
      "matter.";
  command.uses_mpi = false;
  command.examples = {{"run/checkpoints/step_00000100 other/checkpoints/step_00000100"}};
  Schema<DiffConfig> schema;
  schema.add("checkpoints", &DiffConfig::checkpoints, "Two checkpoint or run folders.")
      .positional()
      .required();
  command.make = with_options(schema, diff);
  return command;
}

Command import_command() {
  Command command;
  command.name = "import";
  command.summary = "make a checkpoint from weights";
  command.usage = "--weights WEIGHTS --output RUN";
  command.description =
      "Reads a Hugging Face folder, .safetensors or .pth and writes a checkpoint that holds the backbone.";
  command.uses_mpi = false;
  command.output = "Run folder that gets the checkpoint.";
  command.examples = {{"--weights dinov2_vits14_pretrain.pth --output run"}};
  Schema<ImportConfig> schema;
  schema.add("weights", &ImportConfig::weights, "Weights reference.").required();
  schema.add(&ImportConfig::load, load_options());
  command.make = with_options(schema, import_weights);
  return command;
}

Command export_command() {
  Command command;
  command.name = "export";
  command.summary = "write weights for other software";
  command.usage = "--checkpoint WEIGHTS --format hf|hub|full --which teacher|student --output DIR";
  command.description =
      "hf: config.json, model.safetensors and preprocessor_config.json, which transformers loads "
      "(AutoModel, AutoImageProcessor, pipeline(\"image-feature-extraction\")), and "
      "timm.safetensors, which timm.create_model(NAME, checkpoint_path=...) loads: the call for "
      "this model's sizes is printed. hub: model.safetensors with the reference's names. All of "
      "them are weights references here. full: checkpoint.h5, all of a checkpoint in one HDF5 file (both "
      "networks, whatever --which says, the optimizer, the step, the settings), with which train --resume "
      "goes on. The processor "
      "has the training's crop size, mean and "
      "deviation.";
  command.uses_mpi = false;
  command.output = "Folder to write.";
  command.examples = {{"--checkpoint run --format hf --output model"}};
  Schema<ExportConfig> schema;
  schema
      .add("checkpoint", &ExportConfig::checkpoint, "Weights reference (checkpoint, run, or other weights).")
      .required();
  schema.add("format", &ExportConfig::format, "Layout to write.");
  schema.add(&ExportConfig::load, load_options());
  command.make = with_options(schema, export_weights);
  return command;
}

}  // namespace dino::pretrain
