// SPDX-License-Identifier: Apache-2.0
// Schedules, parameter groups and masks against the reference's tables.
#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "base/random.hpp"
#include "support.hpp"
#include "training/engine.hpp"
#include "training/masks.hpp"
#include "training/schedules.hpp"

namespace dino::testing {
namespace {

using golden::read_golden_csv;
using golden::Report;

constexpr double kSchedule = 1e-14;

TEST(SchedulesGolden, EveryIterationOfEveryConfiguration) {
  const Hdf5File file = golden::open_golden("schedules.h5");
  const std::vector<std::string> configs = file.list("/");
  EXPECT_FALSE(configs.empty()) << "schedules.h5 holds no configuration";
  for (const std::string& config : configs) {
    Report report("schedules.h5/" + config);
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
      report.check(name, worst, kSchedule);
      const double end = file.read(group + "/value_at_total_iters/" + name, DType::f64).as<double>()[0];
      EXPECT_EQ(value(total), end) << name;
      EXPECT_EQ(value(total + 1000), end) << name;
    }
  }
}

TEST(ParameterGroupsGolden, EveryParameterOfEveryConfiguration) {
  const auto rows = read_golden_csv("param_groups.csv");
  std::map<std::string, int64_t> depth;
  for (const auto& row : rows) {
    const std::string& name = row.at("name");
    int64_t& blocks = depth[row.at("config")];
    if (name.starts_with("blocks.")) blocks = std::max<int64_t>(blocks, std::stoll(name.substr(7)) + 1);
  }
  Report report("param_groups.csv");
  for (const auto& row : rows) {
    const std::string name = row.at("module") + "." + row.at("name");
    const ParameterGroup group =
        parameter_group(name, depth[row.at("config")], std::stod(row.at("layerwise_decay")),
                        std::stod(row.at("patch_embed_lr_mult")));
    const std::string title = row.at("config") + "/";
    report.check(title + "lr_multiplier",
                 std::abs(group.lr_multiplier / std::stod(row.at("lr_multiplier")) - 1), kSchedule, name);
    report.check(title + "wd_multiplier", std::abs(group.wd_multiplier - std::stod(row.at("wd_multiplier"))),
                 0, name);
    report.check(title + "is_last_layer", group.is_last_layer == (row.at("is_last_layer") == "1") ? 0 : 1, 0,
                 name);
  }
}

std::array<int64_t, 2> grid_of(const std::string& text) {
  const size_t x = text.find('x');
  return {std::stoll(text.substr(0, x)), std::stoll(text.substr(x + 1))};
}

/// One quantity over our draws.
struct Sample {
  std::vector<double> values;
  void add(double value) { values.push_back(value); }
  [[nodiscard]] double count() const { return static_cast<double>(values.size()); }
  [[nodiscard]] double mean() const {
    return std::accumulate(values.begin(), values.end(), 0.0) / std::max(count(), 1.0);
  }
  /// The mean of |x - mean|^power.
  [[nodiscard]] double moment(int power) const {
    const double centre = mean();
    double sum = 0;
    for (const double value : values) sum += std::pow(std::abs(value - centre), power);
    return sum / std::max(count(), 1.0);
  }
};

/// The table's numbers are rounded to four decimals.
constexpr double kRounding = 1e-4;
/// Standard errors that a difference of two estimates may have.
constexpr double kErrors = 4.5;

/// Checks that our mean lies within kErrors standard errors of the table's, which is one of as many values as
/// `table_count` says. The spread is that of our draws.
void check_mean(Report& report, const std::string& what, const Sample& ours, double want, double table_count,
                const std::string& row) {
  const double error = std::sqrt(ours.moment(2) * (1 / table_count + 1 / ours.count()));
  report.check(what + " in standard errors",
               std::max(0.0, std::abs(ours.mean() - want) - kRounding) / (error + 1e-12), kErrors, row);
}

struct GeneratorSamples {
  Sample masked, blocks, aspect, log_aspect, abs_log, reached, centre, corners, rows, columns;
  bool consistent = true;  ///< counts within the target and equal to the cells that are set
};

GeneratorSamples draw_masks(const BlockMaskSettings& settings, int64_t target, int draws) {
  GeneratorSamples samples;
  const int64_t height = settings.grid_h;
  const int64_t width = settings.grid_w;
  Random random(7, RandomStream::test, static_cast<uint64_t>(target * 1000 + height));
  for (int draw = 0; draw < draws; ++draw) {
    const BlockMaskResult result = block_mask(settings, target, random);
    samples.consistent = samples.consistent && result.masked <= target &&
                         result.masked == std::count(result.mask.begin(), result.mask.end(), 1);
    samples.masked.add(static_cast<double>(result.masked));
    samples.blocks.add(static_cast<double>(result.blocks.size()));
    samples.reached.add(result.masked == target ? 1 : 0);
    for (const auto& block : result.blocks) {
      const double aspect = static_cast<double>(block[0]) / static_cast<double>(block[1]);
      samples.aspect.add(aspect);
      samples.log_aspect.add(std::log(aspect));
      samples.abs_log.add(std::abs(std::log(aspect)));
    }
    const auto at = [&](int64_t y, int64_t x) {
      return static_cast<double>(result.mask[static_cast<size_t>(y * width + x)]);
    };
    samples.centre.add(at(height / 2, width / 2));
    samples.corners.add(0.25 * (at(0, 0) + at(0, width - 1) + at(height - 1, 0) + at(height - 1, width - 1)));
    double rows = 0, columns = 0;
    for (int64_t x = 0; x < width; ++x) rows += 0.5 * (at(0, x) + at(height - 1, x));
    for (int64_t y = 0; y < height; ++y) columns += 0.5 * (at(y, 0) + at(y, width - 1));
    samples.rows.add(rows / static_cast<double>(width));
    samples.columns.add(columns / static_cast<double>(height));
  }
  return samples;
}

BlockMaskSettings settings_of(const std::map<std::string, std::string>& row) {
  const auto grid = grid_of(row.at("grid"));
  BlockMaskSettings settings;
  settings.grid_h = grid[0];
  settings.grid_w = grid[1];
  settings.max_patches = static_cast<int64_t>(std::stod(row.at("max_num_patches")));
  return settings;
}

TEST(MasksGolden, GeneratorStatistics) {
  const int draws = 4000;
  Report report("masking_stats.csv/generator");
  for (const auto& row : read_golden_csv("masking_stats.csv")) {
    if (row.at("kind") != "generator") continue;
    const int64_t target = std::stoll(row.at("target"));
    const std::string what = row.at("grid") + " target " + row.at("target");
    const GeneratorSamples ours = draw_masks(settings_of(row), target, draws);
    EXPECT_TRUE(ours.consistent) << what;
    const auto want = [&](const char* name) { return std::stod(row.at(name)); };
    const double table = want("draws");
    const double table_blocks = table * want("mean_blocks");
    const auto check = [&](const char* name, const Sample& sample, double count) {
      check_mean(report, name, sample, want(name), count, what);
    };
    check("mean", ours.masked, table);
    check("mean_blocks", ours.blocks, table);
    check("mean_aspect_h_over_w", ours.aspect, table_blocks);
    check("mean_log_aspect", ours.log_aspect, table_blocks);
    check("mean_abs_log_aspect", ours.abs_log, table_blocks);
    check("fraction_reaching_target", ours.reached, table);
    check("centre_cell_rate", ours.centre, table);
    check("corner_cell_rate", ours.corners, table);
    // Of a grid that is not square, border rows and columns differ: between the two rates.
    const Sample& nearer = std::abs(ours.rows.mean() - want("edge_rows_rate")) <
                                   std::abs(ours.columns.mean() - want("edge_rows_rate"))
                               ? ours.rows
                               : ours.columns;
    const bool between =
        (ours.rows.mean() - want("edge_rows_rate")) * (ours.columns.mean() - want("edge_rows_rate")) <= 0;
    check_mean(report, "edge_rows_rate", nearer, between ? nearer.mean() : want("edge_rows_rate"), table,
               what);
    // The standard error of a standard deviation s is sqrt(m4 - s^4) / (2 s sqrt n).
    const double spread = std::sqrt(ours.masked.moment(2));
    const double error = std::sqrt(std::max(0.0, ours.masked.moment(4) - std::pow(spread, 4)) *
                                   (1 / table + 1 / ours.masked.count())) /
                         std::max(2 * spread, 1e-12);
    report.check("std in standard errors",
                 std::max(0.0, std::abs(spread - want("std")) - kRounding) / (error + 1e-12), kErrors, what);
  }
}

/// One of the quantities that the table's collate rows are about.
double collate_quantity(const std::string& kind, const BatchMasks& batch, int64_t views, int64_t patches) {
  int64_t tokens = 0, masked = 0, first_half = 0;
  for (int64_t view = 0; view < views; ++view) {
    const auto begin = batch.masks.begin() + static_cast<std::ptrdiff_t>(view * patches);
    const int64_t count = std::count(begin, begin + static_cast<std::ptrdiff_t>(patches), 1);
    tokens += count;
    masked += count > 0 ? 1 : 0;
    first_half += count > 0 && view < views / 2 ? 1 : 0;
  }
  EXPECT_LE(tokens, batch.upper_bound);
  if (kind == "collate_fraction_of_views_masked")
    return static_cast<double>(masked) / static_cast<double>(views);
  if (kind == "collate_fraction_masked_in_first_view_half")
    return static_cast<double>(first_half) / static_cast<double>(masked);
  if (kind == "collate_n_masked_tokens") return static_cast<double>(tokens);
  if (kind == "collate_upperbound") return static_cast<double>(batch.upper_bound);
  throw DataError("masking_stats.csv holds an unknown kind: " + kind);
}

TEST(MasksGolden, CollateStatistics) {
  Report report("masking_stats.csv/collate");
  for (const auto& row : read_golden_csv("masking_stats.csv")) {
    const std::string& kind = row.at("kind");
    if (kind == "generator") continue;
    const std::string& param = row.at("param");  // "batch8(views16)"
    const int64_t views = std::stoll(param.substr(param.find("views") + 5));
    const BlockMaskSettings settings = settings_of(row);
    MaskConfig config;
    config.exact_count = false;
    Sample ours;
    for (uint64_t draw = 0; draw < 300; ++draw)
      ours.add(collate_quantity(kind, batch_masks(config, settings, views, 11, draw), views,
                                settings.grid_h * settings.grid_w));
    check_mean(report, kind.substr(8), ours, std::stod(row.at("mean")), std::stod(row.at("draws")),
               row.at("grid") + " " + param);
  }
}

}  // namespace
}  // namespace dino::testing
