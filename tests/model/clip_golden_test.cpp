// SPDX-License-Identifier: Apache-2.0
// Both towers of CLIP models, and their tokenizers, against what transformers and OpenCLIP recorded
// (tests/peers/clip_oracle.py).
#include <cmath>

#include "golden_support.hpp"
#include "host_place.hpp"
#include "model/byte_pairs.hpp"
#include "model/clip.hpp"
#include "model/temporary_folder.hpp"

namespace dino::golden {
namespace {

/// The lowest over rows.
double lowest_cosine(std::span<const float> a, std::span<const float> b, int64_t width) {
  double lowest = a.size() == b.size() ? 1 : -1;
  for (size_t row = 0; row + static_cast<size_t>(width) <= std::min(a.size(), b.size());
       row += static_cast<size_t>(width)) {
    double dot = 0, aa = 0, bb = 0;
    for (size_t i = row; i < row + static_cast<size_t>(width); ++i) {
      const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
      dot += x * y;
      aa += x * x;
      bb += y * y;
    }
    lowest = std::min(lowest, dot / std::sqrt(aa * bb));
  }
  return lowest;
}

void check_images(const Backbone& backbone, const Hdf5File& file, const std::string& name, Report& report) {
  const Vit vit(backbone.config);
  const Tensor images = file.read("/" + name + "/pixel_values", DType::f32);
  const CropBatch crops[] = {{images, {}}};
  HostPlace host;
  const VitOutput output = vit.forward(host.c, backbone.weights, crops, {});
  const Tensor wanted = file.read("/" + name + "/image_embeds", DType::f32);
  report.check_record(file, name + "/image_embeds", std::span<const float>(output.projected.f32()),
                      "/" + name + "/image_embeds", 2e-5);
  EXPECT_GE(lowest_cosine(output.projected.f32(), wanted.f32(), backbone.config.projection), 0.99999);
  if (file.exists("/" + name + "/last_hidden_state"))
    report.check_record(file, name + "/last_hidden_state", std::span<const float>(output.norm.f32()),
                        "/" + name + "/last_hidden_state", 2e-5);
}

/// Rows of the record end in padding, behind the first end of a text.
std::vector<int32_t> without_padding(const Tensor& ids, int64_t row) {
  const int32_t* from = ids.as<int32_t>() + row * ids.shape()[1];
  const int32_t end = *std::max_element(ids.as<int32_t>(), ids.as<int32_t>() + ids.numel());
  std::vector<int32_t> text;
  while (text.empty() || text.back() != end) text.push_back(*from++);
  return text;
}

void check_texts(const std::string& folder, const Hdf5File& file, Report& report) {
  const auto model = load_text_model(folder);
  const BytePairs tokenizer = BytePairs::load(folder, model->config.vocabulary);
  const std::vector<std::string> texts = file.read_strings("/texts");
  const Tensor ids = file.read("/input_ids", DType::i32);
  ASSERT_EQ(ids.shape()[0], std::ssize(texts));
  std::vector<std::vector<int32_t>> encoded;
  for (size_t i = 0; i < texts.size(); ++i) {
    encoded.push_back(tokenizer.encode(texts[i], model->config.context));
    EXPECT_EQ(encoded.back(), without_padding(ids, static_cast<int64_t>(i))) << texts[i];
  }
  const TextTower tower(model->config);
  HostPlace host;
  const TensorView ours = tower.forward(host.c, model->weights, encoded);
  const Tensor wanted = file.read("/text_embeds", DType::f32);
  report.check_record(file, "text_embeds", std::span<const float>(ours.f32()), "/text_embeds", 2e-5);
  EXPECT_GE(lowest_cosine(ours.f32(), wanted.f32(), model->config.projection), 0.99999);
  // A pass that keeps what backward needs gives the same bits, and so does a text by itself.
  std::shared_ptr<TextSaved> saved;
  const TensorView kept = tower.forward(host.c, model->weights, encoded, &saved);
  EXPECT_TRUE(std::equal(kept.f32().begin(), kept.f32().end(), ours.f32().begin()));
}

TEST(ClipGolden, BothTowersAndTheTokenizer) {
  const std::vector<std::string> folders = golden_files("", "", "clip");
  if (folders.empty()) {
    std::printf("golden  clip  not compared: the set has none\n");
    GTEST_SKIP();
  }
  for (const std::string& folder : folders) {
    const Hdf5File file = Hdf5File::open(folder + "/outputs.h5");
    Report report("clip/" + file_name(folder));
    const auto backbone = load_backbone(folder);
    for (const std::string& name : file.list("/"))
      if (file.exists("/" + name + "/pixel_values")) check_images(*backbone, file, name, report);
    check_texts(folder, file, report);
  }
}

/// The export under our names keeps what makes it a CLIP.
TEST(ClipGolden, ExportedAndImportedAgain) {
  for (const std::string& folder : golden_files("", "", "clip")) {
    const TemporaryFolder temporary;
    const auto backbone = load_backbone(folder);
    export_hub(*backbone, temporary.path());
    const auto again = load_backbone(temporary.path());
    EXPECT_EQ(again->config, backbone->config);
    EXPECT_EQ(again->sha256, backbone->sha256);
    EXPECT_THROW(export_hugging_face(*backbone, temporary.path()), DataError);
    EXPECT_THROW((void)export_timm(*backbone, temporary.path()), DataError);
    const auto text = load_text_model(folder);
    write_text_model(*text, temporary.path());
    const auto text_again = load_text_model(temporary.path());
    EXPECT_EQ(text_again->config, text->config);
    EXPECT_EQ(text_again->sha256, text->sha256);
  }
}

}  // namespace
}  // namespace dino::golden
