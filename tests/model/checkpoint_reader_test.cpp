// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint_reader.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "base/json.hpp"
#include "model/head.hpp"
#include "model/temporary_folder.hpp"
#include "model/weights.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/seal.hpp"

namespace dino {
namespace {

/// A student and a teacher of the smallest backbone with a head, written as by `ranks` ranks.
struct Written {
  ParameterLayout layout;
  ParameterStore student, teacher;
  VitConfig config = vit_preset("vit_micro");

  Written() {
    append_vit_layout(layout, config);
    append_head_layout(layout, {64, 96, 2, 32, 100}, "dino_head");
    student = ParameterStore(layout);
    teacher = ParameterStore(layout);
    student.initialize(1);
    teacher.initialize(2);
  }

  /// Uneven on purpose: rank r ends at a fraction that is not a multiple of anything; small units leave some
  /// ranks empty.
  static int64_t split(int64_t padded, int rank, int ranks) {
    return rank == ranks ? padded : std::min<int64_t>(padded, (padded * rank * rank) / (ranks * ranks) + 0);
  }

  OrderedJson shard(const std::string& folder, int rank, int ranks) const {
    const std::string file = "rank_000" + std::to_string(rank) + ".h5";
    OrderedJson ranges = OrderedJson::array();
    Hdf5File h5 = Hdf5File::create(folder + "/" + file);
    for (size_t u = 0; u < layout.units().size(); ++u) {
      const UnitInfo& unit = layout.units()[u];
      const int64_t begin = split(unit.padded, rank, ranks);
      const int64_t end = split(unit.padded, rank + 1, ranks);
      ranges.push_back({begin, end});
      if (begin == end) continue;
      for (const auto& [name, store] : {std::pair("student", &student), std::pair("teacher", &teacher)}) {
        const ConstTensorView values = std::as_const(*store).unit(static_cast<int64_t>(u));
        h5.write(std::string("/") + name + "/" + unit.name, values.rows(begin, end - begin));
      }
    }
    h5.close();
    return {{"file", file},
            {"bytes", file_size(folder + "/" + file)},
            {"crc32c", hex32(crc32c_file(folder + "/" + file))},
            {"ranges", ranges}};
  }

  OrderedJson manifest(const std::string& folder, int64_t step, int ranks) const {
    OrderedJson units = OrderedJson::array();
    for (size_t u = 0; u < layout.units().size(); ++u) {
      OrderedJson parameters = OrderedJson::array();
      for (const ParameterInfo& info : layout.parameters()) {
        if (info.unit != static_cast<int64_t>(u)) continue;
        OrderedJson shape = OrderedJson::array();
        for (int i = 0; i < info.shape.rank(); ++i) shape.push_back(info.shape[i]);
        parameters.push_back({{"name", info.name}, {"shape", shape}, {"offset", info.offset}});
      }
      const UnitInfo& unit = layout.units()[u];
      units.push_back({{"name", unit.name},
                       {"module", unit.module},
                       {"padded", unit.padded},
                       {"parameters", parameters}});
    }
    OrderedJson shards = OrderedJson::array();
    for (int rank = 0; rank < ranks; ++rank) shards.push_back(shard(folder, rank, ranks));
    return {{"schema", 1},
            {"step", step},
            {"samples", step * 64},
            {"ranks", ranks},
            {"model", {{"vit", OrderedJson::parse(vit_config_to_json(config))}}},
            {"stores", {"student", "teacher"}},
            {"units", units},
            {"shards", shards}};
  }

