// SPDX-License-Identifier: Apache-2.0
// Tasks on images: raw pixels and a tiny model with fresh weights, on pictures that are drawn here.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "eval/task_call.hpp"
#include "eval/temporary.hpp"
#include "inputs/features.hpp"
#include "inputs/frames.hpp"
#include "inputs/image_pairs.hpp"
#include "storage/files.hpp"

namespace dino::eval {
namespace {

void save(const std::string& path, const Image& image) {
  const auto png = encode_png(image);
  make_folders(path.substr(0, path.rfind('/')));
  put(path, {reinterpret_cast<const char*>(png.data()), png.size()});
}

/// A disc of a colour on transparency.
Image disc(int64_t side, double x, double y, double radius, Colour colour) {
  Image image{side, side, 4, std::vector<uint8_t>(static_cast<size_t>(side * side * 4))};
  for (int64_t j = 0; j < side; ++j)
    for (int64_t i = 0; i < side; ++i)
      if (std::hypot(static_cast<double>(i) - x, static_cast<double>(j) - y) <= radius) {
        std::copy_n(colour.begin(), 3, image.at(i, j));
        image.at(i, j)[3] = 255;
      }
  return image;
}

/// Stripes of one width and direction a class.
Image stripes(int64_t kind, int64_t shift) {
  Image image{32, 32, 3, std::vector<uint8_t>(32 * 32 * 3)};
  for (int64_t y = 0; y < 32; ++y)
    for (int64_t x = 0; x < 32; ++x)
      for (int64_t c = 0; c < 3; ++c)
        image.at(x, y)[c] =
            static_cast<uint8_t>(((kind == 0 ? x : y) + shift) / 8 % 2 == 0 ? 40 + 20 * c : 200 - 10 * c);
  return image;
}

std::vector<ResultRow> rows_of(const TaskCall& task, const std::string& output, const char* weights) {
  TaskCall chosen = task;
  chosen.options.model.weights = weights;
  std::vector<ResultRow> rows;
  for (const std::string& line : call(chosen, output)) rows.push_back(parse_result(line, "call"));
  return rows;
}

const ResultRow& row_of(const std::vector<ResultRow>& rows, const std::string& metric,
                        const std::string& in_card = "") {
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const ResultRow& row) {
    return row.metric == metric && row.card.find(in_card) != std::string::npos;
  });
  EXPECT_NE(found, rows.end()) << metric << " " << in_card;
  return found == rows.end() ? rows.front() : *found;
}

TEST(Robust, EveryConditionHasARowAndTheMeanIsTheirs) {
  const TemporaryFolder folder;
  for (int64_t kind = 0; kind < 2; ++kind)
    for (int64_t shift = 0; shift < 6; ++shift) {
      save(folder / ("train/" + std::to_string(kind) + "/" + std::to_string(shift) + ".png"),
           stripes(kind, shift));
      save(folder / ("test/" + std::to_string(kind) + "/t" + std::to_string(shift) + ".png"),
           stripes(kind, shift + 1));
    }
  put(folder / "test/1/broken.png", "no picture");
  FeaturesConfig features;
  features.model.weights = "raw-pixels";
  features.data = folder / "train";
  features.input.size = 32;
  write_features(Communicator::self(), features, folder / "train.h5");
  const TaskCall task{"robust",
                      {folder / "train.h5", folder / "test"},
                      {"--corruptions", "gaussian-noise", "occlusion", "--severities", "1,5", "--k", "3"}};
  const auto rows = rows_of(task, folder / "R", "raw-pixels");
  ASSERT_EQ(rows.size(), 6U);
  const ResultRow& clean = row_of(rows, "top1", "\"corruption\":\"none\"");
  EXPECT_EQ(clean.estimate.value, 1);
  EXPECT_EQ(clean.estimate.n, 12);  // without the broken one
  double sum = 0;
  for (const char* name : {"gaussian-noise", "occlusion"})
    for (const char* severity : {"1", "5"})
      for (const ResultRow& row : rows)
        if (row.card.find(name) != std::string::npos &&
            row.card.find(std::string("\"severity\":") + severity) != std::string::npos)
          sum += row.estimate.value;
  EXPECT_NEAR(row_of(rows, "mean_top1").estimate.value, sum / 4, 1e-12);
  EXPECT_EQ(read_predictions(folder / ("R/" + clean.predictions)).keys.size(), 12U);

  // A floor makes its own training features of the same images; another model's are refused.
  EXPECT_EQ(
      rows_of(
          {"robust", {folder / "train.h5", folder / "test"}, {"--corruptions", "jpeg", "--severities", "1"}},
          folder / "S", "random:vit_micro")
          .size(),
      3U);
  EXPECT_THROW(rows_of({"robust", {folder / "train.h5", folder / "test"}, {"--corruptions", "rust"}},
                       folder / "S", "raw-pixels"),
               UsageError);
  EXPECT_THROW(rows_of({"robust", {folder / "train.h5", folder / "test"}, {"--severities", "6"}},
                       folder / "S", "raw-pixels"),
               UsageError);
}

