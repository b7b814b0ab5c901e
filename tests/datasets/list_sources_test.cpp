// SPDX-License-Identifier: Apache-2.0
// Lists of records that are kept from one start to the next.
#include "datasets/list_sources.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/error.hpp"
#include "datasets/on_all_ranks.hpp"
#include "datasets/record_list_writer.hpp"
#include "datasets/samples.hpp"
#include "storage/scratch.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::kJpeg;
using testing::put_tar;
using testing::Scratch;

/// Until what was made is old enough to be told from what changes next.
void let_it_age() {
  std::this_thread::sleep_for(std::chrono::milliseconds(2200));
}

TEST(ListSources, ALineAndBack) {
  for (const ListSource& source :
       {ListSource{" /data/a b\n.tar", 5, 1'700'000'000'123'456'789, 2}, ListSource{"none"}})
    EXPECT_EQ(source_of(text_of(source)), source);
  for (const char* text : {"", "1 2 3", "1 2 x path", "1 2 3path"})
    expect_error<DataError>([&] { static_cast<void>(source_of(text)); }, "not a source of a list");
}

TEST(ListSources, WhatChangedAMomentAgoIsUncertain) {
  const Scratch scratch;
  ListSources sources;
  sources.add(scratch / "none");
  EXPECT_EQ(sources.texts().size(), 1U);
  sources.add_own(scratch.put("own", "x"));
  EXPECT_EQ(sources.texts().size(), 2U);
  sources.add(scratch.put("young", "x"));
  EXPECT_TRUE(sources.texts().empty());
}

/// Two tars, and at `path` a list that says it was made of them, but has one record that no listing gives.
class KeptList : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(scratch_ / "t/below");
    put_tar(scratch_ / "t/a.tar", {{"cat/1.jpg", kJpeg}, {"dog/2.jpg", kJpeg}});
    put_tar(scratch_ / "t/below/b.tar", {{"dog/3.jpg", kJpeg}});
    put_tar(scratch_ / "c.tar", {{"4.jpg", kJpeg}});
    let_it_age();
    const RecordList list = list_images(references_, "", path_, Communicator::self());
    EXPECT_EQ(list.count(), 4);
    for (const ListSource& source : list.sources()) sources_.push_back(source.path);
    forge();
  }
  void forge() {
    RecordListWriter writer("");
    for (const std::string& source : sources_) writer.sources().add_own(source);
    Record record;
    record.key = "forged";
    record.path = scratch_ / "c.tar";
    writer.add(record);
    for (const std::string& reference : references_) writer.add_reference(reference, {}, {});
    writer.finish().commit_to(path_);
  }
  [[nodiscard]] bool is_kept(const std::vector<std::string>& references) const {
    return list_images(references, "", path_, Communicator::self()).at(0).key == "forged";
  }
  /// Kept before the change, not after it.
  template <class Change>
  void expect_seen(const char* what, const Change& change) {
    SCOPED_TRACE(what);
    forge();
    EXPECT_TRUE(is_kept(references_));
    change();
    EXPECT_FALSE(is_kept(references_));
  }

  Scratch scratch_;
  std::string path_ = scratch_ / "index";
  std::vector<std::string> references_ = {scratch_ / "t", scratch_ / "c.tar"};
  std::vector<std::string> sources_;
};

TEST_F(KeptList, IsThatOfTheSameReferencesAlone) {
  EXPECT_TRUE(is_kept(references_));
  EXPECT_FALSE(is_kept({references_[1], references_[0]}));
  EXPECT_FALSE(is_kept({references_[0]}));
  EXPECT_FALSE(is_kept({references_[0], references_[1], references_[1]}));
  EXPECT_EQ(list_images(references_, "", scratch_ / "none", Communicator::self()).count(), 4);
  for (const char* name : {"t", "t/below", "t/a.tar", "t/below/b.tar", "t/classes.txt", "c.tar"})
    EXPECT_NE(std::find(sources_.begin(), sources_.end(), scratch_ / name), sources_.end()) << name;
}

