// SPDX-License-Identifier: Apache-2.0
// Object discovery without labels: the box around one side of a normalised cut of the patch tokens (TokenCut,
// Wang et al., arXiv 2202.11539); CorLoc is the share of images whose box overlaps the object's by half.
#include <fmt/format.h>

#include <algorithm>

#include "comm/together.hpp"
#include "imaging/mask_measures.hpp"
#include "inputs/composite_task.hpp"
#include "numeric/normalized_cut.hpp"

namespace dino::eval {

namespace {

struct DiscoverConfig {
  CompositeConfig images;
  double threshold = 0.2;
  int64_t pictures = 8;
};

struct Found {
  std::vector<uint8_t> patches;  ///< [grid * grid], the connected part that holds the seed
  Box box;                       ///< in pixels
};

Found discover(const float* patches, int64_t grid, int64_t width, int64_t side, double threshold) {
  const NormalizedCut cut = normalized_cut(
      std::span<const float>(patches, static_cast<size_t>(grid * grid * width)), grid * grid, threshold);
  Found found;
  found.patches = connected_part({cut.foreground, grid, grid}, cut.seed % grid, cut.seed / grid);
  const Box cells = bounding_box({found.patches, grid, grid});
  found.box = {cells.top * side, cells.left * side, cells.height * side, cells.width * side};
  return found;
}

void draw_box(Image& image, const Box& box, Colour colour) {
  const auto put = [&](int64_t x, int64_t y) {
    if (x >= 0 && y >= 0 && x < image.width && y < image.height)
      std::copy_n(colour.begin(), 3, image.at(x, y));
  };
  for (int64_t line = 0; line < 2; ++line) {
    for (int64_t x = box.left; x < box.left + box.width; ++x)
      put(x, box.top + line), put(x, box.top + box.height - 1 - line);
    for (int64_t y = box.top; y < box.top + box.height; ++y)
      put(box.left + line, y), put(box.left + box.width - 1 - line, y);
  }
}

class Discover final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = DiscoverConfig;
    Schema<C> schema = composite_options<C>(&C::images);
    schema.section("discovery");
    schema.add("threshold", &C::threshold, "Cosine from which two patches are joined.").range(-1, 1);
    schema.add("pictures", &C::pictures, "Images to draw with their boxes.").range(0, 1000);
    table.bind(schema, config_);
  }

  Plan plan(TaskRun& run) override {
    input_ = composite_input(run, config_.images);
    Plan plan = input_.plan;
    Card card = input_.card;
    card.set("task", "discover")
        .set("method", "normalised cut of patch tokens, the connected part of its largest element")
        .set("threshold", config_.threshold)
        .set("truth", "the box around the mask, overlap of at least .5")
        .set("interval", "Wilson 95 %");
    plan.protocols.push_back({card, {"corloc"}});
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& plan, std::span<const size_t> /*wanted*/) override {
    const int64_t side = input_.extractor->patch_side(), grid = config_.images.size / side;
    std::vector<double> hits;
    std::vector<std::string> keys;
    std::vector<int64_t> drawn;
    std::vector<uint8_t> pixels;
    const auto faults = for_each_composite(
        run.world, *input_.extractor, input_.records, input_.options, "discovery",
        [&](const CompositeTokens& tokens) {
          const Found found =
              discover(tokens.patches, grid, input_.extractor->patch_width(), side, config_.threshold);
          const Box truth = bounding_box({tokens.composite->mask, config_.images.size, config_.images.size});
          hits.push_back(box_overlap(found.box, truth) >= 0.5 ? 1 : 0);
          keys.push_back(input_.records[static_cast<size_t>(tokens.record)].key);
          if (static_cast<int64_t>(drawn.size()) >= config_.pictures) return;
          Image picture = tokens.composite->image;
          draw_box(picture, truth, {0, 158, 115});
          draw_box(picture, found.box, {213, 94, 0});
          drawn.push_back(tokens.record);
          pixels.insert(pixels.end(), picture.pixels.begin(), picture.pixels.end());
        });
    const auto all_hits = run.world.gather_values<double>(std::span<const double>(hits));
    const auto all_keys = gather_lines(run.world, keys);
    const auto all_drawn = run.world.gather_values<int64_t>(std::span<const int64_t>(drawn));
    const auto all_pixels = run.world.gather_values<uint8_t>(std::span<const uint8_t>(pixels));
    std::vector<Outcome> outcomes;
    on_root(run.world, [&] {
      say_left_out(faults);
      require_composites(input_, all_keys.size());
      const auto n = static_cast<int64_t>(all_hits.size());
      Predictions predictions;
      predictions.keys = all_keys;
      predictions.values["corloc"] = all_hits;
      outcomes.push_back(
          {0, {{"corloc", wilson(std::count(all_hits.begin(), all_hits.end(), 1.0), n), true}}, predictions});
      draw(run.pictures("discover", plan, plan.protocols[0]), all_drawn, all_pixels);
    });
    return outcomes;
  }

 private:
  void draw(PictureSet set, const std::vector<int64_t>& records, const std::vector<uint8_t>& pixels) const {
    const int64_t size = config_.images.size, bytes = size * size * 3;
    if (records.empty()) return;
    for (size_t i = 0; i < records.size() && static_cast<int64_t>(i) < config_.pictures; ++i) {
      const auto at = pixels.begin() + static_cast<int64_t>(i) * bytes;
      set.begin_strip(input_.records[static_cast<size_t>(records[i])].key);
      set.add(Image{size, size, 3, {at, at + bytes}}, "box of the mask green, found orange", "");
    }
    set.commit();
  }

  DiscoverConfig config_;
  CompositeInput input_;
};

}  // namespace

TaskEntry discover_task() {
  TaskInfo info;
  info.name = "discover";
  info.summary = "Find the object of each image without labels";
  info.usage = "--weights W --data REF [--size N] --output RESULTS";
  info.description =
      "Cuts the graph of an image's patches in two (TokenCut) and takes the box around the side that stands "
      "out. CorLoc is the share of images where it overlaps the object's own box by half. Objects are those "
      "of an alpha channel, pasted on drawn backgrounds.";
  info.examples = {{"--weights run --data wesnoth-units/test --output results"}};
  info.metrics = {{"corloc", true, true}};
  info.inputs = {{"data", "Data reference of cut-outs.", TaskInput::Kind::images, TaskInput::Part::test}};
  info.pictures = {
      {"discover", "Objects found without labels", "The mask's box is green, the one found orange."}};
  info.encoder = TaskInfo::Encoder::tokens;
  return task_entry<Discover>(std::move(info));
}

}  // namespace dino::eval
