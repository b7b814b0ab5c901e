// SPDX-License-Identifier: Apache-2.0
#include "heads/dense_task.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "base/progress.hpp"
#include "base/working.hpp"
#include "comm/together.hpp"
#include "options.hpp"

namespace dino::eval {

Schema<DenseOptions> dense_options() {
  using C = DenseOptions;
  Schema<C> schema;
  schema.add("limit", &C::limit, "At most this many images of each, spread evenly.").range(1, 1e7);
  schema.add("size", &C::size, "Side of the input in pixels (auto: as the model was trained, else 224).")
      .range(8, 4096);
  add_decode_memory(schema, &C::decode_memory);
  schema.section("training");
  schema.add("augment", &C::augment,
             "Training inputs: the middle of each image, encoded once; or scales, crops, mirror images and "
             "colours drawn for every step, as published.");
  schema.add("lr", &C::lr, "Learning rate.").range(1e-8, 10);
  schema.add("weight-decay", &C::weight_decay, "Weight decay.").range(0, 10);
  schema.add("epochs", &C::epochs, "Passes over the training images.").range(1, 10000);
  schema.add("steps", &C::steps, "Steps of training instead (0: --epochs says).").range(0, 1e8);
  schema.add("batch", &C::batch, "Images per step.").range(1, 4096);
  schema.add("resamples", &C::resamples, "Bootstrap resamples.").range(100, 1e6);
  return schema;
}

namespace {

std::unique_ptr<DenseImages> open_images(const TaskRun& run, size_t input, DenseTask task,
                                         const DenseOptions& options, int64_t side) {
  DecodeLimits limits;
  limits.max_memory = options.decode_memory.bytes;
  return std::make_unique<DenseImages>(run.options.source(input), task, options.limit, side, limits,
                                       static_cast<uint64_t>(run.seed));
}

Card part_card(const DenseImages& images) {
  return Card()
      .set("data", images.name())
      .set("images", images.size())
      .set("keys", keys_hash(images.keys()).substr(0, 16));
}

}  // namespace

DenseInput::DenseInput(TaskRun& run, DenseTask task, const DenseOptions& options) {
  FeatureProtocol protocol;
  InputOptions input;
  input.size = options.size;
  input.pad = input.silent = true;
  encoder_ = &run.encoder(input, protocol);
  side_ = protocol.size;
  if (side_ % encoder_->patch_side() != 0)
    throw UsageError(fmt::format("{}: --size {}: is not a multiple of the patch side {}; choose another",
                                 run.info.name, side_, encoder_->patch_side()));
  together(run.world, [&] {
    train_ = open_images(run, 0, task, options, side_);
    test_ = open_images(run, 1, task, options, side_);
  });
  if (train_->classes() != test_->classes())
    throw DataError(
        fmt::format("{}: --test {}: its classes are not those of the training images; give a part of "
                    "the same data set",
                    run.info.name, run.options.source(1).reference));
  if (!run.world.root()) return;
  const auto told = nlohmann::json::parse(encoder_->identity().input, nullptr, false);
  log::info(fmt::format("input of {}: {} x {} pixels ({})", run.options.model.weights, side_, side_,
                        !options.size.is_auto() ? "given: --size"
                        : told.is_object() && told.at("from") != "default"
                            ? "from the weights' " + told.at("from").get<std::string>()
                            : "the default"));
  for (const DenseImages* images : {train_.get(), test_.get()}) {
    const auto& faults = images->set().faults;
    for (size_t i = 0; i < std::min<size_t>(faults.size(), 3); ++i) log::warning("left out " + faults[i]);
    if (faults.size() > 3)
      log::warning(fmt::format("left out {} of {} in all", faults.size(), images->set().reference));
  }
}

int64_t DenseInput::steps(const DenseOptions& options) const {
  if (options.steps > 0) return options.steps;
  return options.epochs * ((train_->size() + options.batch - 1) / options.batch);
}

Card DenseInput::card(const DenseOptions& options, bool trained) const {
  Card card;
  card.set("train", part_card(*train_)).set("test", part_card(*test_));
  card.set("size", side_).set("patch", encoder_->patch_side());
  card.set("interval", fmt::format("percentile bootstrap over images, {} resamples", options.resamples));
  if (!trained) return card;
  card.set("augment", name_of(options.augment))
      .set("optimizer", "AdamW")
      .set("lr", options.lr)
      .set("weight_decay", options.weight_decay)
      .set("steps", steps(options))
      .set("batch", options.batch)
      .set("selection", "none (fixed settings)");
  return card;
}

Plan DenseInput::plan(Card card, std::vector<std::string> metrics) const {
  Plan plan;
  plan.model = encoder_->identity();
  plan.data = test_->name();
  plan.protocols.push_back({std::move(card), std::move(metrics)});
  return plan;
}

TestValues over_test_images(const Communicator& world, const DenseImages& images, const char* stage,
                            const std::function<std::vector<double>(const DenseSample&)>& measure) {
  std::vector<double> mine;
  std::string keys, faults;
  together(world, [&] {
    const Range part = even_range(images.size(), world.rank(), world.size());
    Progress progress(stage, part.size(), "images");
    for (int64_t i = part.begin; i < part.end; ++i) {
      work_point();
      const DenseSample sample = images.read(i, false);
      if (sample.fault.empty()) {
        const std::vector<double> values = measure(sample);
        mine.insert(mine.end(), values.begin(), values.end());
        keys += images.key(i) + "\n";
      } else {
        faults += images.key(i) + ": " + sample.fault + "\n";
      }
      progress.add(1);
    }
    progress.finish();
  });
  TestValues out;
  out.values = world.gather_values<double>(std::span<const double>(mine));
  const auto lines = [](const std::vector<char>& text) {
    std::vector<std::string> all;
    std::string line;
    for (const char c : text) {
      if (c != '\n') {
        line += c;
        continue;
      }
      all.push_back(std::move(line));
      line.clear();
    }
    return all;
  };
  out.keys = lines(world.gather_values<char>(std::span<const char>(keys)));
  const auto told = lines(world.gather_values<char>(std::span<const char>(faults)));
  for (size_t i = 0; i < std::min<size_t>(told.size(), 5); ++i) log::warning("left out " + told[i]);
  if (told.size() > 5) log::warning(fmt::format("left out {} test images in all", told.size()));
  auto usable = static_cast<int64_t>(out.keys.size());
  world.broadcast_span(std::span(&usable, 1));
  if (usable == 0 && images.cut_outs()) throw DataError(no_cut_outs(images));
  if (usable == 0)
    throw DataError(fmt::format("cannot test: {}: none of its images can be used{}", images.set().reference,
                                told.empty() ? "" : "; the first: " + told.front()));
  return out;
}

std::unique_ptr<Workplace> head_place(const TaskRun& run) {
  ModelOptions model = run.options.model;
  settle_device(model.device, run.world);
  return std::make_unique<Workplace>(backend_of(model.device), Communicator::self(), Precision::f32);
}

Image class_picture(const LabelMap& map) {
  Image image{map.width, map.height, 3, {}};
  for (const int16_t label : map.labels) {
    if (label < 0) {
      image.pixels.insert(image.pixels.end(), {128, 128, 128});
      continue;
    }
    // Hues a golden angle apart; the first class is the background of most sets, and dark.
    const double hue = std::fmod(0.61803398875 * label, 1.0) * 6,
                 value = label == 0 ? 40 : 150 + 105 * (label % 2);
    for (const double shift : {5.0, 3.0, 1.0}) {
      const double k = std::fmod(shift + hue, 6.0), share = std::clamp(std::min(k, 4 - k), 0.0, 1.0);
      image.pixels.push_back(static_cast<uint8_t>(std::lround(value * (1 - 0.8 * share))));
    }
  }
  return image;
}

Image depth_picture(const DepthMap& map, double most) {
  // Near to far: yellow, orange, purple, black; unknown is grey.
  constexpr std::array<std::array<double, 3>, 4> anchors = {
      {{255, 240, 160}, {240, 120, 60}, {120, 30, 110}, {10, 5, 20}}};
  Image image{map.width, map.height, 3, {}};
  for (const float z : map.metres) {
    if (!(z > 0)) {
      image.pixels.insert(image.pixels.end(), {128, 128, 128});
      continue;
    }
    const double at = std::clamp(static_cast<double>(z) / most, 0.0, 1.0) * 3;
    const auto low = std::min<size_t>(static_cast<size_t>(at), 2);
    const double share = at - static_cast<double>(low);
    for (size_t c = 0; c < 3; ++c)
      image.pixels.push_back(
          static_cast<uint8_t>(std::lround(anchors[low][c] * (1 - share) + anchors[low + 1][c] * share)));
  }
  return image;
}

}  // namespace dino::eval
