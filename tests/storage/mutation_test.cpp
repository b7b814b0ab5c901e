// SPDX-License-Identifier: Apache-2.0
// Readers of files from outside, on hundreds of damaged copies of good ones: each is either read or refused
// by one of our errors, within the memory of a small file.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>

#include "base/random.hpp"
#include "base/timing.hpp"
#include "storage/array_file.hpp"
#include "storage/dataset.hpp"
#include "storage/hdf5.hpp"
#include "storage/scratch.hpp"
#include "storage/tar.hpp"

#ifdef DINO_SANITIZE
// A damaged header makes the HDF5 library ask for 2^52 bytes; let malloc refuse that as it does without
// sanitizers.
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}
#endif

namespace dino {
namespace {

using testing::Scratch;

constexpr int kMutations = 500;
constexpr int64_t kMostMemory = 300 << 20;

/// One to four edits: a flipped bit, a random or extreme byte, a run of 0xff, a cut, an inserted or doubled
/// part.
std::string mutated(std::string bytes, Random& random) {
  const uint64_t edits = 1 + random.below(4);
  for (uint64_t e = 0; e < edits && !bytes.empty(); ++e) {
    // Most structure is at the front.
    const size_t at = random.bernoulli(0.7) ? random.below(std::min<size_t>(bytes.size(), 1024))
                                            : random.below(bytes.size());
    switch (random.below(7)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
        break;
      case 1:
        bytes[at] = static_cast<char>(random.below(256));
        break;
      case 2:
        bytes[at] = random.bernoulli(0.5) ? '\xff' : '\x7f';
        break;
      case 3:
        bytes.replace(at, std::min<size_t>(8, bytes.size() - at), std::min<size_t>(8, bytes.size() - at),
                      '\xff');
        break;
      case 4:
        bytes.resize(at);
        break;
      case 5:
        bytes.insert(at, 1 + random.below(9), static_cast<char>(random.below(256)));
        break;
      default:
        bytes.insert(at, bytes.substr(at, random.below(64)));
    }
  }
  return bytes;
}

/// Reads every mutation with `read`. What is not a dino::Error goes through and fails the test.
void run(const std::string& name, const std::string& good, uint64_t stream,
         const std::function<void(const std::string& path)>& read) {
  const Scratch scratch;
  const std::string path = scratch / name;
  scratch.put(name, good);
  ASSERT_NO_THROW(read(path));
  const int64_t before = peak_rss_bytes();
  int refused = 0;
  const char* more = std::getenv("DINO_MUTATIONS");  // for a longer hunt
  const int mutations = more == nullptr ? kMutations : std::atoi(more);
  for (int i = 0; i < mutations; ++i) {
    Random random(stream, Stream::test, static_cast<uint64_t>(i));
    // No fsync, and a new file: ext4 flushes one that is truncated and written again.
    std::filesystem::remove(path);
    std::ofstream(path, std::ios::binary) << mutated(good, random);
    try {
      read(path);
    } catch (const Error& error) {
      ++refused;
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << i << ": " << error.what();
      EXPECT_NE(error.code(), ExitCode::internal) << i << ": " << error.what();
    }
  }
  EXPECT_LT(peak_rss_bytes() - before, kMostMemory);
  EXPECT_GT(refused, mutations / 10);  // or the damage was never looked at
}

TEST(Mutation, Npy) {
  const Scratch scratch;
  write_npy(scratch / "x.npy", Tensor(Shape{40, 8}).view());
  run("x.npy", read_text(scratch / "x.npy"), 1, [](const std::string& path) {
    const NpyInfo info = read_npy_info(path);
    if (info.shape.size() != 2) return;
    std::vector<float> rows(static_cast<size_t>(info.shape[0] * info.shape[1]));
    read_npy_rows(path, info, 0, info.shape[0], rows.data());
  });
}

TEST(Mutation, Safetensors) {
  const Scratch scratch;
  const Tensor a(Shape{4, 5}), b(Shape{7});
  write_safetensors(scratch / "x.safetensors", {{"a", a.view()}, {"b", b.view()}});
  run("x.safetensors", read_text(scratch / "x.safetensors"), 2, [](const std::string& path) {
    const auto file = SafetensorsFile::open(path);
    for (const auto& entry : file.entries()) (void)file.read_f32(entry.first);
  });
}

TEST(Mutation, Tar) {
  const Scratch scratch;
  const std::string text(300, 't');
  TarWriter tar(scratch / "x.tar");
  for (const std::string& name :
       {std::string("a/1.jpg"), std::string("a/1.cls"), std::string(200, 'n') + ".jpg"})
    tar.add(name, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  tar.close();
  run("x.tar", read_text(scratch / "x.tar"), 3, [](const std::string& path) {
    const Dataset dataset = open_dataset(path);
    for (const Record& record : dataset.records) (void)read_record(record);
    for (const Sidecar& sidecar : dataset.sidecars)
      (void)read_bytes(sidecar.path, sidecar.offset, sidecar.size);
  });
}

void read_all_of_hdf5(const std::string& path) {
  const Hdf5File file = Hdf5File::open(path);
  for (const auto& name : file.list_datasets("/")) {
    if (file.info(name).is_string)
      (void)file.read_strings(name);
    else
      (void)file.read(name);
    for (const auto& attribute : file.attributes(name)) (void)file.attribute_number(name, attribute);
  }
  (void)file.attribute_strings("/", "classes");
}

TEST(Mutation, Hdf5) {
  const Scratch scratch;
  {
    Hdf5File file = Hdf5File::create(scratch / "x.h5");
    file.write("/g/x", Tensor(Shape{10, 4}).view());
    file.write("/n", Tensor(Shape{6}, DType::i64).view());
    file.write_strings("/keys", {"one", "three"});
    file.write_attribute("/g/x", "rate", 0.5);
    file.write_attribute("/", "classes", std::vector<std::string>{"cat", "dog"});
    file.close();
  }
  run("x.h5", read_text(scratch / "x.h5"), 4, read_all_of_hdf5);
}

}  // namespace
}  // namespace dino
