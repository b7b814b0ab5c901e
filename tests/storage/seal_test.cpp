// SPDX-License-Identifier: Apache-2.0
// Files that carry their own checksum: every flipped byte and every cut is seen, or does no harm.
#include "storage/seal.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "scratch.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

using testing::Scratch;

std::string text_of(const std::string& path) {
  return read_text(path);
}

std::string make_file(const Scratch& scratch) {
  const std::string path = scratch / "x.h5";
  const std::vector<float> values = {1, 2, 3, 4};
  commit_hdf5(path, [&](Hdf5File& file) { file.write("/v", view_of(values.data(), Shape{4})); });
  return path;
}

TEST(Seal, HoldsAndIsReadByAnyHdf5Reader) {
  const Scratch scratch;
  const std::string path = make_file(scratch);
  EXPECT_TRUE(seal_holds(path));
  EXPECT_EQ(read_seal(path)->whole, crc32c_file(path));
  EXPECT_EQ(read_seal(path)->bytes + kSealBytes, file_size(path));
  EXPECT_EQ(open_sealed(path, "do").read("/v", DType::f32).as<float>()[2], 3);
  EXPECT_EQ(open_checked(path, "do").read("/v", DType::f32).as<float>()[0], 1);
  EXPECT_EQ(Hdf5File::open(path).read("/v", DType::f32).as<float>()[3], 4);  // by the other process
  const int64_t half = read_seal(path)->bytes / 2;
  const uint32_t parts =
      crc32c_combine(crc32c_part(path, 0, half), crc32c_part(path, half, read_seal(path)->bytes - half),
                     read_seal(path)->bytes - half);
  EXPECT_EQ(parts, read_seal(path)->crc);
}

TEST(Seal, EveryFlippedByteAndEveryCutIsSeen) {
  const Scratch scratch;
  const std::string whole = text_of(make_file(scratch));
  for (size_t at = 0; at < whole.size(); at += at + 64 < whole.size() ? 37 : 1) {
    std::string bent = whole;
    bent[at] = static_cast<char>(bent[at] ^ 1 << at % 8);
    const std::string path = scratch.put("bent.h5", bent);
    EXPECT_FALSE(seal_holds(path)) << at;
    EXPECT_THROW(check_seal(path, "do"), DataError) << at;
  }
  for (size_t size = 0; size < whole.size(); size += 1 + size / 3)
    EXPECT_FALSE(seal_holds(scratch.put("cut.h5", whole.substr(0, size)))) << size;
  EXPECT_FALSE(seal_holds(scratch.put("long.h5", whole + "x")));
  try {
    check_seal(scratch.put("bent.h5", "x" + whole.substr(1)), "do this");
    FAIL();
  } catch (const DataError& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("bent.h5"), std::string::npos);
    EXPECT_NE(what.find("do this"), std::string::npos);
  }
}

TEST(Seal, AnotherProgramsFilePassesWithout) {
  const Scratch scratch;
  const std::string path = scratch / "plain.h5";
  Hdf5File file = Hdf5File::create(path);
  file.write_attribute("/", "a", int64_t{1});
  file.close();
  EXPECT_EQ(open_checked(path, "do").attribute_number("/", "a"), 1);
  EXPECT_THROW(check_seal(path, "do"), DataError);
}

TEST(Seal, JsonTextIsComparedWordForWord) {
  const std::string sealed = sealed_json("{\n \"a\": 1,\n \"b\": \"x\"\n}\n");
  EXPECT_TRUE(has_json_seal(sealed));
  check_sealed_json(sealed, "m.json", "do");
  for (size_t at = 0; at < sealed.size(); ++at) {
    std::string bent = sealed;
    bent[at] = static_cast<char>(bent[at] ^ 1);
    EXPECT_THROW(check_sealed_json(bent, "m.json", "do"), DataError) << at;
  }
  for (size_t size = 0; size < sealed.size(); ++size)
    EXPECT_THROW(check_sealed_json(sealed.substr(0, size), "m.json", "do"), DataError) << size;
  for (const char* other : {"", "{}", "{}\n", "[1]", "{\n \"a\": 1\n}\n"}) {
    EXPECT_FALSE(has_json_seal(other));
    EXPECT_THROW(check_sealed_json(other, "m.json", "do"), DataError);
  }
}

}  // namespace
}  // namespace dino
