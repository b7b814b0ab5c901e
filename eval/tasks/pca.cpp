// SPDX-License-Identifier: Apache-2.0
// The PCA picture of DINOv2 (arXiv 2304.07193, figure 1): three components of the patch tokens, fitted
// jointly over several images, shown as red, green and blue on the foreground.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "inputs/picture_input.hpp"
#include "numeric/principal_components.hpp"

namespace dino::eval {

std::vector<uint8_t> foreground_of(const std::vector<double>& scores, int64_t images, int64_t grid) {
  const double threshold = otsu_threshold(scores);
  // The component's sign says nothing about which side is the object; objects touch the border less.
  int64_t border[2] = {}, inner[2] = {};
  for (size_t i = 0; i < scores.size(); ++i) {
    const auto p = static_cast<int64_t>(i) % (grid * grid);
    const int64_t x = p % grid, y = p / grid;
    const bool edge = x == 0 || y == 0 || x == grid - 1 || y == grid - 1;
    ++(edge ? border : inner)[scores[i] > threshold ? 1 : 0];
  }
  const auto share = [&](int side) {
    const auto all = static_cast<double>(border[side] + inner[side]);
    return all == 0 ? 1.0 : static_cast<double>(border[side]) / all;
  };
  const bool above = share(1) <= share(0);
  std::vector<uint8_t> out(static_cast<size_t>(images * grid * grid));
  for (size_t i = 0; i < out.size(); ++i) out[i] = (scores[i] > threshold) == above ? 1 : 0;
  return out;
}

namespace {

/// Scales values between their 2nd and 98th percentile to 0..255, jointly over all images.
void to_bytes(const std::vector<double>& values, std::vector<uint8_t>& out) {
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const auto at = [&](double q) {
    return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1))];
  };
  const double low = at(0.02), high = std::max(at(0.98), low + 1e-12);
  for (const double v : values)
    out.push_back(static_cast<uint8_t>(std::clamp((v - low) / (high - low), 0.0, 1.0) * 255 + 0.5));
}

struct PcaPicture {
  std::vector<uint8_t> foreground;             ///< per patch of all images
  std::array<std::vector<uint8_t>, 3> colour;  ///< per patch of the foreground
  PrincipalComponents components;
};

PcaPicture pca_picture(const std::vector<float>& patches, int64_t images, int64_t grid, int64_t width) {
  const int64_t rows = images * grid * grid;
  PcaPicture out;
  const PrincipalComponents first = principal_components(patches.data(), rows, width, 1);
  std::vector<double> scores(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r)
    first.project(patches.data() + r * width, &scores[static_cast<size_t>(r)]);
  out.foreground = foreground_of(scores, images, grid);
  out.components = principal_components(patches.data(), rows, width, 3, out.foreground);
  std::array<std::vector<double>, 3> values;
  std::array<double, 3> row{};
  for (int64_t r = 0; r < rows; ++r) {
    if (out.foreground[static_cast<size_t>(r)] == 0) continue;
    out.components.project(patches.data() + r * width, row.data());
    for (size_t c = 0; c < 3; ++c) values[c].push_back(row[c]);
  }
  for (size_t c = 0; c < 3; ++c) to_bytes(values[c], out.colour[c]);
  return out;
}

/// Patches of the background are transparent.
Image rgba_of(const PcaPicture& pca, int64_t image, int64_t grid, size_t& next) {
  Image out{grid, grid, 4, std::vector<uint8_t>(static_cast<size_t>(grid * grid * 4))};
  for (int64_t p = 0; p < grid * grid; ++p) {
    if (pca.foreground[static_cast<size_t>(image * grid * grid + p)] == 0) continue;
    for (size_t c = 0; c < 3; ++c) out.pixels[static_cast<size_t>(p) * 4 + c] = pca.colour[c][next];
    out.pixels[static_cast<size_t>(p) * 4 + 3] = 255;
    ++next;
  }
  return out;
}

class Pca final : public Task {
 public:
  void options(OptionTable& table) override { table.bind(picture_options(), config_); }

  Plan plan(TaskRun& run) override {
    input_ = read_picture_input(run, config_);
    Plan plan = picture_plan(run, input_, "pca");
    plan.protocols[0]
        .card.set("components", int64_t{3})
        .set("fit", "jointly over all images, again on the foreground of component 1 (Otsu)");
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& plan, std::span<const size_t> /*wanted*/) override {
    const int64_t grid = input_.grid(), width = input_.encoder->patch_width();
    const auto images = static_cast<int64_t>(input_.images.size());
    std::vector<float> features(static_cast<size_t>(input_.encoder->columns(input_.protocol).width()));
    const std::vector<float> patches =
        by_image(run, input_, grid * grid * width, [&](std::span<const Image> image, float* out) {
          input_.encoder->extract(image, input_.protocol, features.data(), out);
        });
    if (!run.world.root()) return {};
    const PcaPicture pca = pca_picture(patches, images, grid, width);
    PictureSet set = run.pictures("pca", plan, plan.protocols[0]);
    size_t next = 0;
    for (int64_t i = 0; i < images; ++i) {
      set.begin_strip(input_.keys[static_cast<size_t>(i)]);
      set.add(fit(input_.images[static_cast<size_t>(i)], 224), "image", "");
      set.add(enlarge(rgba_of(pca, i, grid, next), 224), "components 1 to 3", "");
    }
    set.commit();
    const double share =
        (pca.components.variance[0] + pca.components.variance[1] + pca.components.variance[2]) /
        std::max(pca.components.total_variance, 1e-300);
    log::info(fmt::format("{} pictures in {}; three components hold {:.1f} % of the foreground's variance",
                          images, run.output, 100 * share));
    run.json = json_line({{"images", images}, {"explained", share}});
    return {};
  }

 private:
  PictureOptions config_;
  PictureInput input_;
};

}  // namespace

TaskEntry pca_task() {
  TaskInfo info;
  info.name = "pca";
  info.summary = "Draw the first three principal components of patch tokens";
  info.usage = "--weights W --data REF [--images 8] [--size N] --output RESULTS";
  info.description =
      "Fits principal components jointly over the patch tokens of several images, takes the foreground by a "
      "threshold on the first, fits three again on "
      "the foreground, and writes them as red, green and blue to RESULTS/pictures/ (one scale for all "
      "images; the sign of each component makes its largest "
      "loading positive).";
  info.examples = {{"--weights run --data photos --images 8 --output results"}};
  info.inputs = picture_inputs();
  info.encoder = TaskInfo::Encoder::tokens;
  info.pictures = {{"pca", "Principal components of patch tokens",
                    "Red, green and blue are three components, fitted jointly over all images of a set; the "
                    "background is left out."}};
  return task_entry<Pca>(std::move(info));
}

}  // namespace dino::eval
