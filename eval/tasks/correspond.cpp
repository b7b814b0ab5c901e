// SPDX-License-Identifier: Apache-2.0
// Dense correspondence: for points of one image, the patch of the other whose token is nearest; recall within
// a share of the other image's longer side (the measure of keypoint transfer, PCK, of Yang and Ramanan, PAMI
// 2013).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "comm/together.hpp"
#include "exact/ordered_gemm.hpp"
#include "inputs/image_batches.hpp"
#include "inputs/image_pairs.hpp"
#include "storage/files.hpp"
#include "task.hpp"
#include "vectors/embeddings.hpp"

namespace dino::eval {

namespace {

struct CorrespondConfig {
  Auto<int64_t> chosen_size;
  int64_t limit = 200, resamples = 2000;
  DecodeMemory decode_memory;
};

constexpr std::array<double, 3> kTolerances = {0.05, 0.1, 0.2};
constexpr std::array<const char*, 3> kMetrics = {"recall@0.05", "recall@0.1", "recall@0.2"};

/// Two images of the model's size, and points in them.
struct Views {
  Image first, second;
  std::vector<PointMatch> points;
  std::string fault;
};

class Correspond final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = CorrespondConfig;
    Schema<C> schema;
    schema.section("images");
    schema.add("limit", &C::limit, "At most this many pairs, spread evenly; 0 = all.").range(0, 1e9);
    schema
        .add("size", &C::chosen_size,
             "Side of both images in pixels (auto: as the model was trained), rounded down to whole patches.")
        .range(8, 4096);
    add_decode_memory(schema, &C::decode_memory);
    schema.add("resamples", &C::resamples, "Bootstrap resamples.").range(100, 1e6);
    table.bind(schema, config_);
  }

  Plan plan(TaskRun& run) override {
    Dataset dataset = run.images("data");
    given_ = has_pairs(dataset.reference);
    std::vector<std::string> keys;
    pairs_.clear();
    if (given_) {
      std::vector<ImagePair> all;
      together(run.world, [&] { all = read_pairs(dataset); });
      const auto n = static_cast<int64_t>(all.size());
      const int64_t count = config_.limit == 0 ? n : std::min(n, config_.limit);
      for (int64_t i = 0; i < count; ++i)
        pairs_.push_back(std::move(all[static_cast<size_t>(i * n / count)]));
    } else {
      for (Record& record : spread_records(std::move(dataset.records), config_.limit))
        pairs_.push_back({record.key, record, {}, {}});
    }
    for (const ImagePair& pair : pairs_) keys.push_back(pair.name);
    FeatureProtocol protocol;
    InputOptions input;
    input.size = config_.chosen_size;
    input.pad = input.silent = true;
    extractor_ = &run.encoder(input, protocol);
    side_ = extractor_->patch_side();
    size_ = std::max<int64_t>(1, protocol.size / side_) * side_;
    Card card;
    card.set("task", "correspond")
        .set("data", Card()
                         .set("data", dataset_name(dataset.reference))
                         .set("pairs", static_cast<int64_t>(keys.size()))
                         .set("keys", keys_hash(keys).substr(0, 16)));
    card.set("size", size_)
        .set("patch", side_)
        .set("features", "patch tokens of the last block")
        .set("match", "the centre of the patch of the largest cosine")
        .set("within", "a share of the second image's longer side")
        .set("interval", fmt::format("percentile bootstrap over pairs, {} resamples", config_.resamples));
    if (given_)
      card.set("pairs", "given; each image stretched to the size");
    else
      card.set("pairs",
               "the image and a drawn view: turned by up to 30 degrees, scaled by 3/4 to 4/3, shifted, "
               "lightened; centres of all its patches that the view shows")
          .set("seed", run.seed);
    Plan plan;
    plan.model = extractor_->identity();
    plan.data = dataset.reference;
    plan.protocols.push_back({card, {kMetrics.begin(), kMetrics.end()}});
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& /*plan*/, std::span<const size_t> /*wanted*/) override {
    std::vector<double> shares;  // [pairs, tolerances]
    std::vector<std::string> keys, faults;
    for_each_batch(run.world, static_cast<int64_t>(pairs_.size()), 1, "correspondence", [&](Range range) {
      const ImagePair& pair = pairs_[static_cast<size_t>(range.begin)];
      const Views views = given_ ? given_views(pair) : drawn_views(pair, static_cast<uint64_t>(run.seed));
      if (!views.fault.empty() || views.points.empty()) {
        faults.push_back(pair.name + ": " +
                         (views.fault.empty() ? "no point is in both views" : views.fault));
        return;
      }
      const auto recalls = measure(views);
      shares.insert(shares.end(), recalls.begin(), recalls.end());
      keys.push_back(pair.name);
    });
    const auto all = run.world.gather_values<double>(std::span<const double>(shares));
    const auto all_keys = gather_lines(run.world, keys), all_faults = gather_lines(run.world, faults);
    std::vector<Outcome> outcomes;
    on_root(run.world, [&] {
      say_left_out(all_faults);
      if (all_keys.empty())
        throw DataError(fmt::format("correspondence: {}: no pair can be measured; the first: {}",
                                    run.options.source(0).reference, all_faults.front()));
      Outcome out{0, {}, Predictions{}};
      out.predictions->keys = all_keys;
      for (size_t t = 0; t < kTolerances.size(); ++t) {
        std::vector<double> values;
        for (size_t i = t; i < all.size(); i += kTolerances.size()) values.push_back(all[i]);
        out.scores.push_back(
            {kMetrics[t], bootstrap_mean(values, config_.resamples, static_cast<uint64_t>(run.seed)), true});
        out.predictions->values[kMetrics[t]] = std::move(values);
      }
      outcomes.push_back(std::move(out));
    });
    return outcomes;
  }

