// SPDX-License-Identifier: Apache-2.0
// Data references on thousands of damaged copies of good ones.
#include "mutation.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "datasets/dataset_builder.hpp"
#include "storage/files.hpp"
#include "storage/scratch.hpp"
#include "storage/tar.hpp"

namespace dino {
namespace {

using testing::MutationPlan;
using testing::run_file_mutations;
using testing::Scratch;

std::string written(const std::function<void(const std::string& path)>& write) {
  const Scratch scratch;
  write(scratch / "x");
  return read_text(scratch / "x");
}

/// Every block that names itself a header gets a checksum that fits it.
void repair_tar(std::string& bytes) {
  for (size_t at = 0; at + 512 <= bytes.size(); at += 512) {
    if (bytes.compare(at + 257, 5, "ustar") != 0) continue;
    bytes.replace(at + 148, 8, 8, ' ');
    int sum = 0;
    for (size_t i = 0; i < 512; ++i) sum += static_cast<unsigned char>(bytes[at + i]);
    char text[16];
    std::snprintf(text, sizeof text, "%06o", static_cast<unsigned>(sum) & 0777777);
    bytes.replace(at + 148, 7, text, 7);
  }
}

TEST(Mutation, Tar) {
  const std::string text(300, 't');
  const auto tar_of = [&](const std::vector<std::string>& names) {
    return written([&](const std::string& path) {
      TarWriter tar(path);
      for (const auto& name : names)
        tar.add(name, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
      tar.close();
    });
  };
  MutationPlan plan;
  plan.good = {tar_of({"a/1.jpg", "a/1.cls", std::string(200, 'n') + ".jpg"}),
               tar_of({"b.png", "b.json", "c.png"}),
               tar_of({"v1.0.png", "v1.0.cls", std::string(5000, 'l') + ".png"})};
  plan.stream = 3;
  plan.repair = repair_tar;
  plan.refused = 0.01;  // a tar of which one image can be read is used, and its faults are told
  const Scratch scratch;
  run_file_mutations(plan, scratch / "x.tar", [](const std::string& path) {
    const Dataset dataset = open_dataset(path);
    for (const Record& record : dataset.records) (void)read_record(record);
    for (const Sidecar& sidecar : dataset.sidecars)
      (void)read_bytes(sidecar.path, sidecar.offset, sidecar.size);
  });
}

TEST(Mutation, CompressedTar) {
  const Scratch scratch;
  // In memory, as every case unpacks and syncs a copy.
  const std::string shared = "/dev/shm/dino_test_" + std::to_string(::getpid());
  ::setenv("DINO_DATA", (std::filesystem::is_directory("/dev/shm") ? shared : scratch / "cache").c_str(), 1);
  const std::string png = "\x89PNG\r\n\x1a\n" + std::string(3000, 'p');
  MutationPlan plan;
  for (const std::string name : {"a", "b.2"}) {
    const std::string path = scratch / "x.tar";
    TarWriter tar(path);
    for (const char* end : {".png", ".json"})
      tar.add(name + end, {reinterpret_cast<const uint8_t*>(png.data()), png.size()});
    tar.close();
    if (std::system(("gzip -nkf " + path).c_str()) != 0) GTEST_SKIP() << "no gzip";
    plan.good.push_back(read_text(path + ".gz"));
  }
  plan.stream = 7;
  run_file_mutations(plan, scratch / "x.tar.gz", [&](const std::string& path) {
    std::filesystem::remove_all(data_dir() + "/unpacked");
    const Dataset dataset = open_dataset(path);
    for (const Record& record : dataset.records) (void)read_record(record);
  });
  std::filesystem::remove_all(shared);
  ::unsetenv("DINO_DATA");
}

TEST(Mutation, Manifest) {
  const Scratch scratch;
  MutationPlan plan;
  plan.good = {
      R"({"schema":1,"version":"0.1.0","records":3,"kept":2,"dropped":{"blur":1},"shards":[{"path":"shards/000000.tar","bytes":2048,"records":2}]})"};
  plan.stream = 5;
  const std::string tar = written([](const std::string& path) {
    const std::vector<uint8_t> text(300, 't');
    TarWriter writer(path);
    writer.add("a/1.jpg", text);
    writer.close();
  });
  scratch.put("shards/000000.tar", tar);
  const std::string folder = scratch.folder();
  run_file_mutations(plan, scratch / "manifest.json", [&](const std::string&) {
    try {
      (void)open_dataset(folder);
    } catch (const Error& error) {
      // The folder stands for its manifest in a message.
      const std::string what = error.what();
      if (what.find(folder) == std::string::npos && what.find("manifest.json") == std::string::npos) throw;
      throw DataError(std::string(error.what()) + " " + folder + "/manifest.json");
    }
  });
}

TEST(Mutation, DataSetDefinition) {
  const Scratch scratch;
  for (int i = 0; i < 8; ++i) scratch.put("data/packages/zoo/img/cat/a-" + std::to_string(i) + ".png", "x");
  ::setenv("DINO_SHARE", (scratch / "share").c_str(), 1);
  ::setenv("DINO_DATA", (scratch / "data").c_str(), 1);
  scratch.put("share/datasets/zoo.cfg", "");
  MutationPlan plan;
  plan.good = {
      "# comment\n[zoo]\nroot = zoo:img\nlabel = ^([^/]+)/\ngroup = ^(.*/[a-z]+)-\nexclude = /skip\n"
      "rename = dog -> hound\nmin-class = 1\nval = 0.1\ntest = 0.25\n",
      "[zoo]\nroot = zoo:img\nlabel = ^([^/]+)/\ninclude = a-[0-9]+\n"};
  plan.stream = 6;
  run_file_mutations(plan, scratch / "share/datasets/zoo.cfg", [&](const std::string& path) {
    try {
      (void)open_dataset("zoo");
    } catch (const Error& error) {
      // "No image found" is about the name.
      if (std::string(error.what()).find("zoo") == std::string::npos) throw;
      throw DataError(std::string(error.what()) + " " + path);
    }
  });
  ::unsetenv("DINO_SHARE");
  ::unsetenv("DINO_DATA");
}

}  // namespace
}  // namespace dino
