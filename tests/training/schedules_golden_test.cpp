// SPDX-License-Identifier: Apache-2.0
// Schedules, parameter groups and masks against the reference's tables.
#include <gtest/gtest.h>

#include <functional>

#include "base/random.hpp"
#include "support.hpp"
#include "training/masks.hpp"
#include "training/schedules.hpp"
#include "training/ssl.hpp"

namespace dino::testing {
namespace {

constexpr double kSchedule = 1e-14;

TEST(SchedulesGolden, EveryIterationOfEveryConfiguration) {
  const Hdf5File file = Hdf5File::open(golden_dir() + "/schedules.h5");
  for (const std::string& config : file.list("/")) {
    const std::string group = "/" + config;
    const auto number = [&](const char* name) { return file.attribute_number(group, name); };
    const auto per_epoch = static_cast<int64_t>(number("epoch_length"));
    const auto total = static_cast<int64_t>(number("total_iterations"));
    EXPECT_EQ(total, per_epoch * static_cast<int64_t>(number("epochs")));
    const double scaled = number("base_lr") * std::sqrt(number("world_batch") / 1024.0);
    EXPECT_NEAR(scaled / number("scaled_lr"), 1.0, kSchedule);

    const CosineSchedule lr{
        scaled, number("min_lr"), total, static_cast<int64_t>(number("warmup_epochs")) * per_epoch, 0, 0};
    const CosineSchedule decay{number("weight_decay"), number("weight_decay_end"), total, 0, 0, 0};
    const CosineSchedule momentum{
        number("momentum_teacher"), number("final_momentum_teacher"), total, 0, 0, 0};
    const LinearWarmup temperature{number("warmup_teacher_temp"), number("teacher_temp"),
                                   static_cast<int64_t>(number("warmup_teacher_temp_epochs")) * per_epoch};
    const int64_t frozen = static_cast<int64_t>(number("freeze_last_layer_epochs")) * per_epoch;
    const std::map<std::string, std::function<double(int64_t)>> schedules{
        {"lr", [&](int64_t i) { return lr.value(i); }},
        {"last_layer_lr", [&](int64_t i) { return i < frozen ? 0.0 : lr.value(i); }},
        {"weight_decay", [&](int64_t i) { return decay.value(i); }},
        {"teacher_momentum", [&](int64_t i) { return momentum.value(i); }},
        {"teacher_temp", [&](int64_t i) { return temperature.value(i); }}};
    for (const auto& [name, value] : schedules) {
      const std::string own = group + "/" + name + "_iteration";
      const Tensor iterations = file.read(file.exists(own) ? own : group + "/iteration", DType::i64);
      const Tensor want = file.read(group + "/" + name, DType::f64);
      ASSERT_EQ(iterations.numel(), want.numel());
      double worst = 0;
      for (int64_t i = 0; i < want.numel(); ++i) {
        const double expected = want.as<double>()[i];
        const double got = value(iterations.as<int64_t>()[i]);
        worst = std::max(worst, expected == 0 ? std::abs(got) : std::abs(got / expected - 1));
      }
      expect_within(group + "/" + name, worst, kSchedule);
      const double end = file.read(group + "/value_at_total_iters/" + name, DType::f64).as<double>()[0];
      EXPECT_EQ(value(total), end) << name;
      EXPECT_EQ(value(total + 1000), end) << name;
    }
  }
}

TEST(ParameterGroupsGolden, EveryParameterOfEveryConfiguration) {
  const auto rows = read_csv(golden_dir() + "/param_groups.csv");
  std::map<std::string, int64_t> depth;
  for (const auto& row : rows) {
    const std::string& name = row.at("name");
    const size_t block = name.find("blocks.");
    if (block != std::string::npos)
      depth[row.at("config")] =
          std::max<int64_t>(depth[row.at("config")], std::stoll(name.substr(block + 7)) + 1);
  }
  double worst = 0;
  for (const auto& row : rows) {
    const ParameterGroup group =
        parameter_group(row.at("module") + "." + row.at("name"), depth[row.at("config")],
                        std::stod(row.at("layerwise_decay")), std::stod(row.at("patch_embed_lr_mult")));
    worst = std::max(worst, std::abs(group.lr_multiplier / std::stod(row.at("lr_multiplier")) - 1));
    EXPECT_EQ(group.wd_multiplier, std::stod(row.at("wd_multiplier"))) << row.at("config") << row.at("name");
    EXPECT_EQ(group.is_last_layer, row.at("is_last_layer") == "1") << row.at("config") << row.at("name");
  }
  EXPECT_FALSE(rows.empty());
  expect_within("learning-rate multipliers", worst, kSchedule);
}

std::array<int64_t, 2> grid_of(const std::string& text) {
  const size_t x = text.find('x');
  return {std::stoll(text.substr(0, x)), std::stoll(text.substr(x + 1))};
}

/// |mean - want| in standard errors of the difference of two means of `draws` and the table's draws.
void expect_mean(const std::string& what, double mean, double want, double std, double table_draws,
                 double draws) {
  const double error = std * std::sqrt(1 / table_draws + 1 / draws);
  EXPECT_NEAR(mean, want, 4.5 * error + 1e-9) << what;
}

TEST(MasksGolden, GeneratorStatistics) {
  const int draws = 4000;
  for (const auto& row : read_csv(golden_dir() + "/masking_stats.csv")) {
    if (row.at("kind") != "generator") continue;
    const auto grid = grid_of(row.at("grid"));
    BlockMaskSettings settings;
    settings.grid_h = grid[0];
    settings.grid_w = grid[1];
    settings.max_patches = static_cast<int64_t>(std::stod(row.at("max_num_patches")));
    const int64_t target = std::stoll(row.at("target"));
    const std::string what = row.at("grid") + " target " + row.at("target");
    double masked = 0, squares = 0, blocks = 0, log_aspect = 0, abs_log = 0, reached = 0, centre = 0;
    double corners = 0, edges = 0;
    Random random(7, Stream::test, static_cast<uint64_t>(target));
    for (int draw = 0; draw < draws; ++draw) {
      const BlockMaskResult result = block_mask(settings, target, random);
      EXPECT_LE(result.masked, target);
      EXPECT_EQ(result.masked, std::count(result.mask.begin(), result.mask.end(), 1));
      masked += static_cast<double>(result.masked);
      squares += static_cast<double>(result.masked * result.masked);
      blocks += static_cast<double>(result.blocks.size());
      reached += result.masked == target ? 1 : 0;
      for (const auto& block : result.blocks) {
        const double log = std::log(static_cast<double>(block[0]) / static_cast<double>(block[1]));
        log_aspect += log;
        abs_log += std::abs(log);
      }
      const auto at = [&](int64_t y, int64_t x) {
        return static_cast<double>(result.mask[static_cast<size_t>(y * grid[1] + x)]);
      };
      centre += at(grid[0] / 2, grid[1] / 2);
      corners += 0.25 * (at(0, 0) + at(0, grid[1] - 1) + at(grid[0] - 1, 0) + at(grid[0] - 1, grid[1] - 1));
      for (int64_t x = 0; x < grid[1]; ++x)
        edges += 0.5 * (at(0, x) + at(grid[0] - 1, x)) / static_cast<double>(grid[1]);
    }
    const double table = std::stod(row.at("draws"));
    const auto want = [&](const char* name) { return std::stod(row.at(name)); };
    const auto bernoulli = [](double p) { return std::sqrt(p * (1 - p)); };
    std::printf(
        "  %-20s mean %.3f (reference %.3f), blocks %.3f (%.3f), reached %.3f (%.3f), centre %.3f (%.3f)\n",
        what.c_str(), masked / draws, want("mean"), blocks / draws, want("mean_blocks"), reached / draws,
        want("fraction_reaching_target"), centre / draws, want("centre_cell_rate"));
    expect_mean(what + " mean", masked / draws, want("mean"), want("std"), table, draws);
    expect_mean(what + " blocks", blocks / draws, want("mean_blocks"), 0.45 * want("mean_blocks"), table,
                draws);
    expect_mean(what + " reached", reached / draws, want("fraction_reaching_target"),
                bernoulli(want("fraction_reaching_target")), table, draws);
    expect_mean(what + " centre", centre / draws, want("centre_cell_rate"),
                bernoulli(want("centre_cell_rate")), table, draws);
    expect_mean(what + " corners", corners / draws, want("corner_cell_rate"),
                bernoulli(want("corner_cell_rate")), table, draws);
    expect_mean(what + " edge rows", edges / draws, want("edge_rows_rate"), bernoulli(want("edge_rows_rate")),
                table, draws);
    expect_mean(what + " log aspect", log_aspect / blocks, want("mean_log_aspect"), 0.72,
                table * want("mean_blocks"), blocks);
    expect_mean(what + " |log aspect|", abs_log / blocks, want("mean_abs_log_aspect"), 0.36,
                table * want("mean_blocks"), blocks);
  }
}

TEST(MasksGolden, CollateStatistics) {
  int checked = 0;
  for (const auto& row : read_csv(golden_dir() + "/masking_stats.csv")) {
    const std::string& kind = row.at("kind");
    if (!kind.starts_with("collate")) continue;
    const auto grid = grid_of(row.at("grid"));
    const std::string& param = row.at("param");  // "batch8(views16)"
    const int64_t views = std::stoll(param.substr(param.find("views") + 5));
    BlockMaskSettings settings;
    settings.grid_h = grid[0];
    settings.grid_w = grid[1];
    settings.max_patches = static_cast<int64_t>(std::stod(row.at("max_num_patches")));
    MaskConfig config;
    config.exact_count = false;
    const int draws = 300;
    const int64_t n = grid[0] * grid[1];
    double sum = 0;
    for (int draw = 0; draw < draws; ++draw) {
      const BatchMasks batch = batch_masks(config, settings, views, 11, static_cast<uint64_t>(draw));
      int64_t tokens = 0, masked = 0, first_half = 0;
      for (int64_t view = 0; view < views; ++view) {
        const auto begin = batch.masks.begin() + static_cast<std::ptrdiff_t>(view * n);
        const int64_t count = std::count(begin, begin + static_cast<std::ptrdiff_t>(n), 1);
        tokens += count;
        masked += count > 0 ? 1 : 0;
        first_half += count > 0 && view < views / 2 ? 1 : 0;
      }
      EXPECT_LE(tokens, batch.upper_bound);
      if (kind == "collate_fraction_of_views_masked")
        sum += static_cast<double>(masked) / static_cast<double>(views);
      else if (kind == "collate_fraction_masked_in_first_view_half")
        sum += static_cast<double>(first_half) / static_cast<double>(masked);
      else if (kind == "collate_n_masked_tokens")
        sum += static_cast<double>(tokens);
      else
        sum += static_cast<double>(batch.upper_bound);
    }
    expect_mean(kind + " " + row.at("grid") + " " + param, sum / draws, std::stod(row.at("mean")),
                std::stod(row.at("std")), std::stod(row.at("draws")), draws);
    ++checked;
  }
  EXPECT_GT(checked, 0);
}

}  // namespace
}  // namespace dino::testing
