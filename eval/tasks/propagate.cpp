// SPDX-License-Identifier: Apache-2.0
// Masks of a video's first frame handed on from frame to frame by nearest patches (Jabri et al., arXiv
// 2006.14613; DINO, arXiv 2104.14294), measured as DAVIS does: region similarity J, boundary accuracy F.
#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "base/error.hpp"
#include "comm/together.hpp"
#include "imaging/mask_measures.hpp"
#include "inputs/frames.hpp"
#include "inputs/image_batches.hpp"
#include "storage/files.hpp"
#include "task.hpp"
#include "vectors/embeddings.hpp"
#include "vectors/propagate.hpp"

namespace dino::eval {

namespace {

struct PropagateConfig {
  Auto<int64_t> chosen_size;
  int64_t context = 7, limit = 0, most_frames = 100, resamples = 2000;
  PropagationOptions propagation;
  DecodeMemory decode_memory;
};

/// One frame as the model sees it.
struct Frame {
  Image image;                   ///< whole patches
  std::vector<uint8_t> objects;  ///< [height * width], 0 = background
};

/// One frame's patches and what is known of them.
struct Known {
  std::vector<float> features, labels;
};

Decoded decode_frame(const Record& record, bool alpha, int64_t memory) {
  DecodeOptions options;
  options.keep_alpha = alpha;
  options.limits.max_memory = memory;
  Decoded decoded = decode_image(read_record(record), options);
  if (decoded.status != DecodeStatus::ok)
    throw DataError(
        fmt::format("label propagation: {}: {} {}; a video needs all of its frames: repair it, or "
                    "leave its clip out",
                    record.path, name_of(decoded.status), decoded.message));
  return decoded;
}

/// The nearest pixel's object at another size.
std::vector<uint8_t> resize_objects(const std::vector<uint8_t>& objects, int64_t width, int64_t height,
                                    int64_t to_width, int64_t to_height) {
  std::vector<uint8_t> out(static_cast<size_t>(to_width * to_height));
  for (int64_t y = 0; y < to_height; ++y)
    for (int64_t x = 0; x < to_width; ++x) {
      const int64_t from_y = (2 * y + 1) * height / (2 * to_height),
                    from_x = (2 * x + 1) * width / (2 * to_width);
      out[static_cast<size_t>(y * to_width + x)] = objects[static_cast<size_t>(from_y * width + from_x)];
    }
  return out;
}

class Propagate final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = PropagateConfig;
    Schema<C> schema;
    schema.section("frames");
    schema
        .add("size", &C::chosen_size,
             "Shorter side of a frame in pixels, rounded down to whole patches (auto: as the model was "
             "trained).")
        .range(8, 4096);
    schema.add("limit", &C::limit, "At most this many clips, spread evenly; 0 = all.").range(0, 1e9);
    schema.add("frames", &C::most_frames, "At most the first so many frames of a clip.").range(2, 1e6);
    add_decode_memory(schema, &C::decode_memory);
    schema.section("propagation");
    schema.add("context", &C::context, "Last frames that hand on labels, beside the first.").range(0, 1000);
    schema.add("neighbours", &C::propagation, &PropagationOptions::neighbours, "Patches that have a say.")
        .range(1, 10000);
    schema
        .add("radius", &C::propagation, &PropagationOptions::radius, "How far away they may lie, in patches.")
        .range(0, 10000);
    schema
        .add("temperature", &C::propagation, &PropagationOptions::temperature,
             "Temperature of their weights.")
        .range(1e-4, 100);
    schema.add("resamples", &C::resamples, "Bootstrap resamples.").range(100, 1e6);
    table.bind(schema, config_);
  }

