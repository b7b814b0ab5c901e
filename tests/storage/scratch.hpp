// SPDX-License-Identifier: Apache-2.0
#pragma once
// A folder that is gone after the test, and a check of what an error says.

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/error.hpp"
#include "storage/files.hpp"

namespace dino::testing {

class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "dino_test_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw IoError("cannot make a scratch folder");
    folder_ = name;
  }
  ~Scratch() {
    std::error_code error;
    std::filesystem::remove_all(folder_, error);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  [[nodiscard]] const std::string& folder() const { return folder_; }
  [[nodiscard]] std::string operator/(const std::string& name) const { return folder_ + "/" + name; }
  /// Writes a file below the folder, making its parents.
  std::string put(const std::string& name, std::string_view content) const {
    const std::string path = folder_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::filesystem::remove(path);
    std::ofstream(path, std::ios::binary)
        << content;  // not write_file_atomically: hundreds of fsyncs take seconds
    return path;
  }

 private:
  std::string folder_;
};

/// Runs `body`, which must throw an E of one line that contains every one of `parts`.
template <class E, class Body, class... Parts>
void expect_error(const Body& body, const Parts&... parts) {
  try {
    body();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const E& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    for (const std::string& part : {std::string(parts)...})
      EXPECT_NE(what.find(part), std::string::npos) << "'" << part << "' is not in: " << what;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another kind of error: " << error.what();
  }
}

}  // namespace dino::testing
