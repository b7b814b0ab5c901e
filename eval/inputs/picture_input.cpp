// SPDX-License-Identifier: Apache-2.0
#include "inputs/picture_input.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/log.hpp"
#include "imaging/decode_options.hpp"
#include "storage/output_folder.hpp"

namespace dino::eval {

namespace {

Schema<PictureConfig> picture_options() {
  using C = PictureConfig;
  Schema<C> schema;
  schema.add(&C::model, model_options());
  schema.section("data");
  schema.add("data", &C::data, "Data reference.").required();
  schema.add("images", &C::images, "Number of images, spread evenly over the data.").range(1, 1000);
  schema.add("force", &C::force, "Draw again even if RESULTS already has these pictures.");
  schema.add("dataset", &C::dataset, "Name of the data set in results (default: from --data).");
  schema.add(&C::input, input_options("twice what the model was trained at"))
      .add(&C::protocol, limit_options());
  return schema;
}

}  // namespace

Command picture_command(ExitCode (*draw)(CommandContext& context, const PictureConfig& config)) {
  Command command;
  command.output = "Results folder.";
  command.make =
      with_options(picture_options(), [draw](const PictureConfig& config, CommandContext& context) {
        if (context.common.dry_run) {
          (void)open_dataset(config.data);
          return ExitCode::done;
        }
        const auto lock = lock_output_folder(context, output_kind::results);
        return draw(context, config);
      });
  return command;
}

PictureInput::PictureInput(PictureConfig config, uint64_t seed) : config_(std::move(config)) {
  const Dataset dataset = open_dataset(config_.data);
  settle_device(config_.model.device, Communicator::self());  // only rank 0 draws
  extractor_ = make_extractor(config_.model, seed);
  extractor_->settle(config_.input, config_.protocol);
  if (config_.protocol.size % extractor_->patch_side() != 0)
    throw UsageError(
        fmt::format("drawing pictures: --size {}: is not a multiple of the patch side {}; choose another",
                    config_.protocol.size, extractor_->patch_side()));
  const auto n = static_cast<int64_t>(dataset.records.size()), wanted = std::min(config_.images, n);
  for (int64_t i = 0; i < wanted; ++i)
    for (int64_t r = i * n / wanted; r < (i + 1) * n / wanted; ++r) {
      const Record& record = dataset.records[static_cast<size_t>(r)];
      LoadedImage loaded = load_image(record, config_.protocol);
      if (loaded.fault.empty()) {
        images_.push_back(std::move(loaded.image));
        keys_.push_back(record.key);
        break;
      }
      log::warning(fmt::format("skipped {}: {}", record.key, loaded.fault));
    }
  if (images_.empty())
    throw DataError("drawing pictures: " + config_.data +
                    ": no image could be decoded; check it with dino-curate lint");
}

Card PictureInput::card() const {
  Card card;
  card.set("input", config_.protocol.card())
      .set("data", dataset_name(config_.data))
      .set("keys", keys_hash(keys_).substr(0, 16));
  return card;
}

ResultRow PictureInput::row(const std::string& task, const Card& card) const {
  ResultRow row;
  row.task = task;
  row.dataset = config_.dataset.empty() ? dataset_name(config_.data) : config_.dataset;
  row.model = extractor_->identity().name;
  row.weights = extractor_->identity().weights;
  row.model_input = extractor_->identity().input;
  row.card = card.json();
  row.card_hash = card.hash();
  return row;
}

Image enlarge(const Image& image, int64_t side) {
  const int64_t factor = std::max<int64_t>(1, side / std::max(image.width, image.height));
  Image out{image.width * factor, image.height * factor, image.channels, {}};
  out.pixels.resize(static_cast<size_t>(out.width * out.height * out.channels));
  for (int64_t y = 0; y < out.height; ++y)
    for (int64_t x = 0; x < out.width; ++x)
      std::copy_n(image.at(x / factor, y / factor), image.channels, out.at(x, y));
  return out;
}

}  // namespace dino::eval
