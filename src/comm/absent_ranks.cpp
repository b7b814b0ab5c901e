// SPDX-License-Identifier: Apache-2.0
#include "comm/absent_ranks.hpp"

namespace dino {
namespace {

class AbsentRanks final : public Collective {
 public:
  AbsentRanks(int ranks, int64_t* received, bool is_group)
      : ranks_(ranks), received_(received), is_group_(is_group) {}
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return ranks_; }
  [[nodiscard]] Event all_reduce(Stream&, TensorView values, ReduceOp) override {
    return count(2, values);  // the other ranks' pieces of one's own part, then the other parts' sums
  }
  [[nodiscard]] Event all_gather(Stream&, TensorView all) override { return count(1, all); }
  [[nodiscard]] Event reduce_scatter(Stream&, TensorView all) override { return count(1, all); }
  [[nodiscard]] std::unique_ptr<Collective> split(const std::function<int(int)>& colour) const override {
    int ranks = 0;
    for (int rank = 0; rank < ranks_; ++rank) ranks += colour(rank) == colour(0) ? 1 : 0;
    return std::make_unique<AbsentRanks>(ranks, received_, true);
  }
  void poll() override {}
  [[nodiscard]] const CollectiveUse& use() const override { return use_; }

 private:
  Event count(int64_t times, TensorView values) {
    const int64_t bytes = values.numel() * static_cast<int64_t>(size_of(values.dtype));
    if (is_group_) *received_ += times * (ranks_ - 1) * bytes / ranks_;
    return {};
  }
  int ranks_;
  int64_t* received_;
  bool is_group_;
  CollectiveUse use_;  ///< none
};

}  // namespace

std::unique_ptr<Collective> make_absent_ranks(int ranks, int64_t& received) {
  return std::make_unique<AbsentRanks>(ranks, &received, false);
}

}  // namespace dino
