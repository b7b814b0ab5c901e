// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/error.hpp"
#include "eval/task_call.hpp"
#include "eval/temporary.hpp"
#include "heads/linear_heads.hpp"
#include "imaging/decode_options.hpp"
#include "inputs/composite.hpp"
#include "inputs/features.hpp"
#include "inputs/labelled_pair.hpp"

namespace dino::eval {
namespace {

/// Two blobs per class around class centres; columns: `layers` class tokens of width 3 and a mean of width 3.
void write_set(const std::string& path, int64_t rows, int64_t layers, bool mean, const std::string& model,
               uint64_t seed, const std::vector<std::string>& classes = {"a", "b", "c"}) {
  FeatureSet set;
  set.data = "made up " + std::to_string(seed);
  set.model = {model, "w"};
  set.protocol.layers = layers;
  set.protocol.tokens = mean ? Tokens::both : Tokens::cls;
  set.columns = {3, layers, mean ? 3 : 0};
  set.rows = rows;
  set.classes = classes;
  Random random(seed, RandomStream::test, 0);
  std::vector<float> x;
  for (int64_t i = 0; i < rows; ++i) {
    const auto label = static_cast<int32_t>(i % 3);
    set.labels.push_back(i % 11 == 10 ? -1 : label);
    set.keys.push_back("k" + std::to_string(seed) + "_" + std::to_string(i));
    set.groups.push_back("");
    for (int64_t c = 0; c < set.columns.width(); ++c)
      x.push_back(static_cast<float>((c % 3 == label ? 2.0 : 0.0) + 0.3 * random.normal()));
  }
  Hdf5File file = Hdf5File::create(path);
  file.write("/features", view_of(x.data(), {rows, set.columns.width()}));
  file.write("/labels", view_of(set.labels.data(), {rows}));
  file.write_strings("/keys", set.keys);
  write_feature_attributes(file, set);
  file.close();
}

TEST(Features, ColumnsAreCountedFromTheLastBlock) {
  FeatureSet set;
  set.columns = {2, 3, 1};
  set.rows = 2;
  set.features = Tensor({2, 7});
  for (int64_t i = 0; i < 14; ++i) set.features.f32()[static_cast<size_t>(i)] = static_cast<float>(i + 1);
  const auto second_row = [&](int64_t layers, bool mean) {
    const FeatureView view = columns_of(set, layers, mean);
    EXPECT_EQ(view.rows, 2);
    return std::vector<float>(view.row(1), view.row(1) + view.width);
  };
  EXPECT_EQ(second_row(1, false), (std::vector<float>{12, 13}));
  EXPECT_EQ(second_row(2, true), (std::vector<float>{10, 11, 12, 13, 14}));
  EXPECT_EQ(second_row(0, true), (std::vector<float>{14}));
}

TEST(Features, DataSetsAreNamedByTheLastTwoPartsOfTheirPath) {
  const TemporaryFolder folder;
  for (const char* name : {"a/test", "b/test", "photos"}) std::filesystem::create_directories(folder / name);
  EXPECT_EQ(dataset_name(folder / "a/test"), "a/test");
  EXPECT_EQ(dataset_name(folder / "b/test/"), "b/test");
  EXPECT_EQ(dataset_name(folder / "a/../b/./test"), "b/test");
  EXPECT_EQ(dataset_name("wesnoth-units/test"), "wesnoth-units/test");  // no such folder: a named set
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder / "a");
  EXPECT_EQ(dataset_name("test"), "a/test");  // alone it would be every set's
  EXPECT_EQ(dataset_name("../photos"), "photos");
  std::filesystem::current_path(folder.path());
  EXPECT_EQ(dataset_name("photos"), "photos");
  EXPECT_EQ(dataset_name("./photos//"), "photos");
  EXPECT_EQ(dataset_name("a/test"), "a/test");
  EXPECT_EQ(dataset_name("."), std::filesystem::path(folder.path()).parent_path().filename().string() + "/" +
                                   std::filesystem::path(folder.path()).filename().string());
  std::filesystem::current_path(before);
}

TEST(Features, SplitsKeepGroupsAndShares) {
  int64_t test = 0;
  for (int i = 0; i < 4000; ++i) {
    Record a, b;
    a.key = "x" + std::to_string(i);
    b.key = "y" + std::to_string(i);
    a.group = b.group = "group" + std::to_string(i);
    EXPECT_EQ(in_split(a, Split::test, 0.25), in_split(b, Split::test, 0.25));
    EXPECT_NE(in_split(a, Split::test, 0.25), in_split(a, Split::train, 0.25));
    EXPECT_TRUE(in_split(a, Split::all, 0.25));
    test += in_split(a, Split::test, 0.25) ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(test), 1000, 100);
}

TEST(Features, BrokenFilesAreNamed) {
  const TemporaryFolder folder;
  const std::string path = folder / "f.h5";
  put(path, "text");
  EXPECT_THROW((void)read_features(path), DataError);
  EXPECT_THROW((void)read_features(folder / "none.h5"), MissingInputError);
  {
    Hdf5File file = Hdf5File::create(path);
    const std::vector<float> x = {1, 2};
    file.write("/features", view_of(x.data(), {2, 1}));
    file.close();
  }
  EXPECT_NE(message_of<DataError>([&] { (void)read_features(path); }).find("has no dataset /labels"),
            std::string::npos);
  write_set(path, 9, 1, false, "m", 1, {"a"});
  EXPECT_NE(message_of<DataError>([&] { (void)read_features(path); }).find("of 1 classes"),
            std::string::npos);
}

TEST(Knn, AppendsARowPerKAndSkipsThemTheSecondTime) {
  const TemporaryFolder folder;
  write_set(folder / "train.h5", 66, 1, false, "m", 1);
  write_set(folder / "test.h5", 44, 1, false, "m", 2);
  TaskCall knn{"knn", {folder / "train.h5", folder / "test.h5"}, {"--k", "1,5"}};
  const auto first = call(knn, folder / "R");
  EXPECT_EQ(first.size(), 2U);
  EXPECT_EQ(call(knn, folder / "R"), first);
  auto rows = read_results(folder / "R/results.jsonl");
  ASSERT_EQ(rows.size(), 2U);
  for (const ResultRow& r : rows) {
    EXPECT_EQ(r.estimate.n, 40);  // unlabelled rows do not count
    EXPECT_GT(r.estimate.value, 0.9);
    EXPECT_EQ(read_predictions(folder / ("R/" + r.predictions)).keys.size(), 40U);
  }
  EXPECT_NE(rows[0].card_hash, rows[1].card_hash);
  // What is there stays; the rest is computed.
  put(folder / "R/results.jsonl", first[0] + "\n");
  EXPECT_EQ(call(knn, folder / "R").size(), 2U);
  rows = read_results(folder / "R/results.jsonl");
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].card, parse_result(first[0], "first").card);
  knn.options.force = true;
  (void)call(knn, folder / "R");
  EXPECT_EQ(read_results(folder / "R/results.jsonl").size(), 4U);
  knn.words = {"--k", "67"};
  EXPECT_THROW((void)call(knn, folder / "R"), UsageError);
}

