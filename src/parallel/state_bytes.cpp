// SPDX-License-Identifier: Apache-2.0
#include "parallel/state_bytes.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.hpp"

namespace dino {
namespace {

constexpr int64_t kFloat = 4;

/// Buffers of the largest number of units of one size and dtype that are there at once.
class BufferCount {
 public:
  void at_once(int64_t numel, DType dtype, int64_t count) {
    int64_t& most = most_[{numel, dtype}];
    most = std::max(most, count);
  }
  [[nodiscard]] int64_t bytes() const {
    int64_t sum = 0;
    for (const auto& [buffer, count] : most_)
      sum += buffer.first * count * static_cast<int64_t>(size_of(buffer.second));
    return sum;
  }

 private:
  std::map<std::pair<int64_t, DType>, int64_t> most_;
};

}  // namespace

StateBytes state_bytes(const ParameterLayout& layout, Strategy strategy, int64_t hybrid_ranks, DType reduce,
                       int ranks, const StatePasses& passes) {
  if (ranks == 1) strategy = Strategy::replicate, reduce = DType::f32;
  const int64_t group = strategy == Strategy::replicate ? 1
                        : strategy == Strategy::hybrid  ? hybrid_ranks
                                                        : ranks;
  DINO_CHECK(group >= 1 && ranks % group == 0, "a shard group's size divides the number of ranks");
  const bool weights_whole = strategy != Strategy::full && strategy != Strategy::hybrid;
  const bool gradients_whole = strategy == Strategy::replicate || strategy == Strategy::optimizer;
  const ShardPlan plan(layout, ranks);
  StateBytes bytes;
  const auto travelling = static_cast<int64_t>(size_of(reduce));
  BufferCount buffers;
  std::map<int64_t, int64_t> heads;  // of one size
  for (size_t u = 0; u < layout.units().size(); ++u) {
    const auto unit = static_cast<int64_t>(u);
    const UnitInfo& info = layout.units()[u];
    const bool head = info.module != layout.units().front().module;
    const bool block = info.name.find(".blocks.") != std::string::npos;
    const int64_t whole = plan.buffer_numel(unit), shard = whole / group;
    bytes.parameters += 2 * kFloat * (weights_whole ? whole : shard);
    bytes.gradients += kFloat * (gradients_whole ? whole : shard);
    bytes.moments += 2 * kFloat * shard;

    // A block that is computed with and the next one; a gradient that is added to and two on their way. The
    // first head's gradient is on its way while a second one of its size is computed.
    const int64_t weights = weights_whole ? 0 : block ? 2 : 1;
    const int64_t before = head ? heads[whole]++ : 0;
    if (reduce == DType::f32) {
      buffers.at_once(whole, reduce, weights + (gradients_whole ? 0 : block ? 3 : 1 + before));
    } else {
      // What is on its way is a copy.
      const int64_t copies = block ? 2 : 1 + before;
      buffers.at_once(whole, DType::f32, weights + (gradients_whole ? 0 : 1));
      if (group > 1) buffers.at_once(whole, reduce, copies);
      if (ranks > group) buffers.at_once(shard, reduce, copies);
    }

    // An all-gather, or a reduce-scatter, in the group; what every replica adds to a sum.
    const int64_t of_shard = (whole - shard) * kFloat;
    const int64_t of_reduced = (whole - shard) * travelling;
    const int64_t of_replicas = (ranks / group - 1) * travelling;
    const int64_t backward = head ? 1 : passes.backward;
    if (!weights_whole) bytes.received += of_shard * (head ? 2 : passes.teacher + passes.student + backward);
    if (strategy == Strategy::optimizer || strategy == Strategy::gradients) bytes.received += of_shard;
    if (!gradients_whole) bytes.received += of_reduced * backward;
    if (strategy == Strategy::optimizer) bytes.received += of_reduced;
    // A sum over R replicas: each takes R - 1 pieces of its R-th, and then the other ranks' sums.
    bytes.received += 2 * of_replicas * shard / (ranks / group);
  }
  bytes.buffers = buffers.bytes();
  return bytes;
}

}  // namespace dino