  std::string write(const std::string& run, int64_t step, int ranks,
                    const std::function<void(OrderedJson&)>& change = {}) const {
    std::string number = std::to_string(step);
    const std::string folder = run + "/checkpoints/step_" + std::string(8 - number.size(), '0') + number;
    std::filesystem::create_directories(folder);
    OrderedJson json = manifest(folder, step, ranks);
    if (change) change(json);
    write_file_atomically(folder + "/manifest.json", json.dump(1));
    return folder;
  }
};

bool equal(std::span<const float> a, std::span<const float> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

TEST(CheckpointReader, AnyNumberOfWritersGivesTheSameValues) {
  const Written written;
  for (const int ranks : {1, 2, 5}) {
    const TemporaryFolder run;
    const std::string folder = written.write(run.path(), 40, ranks);
    CheckpointReader reader(read_checkpoint_manifest(folder));
    EXPECT_EQ(find_shard_fault(reader.manifest()), "");
    EXPECT_EQ(reader.manifest().step, 40);
    EXPECT_EQ(reader.manifest().samples, 2560);
    EXPECT_EQ(reader.manifest().ranks, ranks);
    ParameterStore loaded(written.layout);
    reader.read_store("teacher", loaded);
    for (const ParameterInfo& info : written.layout.parameters()) {
      EXPECT_TRUE(equal(loaded.view(info).f32(), written.teacher.view(info).f32())) << info.name;
      EXPECT_TRUE(equal(reader.read_tensor("student", info.name).f32(), written.student.view(info).f32()))
          << info.name;
    }
    // Any range of a unit, as a rank of another run would ask for it.
    const auto unit = written.student.unit(1).f32();
    for (const int64_t begin :
         {int64_t{0}, int64_t{17}, int64_t{9000}, static_cast<int64_t>(unit.size()) - 1}) {
      const int64_t count = std::min<int64_t>(20'000, static_cast<int64_t>(unit.size()) - begin);
      std::vector<float> values(static_cast<size_t>(count), -1.0F);
      reader.read_range("student", 1, begin, values);
      EXPECT_TRUE(equal(values, unit.subspan(static_cast<size_t>(begin), static_cast<size_t>(count))))
          << begin;
    }
    const auto backbone = load_backbone(folder, LoadOptions{Network::student, 0});
    EXPECT_EQ(backbone->config, written.config);
    EXPECT_TRUE(equal(backbone->weights.view("backbone.norm.bias").f32(),
                      written.student.view("backbone.norm.bias").f32()));
    EXPECT_EQ(backbone->sha256, load_backbone(run.path(), LoadOptions{Network::student, 0})->sha256);
    EXPECT_NE(backbone->sha256, load_backbone(run.path())->sha256) << "the teacher is the default";
  }
}

TEST(CheckpointReader, NewestSoundOne) {
  const Written written;
  const TemporaryFolder run;
  EXPECT_EQ(newest_sound_checkpoint(run.path()), "");
  const std::string first = written.write(run.path(), 90, 2);
  const std::string second = written.write(run.path(), 100, 2);
  std::filesystem::create_directories(run.path() +
                                      "/checkpoints/step_00000200");  // killed before its manifest
  std::filesystem::create_directories(run.path() + "/checkpoints/step_x");
  write_file_atomically(run.path() + "/checkpoints/step_x/manifest.json", "{}");
  EXPECT_EQ(complete_checkpoints(run.path()), (std::vector<std::string>{second, first}));
  EXPECT_EQ(newest_sound_checkpoint(run.path()), second);
  // One flipped byte in the newest shard.
  std::string bytes = read_text(second + "/rank_0001.h5");
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write_file_atomically(second + "/rank_0001.h5", bytes);
  const std::string fault = find_shard_fault(read_checkpoint_manifest(second));
  EXPECT_NE(fault.find("rank_0001.h5: CRC32C"), std::string::npos) << fault;
  EXPECT_EQ(newest_sound_checkpoint(run.path()), first);
  EXPECT_THROW((void)load_backbone(second), DataError);
  EXPECT_NO_THROW((void)load_backbone(run.path()));
  write_file_atomically(first + "/rank_0000.h5", "short");
  EXPECT_NE(find_shard_fault(read_checkpoint_manifest(first)).find("5 bytes, the manifest says"),
            std::string::npos);
  std::filesystem::remove(first + "/rank_0000.h5");
  EXPECT_NE(find_shard_fault(read_checkpoint_manifest(first)).find("missing"), std::string::npos);
  EXPECT_EQ(newest_sound_checkpoint(run.path()), "");
  EXPECT_THROW((void)load_backbone(run.path()), MissingInputError);
}

TEST(CheckpointReader, BrokenManifests) {
  const Written written;
  const TemporaryFolder run;
  const auto refusal = [&](const std::function<void(OrderedJson&)>& change) {
    const std::string folder = written.write(run.path(), 10, 2, change);
    try {
      (void)read_checkpoint_manifest(folder);
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(folder + "/manifest.json"), std::string::npos) << error.what();
      return std::string(error.what());
    }
    ADD_FAILURE() << "the manifest was accepted";
    return std::string();
  };
  const auto expect = [&](const std::string& part, const std::function<void(OrderedJson&)>& change) {
    const std::string message = refusal(change);
    EXPECT_NE(message.find(part), std::string::npos) << message << "\n  lacks: " << part;
  };
  expect("schema 2", [](OrderedJson& m) { m["schema"] = 2; });
  expect("no field \"step\"", [](OrderedJson& m) { m.erase("step"); });
  expect("the step is -3", [](OrderedJson& m) { m["step"] = -3; });
  expect("not an integer", [](OrderedJson& m) { m["samples"] = "many"; });
  expect("2 shards of 3 ranks", [](OrderedJson& m) { m["ranks"] = 3; });
  expect("\"units\" is not a list", [](OrderedJson& m) { m["units"] = 1; });
  expect("ends at", [](OrderedJson& m) { m["units"][0]["parameters"][0]["offset"] = 1'000'000; });
  expect("is too large", [](OrderedJson& m) {
    m["units"][0]["parameters"][0]["shape"] = {1 << 30, 1 << 30};
  });
  expect("more than four dimensions", [](OrderedJson& m) {
    m["units"][0]["parameters"][0]["shape"] = {1, 1, 1, 1, 1};
  });
  expect("not a plain name", [](OrderedJson& m) { m["shards"][0]["file"] = "../rank_0000.h5"; });
  expect("ranges for", [](OrderedJson& m) { m["shards"][0]["ranges"].erase(0); });
  expect("do not cover", [](OrderedJson& m) { m["shards"][1]["ranges"][1][0] = 0; });
  expect("is not a pair", [](OrderedJson& m) { m["shards"][1]["ranges"][1] = 7; });
  expect("cover", [](OrderedJson& m) { m["shards"][1]["ranges"][1] = {0, 0}; });
  const std::string folder = written.write(run.path(), 10, 1);
  write_file_atomically(folder + "/manifest.json", read_text(folder + "/manifest.json").substr(0, 500));
  EXPECT_THROW((void)read_checkpoint_manifest(folder), DataError);
  std::filesystem::remove(folder + "/manifest.json");
  EXPECT_THROW((void)read_checkpoint_manifest(folder), MissingInputError);
}

TEST(CheckpointReader, AFileHoldsAWholeCheckpoint) {
  const Written written;
  const TemporaryFolder run;
  const std::string folder = written.write(run.path(), 10, 1), path = run.path() + "/checkpoint.h5";
  const OrderedJson whole = written.manifest(folder, 10, 1);
  const auto put = [&](const std::vector<std::string>& manifest) {
    commit_hdf5(path, [&](Hdf5File& out) {
      for (size_t u = 0; u < written.layout.units().size(); ++u)
        for (const auto& [name, store] :
             {std::pair("student", &written.student), std::pair("teacher", &written.teacher)})
          out.write(std::string("/") + name + "/" + written.layout.units()[u].name,
                    store->unit(static_cast<int64_t>(u)));
      if (!manifest.empty()) out.write_strings(kManifestDataset, manifest);
    });
  };
  put({whole.dump(1)});
  EXPECT_TRUE(is_checkpoint(path));
  CheckpointReader reader(read_checkpoint_manifest(path));
  EXPECT_EQ(find_shard_fault(reader.manifest()), "");
  for (const ParameterInfo& info : written.layout.parameters())
    EXPECT_TRUE(equal(reader.read_tensor("student", info.name).f32(), written.student.view(info).f32()));
  EXPECT_EQ(load_backbone(path, {})->config, written.config);

  const auto expect = [&](const std::string& what, const std::vector<std::string>& manifest) {
    put(manifest);
    try {
      (void)read_checkpoint_manifest(path);
      ADD_FAILURE() << "accepted: " << what;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  };
  expect("no dataset /manifest", {});
  EXPECT_FALSE(is_checkpoint(path));
  EXPECT_THROW((void)load_backbone(path, {}), DataError);
  expect("not one string", {whole.dump(1), whole.dump(1)});
  expect("not a JSON object", {"{"});
  OrderedJson two = whole;
  two["shards"].push_back(two["shards"][0]);
  two["ranks"] = 2;
  two["shards"][1]["ranges"] = OrderedJson::array();
  for (const UnitInfo& unit : written.layout.units())
    two["shards"][1]["ranges"].push_back({unit.padded, unit.padded});
  expect("2 shards in one file", {two.dump(1)});

  put({whole.dump(1)});
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(5000);
  file.put('\x5a');
  file.close();
  EXPECT_NE(find_shard_fault(read_checkpoint_manifest(path)), "");
  EXPECT_THROW((void)load_backbone(path, {}), DataError);
}

TEST(CheckpointReader, WrongContents) {
  const Written written;
  const TemporaryFolder run;
  CheckpointReader reader(read_checkpoint_manifest(written.write(run.path(), 10, 2)));
  EXPECT_THROW((void)reader.read_tensor("adam_m", "backbone.norm.bias"), DataError);
  EXPECT_THROW((void)reader.read_tensor("student", "backbone.blocks.2.norm1.bias"), DataError);
  VitConfig wider = written.config;
  wider.hidden = 512;
  ParameterLayout layout;
  append_vit_layout(layout, wider);
  ParameterStore store(layout);
  try {
    reader.read_store("student", store);
    FAIL() << "a store of another shape was accepted";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what())
                  .find("backbone.blocks.0.mlp.fc1.weight is [256, 64], the model wants [512, 64]"),
              std::string::npos)
        << error.what();
  }
  // A shard whose dataset is shorter than its range.
  const std::string folder = written.write(run.path(), 20, 1);
  {
    Hdf5File h5 = Hdf5File::create(folder + "/rank_0000.h5");
    h5.write("/student/backbone.norm", written.student.unit(3).rows(0, 16));
    h5.close();
  }
  CheckpointReader damaged(read_checkpoint_manifest(folder));
  EXPECT_THROW((void)damaged.read_tensor("student", "backbone.norm.bias"), DataError);
  EXPECT_THROW((void)damaged.read_tensor("student", "backbone.cls_token"), DataError);
}

}  // namespace
}  // namespace dino