  Plan plan(TaskRun& run) override {
    const Dataset dataset = run.images("data");
    clips_ = masked_clips(dataset);
    const auto n = static_cast<int64_t>(clips_.size());
    if (n == 0)
      throw DataError(
          fmt::format("label propagation: {}: has no clip of two frames or more; give folders of "
                      "frames, or JPEGImages/ and Annotations/",
                      dataset.reference));
    std::vector<Clip> chosen;
    for (const int64_t i : spaced_frames(n, config_.limit == 0 ? n : config_.limit))
      chosen.push_back(std::move(clips_[static_cast<size_t>(i)]));
    clips_ = std::move(chosen);
    FeatureProtocol protocol;
    InputOptions input;
    input.size = config_.chosen_size;
    input.pad = input.silent = true;
    extractor_ = &run.encoder(input, protocol);
    side_ = extractor_->patch_side();
    size_ = std::max<int64_t>(1, protocol.size / side_) * side_;
    std::vector<std::string> keys;
    for (Clip& clip : clips_) {
      clip.frames.resize(std::min(clip.frames.size(), static_cast<size_t>(config_.most_frames)));
      for (const Record& frame : clip.frames) keys.push_back(frame.key);
    }
    Plan plan;
    plan.model = extractor_->identity();
    plan.data = dataset.reference;
    plan.protocols.push_back({card(dataset.reference, keys, run.seed), {"jf", "j", "f"}});
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& /*plan*/, std::span<const size_t> /*wanted*/) override {
    std::vector<double> values;  // J and F of each object
    std::vector<std::string> keys;
    for_each_batch(run.world, static_cast<int64_t>(clips_.size()), 1, "propagation", [&](Range range) {
      measure(clips_[static_cast<size_t>(range.begin)], static_cast<uint64_t>(run.seed), values, keys);
    });
    const auto all = run.world.gather_values<double>(std::span<const double>(values));
    const auto all_keys = gather_lines(run.world, keys);
    std::vector<Outcome> outcomes;
    on_root(run.world, [&] {
      if (all_keys.empty())
        throw DataError("label propagation: " + run.options.source(0).reference +
                        ": no first frame has an object; give other clips");
      std::vector<double> region, boundary, both;
      for (size_t i = 0; i < all_keys.size(); ++i) {
        region.push_back(all[2 * i]), boundary.push_back(all[2 * i + 1]);
        both.push_back((all[2 * i] + all[2 * i + 1]) / 2);
      }
      Outcome out{0, {}, Predictions{}};
      out.predictions->keys = all_keys;
      for (const auto& [name, list] : {std::pair{"jf", &both}, {"j", &region}, {"f", &boundary}}) {
        out.scores.push_back(
            {name, bootstrap_mean(*list, config_.resamples, static_cast<uint64_t>(run.seed)), true});
        out.predictions->values[name] = *list;
      }
      outcomes.push_back(std::move(out));
    });
    return outcomes;
  }

 private:
  [[nodiscard]] bool annotated() const { return !clips_.front().masks.empty(); }

  [[nodiscard]] Card card(const std::string& reference, const std::vector<std::string>& keys,
                          int64_t seed) const {
    Card card;
    card.set("task", "propagate")
        .set("data", Card()
                         .set("data", dataset_name(reference))
                         .set("clips", static_cast<int64_t>(clips_.size()))
                         .set("images", static_cast<int64_t>(keys.size()))
                         .set("keys", keys_hash(keys).substr(0, 16)));
    card.set("size", size_)
        .set("patch", side_)
        .set("features", "patch tokens of the last block, L2-normalised");
    card.set("context", config_.context)
        .set("neighbours", config_.propagation.neighbours)
        .set("radius", config_.propagation.radius)
        .set("temperature", config_.propagation.temperature);
    card.set("masks", annotated() ? "annotated" : "alpha, on one drawn background a clip");
    card.set("measured", annotated() ? "at the input's size, all frames but the first and the last"
                                     : "at the input's size, all frames but the first");
    if (!annotated()) card.set("seed", seed);
    return card.set("interval",
                    fmt::format("percentile bootstrap over objects, {} resamples", config_.resamples));
  }

