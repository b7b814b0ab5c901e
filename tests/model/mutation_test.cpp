// SPDX-License-Identifier: Apache-2.0
// Damaged weights of every format.
#include "mutation.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/checkpoint_reader.hpp"
#include "model/pth_writer.hpp"
#include "model/temporary_folder.hpp"
#include "model/tensor_source.hpp"
#include "storage/files.hpp"
#include "test_data.hpp"

namespace dino {
namespace {

using testing::MutationPlan;
using testing::run_file_mutations;

std::string small_pth(bool zip64) {
  PickleWriter pickle;
  pickle.raw("}(").string("iteration").integer(7).string("model");
  pickle.global("collections", "OrderedDict").raw(")Rq\x01(");
  pickle.string("a.weight").tensor("0", 15, {3, 4}, {4, 1}, 3);
  pickle.string("a.bias").tensor("1", 4, {4}, {1}, 0, "HalfStorage");
  pickle.raw("uu");
  ZipWriter zip;
  zip.add("archive/data.pkl", pickle.finish());
  zip.add("archive/byteorder", "little");
  zip.add("archive/data/0", std::string(60, 'x'));
  zip.add("archive/data/1", std::string(8, 'y'));
  return zip.finish(zip64);
}

TEST(WeightsMutation, Pth) {
  const TemporaryFolder folder;
  run_file_mutations({{small_pth(true), small_pth(false)}, 41, {}, 0.1}, folder.path() + "/x.pth",
                     [](const std::string& path) {
                       const TensorSource source = open_pth(path);
                       for (const auto& [name, info] : source.tensors) (void)source.read(name);
                     });
}

TEST(WeightsMutation, HuggingFaceConfig) {
  const TemporaryFolder folder;
  MutationPlan plan;
  for (const char* name : {"dinov2", "dinov2_swiglu", "dinov2_with_registers"})
    plan.good.push_back(read_text(dino::test::data_folder() + "/golden/hf/" + name + "/config.json"));
  plan.stream = 42;
  run_file_mutations(plan, folder.path() + "/config.json",
                     [](const std::string& path) {
                       TensorSource source;
                       (void)read_hugging_face_config(path, source);
                     });
}

TEST(WeightsMutation, ModelJson) {
  testing::run_mutations(
      {{vit_config_to_json(vit_preset("vits14")), vit_config_to_json(vit_preset("vitg14"))}, 43, {}, 0.1},
      [](const std::string& bytes, int i) {
        try {
          (void)vit_config_from_json(bytes, "bad.json");
          return true;
        } catch (const DataError& error) {
          EXPECT_NE(std::string(error.what()).find("bad.json"), std::string::npos)
              << i << ": " << error.what();
          return false;
        }
      });
}

TEST(WeightsMutation, CheckpointManifest) {
  const TemporaryFolder folder;
  const auto manifest = [](int64_t padded) {
    const nlohmann::ordered_json model = {
        {"vit", nlohmann::ordered_json::parse(vit_config_to_json(vit_preset("vit_micro")))}};
    return nlohmann::ordered_json{
        {"schema", 1},
        {"step", 40},
        {"samples", 2560},
        {"ranks", 1},
        {"model", model},
        {"stores", {"teacher"}},
        {"units",
         {{{"name", "u"},
           {"module", "m"},
           {"padded", padded},
           {"parameters", {{{"name", "p"}, {"shape", {3, 4}}, {"offset", 0}}}}}}},
        {"shards", {{{"file", "rank_0000.h5"}, {"bytes", 10}, {"crc32c", "00"}, {"ranges", {{0, padded}}}}}}}
        .dump(1);
  };
  run_file_mutations({{manifest(16), manifest(32)}, 44, {}, 0.1}, folder.path() + "/manifest.json",
                     [&](const std::string&) {
                       const CheckpointManifest read = read_checkpoint_manifest(folder.path());
                       (void)find_shard_fault(read);
                     });
}

}  // namespace
}  // namespace dino
