// SPDX-License-Identifier: Apache-2.0
// Where the class token looks: its attention to the patches in the last block, one map per head, drawn, kept
// and held against masks.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "datasets/on_all_ranks.hpp"
#include "imaging/decode_options.hpp"
#include "inputs/composite.hpp"
#include "inputs/picture_input.hpp"
#include "numeric/map_scores.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"

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

struct AttentionConfig {
  PictureOptions pictures;
  bool h5 = false;
  std::string masks;
};

/// Of DINO's own comparison with masks.
constexpr double kMass = 0.6;
constexpr int64_t kResamples = 2000, kShown = 8;

/// What a head's attention lies on, by the interval of its AUROC.
enum class HeadKind : uint8_t { neither, foreground, background };
constexpr auto names_of(HeadKind) {
  return std::to_array<Named<HeadKind>>({{"neither", HeadKind::neither},
                                         {"foreground", HeadKind::foreground},
                                         {"background", HeadKind::background}});
}
HeadKind kind_of_head(const Estimate& auroc) {
  return auroc.low > 0.5 ? HeadKind::foreground : auroc.high < 0.5 ? HeadKind::background : HeadKind::neither;
}

/// Pixels of one image's object and of its background in each patch.
struct ObjectCells {
  std::vector<int64_t> object, background;
};

class Attention final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = AttentionConfig;
    Schema<C> schema;
    schema.add(&C::pictures, picture_options());
    schema.section("maps");
    schema.add("h5", &C::h5, "Keep the maps of all heads and images in RESULTS/attention/.");
    schema.add(
        "masks", &C::masks,
        "Hold the maps against masks: alpha (the data are cut-outs, which are pasted on drawn "
        "backgrounds), or a data reference whose images have the keys of the data and are black outside "
        "of the object.");
    table.bind(schema, config_);
  }

  Plan plan(TaskRun& run) override {
    masks_.clear();
    input_ = read_picture_input(run, config_.pictures, loader(run));
    Plan plan = picture_plan(run, input_, "attention");
    Protocol& drawn = plan.protocols[0];
    drawn.card.set("maps", "class token to patches, last block, scaled to each map's maximum");
    if (!config_.masks.empty())
      drawn.card.set("masks", config_.masks == "alpha" ? "alpha >= 128, on backgrounds drawn from the seed"
                                                       : dataset_name(config_.masks));
    if (config_.h5) drawn.file = file_name(run.row(plan, drawn));
    if (config_.masks.empty()) return plan;
    for (int64_t head = 0; head < input_.encoder->heads(); ++head) {
      Card card = plan.protocols[0].card;
      card.set("head", head)
          .set("iou",
               fmt::format("cells that hold {} of the attention to patches against the object's pixels",
                           kMass))
          .set("auroc", "of pixels, mean over images that have both kinds")
          .set("seed", run.seed)
          .set("interval", fmt::format("percentile bootstrap over images, {} resamples", kResamples));
      plan.protocols.push_back({card, {"auroc", "iou"}});
    }
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& plan, std::span<const size_t> wanted) override {
    const int64_t heads = input_.encoder->heads(), cells = input_.grid() * input_.grid();
    const std::vector<float> maps =
        by_image(run, input_, heads * cells,
                 [&](std::span<const Image> image, float* out) { input_.encoder->attention(image, out); });
    if (!run.world.root()) return {};
    const std::vector<ObjectCells> objects = objects_of();
    std::vector<Outcome> outcomes;
    std::vector<HeadKind> kinds;
    for (int64_t head = 0; head < heads && !objects.empty(); ++head) {
      Outcome outcome = outcome_of(maps, head, objects, static_cast<uint64_t>(run.seed));
      kinds.push_back(kind_of_head(outcome.scores.front().estimate));
      if (std::find(wanted.begin(), wanted.end(), outcome.protocol) != wanted.end())
        outcomes.push_back(std::move(outcome));
    }
    if (wanted.front() == 0) draw(run.pictures("attention", plan, plan.protocols[0]), maps, kinds);
    if (config_.h5 && wanted.front() == 0)
      write_maps(run, plan.model, run.output + "/" + plan.protocols[0].file, maps, objects, kinds);
    say(run, maps, kinds);
    return outcomes;
  }

 private:
  static std::string file_name(const ResultRow& row) {
    const std::string name = predictions_name(row);
    return "attention/" + name.substr(name.rfind('/') + 1);
  }
  [[nodiscard]] PictureLoader loader(TaskRun& run);
  [[nodiscard]] std::vector<ObjectCells> objects_of() const;
  [[nodiscard]] Outcome outcome_of(const std::vector<float>& maps, int64_t head,
                                   const std::vector<ObjectCells>& objects, uint64_t seed) const;
  [[nodiscard]] std::span<const float> map_of(const std::vector<float>& maps, size_t image,
                                              int64_t head) const {
    const int64_t cells = input_.grid() * input_.grid();
    return std::span(maps).subspan(
        static_cast<size_t>((static_cast<int64_t>(image) * input_.encoder->heads() + head) * cells),
        static_cast<size_t>(cells));
  }
  void draw(PictureSet set, const std::vector<float>& maps, const std::vector<HeadKind>& kinds) const;
  void write_maps(const TaskRun& run, const ModelIdentity& model, const std::string& path,
                  const std::vector<float>& maps, const std::vector<ObjectCells>& objects,
                  const std::vector<HeadKind>& kinds) const;
  void say(TaskRun& run, const std::vector<float>& maps, const std::vector<HeadKind>& kinds) const;

  AttentionConfig config_;
  PictureInput input_;
  std::vector<std::vector<uint8_t>> masks_;  ///< by image, [size * size], 1 = object; empty without --masks
  std::unordered_map<std::string, Record> mask_records_;
};

