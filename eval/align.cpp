// SPDX-License-Identifier: Apache-2.0
// A text tower trained on the frozen features of a backbone (locked-image tuning, arXiv 2111.07991).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/keyed_permutation.hpp"
#include "base/log.hpp"
#include "base/progress.hpp"
#include "base/signals.hpp"
#include "comm/together.hpp"
#include "commands.hpp"
#include "inputs/captions.hpp"
#include "inputs/clip_model.hpp"
#include "model/byte_pairs.hpp"
#include "model/clip.hpp"
#include "options.hpp"
#include "storage/files.hpp"
#include "storage/output_folder.hpp"
#include "training/contrastive.hpp"
#include "training/schedules.hpp"

namespace dino::eval {

namespace {

struct AlignConfig {
  ModelOptions model;
  InputOptions input;
  FeatureProtocol limits;
  bool text_tower = false;
  std::string data, vocabulary;
  int64_t width = 256, depth = 4, heads = 4, context = 77;
  int64_t batch = 256, epochs = 20, encode_batch = 32;
  double lr = 1e-3, weight_decay = 0.1, warmup = 0.1;
};

Schema<AlignConfig> align_options() {
  using C = AlignConfig;
  Schema<C> schema;
  schema.add(&C::model, model_options());
  schema.add(&C::input, input_options()).add(&C::limits, limit_options());
  schema.section("data");
  schema.add("data", &C::data, "Data reference whose images have captions.").required();
  schema
      .add(
          "vocabulary", &C::vocabulary,
          "Byte pairs of a CLIP model: a folder, tokenizer.json or merges.txt; a copy goes beside the tower.")
      .required();
  schema.section("text tower");
  schema.add("text-tower", &C::text_tower, "Train a text tower on the frozen features.");
  schema.add("text-width", &C::width, "Width of the tower.").range(8, 8192);
  schema.add("text-depth", &C::depth, "Blocks of the tower.").range(1, 128);
  schema.add("text-heads", &C::heads, "Attention heads of the tower.").range(1, 1024);
  schema.add("context", &C::context, "Most tokens of a text, with those around it.").range(2, 4096);
  schema.section("training");
  schema.add("batch", &C::batch, "Pairs of a step over all ranks; each is told from all others.")
      .range(2, 65536);
  schema.add("epochs", &C::epochs, "Times that the data are gone through.").range(1, 10000);
  schema.add("lr", &C::lr, "Highest learning rate.").range(0, 10);
  schema.add("weight-decay", &C::weight_decay, "Decoupled weight decay of matrices and tables.").range(0, 10);
  schema
      .add("warmup", &C::warmup,
           "Share of the steps that the rate rises in, before it falls to 0 by a cosine.")
      .range(0, 1);
  schema.add("encode-batch", &C::encode_batch, "Images per forward pass.").range(1, 4096);
  return schema;
}

/// Images and their captions, on every rank.
struct Pairs {
  EncodedImages images;
  std::vector<std::vector<std::string>> captions;  ///< by image
  FeatureProtocol protocol;
};

Pairs encoded_pairs(const AlignConfig& config, ModelOptions& model, uint64_t seed,
                    const Communicator& world) {
  const std::vector<CaptionedRecord> records = captioned_records(config.data, world);
  settle_device(model.device, world);
  const auto extractor = make_extractor(model, seed);
  Pairs pairs;
  pairs.protocol = config.limits;
  extractor->settle(config.input, pairs.protocol);
  pairs.protocol.tokens = Tokens::cls;
  pairs.protocol.layers = 1;
  std::vector<Record> images;
  for (const CaptionedRecord& each : records) images.push_back(each.record);
  pairs.images = encode_images(*extractor, pairs.protocol, images, config.encode_batch, world);
  for (const int64_t record : pairs.images.records)
    pairs.captions.push_back(records[static_cast<size_t>(record)].captions);
  return pairs;
}

/// The pairs of a step that are this rank's: each epoch goes through all in an order of its own.
struct StepPairs {
  std::vector<std::vector<int32_t>> texts;
  Tensor images;
};

StepPairs pairs_of_step(const AlignConfig& config, const Pairs& pairs, const BytePairs& tokenizer,
                        int64_t batch, int64_t step, uint64_t seed, const Communicator& world) {
  const auto n = std::ssize(pairs.captions);
  const int64_t steps_of_epoch = n / batch, each = batch / world.size(), width = pairs.images.rows.shape()[1];
  const KeyedPermutation order(n, seed, RandomStream::shuffle, static_cast<uint64_t>(step / steps_of_epoch));
  Random random(seed, RandomStream::sampling, static_cast<uint64_t>(step));
  StepPairs own;
  own.images = Tensor::uninitialised({each, width});
  for (int64_t i = 0; i < batch; ++i) {
    const auto image = order(step % steps_of_epoch * batch + i);
    const std::vector<std::string>& captions = pairs.captions[static_cast<size_t>(image)];
    const std::string& caption = captions[random.below(captions.size())];  // drawn on every rank
    const int64_t place = i - world.rank() * each;
    if (place < 0 || place >= each) continue;
    own.texts.push_back(tokenizer.encode(caption, config.context));
    std::copy_n(pairs.images.rows.as<float>() + image * width, width, own.images.as<float>() + place * width);
  }
  return own;
}

int64_t settled_batch(const AlignConfig& config, int64_t pairs, const Communicator& world) {
  const int64_t batch = std::min(config.batch, pairs);
  if (batch < 2)
    throw DataError(
        fmt::format("training a text tower: {}: {} pair; at least 2 are needed", config.data, pairs));
  if (batch % world.size() != 0)
    throw UsageError(fmt::format("training a text tower: --batch {}: does not divide among {} ranks; use {}",
                                 batch, world.size(),
                                 std::max<int64_t>(batch / world.size(), 1) * world.size()));
  return batch;
}

struct Trained {
  int64_t steps = 0, pairs = 0, batch = 0;
  double first_loss = 0, loss = 0, scale = 0;
};

Trained train(const AlignConfig& config, const Pairs& pairs, const BytePairs& tokenizer, TextModel& model,
              uint64_t seed, const Communicator& world) {
  Trained result;
  result.pairs = std::ssize(pairs.captions);
  result.batch = settled_batch(config, result.pairs, world);
  result.steps = config.epochs * (result.pairs / result.batch);
  Workplace place(backend_of(config.model.device), world,
                  precision_here(config.model.precision, kind_of(config.model.device)));
  bring_to_device(model, place.context());
  TextTraining training(place.context(), model);
  CosineSchedule rate{config.lr, 0, result.steps};
  rate.warmup = std::llround(config.warmup * static_cast<double>(result.steps));
  Progress progress("text tower", result.steps, "steps");
  for (int64_t step = 0; step < result.steps; ++step) {
    if (world.any(stop_requested())) throw_stopped();
    const StepPairs own = pairs_of_step(config, pairs, tokenizer, result.batch, step, seed, world);
    TextTrainingRates rates;
    rates.learning_rate = rate.value(step);
    rates.weight_decay = config.weight_decay;
    const TextTrainingStep done = training.step(own.texts, own.images, rates);
    if (!std::isfinite(done.loss) || !std::isfinite(done.gradient_norm))
      throw DivergedError(
          fmt::format("training a text tower: step {}: the loss is {} and its gradient {}; lower --lr",
                      step + 1, done.loss, done.gradient_norm));
    if (step == 0) result.first_loss = done.loss;
    result.loss = done.loss;
    result.scale = done.scale;
    if (step % std::max<int64_t>(1, result.steps / 20) == 0)
      log::info(fmt::format("step {} of {}: loss {:.4f} (chance {:.4f}), scale {:.1f}", step + 1,
                            result.steps, done.loss, std::log(static_cast<double>(result.batch)),
                            done.scale));
    progress.set(step + 1);
  }
  progress.finish();
  return result;
}

/// The backbone, then the vocabulary, then the tower, without which the folder is no aligned one.
void write_aligned(const AlignConfig& config, const Pairs& pairs, const BytePairs& tokenizer,
                   const TextModel& model, const std::string& folder) {
  const auto backbone =
      load_backbone(config.model.weights, LoadOptions{config.model.which, config.model.heads});
  Preparation pixels = preparation_of(config.model.weights, backbone->config);
  pixels.size = pairs.protocol.size;
  pixels.resize = pairs.protocol.resize_to();
  export_hub(*backbone, folder, pixels);
  for (const std::string& file : tokenizer.files()) {
    const std::string name = std::filesystem::path(file).filename().string();
    const std::string kind = name == "vocab.json"      ? name
                             : name.ends_with(".json") ? "tokenizer.json"
                                                       : "merges.txt";
    write_file_atomically(folder + "/" + kind, read_text(file));
  }
  write_text_model(model, folder);
}

ExitCode run_align(AlignConfig config, CommandContext& context) {
  if (!config.text_tower)
    throw UsageError("aligning: --text-tower: is missing; it says what is to be trained");
  if (config.width % config.heads != 0)
    throw UsageError(fmt::format("training a text tower: --text-heads {}: do not divide --text-width {}",
                                 config.heads, config.width));
  if (config.model.weights == "raw-pixels" || config.model.weights.starts_with("random:"))
    throw UsageError(
        fmt::format("training a text tower: --weights {}: has no file to keep beside the tower; name weights",
                    config.model.weights));
  const auto seed = static_cast<uint64_t>(context.common.seed);
  const BytePairs tokenizer = BytePairs::load(config.vocabulary, 0);
  if (context.common.dry_run) {
    const auto records = captioned_records(config.data, context.world);
    (void)settled_batch(config, std::ssize(records), context.world);
    log::info(fmt::format("{} images of {} have captions", records.size(), config.data));
    return ExitCode::done;
  }
  const auto lock = lock_output_folder(context, output_kind::aligned);
  const Pairs pairs = encoded_pairs(config, config.model, seed, context.world);
  TextConfig text;
  text.vocabulary = tokenizer.size();
  text.context = config.context;
  text.width = config.width;
  text.depth = config.depth;
  text.heads = config.heads;
  text.hidden = 4 * config.width;
  text.projection = pairs.images.rows.shape()[1];
  const auto model = random_text_model(text, seed);
  const Trained trained = train(config, pairs, tokenizer, *model, seed, context.world);
  on_root(context.world, [&] {
    // The tower's values, wherever they were trained.
    TextModel host;
    host.config = model->config;
    append_text_layout(host.layout, host.config);
    host.weights = ParameterStore(host.layout);
    const auto stream = backend_of(config.model.device).new_stream();
    host.weights.copy_from(*stream, model->weights);
    stream->synchronize();
    write_aligned(config, pairs, tokenizer, host, context.common.output);
  });
  if (!context.world.root()) return ExitCode::done;
  log::info(fmt::format("{}: trained on {} pairs, loss {:.4f} -> {:.4f}", context.common.output,
                        trained.pairs, trained.first_loss, trained.loss));
  context.result = json_line({{"output", context.common.output},
                              {"pairs", trained.pairs},
                              {"batch", trained.batch},
                              {"steps", trained.steps},
                              {"first_loss", trained.first_loss},
                              {"loss", trained.loss},
                              {"scale", trained.scale}});
  return ExitCode::done;
}

}  // namespace

Command align_command() {
  Command command;
  command.name = "align";
  command.summary = "Train a text tower on frozen features";
  command.usage = "--weights W --text-tower --data PAIRS --vocabulary V --output P";
  command.description =
      "The backbone stays as it is; a causal text transformer learns, by CLIP's symmetric contrastive loss "
      "over the "
      "pairs of all ranks, to give a caption the direction of its image's class token. P then is a weights "
      "reference "
      "for --clip: the backbone, the text tower (text.safetensors) and the vocabulary. Captions are those "
      "that "
      "imagetext reads. A stop ends it without a result.";
  command.output = "Folder for both towers.";
  command.examples = {{"--weights run --text-tower --data pairs --vocabulary ViT-B-32 --output aligned"}};
  command.make = with_options(align_options(), run_align);
  return command;
}

}  // namespace dino::eval
