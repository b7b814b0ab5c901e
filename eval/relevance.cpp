// SPDX-License-Identifier: Apache-2.0
// Which patches of an image matter, by the entropy of their features or their likeness to a given patch, and
// how many tokens each gets for it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "comm/together.hpp"
#include "commands.hpp"
#include "datasets/on_all_ranks.hpp"
#include "inputs/image_batches.hpp"
#include "numeric/token_budget.hpp"
#include "options.hpp"
#include "pictures.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/output_folder.hpp"
#include "storage/seal.hpp"

namespace dino::eval {

namespace {

struct RelevanceConfig {
  ModelOptions model;
  std::string data, query_patch;
  bool entropy = false;
  InputOptions input;
  FeatureProtocol protocol;
  TokenBounds bounds;
  int64_t min_tokens = TokenBounds{}.min, max_tokens = TokenBounds{}.max, budget = 0, batch = 16, limit = 0,
          overlays = 16;
};

/// FILE:x,y, with pixels of the picture as it is in the file.
struct QueryPatch {
  std::string file;
  int64_t x = 0, y = 0;
};

QueryPatch parse_query(const std::string& text) {
  const auto fail = [&] {
    throw UsageError("relevance: --query-patch " + printable_name(text) +
                     ": is not FILE:x,y; name an image and a pixel of it");
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) fail();
  const auto numbers = split(std::string_view(text).substr(colon + 1), ',');
  if (numbers.size() != 2) fail();
  const auto x = parse_number<int64_t>(numbers[0]), y = parse_number<int64_t>(numbers[1]);
  if (!x || !y || *x < 0 || *y < 0) fail();
  return {text.substr(0, colon), *x, *y};
}

/// Where a pixel of the file lies in the model's input: the shorter side resized, then the middle cropped, or
/// padded to a square first.
std::pair<double, double> in_input(const Image& image, const FeatureProtocol& protocol, int64_t x,
                                   int64_t y) {
  const auto w = static_cast<double>(image.width), h = static_cast<double>(image.height);
  const double side = protocol.pad ? std::max(w, h) : std::min(w, h);
  const double scale = static_cast<double>(protocol.resize_to()) / side;
  const auto place = [&](int64_t at, double length) {
    return (static_cast<double>(at) + 0.5 - length / 2) * scale + static_cast<double>(protocol.size) / 2;
  };
  return {place(x, w), place(y, h)};
}

/// The token of the patch that holds the pixel.
std::vector<float> query_token(Extractor& extractor, const RelevanceConfig& config) {
  const QueryPatch query = parse_query(config.query_patch);
  DecodeOptions options;
  options.background = config.protocol.background.colour;
  const Decoded decoded = decode_image(read_bytes(query.file), options);
  if (decoded.status != DecodeStatus::ok)
    throw DataError(fmt::format("relevance: --query-patch {}: {} {}; name an image that decodes",
                                printable_name(query.file), name_of(decoded.status), decoded.message));
  if (query.x >= decoded.image.width || query.y >= decoded.image.height)
    throw UsageError(
        fmt::format("relevance: --query-patch {}: the image has {} x {} pixels; name one of them",
                    printable_name(config.query_patch), decoded.image.width, decoded.image.height));
  const auto [x, y] = in_input(decoded.image, config.protocol, query.x, query.y);
  const int64_t side = extractor.patch_side(), grid = config.protocol.size / side;
  const auto column = static_cast<int64_t>(std::floor(x / static_cast<double>(side))),
             row = static_cast<int64_t>(std::floor(y / static_cast<double>(side)));
  if (column < 0 || row < 0 || column >= grid || row >= grid)
    throw UsageError(fmt::format(
        "relevance: --query-patch {}: the pixel lies outside of what the model sees of the image; choose "
        "another, or --pad",
        printable_name(config.query_patch)));
  FeatureProtocol protocol = config.protocol;
  protocol.background.colour = decoded.background;
  const Image image = prepare_image(decoded.image, protocol);
  std::vector<float> features(static_cast<size_t>(extractor.columns(config.protocol).width())),
      patches(static_cast<size_t>(grid * grid * extractor.patch_width()));
  extractor.extract(std::span(&image, 1), config.protocol, features.data(), patches.data());
  const auto begin = patches.begin() + (row * grid + column) * extractor.patch_width();
  return {begin, begin + extractor.patch_width()};
}

/// Black over violet and orange to pale yellow, of a value in [0, 1].
Colour token_colour(double value) {
  constexpr std::array<std::array<double, 3>, 4> stops = {
      {{0, 0, 4}, {120, 28, 109}, {237, 105, 37}, {252, 255, 164}}};
  const double at = std::clamp(value, 0.0, 1.0) * 3;
  const auto i = std::min<size_t>(2, static_cast<size_t>(at));
  Colour out{};
  for (size_t c = 0; c < 3; ++c)
    out[c] = static_cast<uint8_t>(
        std::lround(stops[i][c] + (stops[i + 1][c] - stops[i][c]) * (at - static_cast<double>(i))));
  return out;
}

/// The image beside itself under its tokens, from the least to the most of its patches.
Image token_overlay(const Image& image, std::span<const int64_t> tokens, int64_t grid) {
  const auto [low, high] = std::minmax_element(tokens.begin(), tokens.end());
  const double span = std::max<double>(1, static_cast<double>(*high - *low));
  Image out{2 * image.width, image.height, 3,
            std::vector<uint8_t>(static_cast<size_t>(2 * image.width * image.height * 3))};
  for (int64_t y = 0; y < image.height; ++y) {
    std::copy_n(image.at(0, y), image.width * 3, out.at(0, y));
    for (int64_t x = 0; x < image.width; ++x) {
      const int64_t patch = y * grid / image.height * grid + x * grid / image.width;
      const Colour colour =
          token_colour(static_cast<double>(tokens[static_cast<size_t>(patch)] - *low) / span);
      const uint8_t* from = image.at(x, y);
      for (size_t c = 0; c < 3; ++c)
        out.at(image.width + x, y)[c] = static_cast<uint8_t>((from[c] + 2 * colour[c]) / 3);
    }
  }
  return out;
}

/// What one rank made, images in order.
struct Made {
  std::vector<float> relevance;
  std::vector<int32_t> tokens;
  std::vector<std::string> keys, faults;
};

class Relevance {
 public:
  Relevance(CommandContext& context, RelevanceConfig config)
      : context_(context), config_(std::move(config)) {}