TEST(Knn, LeavesOutNumbersOfNeighboursThatDoNotFitInASweep) {
  const TemporaryFolder folder;
  write_set(folder / "train.h5", 9, 1, false, "m", 1);
  write_set(folder / "test.h5", 9, 1, false, "m", 2);
  TaskCall knn{"knn", {folder / "train.h5", folder / "test.h5"}};
  EXPECT_THROW((void)call(knn, folder / "R"), UsageError);
  knn.in_sweep = true;
  EXPECT_EQ(call(knn, folder / "R").size(), 1U);  // 5 of 5, 10, 20
}

TEST(Knn, TheCardDoesNotDependOnTheModel) {
  const TemporaryFolder folder;
  for (const std::string model : {"m", "raw-pixels"}) {
    const TaskCall knn{"knn", {folder / (model + "1.h5"), folder / (model + "2.h5")}, {"--k", "5"}};
    write_set(knn.inputs[0], 66, 1, false, model, 1);
    write_set(knn.inputs[1], 44, 1, false, model, 2);
    (void)call(knn, folder / "R");
  }
  const auto rows = read_results(folder / "R/results.jsonl");
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].card_hash, rows[1].card_hash);
}

std::shared_ptr<const FeatureSet> file_of(const std::string& path) {
  return std::make_shared<const FeatureSet>(read_features(path));
}

