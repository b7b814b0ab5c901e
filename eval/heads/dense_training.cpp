// SPDX-License-Identifier: Apache-2.0
// The loop that trains a dense head: which images a step sees, and how ranks share their encoding.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "base/error.hpp"
#include "base/keyed_permutation.hpp"
#include "base/log.hpp"
#include "base/loop_failure.hpp"
#include "base/progress.hpp"
#include "base/working.hpp"
#include "comm/together.hpp"
#include "heads/dense_model.hpp"

namespace dino::eval {

namespace {

/// What is kept of encoded images where every step sees them alike.
constexpr int64_t kKeptBytes = int64_t{2} << 30;
/// Images tried in the place of one that cannot be read.
constexpr int64_t kTries = 100;

struct Example {
  EncodedImage encoded;
  DenseSample truth;  ///< its image is empty
};

/// A rank's examples as bytes for the others: all are of one size.
class Packing {
 public:
  Packing(GridSize grid, size_t values, GridSize crop, DenseTask task)
      : grid_(grid), values_(values), crop_(crop), task_(task) {}
  void pack(const Example& example, std::vector<std::byte>& to) const {
    append(to, example.encoded.values);
    if (task_ == DenseTask::segmentation)
      append(to, example.truth.labels.labels);
    else
      append(to, example.truth.depth.metres);
  }
  [[nodiscard]] Example unpack(const std::byte*& from) const {
    Example example;
    example.encoded = {grid_, std::vector<float>(values_)};
    take(from, example.encoded.values);
    const auto pixels = static_cast<size_t>(crop_.pixels());
    if (task_ == DenseTask::segmentation) {
      example.truth.labels = {crop_.width, crop_.height, std::vector<int16_t>(pixels)};
      take(from, example.truth.labels.labels);
    } else {
      example.truth.depth = {crop_.width, crop_.height, std::vector<float>(pixels)};
      take(from, example.truth.depth.metres);
    }
    return example;
  }

 private:
  template <class T>
  static void append(std::vector<std::byte>& to, const std::vector<T>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    to.insert(to.end(), bytes.begin(), bytes.end());
  }
  template <class T>
  static void take(const std::byte*& from, std::vector<T>& values) {
    std::memcpy(values.data(), from, values.size() * sizeof(T));
    from += values.size() * sizeof(T);
  }
  GridSize grid_;
  size_t values_;
  GridSize crop_;
  DenseTask task_;
};

class ExampleMaker {
 public:
  ExampleMaker(const Communicator& world, Extractor& encoder, const DenseImages& images,
               const DenseTraining& training, const DenseReading& reading)
      : world_(world), encoder_(encoder), images_(images), training_(training), reading_(reading) {}

  /// Of draws [first, first + count), in order, the same on all ranks. Collective.
  std::vector<std::shared_ptr<const Example>> make(int64_t first, int64_t count) {
    std::vector<std::shared_ptr<const Example>> out(static_cast<size_t>(count));
    std::vector<int64_t> missing;
    for (int64_t i = 0; i < count; ++i) {
      const auto known = kept_.find(index_of(first + i));
      if (known != kept_.end())
        out[static_cast<size_t>(i)] = known->second;
      else
        missing.push_back(first + i);
    }
    std::vector<std::shared_ptr<const Example>> made = encode_missing(missing);
    for (size_t m = 0; m < missing.size(); ++m) {
      out[static_cast<size_t>(missing[m] - first)] = made[m];
      keep(index_of(missing[m]), made[m]);
    }
    return out;
  }
  [[nodiscard]] const std::set<std::string>& faults() const { return faults_; }

