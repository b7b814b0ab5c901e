// SPDX-License-Identifier: Apache-2.0
// Foreground segmentation: batch norm + 1x1 convolution on frozen patch tokens (the linear protocol of
// DINOv2, arXiv 2304.07193, section 7.4), masks from alpha channels.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/loop_failure.hpp"
#include "base/progress.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"
#include "base/working.hpp"
#include "commands.hpp"
#include "heads/segment_head.hpp"
#include "imaging/decode_options.hpp"
#include "inputs/composite.hpp"
#include "options.hpp"
#include "pictures.hpp"
#include "storage/files.hpp"
#include "storage/output_folder.hpp"

namespace dino::eval {

namespace {

struct SegmentConfig {
  ModelOptions model;
  std::string train, test, dataset;
  DecodeMemory decode_memory;
  Auto<int64_t> chosen_size;
  int64_t size = 0, batch = 16, epochs = 20, limit = 500, resamples = 2000, seed = 0;
  double lr = 1e-3;
  bool force = false;
};

/// What one rank extracts from its part of the records: good images only, in order.
struct SegmentTokens {
  int64_t images = 0;
  std::vector<float> patches;   ///< [images, grid * grid, width]
  std::vector<uint8_t> masks;   ///< [images, size * size]
  std::vector<uint8_t> pixels;  ///< [images, size * size * 3]; the first few only, for pictures
  std::string keys, faults;     ///< each ended by a newline
};

constexpr int64_t kPictures = 6;

/// Spread evenly over the order of the data set.
std::vector<Record> sample_records(const std::string& reference, int64_t limit) {
  const Dataset dataset = open_dataset(reference);
  const auto n = static_cast<int64_t>(dataset.records.size());
  std::vector<Record> out;
  for (int64_t i = 0; i < std::min(n, limit); ++i)
    out.push_back(dataset.records[static_cast<size_t>(n <= limit ? i : i * n / limit)]);
  return out;
}

SegmentTokens extract_tokens(Extractor& extractor, const SegmentConfig& config,
                             std::span<const Record> records, Range mine, const char* stage) {
  FeatureProtocol protocol;
  protocol.size = protocol.resize = config.size;
  const int64_t decode_memory = config.decode_memory.bytes;
  const int64_t grid = config.size / extractor.patch_side(), values = grid * grid * extractor.patch_width();
  SegmentTokens out;
  std::vector<float> features, patches;
  Progress progress(stage, mine.size(), "images");
  // Batches start at multiples of the batch size in global order, so they are the same for any number of
  // ranks.
  for (int64_t begin = mine.begin; begin < mine.end; begin += config.batch) {
    work_point();
    const int64_t count = std::min(config.batch, mine.end - begin);
    std::vector<Composite> made(static_cast<size_t>(count));
    LoopFailure failure;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < count; ++i)
      failure.guard([&] {
        made[static_cast<size_t>(i)] = load_composite(records[static_cast<size_t>(begin + i)], config.size,
                                                      decode_memory, static_cast<uint64_t>(config.seed));
      });
    failure.rethrow();
    std::vector<Image> images;
    for (const Composite& c : made) images.push_back(c.image);
    features.resize(static_cast<size_t>(count * extractor.columns(protocol).width()));
    patches.resize(static_cast<size_t>(count * values));
    extractor.extract(images, protocol, features.data(), patches.data());
    for (int64_t i = 0; i < count; ++i) {
      const Composite& c = made[static_cast<size_t>(i)];
      const std::string& key = records[static_cast<size_t>(begin + i)].key;
      if (!c.fault.empty()) {
        out.faults += key + ": " + c.fault + "\n";
        continue;
      }
      if (out.images < kPictures)
        out.pixels.insert(out.pixels.end(), c.image.pixels.begin(), c.image.pixels.end());
      ++out.images;
      out.keys += key + "\n";
      out.patches.insert(out.patches.end(), patches.begin() + i * values, patches.begin() + (i + 1) * values);
      out.masks.insert(out.masks.end(), c.mask.begin(), c.mask.end());
    }
    progress.add(count);
  }
  progress.finish();
  return out;
}

/// Whole batches per rank.
Range batches_of_rank(int64_t records, int64_t batch, const Communicator& world) {
  const Range b = even_range((records + batch - 1) / batch, world.rank(), world.size());
  return {std::min(b.begin * batch, records), std::min(b.end * batch, records)};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

std::string gather_text(const Communicator& world, const std::string& text) {
  const auto all = world.gather_values<char>(std::span(text));
  return {all.begin(), all.end()};
}

SegmentTokens gather_tokens(const Communicator& world, SegmentTokens mine) {
  SegmentTokens all;
  all.images = world.sum(mine.images);
  all.patches = world.gather_values<float>(std::span<const float>(mine.patches));
  all.masks = world.gather_values<uint8_t>(std::span<const uint8_t>(mine.masks));
  all.pixels = world.gather_values<uint8_t>(std::span<const uint8_t>(mine.pixels));
  all.keys = gather_text(world, mine.keys);
  all.faults = gather_text(world, mine.faults);
  return all;
}

Card segment_card(const SegmentConfig& config, int64_t patch, const SegmentTokens& train,
                  const SegmentTokens& test) {
  const auto part = [](const std::string& reference, const SegmentTokens& tokens) {
    return Card()
        .set("data", dataset_name(reference))
        .set("images", tokens.images)
        .set("keys", keys_hash(lines_of(tokens.keys)).substr(0, 16));
  };
  Card card;
  card.set("task", "segment").set("train", part(config.train, train)).set("test", part(config.test, test));
  card.set("size", config.size)
      .set("crop", "pad to square")
      .set("patch", patch)
      .set("classes", "background, foreground (alpha >= 128)");
  card.set("background", "drawn per image from the seed").set("features", "patch tokens of the last block");
  card.set("head", "batch norm + 1x1 convolution")
      .set("loss", "cross-entropy on each patch's foreground share");
  card.set("optimizer", "AdamW, weight decay 1e-4, linear decay")
      .set("lr", config.lr)
      .set("epochs", config.epochs)
      .set("batch", config.batch);
  card.set("evaluation", "logits bilinear to the input's resolution, every pixel counts")
      .set("selection", "none (fixed settings)")
      .set("seed", config.seed);
  card.set("interval", fmt::format("percentile bootstrap over images, {} resamples", config.resamples));
  return card;
}

void write_triptychs(const std::string& output, const ResultRow& row, const SegmentConfig& config,
                     const SegmentTokens& test, const SegmentHead& head, int64_t grid) {
  PictureSet set(output, "segment", row);
  const int64_t pixels = config.size * config.size, values = grid * grid * head.width();
  const auto keys = lines_of(test.keys);
  for (int64_t i = 0; i < std::min(kPictures, test.images); ++i) {
    const Image image{config.size,
                      config.size,
                      3,
                      {test.pixels.begin() + i * pixels * 3, test.pixels.begin() + (i + 1) * pixels * 3}};
    const std::vector<uint8_t> predicted = head.segment(test.patches.data() + i * values, grid, config.size);
    Image truth = image, guess = image, errors = image;
    for (int64_t p = 0; p < pixels; ++p) {
      const uint8_t t = test.masks[static_cast<size_t>(i * pixels + p)],
                    g = predicted[static_cast<size_t>(p)];
      for (int64_t c = 0; c < 3; ++c) {
        const auto at = static_cast<size_t>(p * 3 + c);
        truth.pixels[at] = t != 0 ? 255 : 30;
        guess.pixels[at] = g != 0 ? 255 : 30;
        // Missed foreground in vermillion, false foreground in blue (the page's colours).
        constexpr uint8_t missed[3] = {213, 94, 0}, extra[3] = {0, 114, 178};
        errors.pixels[at] = t == g ? (t != 0 ? 225 : 60) : (t != 0 ? missed[c] : extra[c]);
      }
    }
    set.begin_strip(keys[static_cast<size_t>(i)]);
    set.add(fit(image, 160), "image", "");
    set.add(fit(truth, 160), "truth", "");
    set.add(fit(guess, 160), "prediction", "");
    set.add(fit(errors, 160), "errors: missed orange, extra blue", "");
  }
  set.commit();
}

void say_faults(const std::string& faults) {
  const auto lines = lines_of(faults);
  for (size_t i = 0; i < std::min<size_t>(lines.size(), 5); ++i) log::warning("left out " + lines[i]);
  if (lines.size() > 5) log::warning(fmt::format("left out {} images in all", lines.size()));
}

/// The frozen model, and the side of its input.
std::unique_ptr<Extractor> settle_model(SegmentConfig& config) {
  FeatureProtocol protocol;
  InputOptions input;
  input.size = config.chosen_size;
  input.pad = input.silent = true;
  auto extractor = make_extractor(config.model, static_cast<uint64_t>(config.seed));
  extractor->settle(input, protocol);
  config.size = protocol.size;
  if (config.size % extractor->patch_side() != 0)
    throw UsageError(
        fmt::format("segmentation: --size {}: is not a multiple of the patch side {}; choose another",
                    config.size, extractor->patch_side()));
  if (config.size > 4096)
    throw UsageError(
        fmt::format("segmentation: --size: {} is more than 4096; give a smaller one", config.size));
  const auto told = nlohmann::json::parse(extractor->identity().input, nullptr, false);
  log::info(fmt::format("input of {}: {} x {} pixels ({}), on drawn backgrounds", config.model.weights,
                        config.size, config.size,
                        !config.chosen_size.is_auto() ? "given: --size"
                        : told.is_object() && told.at("from") != "default"
                            ? "from the weights' " + told.at("from").get<std::string>()
                            : "the default"));
  return extractor;
}

ExitCode run_segment(CommandContext& context, SegmentConfig config) {
  const log::Phase phase("segment");
  const Stopwatch watch;
  const Communicator& world = context.world;
  const auto train_records = sample_records(config.train, config.limit),
             test_records = sample_records(config.test, config.limit);
  settle_device(config.model.device, world);
  const auto extractor = settle_model(config);
  const int64_t grid = config.size / extractor->patch_side();
  const auto n_train = static_cast<int64_t>(train_records.size()),
             n_test = static_cast<int64_t>(test_records.size());
  const SegmentTokens train =
      gather_tokens(world, extract_tokens(*extractor, config, train_records,
                                          batches_of_rank(n_train, config.batch, world), "train tokens"));
  const SegmentTokens test =
      gather_tokens(world, extract_tokens(*extractor, config, test_records,
                                          batches_of_rank(n_test, config.batch, world), "test tokens"));
  if (train.images == 0 || test.images == 0)
    throw DataError(
        fmt::format("segmentation: {}: holds no image with a partly transparent alpha channel; give cut-outs "
                    "(PNG or WebP with alpha)",
                    train.images == 0 ? config.train : config.test));
  if (!world.root()) return ExitCode::done;
  say_faults(train.faults + test.faults);

  const Card card = segment_card(config, extractor->patch_side(), train, test);
  ResultRow row;
  row.task = "segment";
  row.dataset = config.dataset.empty() ? dataset_name(config.test) : config.dataset;
  row.model = extractor->identity().name;
  row.weights = extractor->identity().weights;
  row.model_input = extractor->identity().input;
  row.metric = "mIoU";
  row.card = card.json();
  row.card_hash = card.hash();
  ResultStore store(context.common.output);
  if (config.force || store.find(row) == nullptr) {
    SegmentHead head(extractor->patch_width());
    head.fit(train.patches, train.masks, grid, config.size,
             {config.lr, config.epochs, config.batch, static_cast<uint64_t>(config.seed)});
    std::vector<int64_t> confusions;
    const int64_t pixels = config.size * config.size, values = grid * grid * extractor->patch_width();
    for (int64_t i = 0; i < test.images; ++i) {
      const auto predicted = head.segment(test.patches.data() + i * values, grid, config.size);
      int64_t cells[4] = {};
      for (int64_t p = 0; p < pixels; ++p)
        ++cells[2 * test.masks[static_cast<size_t>(i * pixels + p)] + predicted[static_cast<size_t>(p)]];
      confusions.insert(confusions.end(), cells, cells + 4);
    }
    row.estimate = bootstrap_mean_iou(confusions, 2, config.resamples, static_cast<uint64_t>(config.seed));
    write_triptychs(context.common.output, row, config, test, head, grid);
  }
  row.seconds = watch.seconds();
  if (!store.add(row, config.force)) row = *store.find(row);
  context.result = fmt::format("{{\"results\":[{}]}}", to_json_line(row));
  return ExitCode::done;
}

}  // namespace

namespace {

Schema<SegmentConfig> segment_options() {
  using C = SegmentConfig;
  Schema<C> schema;
  schema.add(&C::model, model_options());
  schema.section("data");
  schema.add("train", &C::train, "Data reference of the training cut-outs.").required();
  schema.add("test", &C::test, "Data reference of the test cut-outs.").required();
  schema.add("dataset", &C::dataset, "Name of the data set in results (default: from --test).");
  schema.add("limit", &C::limit, "At most this many images of each, spread evenly.").range(1, 1e7);
  schema
      .add("size", &C::chosen_size, "Side of the input in pixels (auto: as the model was trained, else 224).")
      .range(8, 4096);
  add_decode_memory(schema, &C::decode_memory);
  schema.add("patch", &C::model, &ModelOptions::patch, "Patch side of raw-pixels.").range(1, 256);
  schema.add("force", &C::force, "Append the result even if RESULTS already has one with the same card.");
  schema.section("training");
  schema.add("lr", &C::lr, "Learning rate.").range(1e-8, 10);
  schema.add("epochs", &C::epochs, "Passes over the training images.").range(1, 10000);
  schema.add("batch", &C::batch, "Images per step and per forward pass.").range(1, 4096);
  schema.add("resamples", &C::resamples, "Bootstrap resamples.").range(100, 1e6);
  return schema;
}

ExitCode start_segment(SegmentConfig config, CommandContext& context) {
  config.seed = context.common.seed;
  if (context.common.dry_run) {
    (void)open_dataset(config.train);
    (void)open_dataset(config.test);
    return ExitCode::done;
  }
  const auto lock = lock_output_folder(context, output_kind::results);
  return run_segment(context, config);
}

}  // namespace

Command segment_command() {
  Command command;
  command.name = "segment";
  command.summary = "Foreground segmentation with a linear head on frozen patch tokens";
  command.usage = "--weights W --train REF --test REF [--size N] --output RESULTS";
  command.description =
      "Takes images with an alpha channel, pastes each on a drawn background, trains batch norm + 1x1 "
      "convolution on the frozen patch tokens of the "
      "training images and reports the mean IoU of background and foreground on the test images at the "
      "input's resolution, with a bootstrap interval over "
      "images. Images without alpha are left out, counted and named.";
  command.output = "Results folder.";
  command.examples = {
      {"--weights run --train wesnoth-units/train --test wesnoth-units/test --output results"}};
  command.make = with_options(segment_options(), start_segment);
  return command;
}

}  // namespace dino::eval
