// SPDX-License-Identifier: Apache-2.0
#pragma once
// Heads that turn the patch tokens of a frozen backbone into a map: of classes or of depths. Parameters are
// one unit of a layout; passes are made of operators, with hand-written backward passes. Gradients end at the
// inputs, as the backbone is frozen.

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/names.hpp"
#include "model/map_layers.hpp"
#include "model/parameters.hpp"

namespace dino {

/// What a backward pass needs of its forward pass, in the order in which it was made: taken back last first.
class Kept {
 public:
  void keep(const Maps& maps) { maps_.push_back(maps); }
  [[nodiscard]] Maps take() {
    DINO_CHECK(!maps_.empty(), "a backward pass takes more than was kept");
    const Maps last = maps_.back();
    maps_.pop_back();
    return last;
  }
  [[nodiscard]] bool empty() const { return maps_.empty(); }

 private:
  std::vector<Maps> maps_;
};

class DenseHead {
 public:
  virtual ~DenseHead() = default;
  [[nodiscard]] const ParameterLayout& layout() const { return layout_; }
  /// inputs: what the head reads of each layer, all of one grid. `kept` (may be null) takes what backward
  /// needs; all tensors live in the context's arena.
  [[nodiscard]] virtual Maps forward(const Context& c, const UnitView& w, std::span<const Maps> inputs,
                                     Kept* kept) const = 0;
  /// Adds to the unit's gradient.
  virtual void backward(const Context& c, const UnitView& w, std::span<const Maps> inputs, Kept& kept,
                        const Maps& d_output, const UnitGradient& d) const = 0;

 protected:
  /// Begins the only unit.
  explicit DenseHead(const char* name) { layout_.begin_unit(name, name); }
  ParameterPlace add(const std::string& name, Shape shape, Init init);
  /// As torch.nn.Conv2d starts: +-1 / sqrt(values that one output reads).
  ParameterPlace add_weight(const std::string& name, Shape shape, int64_t reads);
  ParameterPlace add_bias(const std::string& name, int64_t outputs, int64_t reads);

 private:
  ParameterLayout layout_;
};

/// Batch norm and a 1 x 1 convolution onto classes, on the concatenated layers (DINOv2, arXiv 2304.07193,
/// section 7.4). The input is normalised already, (x - mean) / sqrt(var + eps) (BatchStatistics): what is
/// trained of the batch norm is its gain and its shift. Output: logits [pixels, classes].
[[nodiscard]] std::unique_ptr<DenseHead> make_linear_segmentation_head(int64_t width, int64_t classes);

/// How the centres of depth bins are spread over [least, most]:
///  uniform: linspace; log: logspace; linear: with steps that grow linearly (Tang et al., arXiv 2010.09276).
enum class BinSpread : uint8_t { uniform, log, linear };
constexpr auto names_of(BinSpread) {
  return std::to_array<Named<BinSpread>>(
      {{"uniform", BinSpread::uniform}, {"log", BinSpread::log}, {"linear", BinSpread::linear}});
}
[[nodiscard]] std::vector<float> bin_centres(BinSpread spread, int64_t bins, double least, double most);

/// A 1 x 1 convolution onto bins, on the concatenated layers, at four times the grid (bilinear); with a =
/// relu(logit) + 0.1, depth = sum a centre / sum a (AdaBins' rule with linear normalisation, as DINOv2's
/// depth heads). Output: metres [pixels, 1]. The convolution runs before the enlargement, which is the same,
/// as the weights of a bilinear sum add up to one.
[[nodiscard]] std::unique_ptr<DenseHead> make_binned_depth_head(int64_t width, std::vector<float> centres);

/// Dense prediction transformer (Ranftl et al., arXiv 2103.13413), as DINOv2 sets it up: four layers, each
/// the patch tokens beside the class token [pixels, 2 width]; readout `project`; channels of width / 8, / 4,
/// / 2 and / 1 at 4, 2, 1 and 1/2 times the grid; fusion; direct regression, depth = relu(.) + least. Output:
/// metres [pixels, 1] at 16 times the grid (where it is even).
struct DptConfig {
  int64_t width = 384;  ///< of the backbone
  int64_t fusion = 256;
  double least = 1e-3;  ///< metres
};
[[nodiscard]] std::unique_ptr<DenseHead> make_dpt_depth_head(const DptConfig& config);

}  // namespace dino
