// SPDX-License-Identifier: Apache-2.0
#include "online_knn.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "base/log.hpp"
#include "base/loop_failure.hpp"
#include "datasets/on_all_ranks.hpp"
#include "imaging/decode_options.hpp"
#include "imaging/image.hpp"
#include "vectors/embeddings.hpp"
#include "vectors/neighbours.hpp"

namespace dino::pretrain {
namespace {

constexpr int64_t kBatch = 64;
constexpr double kTemperature = 0.07;

Image prepare(const Decoded& decoded, const TrainConfig& config) {
  const int64_t side = config.augment.global_size;
  if (!config.pad) return resize_center_crop(decoded.image, side, side);
  return resize_center_crop(pad_to_square(decoded.image, decoded.background), side, side);
}

/// Columns [begin, begin + width) of `features`, each row at length 1.
Tensor unit_columns(const Tensor& features, int64_t begin, int64_t width) {
  const int64_t n = features.shape()[0], all = features.shape()[1];
  Tensor out(Shape{n, width});
  for (int64_t i = 0; i < n; ++i)
    std::copy_n(features.as<float>() + i * all + begin, width, out.as<float>() + i * width);
  normalize_rows(out.as<float>(), n, width);
  return out;
}

}  // namespace

OnlineKnn::OnlineKnn(const TrainConfig& config, const std::string& run, const Communicator& comm)
    : config_(config), comm_(comm) {
  train_ = load(config.knn_train, run + "/knn-train.index", config.knn_limit, classes_);
  test_ = load(config.knn_test, run + "/knn-test.index",
               config.knn_test_limit > 0 ? config.knn_test_limit : config.knn_limit, classes_);
}

OnlineKnn::Set OnlineKnn::load(const std::string& reference, const std::string& index, int64_t limit,
                               std::vector<std::string>& classes) const {
  const RecordList list =
      share_list(list_images({reference}, nearest_folder(index), index, comm_), index, comm_);
  const int64_t records = list.count();
  const int64_t count = std::min(records, limit);
  const Range range = even_range(count, comm_.rank(), comm_.size());
  const int64_t side = config_.augment.global_size;
  const int64_t values = 3 * side * side;
  DecodeOptions options;
  options.background = config_.background.colour;
  options.limits.max_memory = config_.decode_memory.bytes;
  std::vector<float> pixels(static_cast<size_t>(range.size() * values));
  std::vector<int32_t> labels(static_cast<size_t>(range.size()), -1);
  LoopFailure failure;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = range.begin; i < range.end; ++i) {
    failure.guard([&] {
      const Record record = list.at(i * records / count);
      if (record.label < 0) return;
      Decoded decoded;
      try {
        decoded = decode_image(read_record(record), options);
      } catch (const std::bad_alloc&) {
        decoded.message = "the machine has not enough memory for it";
      }
      if (decoded.status != DecodeStatus::ok) {
        log::warning(fmt::format("k-NN image left out: {}: {}", record.path, decoded.message));
        return;
      }
      normalize_to(prepare(decoded, config_), config_.augment.normalisation,
                   pixels.data() + (i - range.begin) * values);
      labels[static_cast<size_t>(i - range.begin)] = record.label;
    });
  }
  failure.rethrow();
  Set set;
  const std::vector<std::string> own = list.classes();
  if (classes.empty()) classes = own;
  if (classes != own) {
    throw DataError(fmt::format(
        "k-NN sets differ: {}: its classes are not those of {}; give two parts of one labelled set",
        reference, config_.knn_train));
  }
  const auto n = static_cast<int64_t>(
      std::count_if(labels.begin(), labels.end(), [](int32_t label) { return label >= 0; }));
  if (comm_.sum(n) < 2)
    throw DataError(
        fmt::format("k-NN set is empty: {}: no labelled image could be decoded; give a folder whose "
                    "sub-folders name the labels",
                    reference));
  set.images = Tensor(Shape{n, 3, side, side});
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0) continue;
    std::memcpy(set.images.as<float>() + static_cast<int64_t>(set.labels.size()) * values,
                pixels.data() + static_cast<int64_t>(i) * values,
                sizeof(float) * static_cast<size_t>(values));
    set.labels.push_back(labels[i]);
  }
  return set;
}

