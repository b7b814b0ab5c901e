// SPDX-License-Identifier: Apache-2.0
// Collectives of the host for a GPU's tensors: brought to the host, exchanged there, and brought back.
#include <memory>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "comm/cuda/nccl_collective.hpp"

namespace dino::cuda {
namespace {

/// Both collectives' streams and those that are split off.
struct Detour {
  explicit Detour(CudaMemory& memory) : stream(memory) {}
  CudaStream stream;
};

/// An operation of the host's, and the way back of its result.
class Staged final : public Event::State {
 public:
  Staged(std::shared_ptr<Detour> detour, Tensor host) : detour_(std::move(detour)), host_(std::move(host)) {}
  [[nodiscard]] Tensor& host() { return host_; }
  void under_way(Event event) { event_ = std::move(event); }
  /// Of the result; the rest of the tensor is the device's own already, or of no use.
  void bring_back(TensorView device, ConstTensorView host) { back_.emplace_back(device, host); }

  [[nodiscard]] bool done() override {
    if (!event_.done()) return false;
    finish();
    return true;
  }
  void wait() override {
    event_.synchronize();
    finish();
  }

 private:
  void finish() {
    if (finished_) return;
    for (const auto& [device, host] : back_) copy(detour_->stream, device, host);
    detour_->stream.synchronize();
    finished_ = true;
  }
  std::shared_ptr<Detour> detour_;
  Tensor host_;
  Event event_;
  std::vector<std::pair<TensorView, ConstTensorView>> back_;
  bool finished_ = false;
};

class StagedCollective final : public Collective {
 public:
  StagedCollective(std::unique_ptr<Collective> host, CudaMemory& memory, std::shared_ptr<Detour> detour)
      : host_(std::move(host)), memory_(memory), detour_(std::move(detour)) {}
  [[nodiscard]] int rank() const override { return host_->rank(); }
  [[nodiscard]] int size() const override { return host_->size(); }
  [[nodiscard]] Event all_reduce(Stream& stream, TensorView values, ReduceOp op) override {
    if (nothing_to_do(values)) return {};
    const auto staged = begin(stream, values);
    copy(detour_->stream, staged->host(), values);
    detour_->stream.synchronize();
    staged->bring_back(values, staged->host());
    staged->under_way(host_->all_reduce(host_stream_, staged->host(), op));
    return Event(staged);
  }
  [[nodiscard]] Event all_gather(Stream& stream, TensorView all) override {
    if (nothing_to_do(all)) return {};
    const auto staged = begin(stream, all);
    const TensorView there = in_parts(all), here = in_parts(staged->host());
    copy(detour_->stream, here.rows(rank(), 1), there.rows(rank(), 1));
    detour_->stream.synchronize();
    if (rank() > 0) staged->bring_back(there.rows(0, rank()), here.rows(0, rank()));
    const int behind = size() - rank() - 1;
    if (behind > 0) staged->bring_back(there.rows(rank() + 1, behind), here.rows(rank() + 1, behind));
    staged->under_way(host_->all_gather(host_stream_, staged->host()));
    return Event(staged);
  }
  [[nodiscard]] Event reduce_scatter(Stream& stream, TensorView all) override {
    if (nothing_to_do(all)) return {};
    const auto staged = begin(stream, all);
    copy(detour_->stream, staged->host(), all);
    detour_->stream.synchronize();
    staged->bring_back(in_parts(all).rows(rank(), 1), in_parts(staged->host()).rows(rank(), 1));
    staged->under_way(host_->reduce_scatter(host_stream_, staged->host()));
    return Event(staged);
  }
  [[nodiscard]] std::unique_ptr<Collective> split(const std::function<int(int)>& colour) const override {
    return std::make_unique<StagedCollective>(host_->split(colour), memory_, detour_);
  }
  void poll() override { host_->poll(); }
  [[nodiscard]] const CollectiveUse& use() const override { return host_->use(); }

 private:
  [[nodiscard]] bool nothing_to_do(const TensorView& values) const {
    if (size() == 1 || values.numel() == 0) return true;
    DINO_CHECK(values.device == memory_.device(), "a collective of another device");
    return false;
  }
  [[nodiscard]] TensorView in_parts(TensorView all) const {
    DINO_CHECK(all.numel() % size() == 0, "length is not a multiple of the ranks");
    return all.reshaped({size(), all.numel() / size()});
  }
  [[nodiscard]] std::shared_ptr<Staged> begin(Stream& stream, TensorView values) {
    detour_->stream.wait(stream.record());
    return std::make_shared<Staged>(detour_, Tensor::uninitialised(values.shape, values.dtype));
  }

  std::unique_ptr<Collective> host_;
  CudaMemory& memory_;
  std::shared_ptr<Detour> detour_;
  HostStream host_stream_;
};

}  // namespace

std::unique_ptr<Collective> make_staged_collective(std::unique_ptr<Collective> host, CudaMemory& memory) {
  return std::make_unique<StagedCollective>(std::move(host), memory, std::make_shared<Detour>(memory));
}

}  // namespace dino::cuda