 private:
  [[nodiscard]] Decoded decode(const Record& record) const {
    DecodeOptions options;
    options.limits.max_memory = config_.decode_memory.bytes;
    return decode_image(read_record(record), options);
  }

  [[nodiscard]] Views given_views(const ImagePair& pair) const {
    Views out;
    const Decoded first = decode(pair.first), second = decode(pair.second);
    for (const Decoded* image : {&first, &second})
      if (image->status != DecodeStatus::ok) {
        out.fault = std::string(name_of(image->status)) + " " + image->message;
        return out;
      }
    out.first = resize(first.image, size_, size_, Resampling::bicubic);
    out.second = resize(second.image, size_, size_, Resampling::bicubic);
    const auto scale = [&](double at, int64_t side) {
      return at * static_cast<double>(size_) / static_cast<double>(side);
    };
    for (const PointMatch& p : pair.points) {
      const auto inside = [](double x, double y, const Image& image) {
        return x >= 0 && y >= 0 && x < static_cast<double>(image.width) &&
               y < static_cast<double>(image.height);
      };
      if (!inside(p.x, p.y, first.image) || !inside(p.to_x, p.to_y, second.image)) {
        out.fault = "a point lies outside of its image";
        return out;
      }
      out.points.push_back({scale(p.x, first.image.width), scale(p.y, first.image.height),
                            scale(p.to_x, second.image.width), scale(p.to_y, second.image.height)});
    }
    return out;
  }

  [[nodiscard]] Views drawn_views(const ImagePair& pair, uint64_t seed) const {
    Views out;
    const Decoded decoded = decode(pair.first);
    if (decoded.status != DecodeStatus::ok) {
      out.fault = std::string(name_of(decoded.status)) + " " + decoded.message;
      return out;
    }
    out.first = resize_center_crop(decoded.image, size_, size_);
    Random random(seed, RandomStream::render, xxh3(std::as_bytes(std::span(pair.name))));
    DrawnView view = draw_view(out.first, random);
    for (int64_t p = 0; p < size_ / side_ * (size_ / side_); ++p) {
      const auto centre = [&](int64_t i) {
        return (static_cast<double>(i) + 0.5) * static_cast<double>(side_);
      };
      const PointMatch m = view.match(centre(p % (size_ / side_)), centre(p / (size_ / side_)));
      const auto size = static_cast<double>(size_);
      if (m.to_x >= 0 && m.to_y >= 0 && m.to_x < size && m.to_y < size) out.points.push_back(m);
    }
    out.second = std::move(view.image);
    return out;
  }

  /// Recall at each tolerance.
  [[nodiscard]] std::array<double, kTolerances.size()> measure(const Views& views) const {
    const int64_t grid = size_ / side_, patches = grid * grid, width = extractor_->patch_width();
    const std::array<Image, 2> images = {views.first, views.second};
    std::vector<float> tokens(static_cast<size_t>(2 * patches * width));
    const int64_t last = extractor_->depth() - 1;
    extractor_->dense(images, std::span(&last, 1), nullptr, tokens.data());
    normalize_rows(tokens.data(), 2 * patches, width);
    const float* second = tokens.data() + patches * width;
    std::array<double, kTolerances.size()> recalls{};
    for (const PointMatch& point : views.points) {
      const auto cell = [&](double at) {
        return std::clamp<int64_t>(static_cast<int64_t>(at / static_cast<double>(side_)), 0, grid - 1);
      };
      const float* asked = tokens.data() + (cell(point.y) * grid + cell(point.x)) * width;
      std::vector<float> cosines(static_cast<size_t>(patches));
      exact::ordered_gemm_nt(1, patches, width, asked, width, second, width, cosines.data(), patches);
      const auto best = std::max_element(cosines.begin(), cosines.end()) - cosines.begin();
      const double x = (static_cast<double>(best % grid) + 0.5) * static_cast<double>(side_),
                   y = (static_cast<double>(best / grid) + 0.5) * static_cast<double>(side_);
      const double distance = std::hypot(x - point.to_x, y - point.to_y);
      for (size_t t = 0; t < kTolerances.size(); ++t)
        recalls[t] += distance <= kTolerances[t] * static_cast<double>(size_) ? 1 : 0;
    }
    for (double& recall : recalls) recall /= static_cast<double>(views.points.size());
    return recalls;
  }

  CorrespondConfig config_;
  bool given_ = false;
  std::vector<ImagePair> pairs_;
  Extractor* extractor_ = nullptr;
  int64_t side_ = 0, size_ = 0;
};

}  // namespace

TaskEntry correspond_task() {
  TaskInfo info;
  info.name = "correspond";
  info.summary = "Match points of two images by their patches";
  info.usage = "--weights W --data PAIRS [--size N] --output RESULTS";
  info.description =
      "For each point of an image, takes the patch of the other image whose token is nearest, and gives the "
      "share of points that it is right about to within 5, 10 and 20 % of the image's side. A folder with "
      "pairs.json (docs/formats.md) names pairs and points; of any other data reference, each image is "
      "matched with a drawn view of itself.";
  info.examples = {{"--weights run --data pairs --output results"},
                   {"--weights run --data wesnoth-terrain/test --limit 100 --output results"}};
  info.metrics = {{"recall@0.1", true, true}, {"recall@0.05"}, {"recall@0.2"}};
  info.inputs = {{"data", "Data reference of the images.", TaskInput::Kind::images, TaskInput::Part::test}};
  info.encoder = TaskInfo::Encoder::tokens;
  return task_entry<Correspond>(std::move(info));
}

}  // namespace dino::eval