 private:
  [[nodiscard]] int64_t index_of(int64_t draw) const {
    const int64_t n = images_.size();
    return KeyedPermutation(n, training_.seed, RandomStream::shuffle,
                            static_cast<uint64_t>(draw / n))(draw % n);
  }
  void keep(int64_t index, const std::shared_ptr<const Example>& example) {
    if (training_.augment != DenseAugment::none) return;
    const auto bytes = static_cast<int64_t>(example->encoded.values.size() * sizeof(float));
    if (kept_bytes_ + bytes > kKeptBytes || !kept_.emplace(index, example).second) return;
    kept_bytes_ += bytes;
  }
  /// The image of a draw, or the next that can be read.
  [[nodiscard]] DenseSample sample_of(int64_t draw, std::vector<std::string>& faults) const {
    const int64_t n = images_.size(), index = index_of(draw);
    for (int64_t t = 0; t < std::min(kTries, n); ++t) {
      const int64_t at = (index + t) % n;
      DenseSample sample = images_.read(at, true);
      if (sample.fault.empty())
        return training_crop(std::move(sample), training_.task, training_.crop, training_.least_scale,
                             training_.most_scale, training_.augment,
                             Random(training_.seed, RandomStream::augment, static_cast<uint64_t>(draw)));
      faults.push_back(images_.key(at) + ": " + sample.fault);
    }
    if (images_.cut_outs()) throw DataError(no_cut_outs(images_));
    throw DataError(
        fmt::format("cannot train: {}: {} images one after the other cannot be used; the first: {}",
                    images_.set().reference, std::min(kTries, n), faults.front()));
  }
  /// Groups of a fixed size go to the ranks in turn, so that what is encoded together does not depend on how
  /// many ranks there are.
  std::vector<std::shared_ptr<const Example>> encode_missing(const std::vector<int64_t>& draws) {
    const auto count = static_cast<int64_t>(draws.size()),
               groups = (count + kEncodedTogether - 1) / kEncodedTogether;
    if (count == 0) return {};
    std::vector<std::byte> mine;
    std::string told;
    std::vector<int64_t> sizes(4);
    together(world_, [&] {
      for (int64_t g = world_.rank(); g < groups; g += world_.size())
        encode_group(std::span(draws).subspan(
                         static_cast<size_t>(g * kEncodedTogether),
                         static_cast<size_t>(std::min(kEncodedTogether, count - g * kEncodedTogether))),
                     mine, told, sizes);
    });
    for (const std::string& text : world_.all_gather_strings(told)) add_faults(text);
    world_.all_reduce(std::span(sizes), ReduceOp::max);
    const Packing packing({sizes[0], sizes[1]}, static_cast<size_t>(sizes[2]), training_.crop,
                          training_.task);
    const std::vector<std::byte> all = world_.all_gather(mine);
    std::vector<std::shared_ptr<const Example>> out(static_cast<size_t>(count));
    const std::byte* from = all.data();
    for (int64_t rank = 0; rank < world_.size(); ++rank)
      for (int64_t g = rank; g < groups; g += world_.size())
        for (int64_t i = g * kEncodedTogether; i < std::min(count, (g + 1) * kEncodedTogether); ++i)
          out[static_cast<size_t>(i)] = std::make_shared<const Example>(packing.unpack(from));
    return out;
  }
  void encode_group(std::span<const int64_t> draws, std::vector<std::byte>& mine, std::string& told,
                    std::vector<int64_t>& sizes) {
    std::vector<DenseSample> samples(draws.size());
    std::vector<std::vector<std::string>> faults(draws.size());
    LoopFailure failure;
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < draws.size(); ++i)
      failure.guard([&] { samples[i] = sample_of(draws[i], faults[i]); });
    failure.rethrow();
    std::vector<Image> images;
    for (DenseSample& sample : samples) images.push_back(std::move(sample.image));
    std::vector<EncodedImage> encoded = encode(encoder_, images, reading_);
    sizes = {encoded[0].grid.height, encoded[0].grid.width, static_cast<int64_t>(encoded[0].values.size()),
             0};
    const Packing packing(encoded[0].grid, encoded[0].values.size(), training_.crop, training_.task);
    for (size_t i = 0; i < draws.size(); ++i) {
      packing.pack({std::move(encoded[i]), std::move(samples[i])}, mine);
      for (const std::string& fault : faults[i]) told += fault + "\n";
    }
  }
  void add_faults(const std::string& text) {
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = text.find('\n', begin);
      faults_.insert(text.substr(begin, end - begin));
      begin = end + 1;
    }
  }

  const Communicator& world_;
  Extractor& encoder_;
  const DenseImages& images_;
  const DenseTraining& training_;
  const DenseReading& reading_;
  std::map<int64_t, std::shared_ptr<const Example>> kept_;
  int64_t kept_bytes_ = 0;
  std::set<std::string> faults_;
};

}  // namespace

void train_dense(const Communicator& world, Extractor& encoder, const DenseImages& images,
                 const DenseTraining& training, DenseModel& model) {
  ExampleMaker maker(world, encoder, images, training, model.reading());
  Progress progress("dense head", training.steps, "steps");
  double shown = 0;
  for (int64_t step = 0; step < training.steps; ++step) {
    work_point();
    const auto examples = maker.make(step * training.batch, training.batch);
    std::vector<const EncodedImage*> encoded;
    std::vector<const DenseSample*> truth;
    for (const auto& example : examples)
      encoded.push_back(&example->encoded), truth.push_back(&example->truth);
    const double loss = model.train(encoded, truth, training);
    if (!std::isfinite(loss))
      throw DivergedError(fmt::format("training a head: {}: the loss of step {} is {}; lower --lr",
                                      images.set().reference, step + 1, loss));
    shown = step == 0 ? loss : 0.98 * shown + 0.02 * loss;
    progress.add(1);
  }
  progress.finish();
  if (!world.root()) return;
  log::info(fmt::format("trained {} steps of {} images, loss {:.4f}", training.steps, training.batch, shown));
  int64_t told = 0;
  for (const std::string& fault : maker.faults())
    if (++told <= 5) log::warning("left out " + fault);
  if (told > 5) log::warning(fmt::format("left out {} images in all", told));
}

}  // namespace dino::eval
