// SPDX-License-Identifier: Apache-2.0
#include "begin_from_weights.hpp"

#include <fmt/format.h>

#include <algorithm>
#include "base/json.hpp"

#include "auto_settings.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "comm/together.hpp"
#include "model/checkpoint_reader.hpp"
#include "model/preparation.hpp"
#include "storage/files.hpp"
#include "training/checkpoint.hpp"

namespace dino::pretrain {
namespace {

/// The value of a key in the settings of a checkpoint, "" where they have none.
std::string setting(const std::string& ini, const std::string& key) {
  for (const IniLine& line : read_ini(ini, "the checkpoint's config_ini"))
    if (line.key == key) return ini_word(line.value, "the checkpoint's config_ini");
  return {};
}

bool has_readable_manifest(const std::string& checkpoint) {
  try {
    (void)read_checkpoint_manifest(checkpoint);
    return true;
  } catch (const IoError&) {
    throw;
  } catch (const Error&) {
    return false;
  }
}

/// The checkpoint that settles the backbone before any is verified; those of one run agree in it. "" = none.
/// A damaged one is passed over here in silence: it is told of when the run goes on.
std::string checkpoint_in_sight(const TrainConfig& config, const std::string& run) {
  std::vector<std::string> there;
  if (config.resume.from == Resume::From::newest)
    there = complete_checkpoints(run);
  else if (config.resume.from == Resume::From::folder)
    there = {config.resume.folder};
  const auto found = std::find_if(there.begin(), there.end(), has_readable_manifest);
  return found == there.end() ? "" : *found;
}

/// What rank 0 found, as the others get it.
struct Found {
  std::string reference, vit_json;
  Normalisation normalisation;
  int64_t side = 0;  ///< of the input that the weights were trained on; 0 = not told

