// SPDX-License-Identifier: Apache-2.0
#include "inputs/prepared_images.hpp"

#include <fmt/format.h>

namespace dino::eval {
namespace {

/// A fault may come from the machine's memory at that moment: it is found anew.
bool is_worth_keeping(const LoadedImage& loaded) {
  return loaded.fault.empty();
}

}  // namespace

LoadedImage PreparedImages::load(const Record& record, const FeatureProtocol& protocol) {
  const std::string key =
      fmt::format("{} {} {} {}", protocol.card().json(), record.offset, record.size, record.path);
  {
    const std::lock_guard lock(mutex_);
    const auto found = images_.find(key);
    if (found != images_.end()) return found->second;
  }
  LoadedImage loaded = load_image(record, protocol);
  const auto size = static_cast<int64_t>(loaded.image.pixels.size() + key.size());
  const std::lock_guard lock(mutex_);
  if (is_worth_keeping(loaded) && bytes_ + size <= limit_ && images_.emplace(key, loaded).second)
    bytes_ += size;
  return loaded;
}

}  // namespace dino::eval