/// Of the mask that belongs to an image: the object's pixels, put through the image's own resizing. Any
/// colour but black is the object.
LoadedImage load_mask(const Record& record, FeatureProtocol protocol) {
  LoadedImage out;
  DecodeOptions options;
  options.background = protocol.background.colour = Colour{0, 0, 0};
  options.limits.max_pixels = protocol.max_pixels;
  options.limits.max_memory = protocol.decode_memory.bytes;
  Decoded decoded = decode_image(read_record(record), options);
  if (decoded.status != DecodeStatus::ok) {
    out.fault = std::string("its mask: ") + name_of(decoded.status);
    return out;
  }
  std::vector<uint8_t>& pixels = decoded.image.pixels;
  for (size_t p = 0; p + 2 < pixels.size(); p += 3)
    pixels[p] = pixels[p + 1] = pixels[p + 2] =
        pixels[p] != 0 || pixels[p + 1] != 0 || pixels[p + 2] != 0 ? 255 : 0;
  out.image = prepare_image(decoded.image, protocol);
  return out;
}

PictureLoader Attention::loader(TaskRun& run) {
  if (config_.masks.empty()) return load_image;
  if (config_.masks == "alpha")
    return [this, seed = static_cast<uint64_t>(run.seed)](const Record& record,
                                                          const FeatureProtocol& protocol) {
      Composite made = load_composite(record, protocol.size, protocol.decode_memory.bytes, seed);
      if (made.fault.empty()) masks_.push_back(std::move(made.mask));
      return LoadedImage{std::move(made.image), std::move(made.fault)};
    };
  mask_records_.clear();
  for (Record& record : open_on_all_ranks(config_.masks, run.world).records)
    mask_records_.emplace(record.key, std::move(record));
  return [this](const Record& record, const FeatureProtocol& protocol) {
    const auto it = mask_records_.find(record.key);
    if (it == mask_records_.end()) return LoadedImage{{}, "has no mask in " + config_.masks};
    LoadedImage mask = load_mask(it->second, protocol);
    if (!mask.fault.empty()) return mask;
    LoadedImage image = load_image(record, protocol);
    if (!image.fault.empty()) return image;
    std::vector<uint8_t> object;
    for (size_t p = 0; p < mask.image.pixels.size(); p += 3)
      object.push_back(mask.image.pixels[p] >= 128 ? 1 : 0);
    masks_.push_back(std::move(object));
    return image;
  };
}

std::vector<ObjectCells> Attention::objects_of() const {
  const int64_t grid = input_.grid(), size = input_.protocol.size, side = size / grid;
  std::vector<ObjectCells> out;
  for (const std::vector<uint8_t>& mask : masks_) {
    ObjectCells cells;
    cells.object.resize(static_cast<size_t>(grid * grid));
    for (int64_t y = 0; y < size; ++y)
      for (int64_t x = 0; x < size; ++x)
        cells.object[static_cast<size_t>(y / side * grid + x / side)] +=
            mask[static_cast<size_t>(y * size + x)];
    for (const int64_t count : cells.object) cells.background.push_back(side * side - count);
    out.push_back(std::move(cells));
  }
  return out;
}

Outcome Attention::outcome_of(const std::vector<float>& maps, int64_t head,
                              const std::vector<ObjectCells>& objects, uint64_t seed) const {
  std::vector<double> auroc, iou;
  Predictions predictions;
  for (size_t i = 0; i < objects.size(); ++i) {
    const std::span<const float> map = map_of(maps, i, head);
    const double area = map_auroc(map, objects[i].object, objects[i].background);
    if (std::isnan(area)) continue;  // all object, or none
    predictions.keys.push_back(input_.keys[i]);
    auroc.push_back(area);
    iou.push_back(map_iou(map, objects[i].object, objects[i].background, kMass));
  }
  Outcome outcome{static_cast<size_t>(head) + 1,
                  {{"auroc", bootstrap_mean(auroc, kResamples, seed), true},
                   {"iou", bootstrap_mean(iou, kResamples, seed), true}}};
  predictions.values = {{"auroc", std::move(auroc)}, {"iou", std::move(iou)}};
  outcome.predictions = std::move(predictions);
  return outcome;
}

