// SPDX-License-Identifier: Apache-2.0
// What the files beside the weights say of the input, and what is said of broken ones.
#include "model/preparation.hpp"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.hpp"
#include "model/temporary_folder.hpp"
#include "model/vit.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

Preparation of(const std::string& file, const std::string& text) {
  const TemporaryFolder folder;
  write_file_atomically(folder.path() + "/" + file, text);
  return preparation_of(folder.path());
}

std::string fault_of(const std::string& file, const std::string& text) {
  try {
    (void)of(file, text);
  } catch (const DataError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

const std::string kRun =
    "[crops]\nglobal-size = 48\npad = true\nbackground = \"128,128,128\"\nmean = 0.1,0.2,0.3\nstd = "
    "0.4,0.5,0.6\n";
const std::string kNormal = R"("image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25])";

TEST(Preparation, OfARunAndItsCheckpoints) {
  const TemporaryFolder folder;
  const std::string run = folder.path() + "/run", step = run + "/checkpoints/step_00000002";
  std::filesystem::create_directories(step);
  write_file_atomically(run + "/config.ini", kRun);
  for (const std::string& weights : {run, run + "/checkpoints", step}) {
    const Preparation told = preparation_of(weights);
    EXPECT_EQ(told.size, 48);
    EXPECT_EQ(told.resize, 0);
    EXPECT_EQ(told.pad, true);
    EXPECT_EQ(told.background->text(), "128,128,128");
    EXPECT_FLOAT_EQ(told.normalisation.mean[2], 0.3F);
    EXPECT_FLOAT_EQ(told.normalisation.std[0], 0.4F);
    EXPECT_EQ(told.source, run + "/config.ini");
  }
}

TEST(Preparation, NothingToldIsImageNets) {
  const TemporaryFolder folder;
  for (const std::string& weights : {folder.path(), folder.path() + "/model.pth", std::string("/no/such")}) {
    const Preparation told = preparation_of(weights);
    EXPECT_EQ(told.size, 0);
    EXPECT_FALSE(told.pad.has_value());
    EXPECT_FALSE(told.background.has_value());
    EXPECT_EQ(told.source, "");
    EXPECT_EQ(told.normalisation.mean, Normalisation{}.mean);
  }
}

TEST(Preparation, OfAHuggingFaceFolder) {
  const Preparation cropped = of(
      "preprocessor_config.json",
      R"({"do_center_crop": true, "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256}, )" +
          kNormal + "}");
  EXPECT_EQ(cropped.size, 224);
  EXPECT_EQ(cropped.resize, 256);
  EXPECT_FALSE(cropped.pad.has_value());
  EXPECT_FLOAT_EQ(cropped.normalisation.std[1], 0.25F);
  const Preparation stretched =
      of("preprocessor_config.json", R"({"size": {"height": 384, "width": 384}, )" + kNormal + "}");
  EXPECT_EQ(stretched.size, 384);
  EXPECT_EQ(stretched.resize, 384);
  const Preparation old =
      of("preprocessor_config.json", R"({"size": 224, "crop_size": 192, )" + kNormal + "}");
  EXPECT_EQ(old.size, 192);
  EXPECT_EQ(old.resize, 224);
  const Preparation uncropped =
      of("preprocessor_config.json",
         R"({"do_center_crop": false, "crop_size": 224, "size": 256, )" + kNormal + "}");
  EXPECT_EQ(uncropped.size, 256);
  const Preparation plain = of("preprocessor_config.json", R"({"do_normalize": false, "size": 64})");
  EXPECT_EQ(plain.size, 64);
  EXPECT_FLOAT_EQ(plain.normalisation.std[0], 1);
}

TEST(Preparation, OfTimm) {
  const Preparation told = of(
      "config.json",
      R"({"pretrained_cfg": {"input_size": [3, 518, 518], "crop_pct": 0.9, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}})");
  EXPECT_EQ(told.size, 518);
  EXPECT_EQ(told.resize, 575);
  EXPECT_FLOAT_EQ(told.normalisation.mean[0], 0.5F);
}

TEST(Preparation, BrokenFilesAreNamed) {
  EXPECT_NE(fault_of("config.ini", "[crops]\nglobal-size = wide\n").find("global-size = wide"),
            std::string::npos);
  EXPECT_NE(fault_of("config.ini", "mean = 1,2\nstd = 1,1,1\n").find("mean = 1,2 is not three numbers"),
            std::string::npos);
  EXPECT_NE(fault_of("config.ini", "what is this\n").find("config.ini"), std::string::npos);
  const std::string name = "preprocessor_config.json";
  EXPECT_NE(fault_of(name, "{").find("not a JSON object"), std::string::npos);
  EXPECT_NE(fault_of(name, R"({"size": {"height": 224, "width": 192}, )" + kNormal + "}").find("only square"),
            std::string::npos);
  EXPECT_NE(fault_of(name, R"({"crop_size": -3, )" + kNormal + "}").find("no side of an image"),
            std::string::npos);
  EXPECT_NE(fault_of(name, R"({"size": 1e300, )" + kNormal + "}").find("no side of an image"),
            std::string::npos);
  EXPECT_NE(fault_of(name, R"({"do_rescale": false, )" + kNormal + "}").find("do_rescale"),
            std::string::npos);
  EXPECT_NE(fault_of("config.json", R"({"pretrained_cfg": {"input_size": [3, 224, 0]}})").find("config.json"),
            std::string::npos);
}

TEST(Preparation, OfOpenClip) {
  const std::string file = "open_clip_config.json";
  const Preparation told = of(
      file,
      R"({"model_cfg": {"vision_cfg": {"image_size": 48}}, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}})");
  EXPECT_EQ(told.size, 48);
  EXPECT_EQ(told.resize, 48);
  EXPECT_EQ(told.normalisation.mean[1], 0.2F);
  EXPECT_NE(fault_of(file, R"({"preprocess_cfg": {"mean": [0.1], "std": [0.4, 0.5, 0.6]}})").find("mean"),
            std::string::npos);
}

/// Without a file that tells, a CLIP has CLIP's pixels, and any other backbone ImageNet's.
TEST(Preparation, OfAClipThatSaysNothing) {
  const TemporaryFolder folder;
  VitConfig config = vit_preset("vit_micro");
  EXPECT_EQ(preparation_of(folder.path(), config).size, 0);
  config.projection = 16;
  const Preparation own = preparation_of(folder.path(), config);
  EXPECT_EQ(own.size, 64);
  EXPECT_EQ(own.normalisation.mean[0], 0.48145466F);
  EXPECT_EQ(own.normalisation.std[2], 0.27577711F);
  write_file_atomically(folder.path() + "/preprocessor_config.json", "{" + kNormal + "}");
  EXPECT_EQ(preparation_of(folder.path(), config).normalisation.mean[0], 0.5F);
}

}  // namespace
}  // namespace dino
