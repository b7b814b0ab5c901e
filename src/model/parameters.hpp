// SPDX-License-Identifier: Apache-2.0
#pragma once
// Parameters live in units (patch embedding + tokens, each block, the final norm, each head). A unit is one
// flat f32 buffer that can be split evenly over a shard group: an all-gather lands in place, a reduce-scatter
// leaves in place, AdamW and EMA are elementwise on the shard. Names are the reference's (block_chunks = 0),
// prefixed by the module: "backbone.blocks.0.attn.qkv.weight", "dino_head.mlp.0.weight",
// "ibot_head.last_layer.weight_v".

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/units.hpp"
#include "tensor/tensor.hpp"

namespace dino {

/// How a parameter starts (spec of the reference's init).
struct Init {
  enum class Kind : uint8_t { zeros, constant, normal, uniform } kind = Kind::zeros;
  float a = 0;  ///< constant: the value; normal: std; uniform: half width
};

struct ParameterInfo {
  std::string name;    ///< full name with the module prefix
  std::string module;  ///< "backbone", "dino_head", "ibot_head"
  Shape shape;
  Init init;
  int64_t unit = 0;    ///< index of its unit
  int64_t offset = 0;  ///< of its first element in the unit
};

struct UnitInfo {
  std::string name;  ///< "backbone.embed", "backbone.blocks.3", "backbone.norm", "dino_head"
  std::string module;
  int64_t numel = 0;   ///< elements of its parameters, each aligned to 16 floats
  int64_t padded = 0;  ///< numel rounded up to a multiple of kUnitAlignment, so that it splits evenly over
                       ///< any group of up to 64 ranks... see shard_range
};

/// The names, shapes and places of all parameters of a model; shared by weights, gradients and optimizer
/// state.
class ParameterLayout {
 public:
  /// Starts a new unit; following `add` calls go into it.
  void begin_unit(std::string name, std::string module);
  void add(std::string name, Shape shape, Init init);
  [[nodiscard]] const std::vector<ParameterInfo>& parameters() const { return parameters_; }
  [[nodiscard]] const std::vector<UnitInfo>& units() const { return units_; }
  [[nodiscard]] const ParameterInfo& find(std::string_view name) const;  ///< DINO_CHECK when absent
  [[nodiscard]] const ParameterInfo* find_if(std::string_view name) const;
  [[nodiscard]] int64_t count(
      std::string_view module = {}) const;  ///< elements of the parameters (without padding)

 private:
  std::vector<ParameterInfo> parameters_;
  std::vector<UnitInfo> units_;
  std::unordered_map<std::string, size_t> index_;
};

/// Unit sizes are padded to a multiple of this; a shard of a group of P ranks is ceil(padded / P) rounded up
/// to 16 floats, the last ones may be shorter or empty.
constexpr int64_t kUnitAlignment = 64;

/// Draws a unit's parameters, each by its Init from (seed, RandomStream::init, hash of the name): independent
/// of ranks, layout and order. `values` has the unit's padded length; what lies between parameters is left as
/// it is.
void draw_unit(const ParameterLayout& layout, int64_t unit, uint64_t seed, std::span<float> values);

/// One value per parameter element: weights, gradients, or moments, whole. Every unit is one Tensor on the
/// store's device.
class ParameterStore final : public UnitWeights, public UnitGradients {
 public:
  ParameterStore() = default;
  /// Zeros; the layout must outlive the store.
  explicit ParameterStore(const ParameterLayout& layout, Memory& memory = Memory::host());
  [[nodiscard]] const ParameterLayout& layout() const override { return *layout_; }
  void prefetch(int64_t) const override {}
  [[nodiscard]] UnitView acquire(int64_t unit) const override { return {this->unit(unit), nullptr, unit}; }
  [[nodiscard]] UnitGradient gradient(int64_t unit) override { return UnitGradient(this->unit(unit)); }
  void finish_gradient(int64_t) override {}
  [[nodiscard]] TensorView view(std::string_view name);
  [[nodiscard]] ConstTensorView view(std::string_view name) const;
  [[nodiscard]] TensorView view(const ParameterInfo& info);
  [[nodiscard]] ConstTensorView view(const ParameterInfo& info) const;
  [[nodiscard]] TensorView unit(int64_t index);  ///< f32 [padded length]
  [[nodiscard]] ConstTensorView unit(int64_t index) const;
  [[nodiscard]] bool on_host() const { return units_.empty() || units_.front().device().is_host(); }
  void zero(Stream& stream);
  /// Of the same layout; one of both is on the stream's device, the other there too or on the host.
  void copy_from(Stream& stream, const ParameterStore& other);
  /// draw_unit() of all units. Of a store on the host.
  void initialize(uint64_t seed);

 private:
  const ParameterLayout* layout_ = nullptr;
  std::vector<Tensor> units_;
};

}  // namespace dino