  [[nodiscard]] Frame frame_of(const Clip& clip, size_t index, uint64_t seed,
                               std::vector<uint32_t>& colours) const {
    if (clip.masks.empty()) {
      // Keyed by the clip: its frames share one background.
      Random random(seed, RandomStream::render, xxh3(std::as_bytes(std::span(clip.name))));
      Composite made = composite_on_background(
          decode_frame(clip.frames[index], true, config_.decode_memory.bytes).image, size_, random);
      if (colours.empty()) colours = {1};
      if (made.mask.empty()) made.mask.assign(static_cast<size_t>(size_ * size_), 0);
      if (made.image.pixels.empty())
        throw DataError(
            fmt::format("label propagation: {}: {}; give frames with an alpha channel, or masks "
                        "in Annotations/",
                        clip.frames[index].path, made.fault));
      return {std::move(made.image), std::move(made.mask)};
    }
    const Image image = decode_frame(clip.frames[index], false, config_.decode_memory.bytes).image;
    const Image mask = decode_frame(clip.masks[index], false, config_.decode_memory.bytes).image;
    const double scale =
        static_cast<double>(size_) / static_cast<double>(std::min(image.width, image.height));
    const auto whole = [&](int64_t side) {
      return std::max<int64_t>(1,
                               std::lround(static_cast<double>(side) * scale / static_cast<double>(side_))) *
             side_;
    };
    const int64_t width = whole(image.width), height = whole(image.height);
    return {resize(image, width, height, Resampling::bilinear),
            resize_objects(objects_of(mask, colours, index == 0), mask.width, mask.height, width, height)};
  }

  [[nodiscard]] std::vector<float> features_of(const Frame& frame) const {
    const int64_t patches = frame.image.width / side_ * (frame.image.height / side_);
    std::vector<float> out(static_cast<size_t>(patches * extractor_->patch_width()));
    const int64_t last = extractor_->depth() - 1;
    extractor_->dense(std::span(&frame.image, 1), std::span(&last, 1), nullptr, out.data());
    normalize_rows(out.data(), patches, extractor_->patch_width());
    return out;
  }

  /// Shares of each patch that belong to background and objects, [patches, classes].
  [[nodiscard]] std::vector<float> labels_of(const Frame& frame, int64_t classes) const {
    const int64_t columns = frame.image.width / side_, rows = frame.image.height / side_;
    std::vector<float> out(static_cast<size_t>(rows * columns * classes));
    for (int64_t y = 0; y < frame.image.height; ++y)
      for (int64_t x = 0; x < frame.image.width; ++x) {
        const uint8_t object = frame.objects[static_cast<size_t>(y * frame.image.width + x)];
        out[static_cast<size_t>((y / side_ * columns + x / side_) * classes + object)] +=
            1.0F / static_cast<float>(side_ * side_);
      }
    return out;
  }

  /// The class of every pixel: labels bilinear to pixels, each class stretched to [0, 1] over the frame.
  [[nodiscard]] std::vector<uint8_t> pixels_of(const std::vector<float>& labels,
                                               const GridShape& grid) const {
    const auto n = static_cast<size_t>(grid.rows * grid.columns * side_ * side_);
    std::vector<uint8_t> best(n);
    std::vector<float> highest(n, -1), map(n);
    for (int64_t c = 0; c < grid.classes; ++c) {
      enlarge(labels, grid, c, map);
      const auto [low, high] = std::minmax_element(map.begin(), map.end());
      const float base = *low, span = *high - *low;
      for (size_t i = 0; i < n; ++i) {
        const float value = span > 0 ? (map[i] - base) / span : map[i];
        if (value > highest[i]) highest[i] = value, best[i] = static_cast<uint8_t>(c);
      }
    }
    return best;
  }

  void enlarge(const std::vector<float>& labels, const GridShape& grid, int64_t c,
               std::vector<float>& map) const {
    const int64_t width = grid.columns * side_, height = grid.rows * side_;
    const auto label = [&](int64_t x, int64_t y) {
      return labels[static_cast<size_t>((y * grid.columns + x) * grid.classes + c)];
    };
    const auto place = [&](int64_t pixel, int64_t cells) {
      return std::clamp((static_cast<float>(pixel) + 0.5F) / static_cast<float>(side_) - 0.5F, 0.0F,
                        static_cast<float>(cells - 1));
    };
    for (int64_t y = 0; y < height; ++y) {
      const float v = place(y, grid.rows);
      const auto top = static_cast<int64_t>(v), below = std::min(top + 1, grid.rows - 1);
      const float fy = v - static_cast<float>(top);
      for (int64_t x = 0; x < width; ++x) {
        const float u = place(x, grid.columns);
        const auto left = static_cast<int64_t>(u), right = std::min(left + 1, grid.columns - 1);
        const float fx = u - static_cast<float>(left);
        map[static_cast<size_t>(y * width + x)] =
            (label(left, top) * (1 - fx) + label(right, top) * fx) * (1 - fy) +
            (label(left, below) * (1 - fx) + label(right, below) * fx) * fy;
      }
    }
  }