TEST(Discover, FindsADiscOnAPlainBackground) {
  const TemporaryFolder folder;
  for (int i = 0; i < 6; ++i)
    save(folder / ("data/" + std::to_string(i) + ".png"),
         disc(64, 20 + 4 * i, 24 + 3 * i, 14, {250, static_cast<uint8_t>(10 * i), 20}));
  save(folder / "data/opaque.png", stripes(0, 0));
  const TaskCall task{"discover", {folder / "data"}, {"--size", "56"}};
  const auto rows = rows_of(task, folder / "R", "raw-pixels");
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].estimate.n, 6);
  EXPECT_GE(rows[0].estimate.value, 0);
  EXPECT_EQ(read_predictions(folder / ("R/" + rows[0].predictions)).values.at("corloc").size(), 6U);
  EXPECT_EQ(read_pictures(folder / "R").at(0).strips.size(), 6U);
  std::filesystem::remove_all(folder / "data");
  save(folder / "data/opaque.png", stripes(0, 0));
  EXPECT_THROW(rows_of(task, folder / "S", "raw-pixels"), DataError);
}

TEST(Coverage, EqualBoundsShareOutEqually) {
  const TemporaryFolder folder;
  for (int i = 0; i < 5; ++i)
    save(folder / ("data/" + std::to_string(i) + ".png"), disc(64, 30, 30, 10 + i, {200, 40, 90}));
  const auto equal =
      rows_of({"coverage", {folder / "data"}, {"--size", "64", "--min-tokens", "7", "--max-tokens", "7"}},
              folder / "R", "random:vit_micro");
  EXPECT_NEAR(row_of(equal, "coverage_gain").estimate.value, 1, 1e-12);
  EXPECT_NEAR(row_of(equal, "coverage").estimate.value, row_of(equal, "uniform_coverage").estimate.value,
              1e-12);
  // About pi 12^2 of 64^2.
  EXPECT_NEAR(row_of(equal, "uniform_coverage").estimate.value, 0.11, 0.02);
  const auto budget = rows_of({"coverage", {folder / "data"}, {"--size", "64", "--budget", "5000"}},
                              folder / "R", "random:vit_micro");
  EXPECT_GT(row_of(budget, "coverage").estimate.value, 0);
  EXPECT_THROW(rows_of({"coverage", {folder / "data"}, {"--size", "64", "--budget", "3"}}, folder / "R",
                       "random:vit_micro"),
               UsageError);
}

