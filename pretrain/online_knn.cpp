// SPDX-License-Identifier: Apache-2.0
#include "online_knn.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/log.hpp"
#include "imaging/image.hpp"
#include "storage/dataset.hpp"
#include "vectors/neighbours.hpp"

namespace dino::pretrain {
namespace {

constexpr int64_t kBatch = 64;
constexpr double kTemperature = 0.07;

Image prepare(Image image, const TrainConfig& config) {
  const std::array<uint8_t, 3> colour = {static_cast<uint8_t>(config.background[0]),
                                         static_cast<uint8_t>(config.background[1]),
                                         static_cast<uint8_t>(config.background[2])};
  if (config.pad) image = pad_to_square(image, colour);
  return resize_center_crop(image, config.augment.global_size, config.augment.global_size);
}

}  // namespace

OnlineKnn::OnlineKnn(const TrainConfig& config, const Communicator& comm) : config_(config), comm_(comm) {
  train_ = load(config.knn_train, classes_);
  test_ = load(config.knn_test, classes_);
}

OnlineKnn::Set OnlineKnn::load(const std::string& reference, std::vector<std::string>& classes) const {
  const Dataset dataset = open_dataset(reference);
  const auto records = static_cast<int64_t>(dataset.records.size());
  const int64_t count = std::min(records, config_.knn_limit);
  const Range range = even_range(count, comm_.rank(), comm_.size());
  const int64_t side = config_.augment.global_size;
  const int64_t values = 3 * side * side;
  DecodeOptions options;
  for (size_t i = 0; i < 3; ++i) options.background[i] = static_cast<uint8_t>(config_.background[i]);
  std::vector<float> pixels(static_cast<size_t>(range.size() * values));
  std::vector<int32_t> labels(static_cast<size_t>(range.size()), -1);
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = range.begin; i < range.end; ++i) {
    const Record& record = dataset.records[static_cast<size_t>(i * records / count)];
    if (record.label < 0) continue;
    Decoded decoded;
    try {
      decoded = decode_image(read_record(record), options);
    } catch (const Error& error) {
      decoded.message = error.what();
    }
    if (decoded.status != DecodeStatus::ok) {
      log::warning(fmt::format("k-NN image left out: {}: {}", record.path, decoded.message));
      continue;
    }
    normalize_to(prepare(std::move(decoded.image), config_), config_.augment.normalisation,
                 pixels.data() + (i - range.begin) * values);
    labels[static_cast<size_t>(i - range.begin)] = record.label;
  }
  Set set;
  if (classes.empty()) classes = dataset.classes;
  if (classes != dataset.classes) {
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

Tensor OnlineKnn::features(const Vit& vit, const ParameterStore& teacher, const Set& set) {
  const int64_t n = set.images.shape()[0];
  const int64_t width = vit.config().width;
  Tensor features(Shape{n, width});
  for (int64_t begin = 0; begin < n; begin += kBatch) {
    const int64_t count = std::min(kBatch, n - begin);
    arena_.reset();
    const CropBatch crop{set.images.view().rows(begin, count), {}};
    const VitOutput output = vit.forward(teacher, {&crop, 1}, {}, arena_);
    for (int64_t i = 0; i < count; ++i) {
      const float* token = output.norm.as<float>() + output.entries[0].cls_row(i) * width;
      float* out = features.as<float>() + (begin + i) * width;
      double norm = 0;
      for (int64_t d = 0; d < width; ++d) norm += static_cast<double>(token[d]) * token[d];
      const auto scale = static_cast<float>(1.0 / std::max(std::sqrt(norm), 1e-12));
      for (int64_t d = 0; d < width; ++d) out[d] = token[d] * scale;
    }
  }
  return features;
}

OnlineKnn::Score OnlineKnn::evaluate(const Vit& vit, const ParameterStore& teacher) {
  const Tensor local_bank = features(vit, teacher, train_);
  const Tensor queries = features(vit, teacher, test_);
  std::vector<float> bank = comm_.all_gather_values<float>(local_bank.f32());
  const std::vector<int32_t> labels =
      comm_.all_gather_values<int32_t>(std::span<const int32_t>(train_.labels));
  const auto n = static_cast<int64_t>(labels.size());
  const int64_t k = std::min(config_.knn_k, n);
  int64_t right = 0;
  const auto classes = static_cast<int64_t>(classes_.size());
  if (queries.numel() > 0) {
    const Neighbours neighbours =
        nearest(view_of(static_cast<const float*>(bank.data()), Shape{n, vit.config().width}), queries, k);
    const std::vector<float> scores = weighted_vote(neighbours, labels, classes, k, kTemperature);
    for (size_t q = 0; q < test_.labels.size(); ++q) {
      const auto row = scores.begin() + static_cast<int64_t>(q) * classes;
      right += std::max_element(row, row + classes) - row == test_.labels[q] ? 1 : 0;
    }
  }
  const int64_t total = comm_.sum(static_cast<int64_t>(test_.labels.size()));
  return {static_cast<double>(comm_.sum(right)) / static_cast<double>(total), total};
}

}  // namespace dino::pretrain