  ExitCode run() {
    const log::Phase phase("relevance");
    const Communicator& world = context_.world;
    Dataset dataset = open_on_all_ranks(config_.data, world);
    records_ = spread_records(std::move(dataset.records), config_.limit);
    settle_device(config_.model.device, world);
    extractor_ = make_extractor(config_.model, static_cast<uint64_t>(context_.common.seed));
    extractor_->settle(config_.input, config_.protocol);
    grid_ = config_.protocol.size / extractor_->patch_side();
    if (grid_ * extractor_->patch_side() != config_.protocol.size)
      throw UsageError(
          fmt::format("relevance: --size {}: is not a multiple of the patch side {}; choose another",
                      config_.protocol.size, extractor_->patch_side()));
    check_token_options(grid_ * grid_, config_.bounds, config_.budget);
    if (!config_.query_patch.empty()) together(world, [&] { query_ = query_token(*extractor_, config_); });
    const Made all = gather(extract());
    on_root(world, [&] { write(all); });
    return ExitCode::done;
  }

 private:
  [[nodiscard]] std::string folder() const {
    return context_.common.output.substr(0, context_.common.output.rfind('.')) + "-overlays";
  }

  Made extract() {
    Made made;
    const int64_t width = extractor_->patch_width(), patches = grid_ * grid_;
    std::vector<float> features, values;
    if (config_.overlays > 0) on_root(context_.world, [&] { make_folders(folder()); });
    for_each_batch(
        context_.world, static_cast<int64_t>(records_.size()), config_.batch, "relevance", [&](Range range) {
          const auto loaded = load_batch(range, [&](int64_t i) {
            return load_image(records_[static_cast<size_t>(i)], config_.protocol);
          });
          std::vector<Image> images;
          for (const LoadedImage& image : loaded) images.push_back(image.image);
          features.resize(static_cast<size_t>(range.size() * extractor_->columns(config_.protocol).width()));
          values.resize(static_cast<size_t>(range.size() * patches * width));
          extractor_->extract(images, config_.protocol, features.data(), values.data());
          for (int64_t i = 0; i < range.size(); ++i) {
            const LoadedImage& image = loaded[static_cast<size_t>(i)];
            const std::string& key = records_[static_cast<size_t>(range.begin + i)].key;
            if (image.fault.empty())
              add(made, range.begin + i, key, image.image, values.data() + i * patches * width);
            else
              made.faults.push_back(key + ": " + image.fault);
          }
        });
    return made;
  }

  void add(Made& made, int64_t record, const std::string& key, const Image& image, const float* tokens) {
    const int64_t width = extractor_->patch_width(), patches = grid_ * grid_;
    std::vector<double> relevance;
    if (query_.empty())
      relevance = patch_entropies(tokens, patches, width);
    else
      for (int64_t p = 0; p < patches; ++p)
        relevance.push_back(cosine(std::span(tokens + p * width, static_cast<size_t>(width)), query_));
    const std::vector<int64_t> counts = config_.budget > 0
                                            ? token_counts(relevance, config_.bounds, config_.budget)
                                            : token_counts(relevance, config_.bounds);
    made.keys.push_back(key);
    for (const double value : relevance) made.relevance.push_back(static_cast<float>(value));
    for (const int64_t count : counts) made.tokens.push_back(static_cast<int32_t>(count));
    if (record >= config_.overlays) return;
    const auto png = encode_png(token_overlay(image, counts, grid_));
    write_file_atomically(fmt::format("{}/{:06d}.png", folder(), record),
                          {reinterpret_cast<const char*>(png.data()), png.size()});
  }