  void take(const Preparation& pixels) {
    normalisation = pixels.normalisation;
    side = pixels.size;
  }
};

/// Rank 0. Nothing where the run begins at random, or goes on from one that did.
Found find(const TrainConfig& config, const std::string& run, Beginning& beginning) {
  Found found;
  const std::string checkpoint = checkpoint_in_sight(config, run);
  if (checkpoint.empty()) {
    if (config.weights.empty()) return found;
    found.reference = config.weights;
    beginning.backbone = load_backbone(config.weights, LoadOptions{config.which, config.heads});
    found.vit_json = vit_config_to_json(beginning.backbone->config);
    found.take(preparation_of(config.weights));
    return found;
  }
  const CheckpointHeader header = read_checkpoint_header(checkpoint);
  const bool bare = holds_weights_only(checkpoint);
  if (bare && !config.weights.empty())
    throw UsageError(
        fmt::format("contradictory options: --weights {}: the run would begin with {}, which holds weights "
                    "already; leave it out, or give another --output",
                    config.weights, checkpoint));
  found.reference = bare ? checkpoint : setting(header.config_ini, "weights");
  if (found.reference.empty() && !config.weights.empty())
    throw UsageError(
        fmt::format("contradictory options: --weights {}: {} is of a run that began at random; "
                    "leave it out to go on with that, or give another --output",
                    config.weights, checkpoint));
  if (found.reference.empty()) return found;
  found.vit_json = json_line(OrderedJson::parse(header.model_json).at("vit"));
  found.take(preparation_of(checkpoint));
  if (bare) beginning.backbone = load_backbone(checkpoint, LoadOptions{config.which, 0});
  return found;
}

/// A flag of the command line is the user's word on this run; a recipe may have been written for another.
bool is_flag(const CommandContext& context, const std::string& option) {
  return std::any_of(context.argv.begin(), context.argv.end(), [&](const std::string& word) {
    return word == "--" + option || word.starts_with("--" + option + "=");
  });
}

std::string describe(const VitConfig& vit) {
  return fmt::format("{} wide, {} blocks of {} heads, patches of {}, {} registers, {}", vit.width, vit.depth,
                     vit.heads, vit.patch, vit.registers, vit.ffn == FfnKind::mlp ? "MLP" : "SwiGLU");
}

/// Another table of positions is no other model: it is resampled.
bool same_backbone(VitConfig a, const VitConfig& b) {
  a.position_grid = b.position_grid;
  a.position_kernel = b.position_kernel;
  a.interpolate_offset = b.interpolate_offset;
  a.layerscale = b.layerscale;
  a.drop_path = b.drop_path;
  a.drop_path_uniform = b.drop_path_uniform;
  a.norm_eps = b.norm_eps;
  return a == b;
}

/// The preset of these sizes, "" where there is none.
std::string preset_of(const VitConfig& vit) {
  for (const std::string& name : vit_preset_names())
    if (same_backbone(vit_preset(name), vit)) return name;
  return {};
}

/// One setting that the weights decide.
struct Decided {
  const char* option;
  int64_t asked, unset, actual;
};

/// UsageError where the command line asks for another backbone than the weights'.
void compare_settings(const TrainConfig& config, const VitConfig& vit, const std::string& reference,
                      const CommandContext& context) {
  const auto refuse = [&](const std::string& option, const std::string& value) {
    const std::string what =
        fmt::format("--{} {}: the weights of {} are {}", option, value, reference, describe(vit));
    if (is_flag(context, option))
      throw UsageError(fmt::format("contradictory options: {}; leave it out, the weights tell it", what));
    log::info(fmt::format("{}: the weights count, not the recipe", what));
  };
  const bool swiglu = vit.ffn == FfnKind::swiglu;
  const int64_t ffn = config.ffn == FfnChoice::preset ? -1 : config.ffn == FfnChoice::swiglu ? 1 : 0;
  const Decided all[] = {{"patch", config.patch.is_auto() ? 0 : config.patch.value(), 0, vit.patch},
                         {"width", config.width, 0, vit.width},
                         {"depth", config.depth, 0, vit.depth},
                         {"heads", config.heads, 0, vit.heads},
                         {"registers", config.registers, -1, vit.registers},
                         {"ffn", ffn, -1, swiglu ? 1 : 0}};
  for (const Decided& one : all)
    if (one.asked != one.unset && one.asked != one.actual)
      refuse(one.option, std::string(one.option) == "ffn" ? name_of(config.ffn) : std::to_string(one.asked));
  // A preset and flags that change it: together they may well be the weights' backbone.
  if (config.preset.is_auto()) return;
  TrainConfig asked = config;
  choose_published(asked);
  if (!same_backbone(make_training_config(asked).vit, vit)) refuse("preset", config.preset);
}

void adopt(TrainConfig& config, const VitConfig& vit) {
  config.vit = vit;
  if (const std::string preset = preset_of(vit); !preset.empty()) config.preset = preset;
  config.patch = vit.patch;
  config.width = vit.width;
  config.depth = vit.depth;
  config.heads = vit.heads;
  config.registers = vit.registers;
  config.ffn = vit.ffn == FfnKind::mlp ? FfnChoice::mlp : FfnChoice::swiglu;
}

/// As people write it: 0.485, not 0.48500001430511475.
double shortest(float value) {
  return std::stod(fmt::format("{}", value));
}

void adopt_normalisation(TrainConfig& config, const Normalisation& normalisation, const OptionTable& table) {
  if (!table.given("mean"))
    std::transform(normalisation.mean.begin(), normalisation.mean.end(), config.mean.begin(), shortest);
  if (!table.given("std"))
    std::transform(normalisation.std.begin(), normalisation.std.end(), config.std.begin(), shortest);
}

/// Rank 0: takes a head where it has the model's sizes.
bool take_head(const std::map<std::string, Tensor>& head, const std::string& module, ParameterStore& out) {
  std::vector<std::pair<const ParameterInfo*, const Tensor*>> found;
  for (const ParameterInfo& info : out.layout().parameters()) {
    if (info.module != module) continue;
    const auto value = head.find(info.name.substr(module.size() + 1));
    if (value == head.end() || value->second.shape() != info.shape) return false;
    found.emplace_back(&info, &value->second);
  }
  for (const auto& [info, value] : found)
    std::copy(value->f32().begin(), value->f32().end(), out.view(*info).f32().begin());
  return true;
}

/// Rank 0: the student gets the weights; what becomes of the heads.
std::map<std::string, std::string> fill(const Beginning& beginning, const Engine& engine,
                                        ParameterStore& student) {
  const Backbone& backbone = *beginning.backbone;
  for (const ParameterInfo& info : backbone.layout.parameters()) {
    const ConstTensorView value = backbone.weights.view(info);
    const TensorView place = student.view(info.name);
    DINO_CHECK(place.shape == value.shape, "the model was not made for these weights");
    std::copy(value.f32().begin(), value.f32().end(), place.f32().begin());
  }
  std::map<std::string, std::string> heads{{"dino_head", "fresh"}};
  if (engine.config().objective.separate_ibot_head) heads.emplace("ibot_head", "fresh");
  for (auto& [module, from] : heads)
    if (take_head(load_head(backbone, beginning.which, module), module, student)) from = "of the weights";
  return heads;
}

void record(const std::string& run, const Beginning& beginning,
            const std::map<std::string, std::string>& heads) {
  const std::string path = run + "/run.json";
  OrderedJson json =
      path_exists(path) ? OrderedJson::parse(read_text(path), nullptr, false) : OrderedJson::object();
  if (!json.is_object()) json = OrderedJson::object();
  json["weights"] = {{"reference", beginning.reference},
                     {"which", name_of(beginning.which)},
                     {"sha256", beginning.backbone->sha256},
                     {"description", beginning.backbone->description},
                     {"heads", heads}};
  write_file_atomically(path, json_text(json, 2) + "\n");
}

}  // namespace

bool holds_weights_only(const std::string& checkpoint) {
  return !read_checkpoint_manifest(checkpoint).has_store("adam_m");
}

Beginning settle_beginning(TrainConfig& config, const OptionTable& table, const CommandContext& context) {
  Beginning beginning;
  beginning.which = config.which;
  Found found;
  on_root(context.world, [&] {
    found = find(config, context.common.output, beginning);
    if (found.reference.empty()) return;
    compare_settings(config, vit_config_from_json(found.vit_json, found.reference), found.reference, context);
  });
  context.world.broadcast(found.reference);
  context.world.broadcast(found.vit_json);
  context.world.broadcast_span(std::span<float>(found.normalisation.mean));
  context.world.broadcast_span(std::span<float>(found.normalisation.std));
  context.world.broadcast_span(std::span(&found.side, 1));
  beginning.reference = found.reference;
  if (found.reference.empty()) return beginning;
  config.weights = found.reference;
  adopt(config, vit_config_from_json(found.vit_json, found.reference));
  adopt_normalisation(config, found.normalisation, table);
  // Crops of the size that the weights know, unless others are asked for.
  if (found.side >= config.vit->patch && config.global_size.is_auto())
    config.global_size = found.side / config.vit->patch * config.vit->patch;
  if (beginning.backbone)
    log::info(fmt::format("weights: {}: {}; {}", found.reference, beginning.backbone->description,
                          describe(*config.vit)));
  return beginning;
}

void begin_from(Beginning& beginning, const std::string& checkpoint, const TrainConfig& config,
                Engine& engine, const CommandContext& context) {
  const auto seed = static_cast<uint64_t>(context.common.seed);
  if (beginning.reference.empty() && checkpoint.empty()) {
    engine.initialize(seed);
    return;
  }
  ParameterStore student;  // rank 0's: the others get one unit after another
  on_root(context.world, [&] {
    student = ParameterStore(engine.layout());
    student.initialize(seed);
    // Where the newer checkpoints turned out to be damaged, or are gone.
    if (!beginning.backbone)
      beginning.backbone =
          load_backbone(checkpoint.empty() ? config.weights : checkpoint, LoadOptions{beginning.which, 0});
    if (beginning.backbone->config != *config.vit && !same_backbone(beginning.backbone->config, *config.vit))
      throw DataError(fmt::format(
          "other weights: {}: they are {}, the run was {}; use those that it began with",
          beginning.backbone->source, describe(beginning.backbone->config), describe(*config.vit)));
    const std::map<std::string, std::string> heads = fill(beginning, engine, student);
    record(context.common.output, beginning, heads);
    std::string text;
    for (const auto& [head, from] : heads) text += fmt::format(", {} {}", head, from);
    log::info(fmt::format("begins with {}{}", beginning.backbone->source, text));
  });
  beginning.backbone.reset();
  engine.begin_with([&](int64_t unit, TensorView values) {
    if (context.world.root())
      std::copy_n(student.unit(unit).f32().begin(), values.numel(), values.f32().begin());
    context.world.broadcast_span(values.f32());
  });
}

}  // namespace dino::pretrain
