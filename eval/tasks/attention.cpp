// SPDX-License-Identifier: Apache-2.0
// Where the class token looks: its attention to the patches in the last block, one map per head.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/working.hpp"
#include "commands.hpp"
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

ExitCode run_attention(CommandContext& context, const PictureConfig& config) {
  const log::Phase phase("attention");
  if (!context.world.root()) return ExitCode::done;
  if (config.model.weights == "raw-pixels")
    throw UsageError("drawing attention: --weights raw-pixels: has no attention; name a vision transformer");
  const PictureInput input(config, static_cast<uint64_t>(context.common.seed));
  Extractor& extractor = input.extractor();
  const int64_t grid = input.protocol().size / extractor.patch_side(), heads = extractor.heads();
  Card card = input.card();
  card.set("task", "attention")
      .set("maps", "class token to patches, last block, scaled to each map's maximum");
  PictureSet set(context.common.output, "attention", input.row("attention", card));
  if (set.exists() && !config.force) {
    log::info("these pictures are already in " + context.common.output +
              ", kept as they are (--force draws them again)");
    return ExitCode::done;
  }
  std::vector<float> maps(static_cast<size_t>(heads * grid * grid));
  double patch_share = 0;
  for (size_t i = 0; i < input.images().size(); ++i) {
    work_point();
    extractor.attention(std::span(input.images()).subspan(i, 1), maps.data());
    set.begin_strip(input.keys()[i]);
    set.add(fit(input.images()[i], 160), "image", "");
    for (int64_t h = 0; h < heads; ++h) {
      const float* map = maps.data() + h * grid * grid;
      double sum = 0;
      for (int64_t p = 0; p < grid * grid; ++p) sum += static_cast<double>(map[p]);
      patch_share += sum;
      set.add(map_picture(map, grid), fmt::format("head {}, {:.0f} % on patches", h, 100 * sum), "");
    }
  }
  set.commit();
  patch_share /= static_cast<double>(input.images().size() * static_cast<size_t>(heads));
  log::info(fmt::format("{} strips in {}; {:.0f} % of the class token's attention goes to patches",
                        input.images().size(), context.common.output, 100 * patch_share));
  context.result =
      json_line({{"images", input.images().size()}, {"heads", heads}, {"patch_share", patch_share}});
  return ExitCode::done;
}

}  // namespace

Command attention_command() {
  Command command = picture_command(run_attention);
  command.name = "attention";
  command.summary = "Draw the class token's attention maps of the last block";
  command.usage = "--weights W --data REF [--images 8] [--size N] --output RESULTS";
  command.description =
      "Writes one map per head and image to RESULTS/pictures/, registers left out. Rank 0 does the work.";
  command.examples = {{"--weights run --data photos --images 8 --output results"}};
  return command;
}

}  // namespace dino::eval