void Attention::draw(PictureSet set, const std::vector<float>& maps,
                     const std::vector<HeadKind>& kinds) const {
  const auto images = static_cast<int64_t>(input_.images.size());
  // Of many images that are measured, a few are drawn.
  const int64_t shown = config_.h5 || !config_.masks.empty() ? std::min(images, kShown) : images;
  for (int64_t s = 0; s < shown; ++s) {
    const auto i = static_cast<size_t>(s * images / shown);
    set.begin_strip(input_.keys[i]);
    set.add(fit(input_.images[i], 160), "image", "");
    for (int64_t h = 0; h < input_.encoder->heads(); ++h) {
      const std::span<const float> map = map_of(maps, i, h);
      const HeadKind kind = kinds.empty() ? HeadKind::neither : kinds[static_cast<size_t>(h)];
      set.add(map_picture(map.data(), input_.grid()),
              fmt::format("head {}{}, {:.0f} % on patches", h,
                          kind == HeadKind::neither ? "" : fmt::format(", {}", name_of(kind)),
                          100 * std::accumulate(map.begin(), map.end(), 0.0)),
              "");
    }
  }
  set.commit();
}

void Attention::write_maps(const TaskRun& run, const ModelIdentity& model, const std::string& path,
                           const std::vector<float>& maps, const std::vector<ObjectCells>& objects,
                           const std::vector<HeadKind>& kinds) const {
  const auto images = static_cast<int64_t>(input_.images.size());
  const int64_t grid = input_.grid();
  make_folders(run.output + "/attention");
  commit_hdf5(path, [&](Hdf5File& file) {
    file.write("/maps", view_of(maps.data(), {images, input_.encoder->heads(), grid, grid}));
    file.write_strings("/keys", input_.keys);
    file.write_attribute("/", "data", run.options.first.reference);
    file.write_attribute("/", "model", model.name);
    file.write_attribute("/", "weights", model.weights);
    file.write_attribute("/", "size", input_.protocol.size);
    if (objects.empty()) return;
    std::vector<int64_t> object;
    for (const ObjectCells& cells : objects)
      object.insert(object.end(), cells.object.begin(), cells.object.end());
    file.write("/object", view_of(object.data(), {images, grid, grid}));
    std::vector<std::string> names;
    for (const HeadKind kind : kinds) names.emplace_back(name_of(kind));
    file.write_attribute("/", "heads", names);
  });
}

void Attention::say(TaskRun& run, const std::vector<float>& maps, const std::vector<HeadKind>& kinds) const {
  const auto heads = static_cast<size_t>(input_.encoder->heads()), images = input_.images.size();
  double patch_share = 0;
  for (size_t i = 0; i < images; ++i)
    for (size_t h = 0; h < heads; ++h) {
      const std::span<const float> map = map_of(maps, i, static_cast<int64_t>(h));
      double sum = 0;
      for (const float value : map) sum += static_cast<double>(value);
      patch_share += sum;
    }
  patch_share /= static_cast<double>(images * heads);
  log::info(fmt::format("{} strips in {}; {:.0f} % of the class token's attention goes to patches", images,
                        run.output, 100 * patch_share));
  nlohmann::ordered_json json{{"images", images}, {"heads", heads}, {"patch_share", patch_share}};
  for (const HeadKind kind : {HeadKind::foreground, HeadKind::background}) {
    if (kinds.empty()) break;
    std::vector<size_t> of_kind;
    for (size_t h = 0; h < kinds.size(); ++h)
      if (kinds[h] == kind) of_kind.push_back(h);
    log::info(fmt::format("heads on the {}: {}", name_of(kind),
                          of_kind.empty() ? "none" : fmt::format("{}", fmt::join(of_kind, ", "))));
    json[std::string(name_of(kind)) + "_heads"] = of_kind;
  }
  run.json = json_line(json);
}

}  // namespace

TaskEntry attention_task() {
  TaskInfo info;
  info.name = "attention";
  info.summary = "Draw the class token's attention maps of the last block";
  info.usage = "--weights W --data REF [--images 8] [--size N] [--h5] [--masks alpha|REF] --output RESULTS";
  info.description =
      "Writes one map per head and image to RESULTS/pictures/, registers left out; with --h5 all of them to "
      "RESULTS/attention/. Against masks each head gets the AUROC of its map and the IoU of the cells that "
      "hold "
      "60 % of its attention, with bootstrap intervals over images; heads whose AUROC is above 0.5 beyond "
      "the "
      "interval look at the foreground, those below it at the background.";
  info.examples = {
      {"--weights run --data photos --images 8 --output results"},
      {"--weights run --data wesnoth-units/test --masks alpha --images 200 --h5 --output results"}};
  info.metrics = {{"auroc"}, {"iou"}};
  info.variants = {{"head", "head "}};
  info.inputs = picture_inputs();
  info.encoder = TaskInfo::Encoder::attention;
  info.pictures = {{"attention", "Attention of the class token",
                    "One map per head of the last block, each scaled to its own maximum."}};
  return task_entry<Attention>(std::move(info));
}

}  // namespace dino::eval
