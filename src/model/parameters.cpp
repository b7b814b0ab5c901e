// SPDX-License-Identifier: Apache-2.0
#include "model/parameters.hpp"

#include <algorithm>

#include "base/random.hpp"

namespace dino {
namespace {

/// Parameters start on a cache line: 16 floats.
constexpr int64_t kParameterAlignment = 16;

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// FNV-1a, 64 bits: a fixed function of the name, so that a parameter's draws do not depend on its place.
uint64_t hash_of(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

void draw(std::span<float> values, const Init& init, Random random) {
  switch (init.kind) {
    case Init::Kind::zeros:
      std::fill(values.begin(), values.end(), 0.0F);
      break;
    case Init::Kind::constant:
      std::fill(values.begin(), values.end(), init.a);
      break;
    case Init::Kind::normal:
      for (float& value : values) value = static_cast<float>(random.normal() * static_cast<double>(init.a));
      break;
    case Init::Kind::uniform: {
      const double half_width = static_cast<double>(init.a);
      for (float& value : values) value = static_cast<float>(random.uniform(-half_width, half_width));
      break;
    }
  }
}

}  // namespace

void ParameterLayout::begin_unit(std::string name, std::string module) {
  units_.push_back({std::move(name), std::move(module), 0, 0});
}

void ParameterLayout::add(std::string name, Shape shape, Init init) {
  DINO_CHECK(!units_.empty(), "a parameter needs a unit: " + name);
  DINO_CHECK(!index_.contains(name), "two parameters of one name: " + name);
  UnitInfo& unit = units_.back();
  index_.emplace(name, parameters_.size());
  parameters_.push_back(
      {std::move(name), unit.module, shape, init, static_cast<int64_t>(units_.size()) - 1, unit.numel});
  unit.numel += round_up(shape.numel(), kParameterAlignment);
  unit.padded = round_up(unit.numel, kUnitAlignment);
}

const ParameterInfo* ParameterLayout::find_if(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  return found == index_.end() ? nullptr : &parameters_[found->second];
}

const ParameterInfo& ParameterLayout::find(std::string_view name) const {
  const ParameterInfo* info = find_if(name);
  DINO_CHECK(info != nullptr, "no such parameter: " + std::string(name));
  return *info;
}

int64_t ParameterLayout::count(std::string_view module) const {
  int64_t total = 0;
  for (const ParameterInfo& info : parameters_)
    if (module.empty() || info.module == module) total += info.shape.numel();
  return total;
}

ParameterPlace place_of(const ParameterLayout& layout, const std::string& name) {
  const ParameterInfo* info = layout.find_if(name);
  return info == nullptr ? ParameterPlace{} : ParameterPlace{info->offset, info->shape};
}

ParameterStore::ParameterStore(const ParameterLayout& layout, Memory& memory) : layout_(&layout) {
  units_.reserve(layout.units().size());
  for (const UnitInfo& unit : layout.units()) units_.emplace_back(Shape{unit.padded}, DType::f32, memory);
}

TensorView ParameterStore::view(const ParameterInfo& info) {
  return unit(info.unit).rows(info.offset, info.shape.numel()).reshaped(info.shape);
}

ConstTensorView ParameterStore::view(const ParameterInfo& info) const {
  return unit(info.unit).rows(info.offset, info.shape.numel()).reshaped(info.shape);
}

TensorView ParameterStore::view(std::string_view name) {
  return view(layout_->find(name));
}

ConstTensorView ParameterStore::view(std::string_view name) const {
  return view(layout_->find(name));
}

TensorView ParameterStore::unit(int64_t index) {
  return units_[static_cast<size_t>(index)];
}

ConstTensorView ParameterStore::unit(int64_t index) const {
  return units_[static_cast<size_t>(index)];
}

void ParameterStore::zero(Stream& stream) {
  for (Tensor& unit : units_) fill(stream, unit, 0);
}

void ParameterStore::copy_from(Stream& stream, const ParameterStore& other) {
  DINO_CHECK(units_.size() == other.units_.size(), "stores of different layouts");
  for (size_t i = 0; i < units_.size(); ++i) copy(stream, units_[i], other.units_[i]);
}

void ParameterStore::initialize(uint64_t seed) {
  const auto count = static_cast<int64_t>(units_.size());
  for (int64_t index = 0; index < count; ++index) draw_unit(*layout_, index, seed, unit(index).f32());
}

void draw_unit(const ParameterLayout& layout, int64_t unit, uint64_t seed, std::span<float> values) {
  const auto& parameters = layout.parameters();
  const auto n = static_cast<int64_t>(parameters.size());
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < n; ++i) {
    const ParameterInfo& info = parameters[static_cast<size_t>(i)];
    if (info.unit != unit) continue;
    const std::span<float> own =
        values.subspan(static_cast<size_t>(info.offset), static_cast<size_t>(info.shape.numel()));
    draw(own, info.init, Random(seed, RandomStream::init, hash_of(info.name)));
  }
}

}  // namespace dino
