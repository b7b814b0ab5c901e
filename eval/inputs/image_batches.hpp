// SPDX-License-Identifier: Apache-2.0
#pragma once
// The images of a task in batches that are the same for any number of ranks.

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "datasets/dataset.hpp"
#include "inputs/composite.hpp"
#include "inputs/extractor.hpp"

namespace dino::eval {

/// At most `limit` records (0 = all), spread evenly over their order.
[[nodiscard]] std::vector<Record> spread_records(std::vector<Record> records, int64_t limit);

/// Calls `work` with every batch of this rank's part of `images` items: batches begin at multiples of the
/// batch size in global order, and each rank has a run of them. A stop ends it on all ranks, an Error too.
/// Collective.
void for_each_batch(const Communicator& world, int64_t images, int64_t batch, const char* stage,
                    const std::function<void(Range)>& work);

/// Calls make(i) for the indices of a range, on many threads, and returns what it gives in order.
[[nodiscard]] std::vector<LoadedImage> load_batch(Range range,
                                                  const std::function<LoadedImage(int64_t)>& make);

/// How images with an alpha channel become composites on drawn backgrounds (composite.hpp).
struct CompositeOptions {
  int64_t size = 0, batch = 16, decode_memory = 0;
  uint64_t seed = 0;
};
/// Patch tokens f32 [grid * grid, width] of the last block of one composite, with its mask.
struct CompositeTokens {
  int64_t record = 0;  ///< index into the records
  const Composite* composite = nullptr;
  const float* patches = nullptr;
};
/// Calls `visit` for every good image of this rank's part, in order; returns the faults of all ranks on the
/// root, one line each. Collective.
std::vector<std::string> for_each_composite(const Communicator& world, Extractor& extractor,
                                            std::span<const Record> records, const CompositeOptions& options,
                                            const char* stage,
                                            const std::function<void(const CompositeTokens&)>& visit);
/// The first few faults as warnings.
void say_left_out(const std::vector<std::string>& faults);

/// Lines of all ranks on the root.
[[nodiscard]] std::vector<std::string> gather_lines(const Communicator& world,
                                                    const std::vector<std::string>& lines);

}  // namespace dino::eval