TEST(Propagate, FollowsADiscByItsColour) {
  const TemporaryFolder folder;
  for (int i = 0; i < 5; ++i)
    save(folder / ("data/a/" + std::to_string(i) + ".png"), disc(96, 30 + 6 * i, 40, 16, {250, 20, 20}));
  const auto rows =
      rows_of({"propagate", {folder / "data"}, {"--size", "96"}}, folder / "R", "random:vit_micro");
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(row_of(rows, "jf").estimate.n, 1);
  EXPECT_NEAR(row_of(rows, "jf").estimate.value,
              (row_of(rows, "j").estimate.value + row_of(rows, "f").estimate.value) / 2, 1e-12);
  // Frames that do not move keep their mask but for the grid's coarseness.
  for (int i = 0; i < 4; ++i)
    save(folder / ("still/a/" + std::to_string(i) + ".png"), disc(96, 40, 40, 20, {9, 200, 20}));
  const auto still = rows_of({"propagate", {folder / "still"}, {"--size", "96", "--neighbours", "1"}},
                             folder / "R", "random:vit_micro");
  EXPECT_GT(row_of(still, "j").estimate.value, 0.7);
  put(folder / "still/a/2.png", "no picture");
  EXPECT_THROW(rows_of({"propagate", {folder / "still"}, {"--size", "96"}}, folder / "S", "random:vit_micro"),
               DataError);
}

TEST(Propagate, ReadsTheLayoutOfDavis) {
  const TemporaryFolder folder;
  const Image picture = stripes(0, 0);
  Image mask = picture;
  for (int64_t i = 0; i < 32 * 32; ++i) {
    const Colour colour = i % 32 < 10 ? Colour{128, 0, 0} : i % 32 > 22 ? Colour{0, 128, 0} : Colour{0, 0, 0};
    std::copy(colour.begin(), colour.end(), mask.pixels.begin() + 3 * i);
  }
  for (const char* frame : {"00000", "00001", "00002"}) {
    save(folder / (std::string("d/JPEGImages/480p/bear/") + frame + ".png"), picture);
    save(folder / (std::string("d/Annotations/480p/bear/") + frame + ".png"), mask);
  }
  const auto rows = rows_of({"propagate", {folder / "d"}, {"--size", "32"}}, folder / "R", "raw-pixels");
  EXPECT_EQ(row_of(rows, "j").estimate.n, 2);  // objects
  const Predictions kept = read_predictions(folder / ("R/" + row_of(rows, "j").predictions));
  EXPECT_EQ(kept.keys, (std::vector<std::string>{"480p/bear#1", "480p/bear#2"}));
  std::filesystem::remove(folder / "d/Annotations/480p/bear/00001.png");
  const std::string message = message_of<DataError>([&] {
    rows_of({"propagate", {folder / "d"}, {"--size", "32"}}, folder / "S", "raw-pixels");
  });
  EXPECT_NE(message.find("480p/bear/00001 has no mask"), std::string::npos) << message;
}

TEST(Frames, ObjectsAreColours) {
  std::vector<uint32_t> colours;
  const Image first{3, 1, 3, {0, 0, 0, 0, 128, 0, 0, 0, 128}},
      second{3, 1, 3, {0, 0, 128, 9, 9, 9, 0, 128, 0}};
  EXPECT_EQ(objects_of(first, colours, true), (std::vector<uint8_t>{0, 2, 1}));
  EXPECT_EQ(objects_of(second, colours, false), (std::vector<uint8_t>{1, 0, 2}));  // an unknown one is none
  EXPECT_EQ(spaced_frames(3, 8), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(spaced_frames(16, 4), (std::vector<int64_t>{0, 4, 8, 12}));
}

TEST(Video, ClipsAreClassifiedByTheMeanOfTheirFrames) {
  const TemporaryFolder folder;
  for (const char* part : {"train", "test"})
    for (int64_t kind = 0; kind < 2; ++kind)
      for (int64_t clip = 0; clip < 3; ++clip)
        for (int64_t frame = 0; frame < 4; ++frame)
          save(folder / (std::string(part) + "/" + std::to_string(kind) + "/clip" + std::to_string(clip) +
                         "/" + std::to_string(frame) + ".png"),
               stripes(kind, clip + 2 * frame));
  const auto rows = rows_of({"video", {folder / "train", folder / "test"}, {"--size", "32", "--k", "1"}},
                            folder / "R", "raw-pixels");
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].estimate.n, 6);  // clips, not frames
  EXPECT_EQ(rows[0].estimate.value, 1);
}

