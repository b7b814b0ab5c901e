// SPDX-License-Identifier: Apache-2.0
#include "mapped/collective.hpp"

#include <cstring>
#include <utility>

#include "base/error.hpp"

namespace dino::testing {
namespace {

/// An operation on a copy in the host's memory, and where its result belongs.
class Transfer final : public Event::State {
 public:
  Transfer(const MappedMemory& memory, TensorView target)
      : memory_(memory), target_(target), staged_(Tensor::uninitialised(target.shape, target.dtype)) {
    const TensorView open = memory_.open(target_);
    if (bytes() == 0) return;
    std::memcpy(staged_.view().data, open.data, bytes());
    std::memset(open.data, 0xff, bytes());
  }
  [[nodiscard]] TensorView staged() { return staged_; }
  void started(Event event) { event_ = std::move(event); }
  [[nodiscard]] bool done() override {
    if (!delivered_ && event_.done()) deliver();
    return delivered_;
  }
  void wait() override {
    if (delivered_) return;
    event_.synchronize();
    deliver();
  }

 private:
  [[nodiscard]] size_t bytes() const { return static_cast<size_t>(staged_.bytes()); }
  void deliver() {
    const TensorView open = memory_.open(target_);
    if (bytes() > 0) std::memcpy(open.data, staged_.view().data, bytes());
    delivered_ = true;
  }
  const MappedMemory& memory_;
  TensorView target_;
  Tensor staged_;
  Event event_;
  bool delivered_ = false;
};

class MappedCollective final : public Collective {
 public:
  MappedCollective(const MappedMemory& memory, std::unique_ptr<Collective> host)
      : memory_(memory), host_(std::move(host)) {}
  [[nodiscard]] int rank() const override { return host_->rank(); }
  [[nodiscard]] int size() const override { return host_->size(); }
  [[nodiscard]] Event all_reduce(Stream& stream, TensorView values, ReduceOp op) override {
    return start(stream, values, [&](TensorView staged) { return host_->all_reduce(staging_, staged, op); });
  }
  [[nodiscard]] Event all_gather(Stream& stream, TensorView all) override {
    return start(stream, all, [&](TensorView staged) { return host_->all_gather(staging_, staged); });
  }
  [[nodiscard]] Event reduce_scatter(Stream& stream, TensorView all) override {
    return start(stream, all, [&](TensorView staged) { return host_->reduce_scatter(staging_, staged); });
  }
  [[nodiscard]] std::unique_ptr<Collective> split(const std::function<int(int)>& colour) const override {
    return std::make_unique<MappedCollective>(memory_, host_->split(colour));
  }
  void poll() override { host_->poll(); }
  [[nodiscard]] const CollectiveUse& use() const override { return host_->use(); }

 private:
  template <class Operation>
  Event start(Stream& stream, TensorView tensor, const Operation& operation) {
    DINO_CHECK(stream.device() == memory_.device(), "a stream of another device");
    // MPI begins at the call; at a later moment it would meet other ranks' calls in another order.
    stream.synchronize();
    auto transfer = std::make_shared<Transfer>(memory_, tensor);
    transfer->started(operation(transfer->staged()));
    return Event(std::move(transfer));
  }
  const MappedMemory& memory_;
  std::unique_ptr<Collective> host_;
  HostStream staging_;
};

}  // namespace

std::unique_ptr<Collective> make_mapped_collective(const MappedMemory& memory,
                                                   std::unique_ptr<Collective> host) {
  return std::make_unique<MappedCollective>(memory, std::move(host));
}

}  // namespace dino::testing
