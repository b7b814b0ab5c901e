// SPDX-License-Identifier: Apache-2.0
#pragma once
// Images that several models of one sweep take in the same form are decoded once.

#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>

#include "inputs/extractor.hpp"

namespace dino::eval {

class PreparedImages {
 public:
  /// Keeps what comes first, up to this many bytes of pixels; what comes later is loaded each time.
  explicit PreparedImages(int64_t limit_bytes) : limit_(limit_bytes) {}
  /// As load_image. Any number of threads.
  [[nodiscard]] LoadedImage load(const Record& record, const FeatureProtocol& protocol);
  [[nodiscard]] int64_t bytes() const { return bytes_; }

 private:
  int64_t limit_, bytes_ = 0;
  std::mutex mutex_;
  std::unordered_map<std::string, LoadedImage> images_;
};

}  // namespace dino::eval
