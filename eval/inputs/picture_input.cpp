// SPDX-License-Identifier: Apache-2.0
#include "inputs/picture_input.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/working.hpp"
#include "options.hpp"

namespace dino::eval {

Schema<PictureOptions> picture_options() {
  using C = PictureOptions;
  Schema<C> schema;
  schema.section("data");
  schema.add("images", &C::images, "Number of images, spread evenly over the data.").range(1, 1000);
  schema.add(&C::input, input_options("twice what the model was trained at"))
      .add(&C::protocol, limit_options());
  return schema;
}

std::vector<TaskInput> picture_inputs() {
  return {{"data", "Data reference.", TaskInput::Kind::images, TaskInput::Part::test}};
}

PictureInput read_picture_input(TaskRun& run, const PictureOptions& options, const PictureLoader& load) {
  const Dataset dataset = run.images("data");
  PictureInput input;
  input.protocol = options.protocol;
  input.encoder = &run.encoder(options.input, input.protocol);
  if (input.protocol.size % input.encoder->patch_side() != 0)
    throw UsageError(
        fmt::format("drawing pictures: --size {}: is not a multiple of the patch side {}; choose another",
                    input.protocol.size, input.encoder->patch_side()));
  const auto n = static_cast<int64_t>(dataset.records.size()), wanted = std::min(options.images, n);
  for (int64_t i = 0; i < wanted; ++i)
    for (int64_t r = i * n / wanted; r < (i + 1) * n / wanted; ++r) {
      const Record& record = dataset.records[static_cast<size_t>(r)];
      LoadedImage loaded = load(record, input.protocol);
      if (loaded.fault.empty()) {
        input.images.push_back(std::move(loaded.image));
        input.keys.push_back(record.key);
        break;
      }
      log::warning(fmt::format("skipped {}: {}", record.key, loaded.fault));
    }
  if (input.images.empty())
    throw DataError("drawing pictures: " + dataset.reference +
                    ": no image could be decoded; check it with dino-curate lint");
  return input;
}

Plan picture_plan(const TaskRun& run, const PictureInput& input, const std::string& kind) {
  const std::string& reference = run.options.first.reference;
  Card card;
  card.set("input", input.protocol.card())
      .set("data", dataset_name(reference))
      .set("keys", keys_hash(input.keys).substr(0, 16))
      .set("task", run.info.name);
  return {input.encoder->identity(), reference, {{card, {}, kind}}};
}

std::vector<float> by_image(const TaskRun& run, const PictureInput& input, int64_t values,
                            const std::function<void(std::span<const Image>, float*)>& compute) {
  const Range mine =
      even_range(static_cast<int64_t>(input.images.size()), run.world.rank(), run.world.size());
  std::vector<float> out(static_cast<size_t>(mine.size() * values));
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    work_point();
    compute(std::span(input.images).subspan(static_cast<size_t>(i), 1),
            out.data() + (i - mine.begin) * values);
  }
  return run.world.gather_values<float>(std::span<const float>(out));
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
