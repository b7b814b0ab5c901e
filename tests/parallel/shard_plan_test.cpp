// SPDX-License-Identifier: Apache-2.0
#include "parallel/shard_plan.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "model/vit.hpp"
#include "parallel/parameter_state.hpp"

namespace dino {
namespace {

class ShardPlanTest : public ::testing::TestWithParam<int> {
 protected:
  ShardPlanTest() { append_vit_layout(layout_, vit_preset("vit_micro")); }
  ParameterLayout layout_;
};

TEST_P(ShardPlanTest, PartsAreEqualAlignedAndCoverEveryUnitOnce) {
  const ShardPlan plan(layout_, GetParam());
  ASSERT_EQ(plan.parts(), GetParam());
  for (size_t u = 0; u < layout_.units().size(); ++u) {
    const auto unit = static_cast<int64_t>(u);
    EXPECT_EQ(plan.part_numel(unit) % 16, 0);
    EXPECT_EQ(plan.buffer_numel(unit), plan.part_numel(unit) * GetParam());
    EXPECT_GE(plan.buffer_numel(unit), layout_.units()[u].padded);
    int64_t end = 0;
    for (int part = 0; part < plan.parts(); ++part) {
      const Range range = plan.range(unit, {part, 1});
      EXPECT_EQ(range.begin, end);
      EXPECT_LE(range.size(), plan.part_numel(unit));
      end = range.end;
    }
    EXPECT_EQ(end, layout_.units()[u].padded);
    const Range all = plan.range(unit, {0, plan.parts()});
    EXPECT_EQ(all.begin, 0);
    EXPECT_EQ(all.end, layout_.units()[u].padded);
  }
}

INSTANTIATE_TEST_SUITE_P(Parts, ShardPlanTest, ::testing::Values(1, 2, 3, 7, 64, 65, 1000));

/// Of one rank everything is whole, whatever the strategy.
TEST(ParameterState, OneRankLendsWhatItHas) {
  ParameterLayout layout;
  append_vit_layout(layout, vit_preset("vit_micro"));
  Workplace place(ops::backend_named("cpu"), Communicator::self(), Precision::f32);
  for (const Strategy strategy : {Strategy::replicate, Strategy::full, Strategy::hybrid}) {
    ParameterState state(layout, strategy, 1, DType::bf16, place.context());
    EXPECT_TRUE(state.student_values().whole());
    ParameterStore drawn(layout);
    drawn.initialize(1);
    state.student_values().copy_from(place.context().stream, drawn);
    const std::string name = "backbone.blocks.1.mlp.fc2.weight";
    const UnitView view = state.student().acquire(layout.find(name).unit);
    const ConstTensorView lent = view(place_of(layout, name));
    const std::span<const float> expected = std::as_const(drawn).view(name).f32();
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), lent.f32().begin(), lent.f32().end()));
    EXPECT_FALSE(view(place_of(layout, "backbone.no_such")));
    EXPECT_EQ(state.bytes().buffers, 0);
  }
}

}  // namespace
}  // namespace dino
