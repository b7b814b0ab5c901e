// SPDX-License-Identifier: Apache-2.0
#include "inputs/clip_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/loop_failure.hpp"
#include "base/progress.hpp"
#include "base/signals.hpp"
#include "comm/together.hpp"
#include "model/byte_pairs.hpp"
#include "model/clip.hpp"
#include "options.hpp"
#include "storage/files.hpp"
#include "vectors/embeddings.hpp"

namespace dino::eval {

Schema<ClipOptions> clip_options() {
  using C = ClipOptions;
  Schema<C> schema;
  schema.section("model");
  schema
      .add("clip", &C::model, &ModelOptions::weights,
           "Weights reference of a CLIP: a Hugging Face or OpenCLIP folder, or what align wrote.")
      .required();
  schema.add("name", &C::model, &ModelOptions::name,
             "The model's name in results (default: from the reference).");
  schema.add(
      "vocabulary", &C::vocabulary,
      "Byte pairs of the text tower: a folder, tokenizer.json or merges.txt (default: in the folder of the "
      "weights).");
  schema.add(&C::model, backbone_options());
  schema.add(&C::input, input_options()).add(&C::limits, limit_options());
  schema.add("batch", &C::batch, "Images per forward pass.").range(1, 4096);
  return schema;
}

struct TextEncoder::Impl {
  Impl(std::unique_ptr<TextModel> of_texts, BytePairs pairs, const ClipOptions& options)
      : model(std::move(of_texts)),
        tokenizer(std::move(pairs)),
        tower(model->config),
        place(backend_of(options.model.device), Communicator::self(),
              precision_here(options.model.precision, kind_of(options.model.device))),
        batch(4 * options.batch) {
    bring_to_device(*model, place.context());
  }
  std::unique_ptr<TextModel> model;
  BytePairs tokenizer;
  TextTower tower;
  Workplace place;
  int64_t batch;
};

TextEncoder::TextEncoder(const ClipOptions& options) {
  auto model = load_text_model(options.model.weights);
  std::string vocabulary = options.vocabulary;
  if (vocabulary.empty()) {
    const std::string& weights = options.model.weights;
    const size_t slash = weights.rfind('/');
    vocabulary = is_folder(weights) ? weights : slash == std::string::npos ? "." : weights.substr(0, slash);
  }
  BytePairs pairs = BytePairs::load(vocabulary, model->config.vocabulary);
  impl_ = std::make_unique<Impl>(std::move(model), std::move(pairs), options);
}
TextEncoder::~TextEncoder() = default;
TextEncoder::TextEncoder(TextEncoder&&) noexcept = default;

int64_t TextEncoder::width() const {
  return impl_->model->config.projection;
}
const std::string& TextEncoder::sha256() const {
  return impl_->model->sha256;
}

Tensor TextEncoder::encode(std::span<const std::string> texts) {
  const auto count = std::ssize(texts);
  Tensor rows = Tensor::uninitialised({count, width()});
  Context& c = impl_->place.context();
  Tensor buffer;
  for (int64_t begin = 0; begin < count; begin += impl_->batch) {
    c.arena.reset();
    std::vector<std::vector<int32_t>> tokens;
    for (int64_t i = begin; i < std::min(begin + impl_->batch, count); ++i)
      tokens.push_back(impl_->tokenizer.encode(texts[static_cast<size_t>(i)], impl_->model->config.context));
    const TensorView out = impl_->tower.forward(c, impl_->model->weights, tokens);
    const ConstTensorView values = host_view(c, out, buffer);
    std::copy(values.f32().begin(), values.f32().end(), rows.as<float>() + begin * width());
  }
  normalize_rows(rows.as<float>(), count, width());
  return rows;
}

Tensor TextEncoder::encode(std::span<const std::string> texts, const Communicator& world) {
  const Range mine = even_range(std::ssize(texts), world.rank(), world.size());
  Tensor part;
  together(world, [&] {
    part = encode(texts.subspan(static_cast<size_t>(mine.begin), static_cast<size_t>(mine.size())));
  });
  const std::vector<float> all = world.all_gather_values<float>(part.f32());
  Tensor rows = Tensor::uninitialised({std::ssize(texts), width()});
  std::copy(all.begin(), all.end(), rows.as<float>());
  return rows;
}

namespace {

/// A batch as its rank hands it over: faulty images are empty rows.
struct ImageBatch {
  std::vector<float> rows;
  std::vector<uint8_t> good;
  std::vector<std::string> faults;
};

ImageBatch encode_batch(Extractor& extractor, std::span<const Record> records,
                        const FeatureProtocol& protocol) {
  std::vector<Image> images(records.size());
  ImageBatch out;
  out.good.resize(records.size());
  out.faults.resize(records.size());
  LoopFailure failure;
#pragma omp parallel for schedule(dynamic)
  for (size_t i = 0; i < records.size(); ++i)
    failure.guard([&] {
      LoadedImage loaded = load_image(records[i], protocol);
      images[i] = std::move(loaded.image);
      out.good[i] = loaded.fault.empty() ? 1 : 0;
      out.faults[i] = std::move(loaded.fault);
    });
  failure.rethrow();
  const int64_t width = extractor.columns(protocol).width();
  out.rows.resize(records.size() * static_cast<size_t>(width));
  extractor.extract(images, protocol, out.rows.data(), nullptr);
  for (size_t i = 0; i < records.size(); ++i)
    if (out.good[i] == 0) log::warning(fmt::format("skipped {}: {}", records[i].key, out.faults[i]));
  return out;
}

}  // namespace

ClipModel::ClipModel(ClipOptions options, uint64_t seed, const Communicator& world)
    : options_([&] {
        settle_device(options.model.device, world);
        return std::move(options);
      }()),
      protocol_(options_.limits),
      images_(make_extractor(options_.model, seed)),
      texts_(options_) {
  images_->settle(options_.input, protocol_);
  protocol_.tokens = Tokens::cls;
  protocol_.layers = 1;
  const int64_t width = images_->columns(protocol_).width();
  if (width != texts_.width())
    throw DataError(
        fmt::format("bad weights: {}: its image tower gives {} numbers and its text tower {}; they are not "
                    "of one model",
                    options_.model.weights, width, texts_.width()));
}

ModelIdentity ClipModel::identity() const {
  ModelIdentity both = images_->identity();
  const std::string lines = both.weights + "\n" + texts_.sha256() + "\n";
  both.weights = sha256_hex(std::as_bytes(std::span(lines)));
  return both;
}

EncodedImages encode_images(Extractor& extractor, const FeatureProtocol& protocol,
                            std::span<const Record> records, int64_t batch, const Communicator& world) {
  const auto n = std::ssize(records);
  const int64_t per_round = batch * world.size(), width = extractor.columns(protocol).width();
  EncodedImages out;
  std::vector<float> rows;
  Progress progress("images", n, "images");
  for (int64_t begin = 0; begin < n; begin += per_round) {
    if (world.any(stop_requested())) throw_stopped();
    const int64_t first = std::min(begin + world.rank() * batch, n), last = std::min(first + batch, n);
    ImageBatch mine;
    together(world, [&] {
      if (last > first)
        mine = encode_batch(extractor,
                            records.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)),
                            protocol);
    });
    const std::vector<float> all = world.all_gather_values<float>(std::span<const float>(mine.rows));
    const std::vector<uint8_t> good = world.all_gather_values<uint8_t>(std::span<const uint8_t>(mine.good));
    for (size_t i = 0; i < good.size(); ++i) {
      if (good[i] == 0) {
        ++out.skipped;
        continue;
      }
      const auto row = all.begin() + static_cast<int64_t>(i) * width;
      rows.insert(rows.end(), row, row + width);
      out.records.push_back(begin + static_cast<int64_t>(i));
    }
    progress.set(std::min(begin + per_round, n));
  }
  progress.finish();
  if (out.records.empty()) throw DataError("reading images: none of them could be decoded; see the warnings");
  out.rows = Tensor::uninitialised({std::ssize(out.records), width});
  std::copy(rows.begin(), rows.end(), out.rows.as<float>());
  normalize_rows(out.rows.as<float>(), std::ssize(out.records), width);
  return out;
}

}  // namespace dino::eval