  void measure(const Clip& clip, uint64_t seed, std::vector<double>& values,
               std::vector<std::string>& keys) const {
    std::vector<uint32_t> colours;
    const Frame start = frame_of(clip, 0, seed, colours);
    const auto classes = static_cast<int64_t>(colours.size()) + 1;
    const GridShape grid{start.image.height / side_, start.image.width / side_, extractor_->patch_width(),
                         classes};
    const Known first{features_of(start), labels_of(start, classes)};
    std::deque<Known> recent;
    const size_t end = clip.frames.size() - (clip.masks.empty() || clip.frames.size() == 2 ? 0 : 1);
    std::vector<double> sums(colours.size() * 2);
    for (size_t i = 1; i < end; ++i) {
      const Frame frame = frame_of(clip, i, seed, colours);
      if (frame.image.width != start.image.width || frame.image.height != start.image.height)
        throw DataError(
            fmt::format("label propagation: {}: has another shape than the clip's first frame; "
                        "leave its clip out",
                        clip.frames[i].path));
      std::vector<LabelledGrid> context = {{first.features.data(), first.labels.data()}};
      for (const Known& known : recent) context.push_back({known.features.data(), known.labels.data()});
      Known now{features_of(frame), {}};
      now.labels = propagate_labels(context, now.features.data(), grid, config_.propagation);
      add_measures(pixels_of(now.labels, grid), frame, sums);
      recent.push_back(std::move(now));
      if (static_cast<int64_t>(recent.size()) > config_.context) recent.pop_front();
    }
    for (size_t object = 0; object < colours.size(); ++object) {
      values.push_back(sums[2 * object] / static_cast<double>(end - 1));
      values.push_back(sums[2 * object + 1] / static_cast<double>(end - 1));
      keys.push_back(fmt::format("{}#{}", clip.name, object + 1));
    }
  }

  static void add_measures(const std::vector<uint8_t>& found, const Frame& frame, std::vector<double>& sums) {
    std::vector<uint8_t> a(found.size()), b(found.size());
    for (size_t object = 0; object < sums.size() / 2; ++object) {
      for (size_t i = 0; i < found.size(); ++i) {
        a[i] = found[i] == object + 1 ? 1 : 0;
        b[i] = frame.objects[i] == object + 1 ? 1 : 0;
      }
      const MaskView predicted{a, frame.image.width, frame.image.height},
          truth{b, frame.image.width, frame.image.height};
      sums[2 * object] += region_similarity(predicted, truth);
      sums[2 * object + 1] += boundary_accuracy(predicted, truth);
    }
  }

  PropagateConfig config_;
  std::vector<Clip> clips_;
  Extractor* extractor_ = nullptr;
  int64_t side_ = 0, size_ = 0;
};

}  // namespace

TaskEntry propagate_task() {
  TaskInfo info;
  info.name = "propagate";
  info.summary = "Hand masks on from frame to frame";
  info.usage = "--weights W --data FRAMES [--size N] --output RESULTS";
  info.description =
      "Takes the masks of each clip's first frame and hands them on by the nearest patches of the first and "
      "the last --context frames. Gives region similarity J, boundary accuracy F and their mean over "
      "objects. "
      "FRAMES has JPEGImages/ and Annotations/ as DAVIS has, where a colour of a mask is an object, or clips "
      "(groups or folders) of frames with an alpha channel.";
  info.examples = {{"--weights run --data davis --size 480 --output results"},
                   {"--weights run --data wesnoth-units/test --limit 50 --output results"}};
  info.metrics = {{"jf", true, true}, {"j"}, {"f"}};
  info.inputs = {{"data", "Data reference of the frames.", TaskInput::Kind::images, TaskInput::Part::test}};
  info.encoder = TaskInfo::Encoder::tokens;
  return task_entry<Propagate>(std::move(info));
}

}  // namespace dino::eval
