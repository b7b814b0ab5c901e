// SPDX-License-Identifier: Apache-2.0
// Videos by frozen features of a few evenly spaced frames, averaged (DINOv2, arXiv 2304.07193, section 7.3),
// and classified by the nearest training clips.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.hpp"
#include "comm/together.hpp"
#include "inputs/frames.hpp"
#include "inputs/image_batches.hpp"
#include "options.hpp"
#include "task.hpp"
#include "vectors/embeddings.hpp"
#include "vectors/neighbours.hpp"

namespace dino::eval {

namespace {

struct VideoConfig {
  InputOptions input;
  int64_t frames = 8, k = 5, batch = 16;
  double temperature = 0.07;
};

/// Labelled clips of one side, and the frames of all of them that count.
struct Clips {
  std::string reference;
  std::vector<std::string> classes, names;
  std::vector<int32_t> labels;   ///< of each clip
  std::vector<Record> frames;    ///< clip after clip
  std::vector<int64_t> clip_of;  ///< of each frame
};

class Video final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = VideoConfig;
    Schema<C> schema;
    schema.add(&C::input, input_options());
    schema.section("video");
    schema.add("frames", &C::frames, "Frames of a clip, evenly spaced, whose features are averaged.")
        .range(1, 10000);
    schema.add("k", &C::k, "Clips that vote.").range(1, 1e6);
    schema.add("temperature", &C::temperature, "Temperature of the vote's weights.").range(1e-4, 100);
    schema.add("batch", &C::batch, "Images per forward pass.").range(1, 4096);
    table.bind(schema, config_);
  }

  Plan plan(TaskRun& run) override {
    train_ = read_clips(run, "train");
    test_ = read_clips(run, "test");
    protocol_ = {};
    extractor_ = &run.encoder(config_.input, protocol_);
    Card card;
    card.set("task", "video").set("train", part(train_)).set("test", part(test_));
    card.set("features", protocol_.card())
        .set("frames", config_.frames)
        .set("average", "mean of the frames' features, each L2-normalised")
        .set("head", "k nearest training clips vote, softmax(cosine / temperature)")
        .set("k", votes())
        .set("temperature", config_.temperature)
        .set("interval", "Wilson 95 %");
    Plan plan;
    plan.model = extractor_->identity();
    plan.data = test_.reference;
    plan.protocols.push_back({card, {"top1"}});
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& /*plan*/, std::span<const size_t> /*wanted*/) override {
    const Tensor bank = features_of(run, train_, "train clips"),
                 asked = features_of(run, test_, "test clips");
    std::vector<Outcome> outcomes;
    on_root(run.world, [&] {
      const auto classes = static_cast<int64_t>(train_.classes.size());
      const std::vector<float> scores =
          weighted_vote(nearest(bank, asked, votes()), train_.labels, classes, votes(), config_.temperature);
      Predictions predictions;
      predictions.keys = test_.names;
      predictions.classes = train_.classes;
      int64_t right = 0;
      for (size_t c = 0; c < test_.names.size(); ++c) {
        const float* row = scores.data() + static_cast<int64_t>(c) * classes;
        const std::string& name = test_.classes[static_cast<size_t>(test_.labels[c])];
        const auto known = std::find(train_.classes.begin(), train_.classes.end(), name);
        // A class that training does not know cannot be named.
        predictions.labels.push_back(
            known == train_.classes.end() ? -2 : static_cast<int32_t>(known - train_.classes.begin()));
        predictions.predicted.push_back(static_cast<int32_t>(std::max_element(row, row + classes) - row));
        right += predictions.labels.back() == predictions.predicted.back() ? 1 : 0;
      }
      outcomes.push_back(
          {0, {{"top1", wilson(right, static_cast<int64_t>(test_.names.size())), true}}, predictions});
    });
    return outcomes;
  }

 private:
  [[nodiscard]] int64_t votes() const {
    return std::min(config_.k, static_cast<int64_t>(train_.names.size()));
  }
  static Card part(const Clips& clips) {
    std::vector<std::string> keys;
    for (const Record& frame : clips.frames) keys.push_back(frame.key);
    return Card()
        .set("data", dataset_name(clips.reference))
        .set("clips", static_cast<int64_t>(clips.names.size()))
        .set("images", static_cast<int64_t>(keys.size()))
        .set("keys", keys_hash(keys).substr(0, 16));
  }

