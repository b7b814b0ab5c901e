// SPDX-License-Identifier: Apache-2.0
#include "capture.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <span>
#include <system_error>
#include <utility>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/version.hpp"
#include "comm/together.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"

namespace dino::pretrain {
namespace {

/// What a rank sends at a time.
constexpr int64_t kCapturePieceBytes = int64_t{1} << 24;
constexpr const char* kFactsDataset = "/capture";

int64_t count_captures(const std::string& folder) {
  int64_t count = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    count += it->path().extension() == ".h5" ? 1 : 0;
  return count;
}

OrderedJson finite_or_null(double value) {
  return std::isfinite(value) ? OrderedJson(value) : OrderedJson(nullptr);
}

double or_nan(const OrderedJson& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

std::string facts_text(const CaptureFacts& facts) {
  OrderedJson json{{"schema", kCaptureSchema},     {"version", version()},
                   {"commit", commit()},           {"kind", facts.kind},
                   {"step", facts.step},           {"seed", facts.seed},
                   {"batch", facts.batch},         {"ranks", facts.ranks},
                   {"strategy", facts.strategy},   {"accumulate", facts.accumulate},
                   {"precision", facts.precision}, {"cpu", facts.cpu}};
  const StepSchedule& s = facts.schedule;
  json["schedule"] = {{"lr", s.lr},
                      {"last_layer_lr", s.last_layer_lr},
                      {"weight_decay", s.weight_decay},
                      {"momentum", s.momentum},
                      {"teacher_temperature", s.teacher_temperature},
                      {"backbone_frozen", s.backbone_frozen},
                      {"frozen_updates", s.frozen_updates}};
  const LossTerms& l = facts.losses;
  json["losses"] = {{"loss", finite_or_null(l.total)},
                    {"loss_dino_local", finite_or_null(l.dino_local)},
                    {"loss_dino_global", finite_or_null(l.dino_global)},
                    {"loss_ibot", finite_or_null(l.ibot)},
                    {"loss_koleo", finite_or_null(l.koleo)}};
  json["grad_norms"] = OrderedJson::array();
  for (const double norm : facts.grad_norms) json["grad_norms"].push_back(finite_or_null(norm));
  json["objective_state"] = OrderedJson::object();
  for (const auto& [name, values] : facts.objective_state)
    for (const double value : values) json["objective_state"][name].push_back(finite_or_null(value));
  json["model"] = OrderedJson::parse(facts.model_json);
  json["config"] = facts.config_ini;
  return json_line(json);
}

/// Collective; writes where it is given a file, after its collective part.
using CapturePiece = std::function<void(Hdf5File*)>;

/// Crops f32 [crops * n, ...] of this rank's n images, crop-major, as those of the global batch.
void add_crops(std::vector<CapturePiece>& pieces, const std::string& name, ConstTensorView own, int64_t crops,
               int64_t batch, const Communicator& comm) {
  const int64_t values = own.dim(1) * own.dim(2) * own.dim(3);
  const int64_t images = own.dim(0) / crops;
  const int64_t most = even_range(batch, 0, comm.size()).size();
  const int64_t step = std::max<int64_t>(1, kCapturePieceBytes / (4 * values));
  const Shape one{1, own.dim(1), own.dim(2), own.dim(3)};
  for (int64_t crop = 0; crop < crops; ++crop)
    for (int64_t first = 0; first < most; first += step)
      pieces.emplace_back([=, &comm](Hdf5File* out) {
        const int64_t begin = std::min(first, images), count = std::min(step, images - begin);
        const std::span<const float> mine(own.as<float>() + (crop * images + begin) * values,
                                          static_cast<size_t>(count * values));
        const std::vector<float> all = comm.gather_values(mine);
        if (out == nullptr) return;
        const float* at = all.data();
        for (int rank = 0; rank < comm.size(); ++rank) {
          const Range range = even_range(batch, rank, comm.size());
          const int64_t from = std::min(first, range.size()), rows = std::min(step, range.size() - from);
          if (rows == 0) continue;
          const Shape shape{rows, one[1], one[2], one[3]};
          out->write_rows(name, crop * batch + range.begin + from, view_of(at, shape));
          at += rows * values;
        }
      });
}

void add_parameters(std::vector<CapturePiece>& pieces, const std::string& network, const UnitWeights& weights,
                    Stream& stream) {
  const auto& units = weights.layout().units();
  for (size_t u = 0; u < units.size(); ++u)
    pieces.emplace_back([&weights, &stream, &unit = units[u], u, network](Hdf5File* out) {
      const UnitView view = weights.acquire(static_cast<int64_t>(u));
      if (out == nullptr) return;
      const ConstTensorView values = view(ParameterPlace{0, Shape{unit.padded}});
      Tensor host(values.shape);
      copy(stream, host, values);
      stream.synchronize();
      out->write(fmt::format("/{}/{}", network, unit.name), host);
    });
}

void write_beginning(Hdf5File& out, const CaptureFacts& facts, const CapturedBatch& batch) {
  const auto whole = [&](ConstTensorView own) {
    return Shape{own.dim(0) / batch.crops.images * facts.batch, own.dim(1), own.dim(2), own.dim(3)};
  };
  out.write_strings(kFactsDataset, {facts_text(facts)});
  std::vector<std::string> keys;
  std::vector<int64_t> samples;
  for (int64_t i = 0; i < facts.batch; ++i) {
    keys.push_back(batch.key_of(i));
    samples.push_back((facts.step - 1) * facts.batch + i);
  }
  out.write_strings("/inputs/keys", keys);
  out.write("/inputs/samples", view_of(samples.data(), Shape{facts.batch}));
  const auto views = 2 * facts.batch;
  const std::vector<uint8_t>& masks = batch.masks.masks;
  out.write("/inputs/masks", view_of(masks.data(), Shape{views, static_cast<int64_t>(masks.size()) / views}));
  out.create_dataset("/inputs/global_crops", whole(batch.crops.global_crops), DType::f32);
  if (batch.crops.local_crops.numel() > 0)
    out.create_dataset("/inputs/local_crops", whole(batch.crops.local_crops), DType::f32);
}

[[noreturn]] void bad_capture(const std::string& path, const std::string& why) {
  throw DataError(fmt::format("bad capture: {}: {}; use a capture that this version wrote", path, why));
}

CaptureFacts facts_of(const OrderedJson& json) {
  CaptureFacts facts;
  facts.kind = json.at("kind").get<std::string>();
  facts.step = json.at("step").get<int64_t>();
  facts.seed = json.at("seed").get<int64_t>();
  facts.batch = json.at("batch").get<int64_t>();
  facts.ranks = json.at("ranks").get<int>();
  facts.accumulate = json.at("accumulate").get<int64_t>();
  facts.strategy = json.at("strategy").get<std::string>();
  facts.precision = json.at("precision").get<std::string>();
  facts.cpu = json.at("cpu").get<std::string>();
  const OrderedJson& s = json.at("schedule");
  facts.schedule = {s.at("lr").get<double>(),
                    s.at("last_layer_lr").get<double>(),
                    s.at("weight_decay").get<double>(),
                    s.at("momentum").get<double>(),
                    s.at("teacher_temperature").get<double>(),
                    s.at("backbone_frozen").get<bool>(),
                    s.at("frozen_updates").get<int64_t>()};
  const OrderedJson& l = json.at("losses");
  facts.losses = {or_nan(l.at("loss")), or_nan(l.at("loss_dino_local")), or_nan(l.at("loss_dino_global")),
                  or_nan(l.at("loss_ibot")), or_nan(l.at("loss_koleo"))};
  for (const OrderedJson& norm : json.at("grad_norms")) facts.grad_norms.push_back(or_nan(norm));
  for (const auto& [name, values] : json.at("objective_state").items())
    for (const OrderedJson& value : values) facts.objective_state[name].push_back(or_nan(value));
  facts.model_json = json_line(json.at("model"));
  facts.config_ini = json.at("config").get<std::string>();
  return facts;
}

}  // namespace

std::string Captures::write(const CaptureFacts& facts, const CapturedBatch& batch, Engine& engine,
                            const Communicator& comm) const {
  const log::Phase phase("capture");
  const std::string folder = run_ + "/captures";
  int64_t there = comm.root() ? count_captures(folder) : 0;
  comm.broadcast_span(std::span(&there, 1));
  if (there >= most_) return {};

  std::vector<CapturePiece> pieces;
  add_crops(pieces, "/inputs/global_crops", batch.crops.global_crops, 2, facts.batch, comm);
  if (const Tensor& locals = batch.crops.local_crops; locals.numel() > 0)
    add_crops(pieces, "/inputs/local_crops", locals, locals.shape()[0] / batch.crops.images, facts.batch,
              comm);
  add_parameters(pieces, "student", engine.state().student(), engine.stream());
  add_parameters(pieces, "teacher", engine.state().teacher(), engine.stream());

  size_t next = 0;
  std::string path;
  if (comm.root()) {
    path = fmt::format("{}/step_{:08d}.h5", folder, facts.step);
    const RankFailure failure = failure_of([&] {
      make_folders(folder);
      commit_hdf5(path, [&](Hdf5File& out) {
        write_beginning(out, facts, batch);
        while (next < pieces.size()) pieces[next++](&out);
      });
    });
    if (!failure.message.empty()) {
      log::warning(
          fmt::format("no capture of step {}: {}; the training goes on", facts.step, failure.message));
      path.clear();
    }
  }
  // On rank 0 what is left after a failure: the others send it all the same.
  while (next < pieces.size()) pieces[next++](nullptr);
  return path;
}

Capture read_capture(const std::string& path) {
  if (!path_exists(path))
    throw MissingInputError("no such capture: " + path + ": there is no such file; give one of RUN/captures");
  const auto file = std::make_shared<Hdf5File>(open_sealed(path, "use another capture"));
  if (!file->exists(kFactsDataset)) bad_capture(path, "it is no capture of a step");
  const std::vector<std::string> text = file->read_strings(kFactsDataset);
  const OrderedJson json = OrderedJson::parse(text.empty() ? "" : text[0], nullptr, false);
  if (!json.is_object() || !json.contains("schema")) bad_capture(path, "its facts are no JSON object");
  if (json["schema"] != kCaptureSchema)
    bad_capture(path, fmt::format("it has schema {}, this is {}", json_line(json["schema"]), kCaptureSchema));
  Capture capture;
  try {
    capture.facts = facts_of(json);
  } catch (const OrderedJson::exception& error) {
    bad_capture(path, error.what());
  }
  capture.global_crops = file->read("/inputs/global_crops", DType::f32);
  if (file->exists("/inputs/local_crops"))
    capture.local_crops = file->read("/inputs/local_crops", DType::f32);
  capture.masks = file->read("/inputs/masks", DType::u8);
  capture.keys = file->read_strings("/inputs/keys");
  capture.parameters = [file](const std::string& network, const std::string& unit) {
    return file->read(fmt::format("/{}/{}", network, unit), DType::f32);
  };
  return capture;
}

}  // namespace dino::pretrain
