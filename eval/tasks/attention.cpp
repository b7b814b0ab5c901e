// SPDX-License-Identifier: Apache-2.0
// Where the class token looks: its attention to the patches in the last block, one map per head.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "inputs/picture_input.hpp"

namespace dino::eval {

namespace {

/// Dark violet over teal to yellow, rising in lightness: reads the same for colour-blind eyes and in gray.
std::array<uint8_t, 3> heat(double t) {
  constexpr std::array<std::array<double, 3>, 5> stops = {
      {{68, 1, 84}, {59, 82, 139}, {33, 145, 140}, {94, 201, 98}, {253, 231, 37}}};
  const double at = std::clamp(t, 0.0, 1.0) * 4;
  const auto i = std::min<size_t>(static_cast<size_t>(at), 3);
  std::array<uint8_t, 3> out{};
  for (size_t c = 0; c < 3; ++c)
    out[c] = static_cast<uint8_t>(
        std::lround(stops[i][c] + (stops[i + 1][c] - stops[i][c]) * (at - static_cast<double>(i))));
  return out;
}

Image map_picture(const float* map, int64_t grid) {
  const float top = std::max(*std::max_element(map, map + grid * grid), 1e-12F);
  Image out{grid, grid, 3, {}};
  for (int64_t p = 0; p < grid * grid; ++p) {
    const auto colour = heat(static_cast<double>(map[p] / top));
    out.pixels.insert(out.pixels.end(), colour.begin(), colour.end());
  }
  return enlarge(out, 160);
}

class Attention final : public Task {
 public:
  void options(OptionTable& table) override { table.bind(picture_options(), config_); }

  Plan plan(TaskRun& run) override {
    input_ = read_picture_input(run, config_);
    Plan plan = picture_plan(run, input_, "attention");
    plan.protocols[0].card.set("maps", "class token to patches, last block, scaled to each map's maximum");
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& plan, std::span<const size_t> /*wanted*/) override {
    const int64_t grid = input_.grid(), heads = input_.encoder->heads(), cells = grid * grid;
    const std::vector<float> maps =
        by_image(run, input_, heads * cells,
                 [&](std::span<const Image> image, float* out) { input_.encoder->attention(image, out); });
    if (!run.world.root()) return {};
    PictureSet set = run.pictures("attention", plan, plan.protocols[0]);
    double patch_share = 0;
    for (size_t i = 0; i < input_.images.size(); ++i) {
      set.begin_strip(input_.keys[i]);
      set.add(fit(input_.images[i], 160), "image", "");
      for (int64_t h = 0; h < heads; ++h) {
        const float* map = maps.data() + (static_cast<int64_t>(i) * heads + h) * cells;
        double sum = 0;
        for (int64_t p = 0; p < cells; ++p) sum += static_cast<double>(map[p]);
        patch_share += sum;
        set.add(map_picture(map, grid), fmt::format("head {}, {:.0f} % on patches", h, 100 * sum), "");
      }
    }
    set.commit();
    patch_share /= static_cast<double>(input_.images.size() * static_cast<size_t>(heads));
    log::info(fmt::format("{} strips in {}; {:.0f} % of the class token's attention goes to patches",
                          input_.images.size(), run.output, 100 * patch_share));
    run.json = json_line({{"images", input_.images.size()}, {"heads", heads}, {"patch_share", patch_share}});
    return {};
  }

 private:
  PictureOptions config_;
  PictureInput input_;
};

}  // namespace

TaskEntry attention_task() {
  TaskInfo info;
  info.name = "attention";
  info.summary = "Draw the class token's attention maps of the last block";
  info.usage = "--weights W --data REF [--images 8] [--size N] --output RESULTS";
  info.description = "Writes one map per head and image to RESULTS/pictures/, registers left out.";
  info.examples = {{"--weights run --data photos --images 8 --output results"}};
  info.inputs = picture_inputs();
  info.encoder = TaskInfo::Encoder::attention;
  info.pictures = {{"attention", "Attention of the class token",
                    "One map per head of the last block, each scaled to its own maximum."}};
  return task_entry<Attention>(std::move(info));
}

}  // namespace dino::eval