  Made gather(const Made& mine) const {
    const Communicator& world = context_.world;
    Made all;
    all.relevance = world.gather_values<float>(std::span<const float>(mine.relevance));
    all.tokens = world.gather_values<int32_t>(std::span<const int32_t>(mine.tokens));
    all.keys = gather_lines(world, mine.keys);
    all.faults = gather_lines(world, mine.faults);
    return all;
  }

  void write(const Made& all) {
    say_left_out(all.faults);
    const auto images = static_cast<int64_t>(all.keys.size()), patches = grid_ * grid_;
    if (images == 0)
      throw DataError(fmt::format("relevance: {}: none of {} images could be decoded; the first: {}",
                                  config_.data, records_.size(), all.faults.front()));
    commit_hdf5(context_.common.output, [&](Hdf5File& file) {
      file.write("/relevance", view_of(all.relevance.data(), {images, patches}));
      file.write("/tokens", view_of(all.tokens.data(), {images, patches}));
      file.write_strings("/keys", all.keys);
      file.write_attribute("/", "model", extractor_->identity().name);
      file.write_attribute("/", "weights", extractor_->identity().weights);
      file.write_attribute("/", "data", config_.data);
      file.write_attribute("/", "protocol", config_.protocol.card().json());
      file.write_attribute("/", "grid", grid_);
      file.write_attribute("/", "relevance", std::string(query_.empty() ? "entropy" : "cosine to a patch"));
      file.write_attribute("/", "query", config_.query_patch);
      file.write_attribute("/", "min_tokens", config_.bounds.min);
      file.write_attribute("/", "max_tokens", config_.bounds.max);
      file.write_attribute("/", "budget", config_.budget);
    });
    int64_t tokens = 0;
    for (const int32_t count : all.tokens) tokens += count;
    log::info(fmt::format("{} images of {} x {} patches, {} tokens an image on average", images, grid_, grid_,
                          tokens / images));
    context_.result = json_line({{"images", images}, {"grid", grid_}, {"tokens", tokens}});
  }

  CommandContext& context_;
  RelevanceConfig config_;
  std::vector<Record> records_;
  std::unique_ptr<Extractor> extractor_;
  int64_t grid_ = 0;
  std::vector<float> query_;
};

Schema<RelevanceConfig> relevance_options() {
  using C = RelevanceConfig;
  Schema<C> schema;
  schema.add(&C::model, model_options());
  schema.section("data");
  schema.add("data", &C::data, "Data reference of the images.").required();
  schema.add("limit", &C::limit, "At most this many images, spread evenly; 0 = all.").range(0, 1e9);
  schema.add("batch", &C::batch, "Images per forward pass.").range(1, 4096);
  schema.add(&C::input, input_options());
  schema.section("relevance");
  schema.add("entropy", &C::entropy, "Of a patch: the entropy of the softmax over its features.");
  schema.add("query-patch", &C::query_patch, "FILE:x,y: cosine to the patch at that pixel of an image.");
  schema.add("min-tokens", &C::min_tokens, "Least tokens of a patch.").range(0, 1e6);
  schema.add("max-tokens", &C::max_tokens, "Most tokens of a patch.").range(1, 1e6);
  schema.add("budget", &C::budget, "Tokens of an image, met exactly; 0 = as each patch's relevance asks.")
      .range(0, 1e12);
  schema.add("overlays", &C::overlays, "Images to draw with their tokens.").range(0, 1e6);
  return schema;
}

ExitCode start_relevance(RelevanceConfig config, CommandContext& context) {
  if (config.entropy == !config.query_patch.empty())
    throw UsageError("relevance: --entropy, --query-patch: give one of the two");
  config.bounds = {config.min_tokens, config.max_tokens};
  if (!config.query_patch.empty()) (void)parse_query(config.query_patch);
  check_token_options(1, config.bounds, 0);
  if (!context.common.output.ends_with(".h5"))
    throw UsageError("relevance: --output " + printable_name(context.common.output) +
                     ": must end in .h5; name a file");
  if (context.common.dry_run) {
    (void)open_dataset(config.data);
    return ExitCode::done;
  }
  check_replaceable(context.common.output);
  return Relevance(context, std::move(config)).run();
}

}  // namespace

Command relevance_command() {
  Command command;
  command.name = "relevance";
  command.summary = "Say which patches matter, and share out tokens";
  command.usage = "--weights W --data REF (--entropy | --query-patch FILE:x,y) [--budget N] --output F.h5";
  command.description =
      "Gives every patch a relevance: the entropy of the softmax over its features, or the cosine to the "
      "patch at a pixel of an image. Its tokens are min + (max - min) (r - lowest) / (highest - lowest), "
      "rounded down; with --budget they sum to it in every image. Writes /relevance and /tokens [images, "
      "patches], and the images under their tokens to F-overlays/.";
  command.examples = {{"--weights run --data photos --entropy --output relevance.h5"},
                      {"--weights run --data photos --entropy --budget 40000 --output relevance.h5"}};
  command.make = with_options(relevance_options(), start_relevance);
  command.output = "File to write, ending in .h5.";
  return command;
}

}  // namespace dino::eval