  /// The label of a group; a folder of frames stands below the folder that names its class.
  static std::string class_of(const Clip& clip, const Dataset& dataset) {
    if (clip.frames.front().group.empty()) {
      const size_t slash = clip.name.rfind('/');
      return slash == std::string::npos ? "" : clip.name.substr(0, slash);
    }
    return clip.label < 0 ? "" : dataset.classes[static_cast<size_t>(clip.label)];
  }

  Clips read_clips(TaskRun& run, const char* flag) const {
    const Dataset dataset = run.images(flag);
    Clips out;
    out.reference = dataset.reference;
    std::map<std::string, int32_t> classes;
    std::vector<std::string> names;
    for (const Clip& clip : clips_of(dataset.records)) {
      const std::string name = class_of(clip, dataset);
      if (name.empty()) continue;
      classes.emplace(name, 0);
      names.push_back(name);
      for (const int64_t i : spaced_frames(static_cast<int64_t>(clip.frames.size()), config_.frames)) {
        out.frames.push_back(clip.frames[static_cast<size_t>(i)]);
        out.clip_of.push_back(static_cast<int64_t>(out.names.size()));
      }
      out.names.push_back(clip.name);
    }
    for (auto& [name, number] : classes) {
      number = static_cast<int32_t>(out.classes.size());
      out.classes.push_back(name);
    }
    for (const std::string& name : names) out.labels.push_back(classes.at(name));
    if (out.names.empty())
      throw DataError(
          fmt::format("video: --{} {}: has no labelled clip; give folders of frames below folders "
                      "that name classes, or a data set with groups",
                      flag, out.reference));
    return out;
  }

  /// Unit rows of all clips, on the root (rows of zeros elsewhere). A clip is the mean of its frames that can
  /// be read.
  Tensor features_of(TaskRun& run, const Clips& clips, const char* stage) const {
    const int64_t width = extractor_->columns(protocol_).width();
    std::vector<float> mine;
    std::vector<std::string> faults;
    for_each_batch(
        run.world, static_cast<int64_t>(clips.frames.size()), config_.batch, stage, [&](Range range) {
          const auto loaded = load_batch(
              range, [&](int64_t i) { return load_image(clips.frames[static_cast<size_t>(i)], protocol_); });
          std::vector<Image> images;
          for (const LoadedImage& image : loaded) images.push_back(image.image);
          const size_t before = mine.size();
          mine.resize(before + static_cast<size_t>(range.size() * width));
          extractor_->extract(images, protocol_, mine.data() + before, nullptr);
          normalize_rows(mine.data() + before, range.size(), width);
          for (int64_t i = 0; i < range.size(); ++i) {
            const LoadedImage& image = loaded[static_cast<size_t>(i)];
            if (image.fault.empty()) continue;
            std::fill_n(mine.begin() + static_cast<int64_t>(before) + i * width, width, 0.0F);
            faults.push_back(clips.frames[static_cast<size_t>(range.begin + i)].key + ": " + image.fault);
          }
        });
    const auto all = run.world.gather_values<float>(std::span<const float>(mine));
    const auto all_faults = gather_lines(run.world, faults);
    const auto n = static_cast<int64_t>(clips.names.size());
    Tensor out({n, width});
    if (!run.world.root()) return out;
    say_left_out(all_faults);
    float* const to = out.as<float>();
    for (size_t i = 0; i < clips.frames.size(); ++i)
      for (int64_t c = 0; c < width; ++c)
        to[clips.clip_of[i] * width + c] += all[i * static_cast<size_t>(width) + static_cast<size_t>(c)];
    normalize_rows(to, n, width);
    return out;
  }

  VideoConfig config_;
  Clips train_, test_;
  FeatureProtocol protocol_;
  Extractor* extractor_ = nullptr;
};

}  // namespace

TaskEntry video_task() {
  TaskInfo info;
  info.name = "video";
  info.summary = "Classify clips by the average of their frames";
  info.usage = "--weights W --train REF --test REF [--frames 8] --output RESULTS";
  info.description =
      "Averages the features of evenly spaced frames of each clip and classifies the test clips by a vote of "
      "the nearest training clips. A clip is a group of the data set (the frames of an animation), else a "
      "folder of frames.";
  info.examples = {{"--weights run --train wesnoth-units/train --test wesnoth-units/test --output results"}};
  info.metrics = {{"top1", true, true}};
  info.inputs = {
      {"train", "Data reference of the training frames.", TaskInput::Kind::images, TaskInput::Part::train},
      {"test", "Data reference of the test frames.", TaskInput::Kind::images, TaskInput::Part::test}};
  info.encoder = TaskInfo::Encoder::tokens;
  info.confusions = true;
  return task_entry<Video>(std::move(info));
}

}  // namespace dino::eval