TEST_F(KeptList, EndsWithItsSources) {
  const std::string a = scratch_ / "t/a.tar", b = scratch_ / "t/below/b.tar";
  expect_seen("longer", [&] { std::ofstream(a, std::ios::app) << std::string(512, '\0'); });
  expect_seen("written again", [&] { std::fstream(a, std::ios::in | std::ios::out) << 'c'; });
  expect_seen("the old time on it", [&] {
    const ListSource before = look_at(a);
    std::fstream(a, std::ios::in | std::ios::out) << 'd';
    const timespec old{before.modified / 1'000'000'000, before.modified % 1'000'000'000};
    const std::array<timespec, 2> times{old, old};
    ASSERT_EQ(::utimensat(AT_FDCWD, a.c_str(), times.data(), 0), 0);
    EXPECT_EQ(look_at(a).modified, before.modified);
  });
  expect_seen("rights", [&] { ::chmod(b.c_str(), 0600); });
  expect_seen("a new file", [&] { scratch_.put("t/below/z.jpg", kJpeg); });
  expect_seen("names of classes", [&] { scratch_.put("t/classes.txt", "a\n"); });
  expect_seen("gone", [&] { std::filesystem::remove(b); });
}

TEST_F(KeptList, ADamagedOneIsNone) {
  const auto size = std::filesystem::file_size(path_);
  for (const auto at : {size_t{9}, sizeof(RecordListHeader) + 3, size - 5}) {
    forge();
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file.put('\x7f');
    file.close();
    EXPECT_FALSE(is_kept(references_)) << at;
  }
  forge();
  std::filesystem::resize_file(path_, size - 1);
  EXPECT_FALSE(is_kept(references_));
}

int64_t sources_of(const std::string& reference) {
  return static_cast<int64_t>(list_images({reference}, "", "", Communicator::self()).sources().size());
}

TEST(ListSources, OfWhatCannotBeLookedAtAgainThereAreNone) {
  const Scratch scratch;
  ::setenv("DINO_DATA", (scratch / "cache").c_str(), 1);
  std::filesystem::create_directories(scratch / "same/a");
  put_tar(scratch / "same/a.tar", {{"b/1.jpg", kJpeg}});
  put_tar(scratch / "same/a/b.tar", {{"1.jpg", kJpeg}});
  scratch.put("pictures/a/1.jpg", kJpeg);
  scratch.put("pictures/told", kJpeg);
  scratch.put("linked/1.jpg", kJpeg);
  std::filesystem::create_symlink("nowhere", scratch / "linked/2.jpg");
  scratch.put("images.txt", "pictures/a/1.jpg\n");
  scratch.put("tars.txt", "same/a.tar\n");
  scratch.put("lost.txt", "same/a.tar\nnone.tar\n");
  put_tar(scratch / "packed.tar", {{"1.jpg", kJpeg}});
  ASSERT_EQ(std::system(("gzip " + (scratch / "packed.tar")).c_str()), 0);
  let_it_age();
  EXPECT_EQ(sources_of(scratch / "same"), 0) << "keys that are repeated";
  EXPECT_EQ(sources_of(scratch / "linked"), 0) << "a link that may lead somewhere later";
  EXPECT_EQ(sources_of(scratch / "images.txt"), 0);
  EXPECT_EQ(sources_of(scratch / "lost.txt"), 0);
  EXPECT_EQ(sources_of(scratch / "tars.txt"), 3) << "as a reference, as a list, and the tar";
  EXPECT_EQ(sources_of(scratch / "pictures"), 4)
      << "as a reference, two folders, and what was told by its bytes";
  EXPECT_EQ(sources_of(scratch / "packed.tar.gz"), 4) << "as a reference, classes.txt, the tar and its copy";
  ::unsetenv("DINO_DATA");
}

}  // namespace
}  // namespace dino
