// SPDX-License-Identifier: Apache-2.0
#include "comm/absent_ranks.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "comm/mpi_check.hpp"
#include "comm/ordered_sum.hpp"

namespace dino {
namespace {

/// What makes the ranks that are here wait for one another. Operations follow one another, so that all may
/// have the same value.
struct Pace {
  explicit Pace(const Communicator& here) : ranks(make_mpi_collective(here)), value(Shape{1}, DType::i64) {
    *value.as<int64_t>() = 0;
  }
  std::unique_ptr<Collective> ranks;
  Tensor value;
};

class AbsentRanks final : public Collective {
 public:
  AbsentRanks(int ranks, std::shared_ptr<Pace> pace, int64_t* received, bool is_group)
      : ranks_(ranks), pace_(std::move(pace)), received_(received), is_group_(is_group) {}
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return ranks_; }
  [[nodiscard]] Event all_reduce(Stream& stream, TensorView values, ReduceOp op) override {
    stream.synchronize();
    // Of integers, to which each rank adds its own, those of the absent ranks are 0.
    if (op == ReduceOp::sum && has_work(values) && values.dtype != DType::i64) {
      // Each rank adds up one piece, and has the others' sums sent to it.
      mpi::with_float(values.dtype, [&]<class T>(T) {
        const int64_t piece = (values.numel() + ranks_ - 1) / ranks_;
        for (int64_t begin = 0; begin < values.numel(); begin += piece)
          add_up(values.as<T>() + begin, std::min(piece, values.numel() - begin), begin == 0);
      });
    }
    return count(stream, 2, values);  // the other ranks' pieces of one's own part, then the other parts' sums
  }
  [[nodiscard]] Event all_gather(Stream& stream, TensorView all) override {
    stream.synchronize();
    if (has_work(all)) {
      const size_t part = static_cast<size_t>(all.numel() / ranks_) * size_of(all.dtype);
      auto* bytes = static_cast<std::byte*>(all.data);
      for (int rank = 1; rank < ranks_; ++rank)
        std::copy_n(bytes, part, bytes + static_cast<size_t>(rank) * part);
    }
    return count(stream, 1, all);
  }
  [[nodiscard]] Event reduce_scatter(Stream& stream, TensorView all) override {
    stream.synchronize();
    if (has_work(all))
      mpi::with_float(all.dtype, [&]<class T>(T) { add_up(all.as<T>(), all.numel() / ranks_, true); });
    return count(stream, 1, all);
  }
  [[nodiscard]] std::unique_ptr<Collective> split(const std::function<int(int)>& colour) const override {
    int ranks = 0;
    for (int rank = 0; rank < ranks_; ++rank) ranks += colour(rank) == colour(0) ? 1 : 0;
    return std::make_unique<AbsentRanks>(ranks, pace_, received_, true);
  }
  void poll() override {
    if (pace_) pace_->ranks->poll();
  }
  [[nodiscard]] const CollectiveUse& use() const override { return use_; }

 private:
  /// A device without bytes has none.
  [[nodiscard]] bool has_work(const TensorView& values) const {
    return ranks_ > 1 && values.device.is_host() && values.numel() > 0;
  }
  /// values <- their sum over the ranks; `own`: by adding, as a rank does with its own piece.
  template <class T>
  void add_up(T* values, int64_t n, bool own) {
    if (!own) {
      for (int64_t i = 0; i < n; ++i) values[i] = mpi::narrowed<T>(mpi::widened(values[i]) * ranks_);
      return;
    }
    constexpr int64_t kWidth = sizeof(T);
    const int64_t most = std::min(n, std::max<int64_t>(1, mpi::kSumBufferBytes / (kWidth * ranks_)));
    parts_.resize(std::max(parts_.size(), static_cast<size_t>(most * ranks_ * kWidth)));
    auto* parts = reinterpret_cast<T*>(parts_.data());
    for (int64_t begin = 0; begin < n; begin += most) {
      const int64_t some = std::min(most, n - begin);
      for (int rank = 0; rank < ranks_; ++rank) std::copy_n(values + begin, some, parts + rank * some);
      mpi::sum_in_rank_order(parts, ranks_, some, values + begin);
    }
  }
  Event count(Stream& stream, int64_t times, TensorView values) {
    const int64_t bytes = values.numel() * static_cast<int64_t>(size_of(values.dtype));
    if (is_group_) *received_ += times * (ranks_ - 1) * bytes / ranks_;
    if (!pace_ || !has_work(values)) return {};
    return pace_->ranks->all_reduce(stream, pace_->value, ReduceOp::sum);
  }
  int ranks_;
  std::shared_ptr<Pace> pace_;  ///< null: this rank is alone
  int64_t* received_;
  bool is_group_;
  std::vector<std::byte> parts_;
  CollectiveUse use_;  ///< none
};

}  // namespace

std::unique_ptr<Collective> make_absent_ranks(int ranks, const Communicator& here, int64_t& received) {
  return std::make_unique<AbsentRanks>(ranks, here.size() > 1 ? std::make_shared<Pace>(here) : nullptr,
                                       &received, false);
}

}  // namespace dino