TEST(Probes, FilesOfDifferentModelsDoNotMix) {
  const TemporaryFolder folder;
  write_set(folder / "a.h5", 30, 1, false, "m", 1);
  write_set(folder / "b.h5", 30, 1, false, "other", 2);
  write_set(folder / "c.h5", 30, 2, false, "m", 2);
  const auto why = [&](const char* other) {
    return message_of<UsageError>([&] { (void)pair_of(file_of(folder / "a.h5"), file_of(folder / other)); });
  };
  EXPECT_NE(why("b.h5").find("made by different models"), std::string::npos);
  EXPECT_NE(why("c.h5").find("different protocols"), std::string::npos);
}

TEST(Probes, AClassThatTrainingLacksCountsAsAnError) {
  const TemporaryFolder folder;
  write_set(folder / "a.h5", 33, 1, false, "m", 1);
  write_set(folder / "b.h5", 33, 1, false, "m", 2, {"a", "b", "new"});
  const LabelledPair pair = pair_of(file_of(folder / "a.h5"), file_of(folder / "b.h5"));
  EXPECT_EQ(pair.test_rows.size(), 30U);
  EXPECT_EQ(pair.test_labels[2], kUnknownClass);
  EXPECT_EQ(pair.test_labels[1], 1);
}

TEST(Probes, AFileIsReadOnce) {
  const TemporaryFolder folder;
  write_set(folder / "a.h5", 30, 1, false, "m", 1);
  Shared shared;
  const auto first = shared.features(folder / "a.h5");
  EXPECT_EQ(shared.features(folder / "a.h5"), first);
}

TEST(Linear, LearnsAndReportsTheOracleApart) {
  const TemporaryFolder folder;
  write_set(folder / "train.h5", 330, 2, true, "m", 1);
  write_set(folder / "test.h5", 110, 2, true, "m", 2);
  const TaskCall linear{
      "linear", {folder / "train.h5", folder / "test.h5"}, {"--lr", "1e-4,0.5", "--batch", "32"}};
  (void)call(linear, folder / "R");
  (void)call(linear, folder / "R");
  const auto rows = read_results(folder / "R/results.jsonl");
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_GT(rows[0].estimate.value, 0.9);
  ASSERT_TRUE(rows[0].oracle.has_value());
  EXPECT_GE(*rows[0].oracle, rows[0].estimate.value);
}

TEST(Linear, ASmallSetStillHasAValidationPart) {
  const TemporaryFolder folder;
  write_set(folder / "train.h5", 6, 1, false, "m", 1);
  write_set(folder / "test.h5", 6, 1, false, "m", 2);
  const TaskCall linear{
      "linear", {folder / "train.h5", folder / "test.h5"}, {"--lr", "0.1", "--validation", "0.01"}};
  EXPECT_EQ(call(linear, folder / "R").size(), 1U);
}

TEST(Tasks, SayWhatTheyMeasure) {
  for (const TaskEntry& entry : tasks()) {
    const TaskInfo& info = entry.info;
    EXPECT_EQ(task_named(info.name), &info) << "two tasks are called " << info.name;
    EXPECT_LE(info.inputs.size(), kMostInputs) << info.name;
    EXPECT_FALSE(info.examples.empty()) << info.name;
    for (const Metric& metric : info.metrics)
      EXPECT_EQ(metric_of(info.name, metric.name).headline, metric.headline) << info.name;
  }
  EXPECT_EQ(task_named("nothing"), nullptr);
  EXPECT_TRUE(metric_of("nothing", "top1").headline);
  EXPECT_FALSE(metric_of("knn", "top5").headline);
}

