// SPDX-License-Identifier: Apache-2.0
// Checkpoints that are written beside the steps: what is in them is what was there when they began, and all
// ranks agree on whether there is one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "batch_part.hpp"
#include "host_model.hpp"
#include "storage/files.hpp"
#include "storage/hdf5_handles.hpp"
#include "training/checkpoint_writer.hpp"

namespace dino {
namespace {

namespace fs = std::filesystem;

/// A run folder that all ranks see, and a model split in some way.
class CheckpointTest : public ::testing::TestWithParam<Strategy> {
 protected:
  CheckpointTest() : model_(config_of(GetParam()), world_) {
    if (world_.root()) {
      run_ = (fs::temp_directory_path() / "dino_checkpoint_XXXXXX").string();
      EXPECT_NE(::mkdtemp(run_.data()), nullptr);
    }
    world_.broadcast(run_);
    model_.initialize(3);
    ParameterState& state = model_.state();
    content_.stores = {{"student", &state.student_values()},
                       {"teacher", &state.teacher_values()},
                       {"adam_m", &state.adam_m()},
                       {"adam_v", &state.adam_v()}};
    content_.vectors = {{"centre", {1, 2}}};
    content_.integers = {{"step", 0}, {"samples", 0}};
    content_.model_json = "{}";
    writer_.emplace(run_, content_.stores, world_, Retention{2, 0});
  }
  ~CheckpointTest() override {
    writer_.reset();
    world_.barrier();
    std::error_code ignored;
    if (world_.root()) fs::remove_all(run_, ignored);
  }
  static TrainingConfig config_of(Strategy strategy) {
    TrainingConfig config = testing::micro_training(0);
    config.split.strategy = strategy;
    return config;
  }

  void begin(int64_t step) {
    content_.integers["step"] = step;
    writer_->begin(step, content_);
  }
  void set_all(float value) {
    HostStream stream;
    for (auto& [store, values] : content_.stores)
      for (size_t unit = 0; unit < values->layout().units().size(); ++unit)
        fill(stream, values->unit(static_cast<int64_t>(unit)), value);
    stream.synchronize();
  }
  /// The names in RUN/checkpoints, as rank 0 sees them after all ranks have come here.
  std::vector<std::string> names() {
    world_.barrier();
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(run_ + "/checkpoints"))
      found.push_back(entry.path().filename().string());
    std::sort(found.begin(), found.end());
    world_.barrier();
    return found;
  }
  static float first_value(const std::string& folder, const char* store) {
    const CheckpointHeader header = read_checkpoint_header(folder);
    return read_checkpoint_tensor(folder, store, header.tensors.front().name).f32()[0];
  }

  Communicator world_ = Communicator::world();
  HostModel model_;
  std::string run_;
  CheckpointContent content_;
  std::optional<CheckpointWriter> writer_;
};

TEST_P(CheckpointTest, HoldsWhatWasThereWhenItBegan) {
  HostStream stream;
  ParameterStore before(model_.layout()), after(model_.layout());
  content_.stores.at("student")->gather(stream, before);
  {
    // The thread comes to its first value when the lock is free.
    const h5::Lock lock;
    begin(5);
    EXPECT_TRUE(writer_->pending());
    EXPECT_FALSE(writer_->written());
    EXPECT_TRUE(list_checkpoints(run_).empty());
    set_all(7);
    content_.vectors["centre"] = {9};
    content_.integers["step"] = 6;
  }
  const std::string folder = writer_->finish();
  EXPECT_FALSE(writer_->pending());
  EXPECT_EQ(verify_checkpoint(folder), "");
  load_checkpoint(folder, content_, world_);
  content_.stores.at("student")->gather(stream, after);
  for (size_t unit = 0; unit < before.layout().units().size(); ++unit) {
    const auto x = before.unit(static_cast<int64_t>(unit)).f32();
    const auto y = after.unit(static_cast<int64_t>(unit)).f32();
    EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end())) << unit;
  }
  EXPECT_EQ(content_.integers.at("step"), 5);
  EXPECT_EQ(content_.vectors.at("centre"), (std::vector<double>{1, 2}));
}

TEST_P(CheckpointTest, EachOfThreeInARowHasItsOwnValues) {
  for (const int64_t step : {1, 2, 3}) {
    set_all(static_cast<float>(step));
    const int64_t allocated = Tensor::bytes_allocated();
    begin(step);
    set_all(-1);
    const std::string folder = writer_->finish();
    EXPECT_EQ(Tensor::bytes_allocated() - allocated, 0) << "the copy has its place";
    EXPECT_EQ(first_value(folder, "adam_v"), static_cast<float>(step));
  }
  EXPECT_EQ(names(), (std::vector<std::string>{"step_00000002", "step_00000003"}));
  EXPECT_EQ(first_value(run_ + "/checkpoints/step_00000002", "student"), 2.0F);
}

TEST_P(CheckpointTest, OneRankThatCannotWriteCostsAllRanksThisCheckpointAlone) {
  const int last = world_.size() - 1;
  {
    const h5::Lock lock;
    begin(1);
    // A folder in the place of the last rank's shard.
    if (world_.rank() == last)
      for (const auto& entry : fs::directory_iterator(run_ + "/checkpoints"))
        fs::create_directory(entry.path() / ("rank_000" + std::to_string(last) + ".h5"));
  }
  try {
    static_cast<void>(writer_->finish());
    ADD_FAILURE() << "nothing was thrown";
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("rank_000" + std::to_string(last) + ".h5"), std::string::npos)
        << error.what();
  }
  EXPECT_FALSE(writer_->pending());
  EXPECT_TRUE(names().empty());
  begin(2);
  EXPECT_EQ(verify_checkpoint(writer_->finish()), "");
  EXPECT_EQ(names(), std::vector<std::string>{"step_00000002"});
}

TEST_P(CheckpointTest, OneThatIsDroppedIsAbsentAndGoneAfterTheNext) {
  {
    const h5::Lock lock;
    begin(1);
  }
  writer_.reset();
  EXPECT_TRUE(list_checkpoints(run_).empty());
  EXPECT_EQ(names().size(), 1U) << "a temporary folder";
  writer_.emplace(run_, content_.stores, world_, Retention{2, 0});
  begin(2);
  static_cast<void>(writer_->finish());
  EXPECT_EQ(names(), std::vector<std::string>{"step_00000002"});
}

INSTANTIATE_TEST_SUITE_P(Strategies, CheckpointTest,
                         ::testing::Values(Strategy::replicate, Strategy::optimizer, Strategy::full),
                         [](const auto& given) { return std::string(name_of(given.param)); });

}  // namespace
}  // namespace dino
