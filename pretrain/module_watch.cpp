// SPDX-License-Identifier: Apache-2.0
#include "module_watch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"

namespace dino::pretrain {

ModuleWatch::ModuleWatch(const Capture& capture, const VitConfig& vit, const ParameterLayout& layout)
    : capture_(capture), vit_(vit), layout_(layout), images_(capture.facts.batch) {
  const auto tokens = [&](ConstTensorView crops) {
    return 1 + vit.registers + crops.dim(2) / vit.patch * (crops.dim(3) / vit.patch);
  };
  global_tokens_ = tokens(capture.global_crops);
  if (capture.local_crops.numel() > 0) {
    local_tokens_ = tokens(capture.local_crops);
    local_crops_ = capture.local_crops.shape()[0] / capture.facts.batch;
  }
  const auto* masks = capture.masks.as<uint8_t>();
  for (int64_t i = 0; i < capture.masks.numel(); ++i)
    if (masks[i] != 0) masked_.push_back(i);
}

void ModuleWatch::begin_pass(const char* pass, int64_t first_image, int64_t images) {
  pass_ = pass;
  first_image_ = first_image;
  images_ = images;
}

ModuleStatistics& ModuleWatch::entry(const std::string& module, const char* tensor) {
  const auto same = [&](const ModuleStatistics& s) {
    return s.pass == pass_ && s.module == module && s.tensor == tensor;
  };
  const auto it = std::find_if(seen_.begin(), seen_.end(), same);
  if (it != seen_.end()) return *it;
  ModuleStatistics fresh;
  fresh.pass = pass_;
  fresh.module = module;
  fresh.tensor = tensor;
  return seen_.emplace_back(std::move(fresh));
}

template <class T>
int64_t ModuleWatch::look(const T* values, int64_t count, ModuleStatistics& s) {
  int64_t first = -1;
  for (int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<double>(values[i]);
    if (!std::isfinite(value)) {
      if (first < 0) first = i;
      ++s.not_finite;
      continue;
    }
    s.least = s.finite == 0 ? value : std::min(s.least, value);
    s.most = s.finite == 0 ? value : std::max(s.most, value);
    s.sum_of_absolutes += std::abs(value);
    ++s.finite;
  }
  return first;
}

void ModuleWatch::saw(Stream& stream, const std::string& module, const char* tensor, ConstTensorView values,
                      ObservedRows rows) {
  if (first_ || values.numel() == 0) return;
  Tensor host = Tensor::uninitialised(values.shape, values.dtype);
  copy(stream, host, values);
  stream.synchronize();
  ModuleStatistics& s = entry(module, tensor);
  // Gradients of parameters are sums over the micro-batches so far.
  if (rows == ObservedRows::parameters) s = {s.pass, s.module, s.tensor, 0, 0, 0, 0, 0};
  const bool wide = values.dtype == DType::f64;
  const int64_t bad =
      wide ? look(host.as<double>(), host.numel(), s) : look(host.as<float>(), host.numel(), s);
  if (bad < 0) return;
  const int64_t columns = values.numel() / values.dim(0);
  Place place;
  if (rows == ObservedRows::parameters)
    place = place_of_parameter(module, bad);
  else if (rows != ObservedRows::scalar)
    place = place_of_row(bad / columns, rows);
  if (columns > 1 && rows != ObservedRows::parameters)
    place.text += fmt::format(", column {}", bad % columns);
  const double value = wide ? host.as<double>()[bad] : static_cast<double>(host.as<float>()[bad]);
  first_ = {pass_, module, tensor, place.text, place.image, fmt::format("{}", value)};
}

void ModuleWatch::saw_crops(const char* kind, const Tensor& crops) {
  if (first_ || crops.numel() == 0) return;
  const int64_t bad = look(crops.as<float>(), crops.numel(), entry("crops", kind));
  if (bad < 0) return;
  const int64_t row = bad / (crops.numel() / crops.shape()[0]);
  const Place place = in_crop(row, capture_.facts.batch, 0, &crops == &capture_.local_crops);
  first_ = {pass_, "crops", kind, place.text, place.image, fmt::format("{}", crops.as<float>()[bad])};
}

ModuleWatch::Place ModuleWatch::in_crop(int64_t crop, int64_t images, int64_t first_image, bool local) const {
  const int64_t image = first_image + crop % images;
  return {fmt::format("{} {} of image {} ({})", local ? "local crop" : "view", 1 + crop / images, image,
                      capture_.keys[static_cast<size_t>(image)]),
          image};
}

ModuleWatch::Place ModuleWatch::of_masked(int64_t row) const {
  if (row >= static_cast<int64_t>(masked_.size())) return {"a patch that only fills up the shape", -1};
  const int64_t patches = capture_.masks.shape()[1], at = masked_[static_cast<size_t>(row)];
  Place place = in_crop(at / patches, capture_.facts.batch, 0, false);
  place.text = fmt::format("masked patch {} of {}", at % patches, place.text);
  return place;
}

ModuleWatch::Place ModuleWatch::place_of_row(int64_t row, ObservedRows rows) const {
  const int64_t batch = capture_.facts.batch;
  if (rows == ObservedRows::masked) return of_masked(row);
  if (rows == ObservedRows::packed) {
    const int64_t global_rows = 2 * images_ * global_tokens_;
    const bool local = row >= global_rows;
    if (local) row -= global_rows;
    const int64_t tokens = local ? local_tokens_ : global_tokens_, token = row % tokens;
    Place place = in_crop(row / tokens, images_, first_image_, local);
    const std::string name = token == 0                ? "the class token"
                             : token <= vit_.registers ? fmt::format("register {}", token - 1)
                                                       : fmt::format("patch {}", token - 1 - vit_.registers);
    place.text = name + " of " + place.text;
    return place;
  }
  const int64_t local_rows = rows == ObservedRows::batch ? local_crops_ * batch : 0;
  if (row >= local_rows + 2 * batch) return of_masked(row - local_rows - 2 * batch);
  const bool local = row < local_rows;
  Place place = in_crop(local ? row : row - local_rows, batch, 0, local);
  place.text = "the class token of " + place.text;
  return place;
}

ModuleWatch::Place ModuleWatch::place_of_parameter(const std::string& unit, int64_t index) const {
  for (const ParameterInfo& info : layout_.parameters())
    if (layout_.units()[static_cast<size_t>(info.unit)].name == unit && index >= info.offset &&
        index < info.offset + info.shape.numel())
      return {fmt::format("{}, element {}", info.name, index - info.offset), -1};
  return {"between the parameters", -1};
}

}  // namespace dino::pretrain