Tensor OnlineKnn::features(const Context& c, const Vit& vit, const UnitWeights& teacher, const Set& set) {
  const int64_t n = set.images.shape()[0];
  const int64_t width = vit.config().width;
  Tensor features(Shape{n, 2 * width});
  // Weights in parts are gathered by all ranks together, so that all make the same number of passes.
  const int64_t passes = comm_.max((n + kBatch - 1) / kBatch);
  const Tensor blank(Shape{1, 3, set.images.shape()[2], set.images.shape()[3]});
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t begin = pass * kBatch, count = std::clamp<int64_t>(n - begin, 0, kBatch);
    c.arena.reset();
    const CropBatch crop{device_view(c, count > 0 ? set.images.view().rows(begin, count) : blank.view()), {}};
    const VitOutput output = vit.forward(c, teacher, {&crop, 1}, {});
    const float* const tokens = host_view(c, output.norm, tokens_).as<float>();
    const TokenEntry& entry = output.entries[0];
    const int64_t patches = entry.grid_h * entry.grid_w;
    for (int64_t i = 0; i < count; ++i) {
      float* out = features.as<float>() + (begin + i) * 2 * width;
      std::copy_n(tokens + entry.cls_row(i) * width, width, out);
      const float* token = tokens + entry.patch_row(i, 0, vit.config().registers) * width;
      for (int64_t d = 0; d < width; ++d) {
        double sum = 0;
        for (int64_t patch = 0; patch < patches; ++patch)
          sum += static_cast<double>(token[patch * width + d]);
        out[width + d] = static_cast<float>(sum / static_cast<double>(patches));
      }
    }
  }
  return features;
}

int64_t OnlineKnn::right(const Tensor& bank, std::span<const int32_t> labels, const Tensor& queries,
                         int64_t begin, int64_t width) const {
  const int64_t k = std::min(config_.knn_k, bank.shape()[0]);
  const auto classes = static_cast<int64_t>(classes_.size());
  const Neighbours neighbours =
      nearest(unit_columns(bank, begin, width), unit_columns(queries, begin, width), k);
  const std::vector<float> scores = weighted_vote(neighbours, labels, classes, k, kTemperature);
  int64_t count = 0;
  for (size_t q = 0; q < test_.labels.size(); ++q) {
    const auto row = scores.begin() + static_cast<int64_t>(q) * classes;
    count += std::max_element(row, row + classes) - row == test_.labels[q] ? 1 : 0;
  }
  return count;
}

OnlineKnn::Score OnlineKnn::evaluate(const Context& c, const Vit& vit, const UnitWeights& teacher) {
  const int64_t width = vit.config().width;
  if (!arena_) arena_ = std::make_unique<Arena>(c.ops.memory());
  const Context own = c.with(*arena_);
  const Tensor local_bank = features(own, vit, teacher, train_);
  const Tensor queries = features(own, vit, teacher, test_);
  const std::vector<float> rows = comm_.all_gather_values<float>(local_bank.f32());
  const std::vector<int32_t> labels =
      comm_.all_gather_values<int32_t>(std::span<const int32_t>(train_.labels));
  Tensor bank(Shape{static_cast<int64_t>(labels.size()), 2 * width});
  std::copy(rows.begin(), rows.end(), bank.as<float>());
  std::array<int64_t, 4> counts{0, 0, 0, static_cast<int64_t>(test_.labels.size())};
  if (!test_.labels.empty()) {
    counts[0] = right(bank, labels, queries, 0, width);
    counts[1] = right(bank, labels, queries, width, width);
    counts[2] = right(bank, labels, queries, 0, 2 * width);
  }
  comm_.all_reduce(std::span(counts));
  const auto share = [&](int64_t count) {
    return static_cast<double>(count) / static_cast<double>(counts[3]);
  };
  return {share(counts[0]), share(counts[1]), share(counts[2]), counts[3]};
}

}  // namespace dino::pretrain
