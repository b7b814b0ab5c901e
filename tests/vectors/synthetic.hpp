// SPDX-License-Identifier: Apache-2.0
#pragma once
// Unit vectors in clusters with planted copies: a low-dimensional subspace holds most of the energy,
// isotropic noise the rest.

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/random.hpp"
#include "vectors/embeddings.hpp"

namespace dino::synthetic {

struct Shape {
  int64_t rows = 0, width = 64, subspace = 16, clusters = 20;
  int64_t sources = 0, copies = 0;  ///< the last sources * copies rows are copies of rows 0 .. sources - 1
  double spread = 0.6, noise = 0.15, copy_noise = 0.2;
};

inline std::vector<float> unit_rows(const Shape& shape, uint64_t seed) {
  Random random(seed, RandomStream::test, 1);
  const auto draw = [&](int64_t n, double scale) {
    std::vector<double> values(static_cast<size_t>(n));
    for (double& value : values) value = scale * random.normal() / std::sqrt(static_cast<double>(n));
    return values;
  };
  // A fixed random map from the subspace to the full width.
  const auto map = draw(shape.subspace * shape.width, std::sqrt(static_cast<double>(shape.subspace)));
  std::vector<std::vector<double>> centres;
  for (int64_t c = 0; c < shape.clusters; ++c) centres.push_back(draw(shape.subspace, 1));
  std::vector<float> rows(static_cast<size_t>(shape.rows * shape.width));
  const int64_t originals = shape.rows - shape.sources * shape.copies;
  for (int64_t i = 0; i < shape.rows; ++i) {
    float* row = rows.data() + i * shape.width;
    if (i >= originals) {
      const auto noise = draw(shape.width, shape.copy_noise);
      const float* source = rows.data() + (i - originals) / shape.copies * shape.width;
      for (int64_t k = 0; k < shape.width; ++k)
        row[k] = static_cast<float>(static_cast<double>(source[k]) + noise[static_cast<size_t>(k)]);
    } else {
      auto point = draw(shape.subspace, shape.spread);
      const auto& centre = centres[static_cast<size_t>(i % shape.clusters)];
      const auto noise = draw(shape.width, shape.noise);
      for (int64_t k = 0; k < shape.width; ++k) {
        double value = noise[static_cast<size_t>(k)];
        for (int64_t s = 0; s < shape.subspace; ++s)
          value += (centre[static_cast<size_t>(s)] + point[static_cast<size_t>(s)]) *
                   map[static_cast<size_t>(s * shape.width + k)];
        row[k] = static_cast<float>(value);
      }
    }
    normalize_rows(row, 1, shape.width);
  }
  return rows;
}

inline ConstTensorView view(const std::vector<float>& rows, int64_t width) {
  return {rows.data(), dino::Shape{static_cast<int64_t>(rows.size()) / width, width}, DType::f32, Device{}};
}

}  // namespace dino::synthetic
