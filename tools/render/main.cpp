// SPDX-License-Identifier: Apache-2.0
// dino-render: views of the furniture of Sweet Home 3D catalogues (.sh3f), as a labelled image set with exact
// masks: OUT/<category>/<id>_<view>.png. A tool of share/datasets/fetch.sh, not one of the four programs.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numbers>

#include "base/log.hpp"
#include "base/random.hpp"
#include "comm/program.hpp"
#include "raster.hpp"
#include "storage/files.hpp"

namespace dino::render {
namespace {

struct RenderConfig {
  std::vector<std::string> catalogues;
  int64_t views = 8, side = 96;
  double min_cover = 0.03;
};

std::string plain(const std::string& name) {
  std::string out;
  for (const char c : name)
    out += (std::isalnum(static_cast<unsigned char>(c)) != 0) ? static_cast<char>(std::tolower(c)) : '-';
  return out;
}

double cover(const Image& image) {
  int64_t covered = 0;
  for (int64_t i = 0; i < image.width * image.height; ++i)
    covered += image.pixels[static_cast<size_t>(4 * i + 3)] > 127 ? 1 : 0;
  return static_cast<double>(covered) / static_cast<double>(image.width * image.height);
}

int64_t render_entry(const CatalogueEntry& entry, const Mesh& mesh, const RenderConfig& config, uint64_t seed,
                     const std::string& output) {
  const std::string stem = plain(entry.id.empty() ? entry.model : entry.id);
  const std::string folder = output + "/" + plain(entry.category);
  make_folders(folder);
  int64_t written = 0;
  for (int64_t v = 0; v < config.views; ++v) {
    Random random(seed, Stream::render,
                  xxh3(std::as_bytes(std::span<const char>(stem))) + static_cast<uint64_t>(v));
    View view;
    view.azimuth =
        static_cast<float>(2 * std::numbers::pi * (static_cast<double>(v) + random.uniform(-0.3, 0.3)) /
                           static_cast<double>(config.views));
    view.elevation = static_cast<float>(random.uniform(0.15, 0.65));
    view.light = {static_cast<float>(random.uniform(-0.8, 0.8)), static_cast<float>(random.uniform(0.3, 1.0)),
                  static_cast<float>(random.uniform(0.3, 1.0))};
    const Image image = render_view(mesh, view, config.side);
    // Parking lines and rugs seen edge-on are all but empty.
    if (cover(image) < config.min_cover) continue;
    const std::vector<uint8_t> png = encode_png(image);
    std::ofstream file(fmt::format("{}/{}_{}.png", folder, stem, v), std::ios::binary);
    file.write(reinterpret_cast<const char*>(png.data()), static_cast<std::streamsize>(png.size()));
    if (!file)
      throw IoError(fmt::format("cannot write: {}/{}_{}.png: the disk may be full", folder, stem, v));
    ++written;
  }
  return written;
}

ExitCode run(const RenderConfig& config, CommandContext& context) {
  if (context.common.output.empty())
    throw UsageError("missing option: --output: the folder to fill; give --output DIR");
  int64_t pictures = 0, models = 0;
  for (const std::string& path : config.catalogues) {
    const auto files = read_zip(path);
    const std::vector<CatalogueEntry> entries = read_catalogue(files);
    std::vector<std::string> faults(entries.size());
    std::vector<int64_t> written(entries.size(), 0);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < entries.size(); ++i) {
      try {
        const Mesh mesh = load_obj(files, entries[i].model);
        if (!mesh.triangles.empty())
          written[i] = render_entry(entries[i], mesh, config, static_cast<uint64_t>(context.common.seed),
                                    context.common.output);
      } catch (const std::exception& error) {
        faults[i] = error.what();
      }
    }
    for (size_t i = 0; i < entries.size(); ++i) {
      if (!faults[i].empty()) log::warning(fmt::format("model left out: {}: {}", entries[i].id, faults[i]));
      pictures += written[i];
      models += written[i] > 0 ? 1 : 0;
    }
  }
  log::info(fmt::format("{} pictures of {} models in {}", pictures, models, context.common.output));
  return ExitCode::done;
}

}  // namespace
}  // namespace dino::render

int main(int argc, char** argv) {
  dino::Command command{"furniture",
                        "render the models of .sh3f catalogues",
                        "--catalogue FILE... --output DIR [--views 8] [--side 96]",
                        "Writes OUT/<category>/<id>_<view>.png, RGBA with the mask as alpha. Views of one "
                        "model share their stem: split by it.",
                        false,
                        {}};
  command.make = [](dino::OptionTable& table) {
    auto config = std::make_shared<dino::render::RenderConfig>();
    table.add("catalogue", &config->catalogues, "Catalogue files.").positional().required();
    table.add("views", &config->views, "Views around each model.").range(1, 1000);
    table.add("side", &config->side, "Side of a picture in pixels.").range(16, 4096);
    table
        .add("min-cover", &config->min_cover,
             "Views that show less of the model than this fraction are left out.")
        .range(0, 1);
    return [config](dino::CommandContext& context) { return dino::render::run(*config, context); };
  };
  return dino::run_program({"dino-render", "pictures from 3-D models, for data sets", {command}}, argc, argv);
}
