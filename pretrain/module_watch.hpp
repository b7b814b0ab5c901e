// SPDX-License-Identifier: Apache-2.0
#pragma once
// Looks at every tensor that a replayed step makes, up to the first value that is not finite.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "capture.hpp"
#include "model/vit.hpp"
#include "ops/observer.hpp"

namespace dino::pretrain {

/// Of the finite values of one tensor, over all micro-batches.
struct ModuleStatistics {
  std::string pass, module, tensor;
  double least = 0, most = 0, sum_of_absolutes = 0;
  int64_t finite = 0, not_finite = 0;
  [[nodiscard]] double mean_absolute() const {
    return finite > 0 ? sum_of_absolutes / static_cast<double>(finite) : 0;
  }
};

struct FirstNonFinite {
  std::string pass, module, tensor;
  std::string place;   ///< "patch 5 of view 1 of image 3 (cats/0007), column 12"
  int64_t image = -1;  ///< of the global batch; -1 = of no image
  std::string value;   ///< "nan", "inf", "-inf"
};

class ModuleWatch final : public Observer {
 public:
  /// All must outlive it.
  ModuleWatch(const Capture& capture, const VitConfig& vit, const ParameterLayout& layout);

  void begin_pass(const char* pass, int64_t first_image, int64_t images) override;
  void saw(Stream& stream, const std::string& module, const char* tensor, ConstTensorView values,
           ObservedRows rows) override;
  /// Crops of the global batch, which no module makes.
  void saw_crops(const char* kind, const Tensor& crops);

  [[nodiscard]] const std::vector<ModuleStatistics>& seen() const { return seen_; }
  [[nodiscard]] const std::optional<FirstNonFinite>& first() const { return first_; }

 private:
  struct Place {
    std::string text;
    int64_t image = -1;
  };
  [[nodiscard]] ModuleStatistics& entry(const std::string& module, const char* tensor);
  /// Index of the first value that is not finite; -1: there is none.
  template <class T>
  static int64_t look(const T* values, int64_t count, ModuleStatistics& statistics);
  [[nodiscard]] Place place_of_row(int64_t row, ObservedRows rows) const;
  [[nodiscard]] Place place_of_parameter(const std::string& unit, int64_t index) const;
  [[nodiscard]] Place in_crop(int64_t crop, int64_t images, int64_t first_image, bool local) const;
  [[nodiscard]] Place of_masked(int64_t row) const;

  const Capture& capture_;
  const VitConfig& vit_;
  const ParameterLayout& layout_;
  int64_t global_tokens_ = 0, local_tokens_ = 0, local_crops_ = 0;
  std::vector<int64_t> masked_;  ///< view * patches + patch, in the order of the masked patches
  std::string pass_ = "input";
  int64_t first_image_ = 0, images_ = 0;
  std::vector<ModuleStatistics> seen_;
  std::optional<FirstNonFinite> first_;
};

}  // namespace dino::pretrain
