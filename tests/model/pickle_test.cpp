// SPDX-License-Identifier: Apache-2.0
// Pickles that hold more than tensors, other protocols and strides, the format before PyTorch 1.6, and
// pickles that ask for more memory than they are worth.
#include "model/pickle.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/timing.hpp"
#include "model/temporary_folder.hpp"
#include "model/weights_writer.hpp"

namespace dino {
namespace {

class PickledWeights : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
  std::unique_ptr<Backbone> backbone_ = random_backbone(vit_preset("vit_micro"), 1);
  NamedValues named_ = tensors_of(*backbone_);
  const std::string path_ = folder_.path() + "/x.pth";
};

using Writer = std::function<void(PickleWriter&)>;

/// Values as torch.save meets them beside tensors; what each puts on the stack is one object.
std::vector<std::pair<const char*, Writer>> extras() {
  return {
      {"argparse.Namespace",
       [](PickleWriter& p) {
         p.global("argparse", "Namespace").raw(")\x81}(").string("arch").string("vit_small").string("epochs");
         p.integer(300).raw("ub");
       }},
      {"numpy scalar",
       [](PickleWriter& p) {
         p.global("numpy.core.multiarray", "scalar").global("numpy", "dtype");
         p.raw("(").string("f8").raw("\x89\x88tR(").integer(3).string("<").raw("NNN").integer(-1).integer(-1);
         p.integer(0).raw("tb").global("_codecs", "encode").raw("(").string("abcd").string("latin1");
         p.raw("tR\x86R");
       }},
      {"random state",
       [](PickleWriter& p) {
         p.raw("(").string("MT19937").global("numpy.core.multiarray", "_reconstruct").raw("(");
         p.global("numpy", "ndarray")
             .raw(std::string("K\x00\x85", 3))
             .raw(
                 "C\x01"
                 "b")
             .raw("tR(K\x01K\x02\x85N\x89");
         p.raw("B" + bytes_of(uint32_t{8}) + "12345678").raw("tb").integer(624).integer(0);
         p.raw("G" + std::string(8, '\0') + "t");
       }},
      {"enum and path",
       [](PickleWriter& p) {
         p.raw("](").global("some.module", "Colour").integer(1).raw("\x85R").global("pathlib", "PosixPath");
         p.raw("(").string("/").string("data").raw("tRe");
       }},
      {"torch.Size, dtype and device",
       [](PickleWriter& p) {
         p.raw("(").global("torch", "Size").raw("K\x02K\x03\x86\x85R").global("torch", "float32");
         p.global("torch", "device").string("cuda").raw("\x85Rt");
       }},
      {"defaultdict and set",
       [](PickleWriter& p) {
         p.raw("](").global("collections", "defaultdict").global("builtins", "list").raw("\x85R");
         p.string("a").raw("]s\x8f(").integer(4).raw("\x90(").integer(5).raw(
             "\x91"
             "e");
       }},
      {"large integers and bytes",
       [](PickleWriter& p) {
         p.raw("](\x8a\x0c" + std::string(12, '\x7f') + "\x8b" + bytes_of(uint32_t{9}) +
               std::string(9, '\x01'));
         p.raw("\x8e" + bytes_of(uint64_t{3}) + "abc\x96" + bytes_of(uint64_t{2}) + "xye");
       }},
      {"an object that holds itself",
       [](PickleWriter& p) {
         p.global("my.trainer", "Trainer")
             .raw(")\x81r" + bytes_of(4112) + "}")
             .string("self")
             .raw("j" + bytes_of(4112) + "sb");
       }},
      {"keyword construction and slots",
       [](PickleWriter& p) {
         p.global("a.b", "C").raw(")}").string("k").integer(1).raw("s\x92N}").string("slot").integer(2);
         p.raw(
             "s\x86"
             "b");
       }},
      {"a call that would do harm", [](PickleWriter& p) {
         p.global("os", "system").string("touch /tmp/dino_was_executed").raw("\x85R");
       }}};
}

TEST_F(PickledWeights, ExtrasArePassedOver) {
  for (const auto& [what, extra] : extras()) {
    for (const bool before : {true, false}) {
      PthWriter file;
      file.pickle.raw("}(");
      if (before) extra(file.pickle.string("extra"));
      file.pickle.string("state_dict");
      file.dict(named_);
      if (!before) extra(file.pickle.string("extra"));
      file.pickle.raw("u");
      write(path_, file.finish());
      EXPECT_EQ(load_backbone(path_)->sha256, backbone_->sha256) << what;
      write(path_, file.finish_legacy());
      EXPECT_EQ(load_backbone(path_)->sha256, backbone_->sha256) << what << ", before 1.6";
    }
  }
  EXPECT_FALSE(std::filesystem::exists("/tmp/dino_was_executed"));
}

TEST_F(PickledWeights, FactsAndClasses) {
  PthWriter file;
  file.pickle.raw("}(").string("args");
  extras()[0].second(file.pickle);
  file.pickle.string("hyper_parameters").raw("}").string("num_heads").integer(4).raw("s");
  file.pickle.string("model");
  file.dict(named_).pickle.raw("u");
  const std::string bytes = file.pickle.finish();
  const PickledFile read =
      read_pickled_file({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "x");
  EXPECT_EQ(read.facts.at("args.arch"), "vit_small");
  EXPECT_EQ(read.facts.at("args.epochs"), "300");
  EXPECT_EQ(read.opaque.at("args"), "argparse.Namespace");
  EXPECT_EQ(read.classes, std::set<std::string>{"argparse.Namespace"});
  EXPECT_EQ(read.tensors.size(), named_.size());
  write(path_, file.finish());
  EXPECT_EQ(load_backbone(path_)->config.heads, 4);
}

/// Protocol 0, as text.
TEST_F(PickledWeights, OldestProtocol) {
  std::string pickle = "(dp0\n";
  ZipWriter zip;
  int key = 0;
  for (const auto& [name, values] : named_) {
    const std::string k = std::to_string(key++);
    const auto numbers = [](const std::vector<int64_t>& list) {
      std::string text = "(";
      for (const int64_t n : list) text += "I" + std::to_string(n) + "\n";
      return text + "t";
    };
    pickle +=
        "S'" + name + "'\np" + std::to_string(key) + "\nctorch._utils\n_rebuild_tensor_v2\n((S'storage'\n";
    pickle +=
        "ctorch\nFloatStorage\nV" + k + "\nS'cpu'\nL" + std::to_string(values.data.size()) + "L\ntQI0\n";
    pickle += numbers(values.shape) + numbers(row_major(values.shape)) + "I00\n(lF0.5\natRs";
    zip.add("a/data/" + k,
            std::string(reinterpret_cast<const char*>(values.data.data()), 4 * values.data.size()));
  }
  zip.add("a/data.pkl", pickle + ".");
  write(path_, zip.finish(false));
  EXPECT_EQ(load_backbone(path_)->sha256, backbone_->sha256);
}

TEST_F(PickledWeights, Strides) {
  // The values in another order in memory, with the strides that say so.
  const auto stored = [](const Values& values, const std::vector<size_t>& order) {
    Values result = values;
    std::vector<int64_t> stride(values.shape.size());
    int64_t step = 1;
    for (size_t i = order.size(); i-- > 0; step *= values.shape[order[i]]) stride[order[i]] = step;
    const std::vector<int64_t> plain = row_major(values.shape);
    for (size_t at = 0; at < values.data.size(); ++at) {
      int64_t to = 0;
      for (size_t i = 0; i < order.size(); ++i)
        to += static_cast<int64_t>(at) / plain[i] % values.shape[i] * stride[i];
      result.data[static_cast<size_t>(to)] = values.data[at];
    }
    return std::pair(result, stride);
  };
  PthWriter file;
  file.pickle.global("collections", "OrderedDict").raw(")R(");
  for (const auto& [name, values] : named_) {
    file.pickle.string(name);
    std::vector<size_t> order(values.shape.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    if (name == "patch_embed.proj.weight") order = {0, 2, 3, 1};  // channels_last
    if (name.ends_with("fc1.weight") || name == "pos_embed") std::reverse(order.begin(), order.end());
    const auto [moved, stride] = stored(values, order);
    file.tensor(moved, stride);
  }
  file.pickle.raw("u");
  for (const bool legacy : {false, true}) {
    write(path_, legacy ? file.finish_legacy() : file.finish());
    EXPECT_EQ(load_backbone(path_)->sha256, backbone_->sha256);
  }
}

TEST_F(PickledWeights, LegacyFiles) {
  PthWriter file;
  file.pickle.raw("}").string("teacher");
  file.dict(prefixed(named_, "backbone.")).pickle.raw("s");
  const std::string whole = file.finish_legacy();
  for (size_t size = 0; size < whole.size(); size += 1 + whole.size() / 53) {
    write(path_, whole.substr(0, size));
    (void)refusal<DataError>(path_);
  }
  write(path_, whole);
  EXPECT_EQ(load_backbone(path_)->sha256, backbone_->sha256);
  const auto changed = [&](const std::string& from, const std::string& to) {
    write(path_, with(whole, from, to));
    return refusal<DataError>(path_);
  };
  expect_contains(changed("\x80\x02M\xe9\x03.", "\x80\x02M\xe8\x03."), "version 1001");
  expect_contains(changed("little_endian\x88", "little_endian\x89"), "not little endian");
  // PyTorch 0.1 wrote a tar.
  write(path_, "tensors" + std::string(600, '\0'));
  expect_contains(refusal<DataError>(path_), "saved again");
}

TEST_F(PickledWeights, ClassesInPlaceOfTensors) {
  const auto save = [&](const Writer& patch) {
    PthWriter file;
    file.pickle.raw("}(").string("model.patch_embed.proj.weight");
    patch(file.pickle);
    file.pickle.raw("u");
    write(path_, file.finish());
    return refusal<DataError>(path_);
  };
  const std::string shard = save([](PickleWriter& p) {
    p.global("torch._tensor", "_rebuild_from_type_v2")
        .raw("(")
        .global("torch._utils", "_rebuild_wrapper_subclass");
    p.global("torch.distributed.tensor", "DTensor").raw(")}tR");
  });
  expect_contains(shard, "is a torch.distributed.tensor.DTensor");
  expect_contains(shard, "save a full state dict");
  expect_contains(save([](PickleWriter& p) {
                    p.global("torch.distributed._shard.sharded_tensor.api", "ShardedTensor").raw(")\x81}b");
                  }),
                  "ShardedTensor");
  expect_contains(save([](PickleWriter& p) { p.global("numpy.core.multiarray", "_reconstruct").raw(")R"); }),
                  "numpy.ndarray");
  expect_contains(save([](PickleWriter& p) { p.global("torch._utils", "_rebuild_qtensor").raw(")R"); }),
                  "quantised values");
}

/// Ends in an error of ours with little memory and time.
void expect_refused(const char* what, const std::string& pickle) {
  const int64_t before = peak_rss_bytes();
  const std::vector<uint8_t> bytes(pickle.begin(), pickle.end());
  EXPECT_THROW((void)read_pickled_file(bytes, "bomb.pth"), DataError) << what;
  EXPECT_LT(peak_rss_bytes() - before, int64_t{400} << 20) << what;
}

TEST(PickleBombs, EndInAnError) {
  const std::string start = "\x80\x02";
  const auto repeat = [](const std::string& text, int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += text;
    return all;
  };
  constexpr int million = 1'000'000;
  expect_refused("empty tuples", start + std::string(16 * million, ')') + ".");
  expect_refused("marks", start + std::string(16 * million, '(') + ".");
  expect_refused("copies of one value", start + "N" + std::string(30 * million, '2') + ".");
  expect_refused(
      "memo", start + "N" + [] {
        std::string all;
        for (uint32_t i = 0; i < 4 * million; ++i) all += "r" + bytes_of(i);
        return all;
      }() + ".");
  std::string doubling = start + "]q" + std::string(1, '\0');  // a list that is appended to itself
  expect_refused("lists of one value", doubling + repeat("(" + std::string(1000, 'N') + "e", 30000) + ".");
  // Every dict holds the one before it under eight names: 8^60 paths from 500 values.
  std::string dag = start + "}q" + std::string(1, '\0');
  for (int level = 1; level < 60; ++level) {
    dag += "}(";
    for (const char key : std::string("abcdefgh"))
      dag += std::string("U\x01") + key + "h" + static_cast<char>(level - 1);
    dag += std::string("uq") + static_cast<char>(level);
  }
  std::string only = dag + "1.";
  expect_refused("paths without number", start + "(" + dag.substr(2) + "t.");
  // One long key at every level.
  std::string deep = start;
  for (int level = 0; level < 60; ++level)
    deep += "}T" + bytes_of(uint32_t{100'000}) + std::string(100'000, 'k');
  expect_refused("long names", deep + "N" + std::string(60, 's') + ".");
  expect_refused("a text of 4 GB", start + "X\xff\xff\xff\xff" + "abc.");
  expect_refused("a text of 2^63 bytes", start + "\x8d" + std::string(8, '\x7f') + "abc.");
}

TEST_F(PickledWeights, ExpandedTensorsAskForNoMemory) {
  // Strides of zero: 64 values that claim to be 2^34.
  PthWriter file;
  NamedValues rest = named_;
  rest.erase("pos_embed");
  file.dict(rest).pickle.raw("(").string("pos_embed");
  file.pickle.tensor("0", 64, {1, 1 + 16384 * 16384, 64}, {0, 0, 1}).raw("u");
  write(path_, file.finish());
  expect_contains(refusal<DataError>(path_), "claim more values than the file has bytes");
}

}  // namespace
}  // namespace dino
