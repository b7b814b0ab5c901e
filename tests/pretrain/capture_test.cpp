// SPDX-License-Identifier: Apache-2.0
// Captures that are none, or of another version.
#include "capture.hpp"

#include <gtest/gtest.h>

#include <string>

#include "base/error.hpp"
#include "model/temporary_folder.hpp"
#include "storage/hdf5.hpp"
#include "storage/seal.hpp"

namespace dino::pretrain {
namespace {

/// What read_capture() says of a sealed file with these facts.
std::string refusal_of(const std::string& facts) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/step.h5";
  commit_hdf5(path, [&](Hdf5File& out) { out.write_strings("/capture", {facts}); });
  try {
    static_cast<void>(read_capture(path));
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << "the file is not named";
    return error.what();
  }
  return "read";
}

TEST(Capture, OfAnotherVersionIsRefused) {
  EXPECT_NE(refusal_of(R"({"schema":99})").find("schema 99, this is 1"), std::string::npos);
}

TEST(Capture, WhoseFactsAreNoneIsRefused) {
  for (const char* facts : {"", "step 7", "[]", R"({"step":7})"})
    EXPECT_NE(refusal_of(facts).find("JSON object"), std::string::npos) << facts;
  EXPECT_NE(refusal_of(R"({"schema":1,"step":7})").find("bad capture"), std::string::npos);
}

}  // namespace
}  // namespace dino::pretrain