TEST(Correspond, ADrawnViewIsWhereItsMatchSays) {
  Image image{60, 50, 3, std::vector<uint8_t>(60 * 50 * 3)};
  for (int64_t y = 20; y < 23; ++y)
    for (int64_t x = 30; x < 33; ++x) std::fill_n(image.at(x, y), 3, uint8_t{250});
  for (uint64_t draw = 0; draw < 20; ++draw) {
    Random random(3, RandomStream::test, draw);
    const DrawnView view = draw_view(image, random);
    double sum = 0, x = 0, y = 0;
    for (int64_t j = 0; j < 50; ++j)
      for (int64_t i = 0; i < 60; ++i) {
        const double value = view.image.at(i, j)[0] == 127 ? 0 : view.image.at(i, j)[0];
        sum += value, x += value * (static_cast<double>(i) + 0.5),
            y += value * (static_cast<double>(j) + 0.5);
      }
    const PointMatch match = view.match(31.5, 21.5);
    ASSERT_NEAR(x / sum, match.to_x, 0.3) << draw;
    ASSERT_NEAR(y / sum, match.to_y, 0.3) << draw;
  }
}

TEST(Correspond, GivenPairs) {
  const TemporaryFolder folder;
  // Sixteen patches of their own colours; the second image is the first, upside down.
  Image first{32, 32, 3, std::vector<uint8_t>(32 * 32 * 3)};
  for (int64_t y = 0; y < 32; ++y)
    for (int64_t x = 0; x < 32; ++x) {
      first.at(x, y)[0] = static_cast<uint8_t>(x / 8 * 80 + 10);
      first.at(x, y)[1] = static_cast<uint8_t>(y / 8 * 80 + 10);
      first.at(x, y)[2] = static_cast<uint8_t>((x / 8 + y / 8) % 3 * 100);
    }
  Image second = first;
  for (int64_t y = 0; y < 32; ++y) std::copy_n(first.at(0, y), 32 * 3, second.at(0, 31 - y));
  save(folder / "d/a.png", first);
  save(folder / "d/b.png", second);
  const std::string path = folder / "d/pairs.json";
  put(path,
      R"({"pairs": [{"a": "a", "b": "b", "points": [[4, 4, 4, 28], [28, 12, 28, 20], [12, 28, 12, 4], [20, 20, 4, 4]]}]})");
  TaskCall task{"correspond", {folder / "d"}, {"--size", "32"}};
  task.options.model.patch = 8;
  const auto rows = rows_of(task, folder / "R", "raw-pixels");
  // Three of four: the last point's match is wrong by 16 pixels and more.
  EXPECT_EQ(row_of(rows, "recall@0.1").estimate.value, 0.75);
  EXPECT_EQ(row_of(rows, "recall@0.1").estimate.n, 1);
  const std::vector<std::pair<std::string, std::string>> broken = {
      {"{", "is not a JSON object"},
      {R"({"pairs": []})", "is not a JSON object"},
      {R"({"pairs": [{"a": "a"}]})", "pair 0 has no \"b\""},
      {R"({"pairs": [{"a": "a", "b": "c", "points": [[1, 1, 1, 1]]}]})", "c is no image's key"},
      {R"({"pairs": [{"a": "a", "b": "b", "points": []}]})", "has no list \"points\""},
      {R"({"pairs": [{"a": "a", "b": "b", "points": [[1, 2, 3]]}]})", "not a list of 4 numbers"},
      {R"({"pairs": [{"a": "a", "b": "b", "points": [[1, 2, 3, 400]]}]})", "outside of its image"}};
  for (const auto& [text, cause] : broken) {
    put(path, text);
    const std::string message = message_of<DataError>([&] { rows_of(task, folder / "S", "raw-pixels"); });
    EXPECT_NE(message.find(cause), std::string::npos) << text << "\n" << message;
  }
  std::filesystem::remove(path);
  EXPECT_EQ(rows_of(task, folder / "T", "raw-pixels").front().estimate.n,
            2);  // each with a drawn view of itself
}

}  // namespace
}  // namespace dino::eval
