// SPDX-License-Identifier: Apache-2.0
#pragma once
// Student, teacher, gradients and AdamW's moments of one rank: what is whole here is lent as it is, what is
// in parts is gathered unit by unit and reduced unit by unit, under way while the model computes.

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ops/context.hpp"
#include "parallel/sharded_values.hpp"
#include "parallel/unit_buffers.hpp"

namespace dino {

/// Values as a model's passes want them. Every rank asks for the same units in the same order.
class StateWeights final : public UnitWeights, private UnitLender {
 public:
  /// All must outlive it.
  StateWeights(ShardedValues& values, const ShardGroups& groups, const Context& c, UnitBuffers& buffers);
  [[nodiscard]] const ParameterLayout& layout() const override { return values_.layout(); }
  void prefetch(int64_t unit) const override;
  [[nodiscard]] UnitView acquire(int64_t unit) const override;
  /// Values that are whole everywhere: the other ranks' parts of the unit arrive before it is acquired.
  void refresh(int64_t unit);

 private:
  struct Entry {
    Tensor buffer;  ///< while it is gathered
    Event ready;    ///< of the collective under way
    int64_t handles = 0;
  };
  void release(int64_t unit) override;
  void settle(Entry& entry) const;

  ShardedValues& values_;
  const ShardGroups& groups_;
  const Context& c_;
  UnitBuffers& buffers_;
  mutable std::vector<Entry> entries_;
};

/// Of one rank.
struct StateBytes {
  int64_t parameters = 0;  ///< student and teacher
  int64_t gradients = 0;
  int64_t moments = 0;
  int64_t buffers = 0;  ///< of units that are gathered or reduced
};

class ParameterState final : private UnitGradients {
 public:
  /// `reduce`: f32, bf16 or f16, what a rank's gradients are rounded to on their way to the sum over ranks,
  /// and the sum on its way back; sums over micro-batches are f32. The layout and the context must outlive
  /// it. Collective.
  ParameterState(const ParameterLayout& layout, Strategy strategy, int64_t hybrid_ranks, DType reduce,
                 const Context& c);

  [[nodiscard]] const ParameterLayout& layout() const { return layout_; }
  [[nodiscard]] const ShardPlan& plan() const { return plan_; }
  [[nodiscard]] const ShardGroups& groups() const { return groups_; }
  [[nodiscard]] const UnitWeights& student() const { return student_weights_; }
  [[nodiscard]] const UnitWeights& teacher() const { return teacher_weights_; }
  [[nodiscard]] UnitGradients& gradients() { return *this; }

  // What this rank holds.
  [[nodiscard]] ShardedValues& student_values() { return student_; }
  [[nodiscard]] ShardedValues& teacher_values() { return teacher_; }
  [[nodiscard]] ShardedValues& gradient_values() { return gradients_; }
  [[nodiscard]] ShardedValues& adam_m() { return m_; }
  [[nodiscard]] ShardedValues& adam_v() { return v_; }

  /// Gradients <- 0.
  void begin_step();
  /// Passes from here on add to the gradients; after the last one of a step the sums over ranks are begun
  /// unit by unit. A unit takes part in one pass of a step that is the last, or in none.
  void begin_pass(bool last) { last_pass_ = last; }
  /// The stream waits for all sums: gradient_values() hold them in this rank's own part, and wherever its
  /// moments lie. `seconds` spent here are added up in wait_seconds().
  void finish_step();
  /// The student's unit has been updated where this rank's moments lie: the other ranks' parts are under way.
  void updated(int64_t unit);
  [[nodiscard]] double wait_seconds() const { return wait_seconds_; }
  void reset_wait_seconds() { wait_seconds_ = 0; }
  /// What this rank holds, and its buffers of whole units, which the first step makes.
  [[nodiscard]] StateBytes bytes() const {
    return {student_.bytes() + teacher_.bytes(), gradients_.bytes(), m_.bytes() + v_.bytes(),
            buffers_.bytes()};
  }

 private:
  [[nodiscard]] UnitGradient gradient(int64_t unit) override;
  void finish_gradient(int64_t unit) override;
  /// A unit's gradient on its way, in a buffer of what travels.
  struct Reduction {
    int64_t unit = 0;
    Tensor buffer;
    Event done;
    bool last = false;  ///< of the step's passes
  };
  /// The gradient that a pass has left (f32, the whole unit), in a buffer of the dtype that travels.
  [[nodiscard]] Tensor outgoing(int64_t unit);
  /// Begins the sum over the shard's ranks, into parts; takes the oldest one in.
  void scatter(int64_t unit);
  void retire_scatter();
  /// Begins the sum of what is held over the replicas; takes the oldest one in.
  void sum_replicas(int64_t unit);
  void retire_sum();

  const ParameterLayout& layout_;
  const Context& c_;
  ShardGroups groups_;
  ShardPlan plan_;
  UnitBuffers buffers_;
  ShardedValues student_, teacher_, gradients_, m_, v_;
  StateWeights student_weights_, teacher_weights_;
  bool last_pass_ = true;
  DType reduce_;
  std::map<int64_t, Tensor> open_;    ///< whole gradients that a pass adds to, by unit
  std::deque<Reduction> scatters_;    ///< under way, into parts
  std::deque<Reduction> sums_;        ///< under way, over replicas
  std::vector<Event> sums_in_place_;  ///< under way, of f32 gradients that are held
  double wait_seconds_ = 0;
};

}  // namespace dino
