// SPDX-License-Identifier: Apache-2.0
#include "vector_commands.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/json.hpp"
#include "storage/array_file.hpp"
#include "storage/hdf5.hpp"
#include "vectors/components.hpp"
#include "vectors/synthetic.hpp"

namespace dino {
namespace {

class VectorCommands : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("dino_vector_commands_" + std::to_string(::getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    rows_ = synthetic::unit_rows({.rows = 800, .width = 64, .sources = 40, .copies = 3}, 41);
    write_npy(path("rows.npy"), synthetic::view(rows_, 64));
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }

  /// The command's result.
  nlohmann::json run(const Command& command, std::vector<std::string> words) {
    OptionTable table;
    CommonOptions common;
    const auto body = command.make(table);
    table.bind(common_options(), common);
    words.insert(words.end(), {"--output", path("out"), "--json"});
    table.parse(words);
    Communicator self = Communicator::self();
    CommandContext context{self, common, "dino-curate", command.name, table.to_ini(), {}};
    EXPECT_EQ(body(context), ExitCode::done);
    return context.result.empty() ? nlohmann::json{} : nlohmann::json::parse(context.result);
  }
  std::filesystem::path folder_;
  std::vector<float> rows_;
};

TEST_F(VectorCommands, DedupWritesTheExhaustiveEdges) {
  for (const std::string rule : {"star", "components"}) {
    const auto json =
        run(dedup_command(), {"--embeddings", path("rows.npy"), "--threshold", "0.95", "--rule", rule});
    auto rows = rows_;
    normalize_rows(rows.data(), 800, 64);
    const auto edges = brute_force_join(synthetic::view(rows, 64), 0.95);
    ASSERT_GT(edges.size(), 100u);
    const auto groups = group_rows(800, edges, rule == "star" ? GroupRule::star : GroupRule::components, {});
    EXPECT_EQ(json["points"], 800);
    EXPECT_EQ(json["edges"], edges.size());
    EXPECT_EQ(json["groups"], groups.count);
    EXPECT_EQ(json["kept"], groups.count);
    for (const char* phase : {"train", "assign", "join", "components"})
      EXPECT_TRUE(json["phases"][phase].is_number()) << phase;
    EXPECT_GT(json["seconds"], 0);
    EXPECT_GT(json["peak_rss_bytes"], 0);
    const auto file = Hdf5File::open(path("out/dedup.h5"));
    const Tensor source = file.read("/edges/source", DType::i64),
                 target = file.read("/edges/target", DType::i64);
    const Tensor similarity = file.read("/edges/similarity", DType::f32);
    ASSERT_EQ(source.numel(), static_cast<int64_t>(edges.size()));
    for (size_t i = 0; i < edges.size(); ++i) {
      ASSERT_EQ(source.as<int64_t>()[i], edges[i].source);
      ASSERT_EQ(target.as<int64_t>()[i], edges[i].target);
      ASSERT_EQ(similarity.as<float>()[i], edges[i].similarity);
    }
    const Tensor group = file.read("/group", DType::i64), keep = file.read("/keep", DType::u8);
    EXPECT_TRUE(std::equal(groups.group.begin(), groups.group.end(), group.as<int64_t>()));
    EXPECT_TRUE(std::equal(groups.keep.begin(), groups.keep.end(), keep.as<uint8_t>()));
  }
}

TEST_F(VectorCommands, ClusterThenBalance) {
  const auto json = run(cluster_command(), {"--embeddings", path("rows.npy"), "--levels", "40,8",
                                            "--resample", "2", "--iterations", "5"});
  EXPECT_EQ(json["points"], 800);
  ASSERT_EQ(json["levels"].size(), 2u);
  {
    const auto file = Hdf5File::open(path("out/clusters.h5"));
    EXPECT_EQ(file.info("/level1/centroids").shape, (Shape{40, 64}));
    EXPECT_EQ(file.info("/level1/assignment").shape, (Shape{800}));
    EXPECT_EQ(file.info("/level2/centroids").shape, (Shape{8, 64}));
    EXPECT_EQ(file.info("/level2/assignment").shape, (Shape{40}));
    EXPECT_GT(file.attribute_number("/level1", "inertia"), 0);
    EXPECT_GE(file.attribute_number("/level2", "iterations"), 1);
  }
  for (const std::string strategy : {"random", "closest"}) {
    const auto balanced = run(balance_command(), {"--clusters", path("out/clusters.h5"), "--target", "123",
                                                  "--strategy", strategy});
    EXPECT_EQ(balanced["selected"], 123);
    const Tensor selected = Hdf5File::open(path("out/selection.h5")).read("/selected", DType::i64);
    ASSERT_EQ(selected.numel(), 123);
    EXPECT_TRUE(std::is_sorted(selected.as<int64_t>(), selected.as<int64_t>() + 123));
  }
  EXPECT_THROW((void)run(balance_command(), {"--clusters", path("out/clusters.h5"), "--target", "801"}),
               DataError);
}

TEST_F(VectorCommands, BadInputsAreNamed) {
  EXPECT_THROW((void)run(dedup_command(), {"--embeddings", path("absent.npy")}), MissingInputError);
  EXPECT_THROW((void)run(dedup_command(), {"--embeddings", path("rows.npy"), "--rule", "ring"}), UsageError);
  EXPECT_THROW((void)run(dedup_command(), {"--embeddings", path("rows.npy"), "--threshold", "1.5"}),
               UsageError);
  EXPECT_THROW((void)run(dedup_command(), {}), UsageError);
  EXPECT_THROW((void)run(cluster_command(), {"--embeddings", path("rows.npy"), "--levels", "10,20"}),
               UsageError);
  write_npy(path("empty.npy"), Tensor(Shape{0, 4}));
  EXPECT_THROW((void)run(dedup_command(), {"--embeddings", path("empty.npy")}), DataError);
  // Cluster files that are something else, or broken.
  EXPECT_THROW((void)run(balance_command(), {"--clusters", path("absent.h5"), "--target", "1"}),
               MissingInputError);
  const auto write = [&](int64_t cluster, bool centroids) {
    Hdf5File file = Hdf5File::create(path("bad.h5"));
    Tensor assignment(Shape{3}, DType::i64);
    assignment.as<int64_t>()[1] = cluster;
    file.write("/level1/assignment", assignment);
    if (centroids) file.write("/level1/centroids", Tensor(Shape{2, 4}));
    file.close();
  };
  const std::vector<std::string> words{"--clusters", path("bad.h5"), "--target", "1"};
  write(1, true);
  EXPECT_EQ(run(balance_command(), words)["selected"], 1);
  write(2, true);
  EXPECT_THROW((void)run(balance_command(), words), DataError);
  write(1, false);
  EXPECT_THROW((void)run(balance_command(), words), DataError);
  Hdf5File::create(path("bad.h5")).close();
  EXPECT_THROW((void)run(balance_command(), words), DataError);
}

}  // namespace
}  // namespace dino