TEST(Logreg, ChoosesCAndReportsTwoNumbers) {
  const TemporaryFolder folder;
  write_set(folder / "train.h5", 330, 2, true, "m", 1);
  write_set(folder / "test.h5", 110, 2, true, "m", 2);
  const TaskCall wanted{"logreg", {folder / "train.h5", folder / "test.h5"}, {"--c", "1e-4:1e2:7"}};
  (void)call(wanted, folder / "R");
  (void)call(wanted, folder / "R");
  const auto rows = read_results(folder / "R/results.jsonl");
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].metric, "top1");
  EXPECT_EQ(rows[1].metric, "mean_per_class");
  for (const ResultRow& row : rows) {
    EXPECT_GT(row.estimate.value, 0.9);
    EXPECT_LE(row.estimate.low, row.estimate.value);
    EXPECT_GE(row.estimate.high, row.estimate.value);
  }
  for (const char* bad : {"", "0", "-1", "1:2", "1:2:0", "2:1:3", "1:2:1.5", "a", "1,,2", "nan", "1:2:3:4"}) {
    EXPECT_NE(message_of<UsageError>([&] {
                (void)call({"logreg", wanted.inputs, {"--c", bad}}, folder / "R");
              }).find("--c"),
              std::string::npos)
        << bad;
  }
}

TEST(Linear, AHeadThatCannotLearnStaysAtChance) {
  std::vector<float> x(300 * 2, 1.0F);
  std::vector<int32_t> labels;
  std::vector<int64_t> rows;
  for (int i = 0; i < 300; ++i) labels.push_back(i % 3), rows.push_back(i);
  LinearHeads head(2, 3, {0.1}, 0);
  const FeatureView view{x.data(), 300, 2, 2};
  head.fit(view, labels, rows, {5, 30, 0});
  const auto predicted = head.predict(view, rows);
  int64_t right = 0;
  for (size_t i = 0; i < labels.size(); ++i) right += predicted[0][i] == labels[i] ? 1 : 0;
  EXPECT_EQ(right, 100);
}

TEST(Composite, BlendsByAlphaAndRefusesWhatHasNoObject) {
  Image rgba{4, 2, 4, std::vector<uint8_t>(32)};
  for (int64_t x = 0; x < 4; ++x)
    for (int64_t y = 0; y < 2; ++y) {
      uint8_t* p = rgba.at(x, y);
      p[0] = 200, p[1] = 100, p[2] = 50, p[3] = x < 2 ? 255 : 0;
    }
  Random random(0, RandomStream::render, 1), again(0, RandomStream::render, 1);
  const Composite c = composite_on_background(rgba, 4, random);
  EXPECT_EQ(c.fault, "");
  // Padded to 4 x 4: the object is rows 1 and 2, columns 0 and 1.
  EXPECT_EQ(c.mask, (std::vector<uint8_t>{0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(c.image.at(0, 1)[0], 200);
  EXPECT_EQ(c.image.at(1, 2)[2], 50);
  EXPECT_EQ(c.image.at(3, 3)[0], draw_background(4, again).at(3, 3)[0]);
  Image opaque = rgba;
  for (int64_t x = 0; x < 4; ++x)
    for (int64_t y = 0; y < 2; ++y) opaque.at(x, y)[3] = 0;
  EXPECT_EQ(composite_on_background(opaque, 4, random).fault, "is fully transparent");
  EXPECT_EQ(composite_on_background(Image{2, 2, 3, std::vector<uint8_t>(12)}, 4, random).fault,
            "has no alpha channel");
}

TEST(Options, ColoursAreChecked) {
  EXPECT_EQ(*Background::from_text("1,2,255").colour, (std::array<uint8_t, 3>{1, 2, 255}));
  for (const char* bad : {"", "1,2", "1,2,256", "1,2,3,4", "a,b,c", "1,2,3x"})
    EXPECT_THROW((void)Background::from_text(bad), std::invalid_argument) << bad;
  EXPECT_FALSE(InputBackground::from_text("model").given.has_value());
  EXPECT_EQ(InputBackground::from_text("auto").text(), "auto");
}

}  // namespace
}  // namespace dino::eval
